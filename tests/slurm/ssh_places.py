"""Runners to test, each with a real place behind it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.login import Login
from airflow_ensemble.slurm.runner import Runner
from tests.services.sshd import SshServer

KINDS = ("local", "paramiko", "openssh")


@contextlib.contextmanager
def open_runner(kind: str, server: SshServer, folder: Path) -> Iterator[Runner]:
    """Open one of the three runners, for the same account of the same machine."""
    if kind == "local":
        with LocalRunner() as runner:
            yield runner
    elif kind == "paramiko":
        with make_runner(server.login()) as runner:
            yield runner
    else:
        with contextlib.ExitStack() as stack:
            socket = stack.enter_context(open_master(server.login(), folder))
            yield stack.enter_context(make_runner(server.login(control_path=str(socket))))


@contextlib.contextmanager
def open_master(login: Login, folder: Path) -> Iterator[Path]:
    """Open a master connection, as an operator does, and return its socket.

    :param login: to a server on loopback, with the text of a key and of the host's.
    """
    socket, key, known_hosts = folder / "master", folder / "key", folder / "known_hosts"
    known_hosts.write_text(f"[{login.host}]:{login.port} {login.host_key}\n")
    key.touch(mode=0o600)
    key.write_text(login.private_key or "")
    command = ["ssh", "-F", "none", "-NM", "-S", str(socket), "-i", str(key)]
    command += ["-o", f"UserKnownHostsFile={known_hosts}", "-o", "BatchMode=yes"]
    command += ["-p", str(login.port), f"{login.user}@{login.host}"]
    master = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert master.poll() is None, f"no master connection: {master.communicate()[1]!r}"
            assert time.monotonic() < deadline, "the master connection did not come about"
            time.sleep(0.02)
        yield socket
    finally:
        _end(master)


def _end(master: subprocess.Popen[bytes]) -> None:
    """End a master connection, which may have to be told more than once."""
    deadline = time.monotonic() + 10
    while master.poll() is None:
        if time.monotonic() > deadline:
            master.kill()
            raise AssertionError(f"the master did not end: {master.communicate()[1]!r}")
        # ssh 9.2 notes a signal that comes just before it waits for its sockets, and waits on.
        master.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            master.communicate(timeout=0.5)
