"""A model for tests that does what its parameter ``do`` says, most of it bad.

It stands alone, so that the processes of a pool can import it: name this folder in ``code``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

CODE = str(Path(__file__).parent)
MODEL = "misbehaving:simulate"


def simulate(run):
    what = run.params.get("do", "complete")
    return globals()[f"do_{what}"](run)


def do_complete(run):
    print(f"{run.id} is fine")


def do_sleep(run):
    time.sleep(run.params["seconds"])


def do_trace(run):
    with Path(run.params["trace"]).open("a") as file:
        file.write(f"{run.id} {run.attempt} {os.getpid()}\n")
    time.sleep(run.params.get("seconds", 0))


def do_raise(run):
    raise ValueError("no convergence")


def do_print_and_exit(run):
    print("STOP 9", file=sys.stderr)
    os._exit(9)


def do_invalid(run):
    from airflow_ensemble.engine.model import Invalid

    raise Invalid("no met for this hour")


def do_memory_error(run):
    raise MemoryError("no room for 3 TB")


def do_segfault(run):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def do_abort(run):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def do_kill_itself(run):
    os.kill(os.getpid(), signal.SIGKILL)


def do_kill_worker(run):
    """Kill the pull worker that runs this, as a simulation that takes all memory of a pod does."""
    do_trace(run)
    process = os.getpid()
    while b"pull-worker" not in Path(f"/proc/{process}/cmdline").read_bytes():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(process, signal.SIGKILL)
    time.sleep(1000)


def do_os_exit(run):
    os._exit(0)


def do_sys_exit(run):
    sys.exit(0)


def do_hang(run):
    # Deaf to every signal that can be blocked, and below Python.
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    ctypes.CDLL(None).sleep(1000)


def do_hang_in_program(run):
    subprocess.run(["sleep", run.params["nap"]], check=True)


def do_eat_memory(run):
    held = [bytearray(os.urandom(1 << 20)) for _ in range(run.params["mebibytes"])]
    time.sleep(run.params.get("seconds", 30))
    return None if held else {}


def do_background(run):
    subprocess.Popen(["sleep", run.params["nap"]])


def do_background_session(run):
    subprocess.Popen(["sleep", run.params["nap"]], start_new_session=True)


def do_daemon(run):
    """Fork twice in a new session with an empty environment, as daemons do, and wait for it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for descriptor in range(3, 256):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            os.execve("/bin/sleep", ["sleep", run.params["nap"]], {})
        os._exit(0)
    os.wait()
    time.sleep(0.1)


def do_daemon_then_die(run):
    do_daemon(run)
    os.kill(os.getpid(), signal.SIGKILL)


def do_daemon_then_hang(run):
    do_daemon(run)
    time.sleep(1000)


def do_fork_and_return(run):
    os.fork()


def do_fork_and_raise(run):
    if os.fork() == 0:
        raise ValueError("in the fork")


def do_flood(run):
    block = b"first line\n" + b"x" * (1 << 20)
    for _ in range(run.params["mebibytes"]):
        os.write(1, block)


def do_garbage(run):
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"\xff\x00 garbage \n")


def do_garbage_without_end(run):
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(descriptor, b'{"task":')


def do_forge(run):
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(descriptor, b'{"task":"all","products":7}\n')


def do_close_everything(run):
    os.closerange(0, 1024)


def do_close_everything_and_hang(run):
    os.closerange(0, 1024)
    time.sleep(1000)


def do_close_streams(run):
    sys.stdout.close()
    os.close(1)
    os.close(2)


def do_alarm(run):
    signal.setitimer(signal.ITIMER_REAL, 0.2)


def do_leave_directory(run):
    os.chdir("/")
    run.workdir.rmdir()


def do_lock_workdir(run):
    (run.workdir / "sub").mkdir()
    (run.workdir / "sub" / "file").write_text("x")
    (run.workdir / "sub").chmod(0o500)
    run.workdir.chmod(0o500)


def do_thread(run):
    threading.Thread(target=time.sleep, args=[1000]).start()


def do_threads_setting(run):
    print(os.environ["OMP_NUM_THREADS"], run.cpus)
