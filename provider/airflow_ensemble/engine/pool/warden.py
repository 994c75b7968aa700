"""The warden: a small process between a worker and the processes in which its simulations run.

It is the parent of those processes and adopts every orphan below them, so that on Linux nothing a
simulation starts can leave its tree. It kills what the worker asks it to, clears up after a process
that died, and kills everything when the worker is gone, however that went. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from airflow_ensemble.engine.pool import process_tree
from airflow_ensemble.engine.pool.channel import Garbled, parse, render

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_KILL_LIMIT = 5.0


def main(descriptor: int) -> None:
    """Serve one worker until its end of the socket closes.

    :param descriptor: the socket to the worker.
    """
    os.set_inheritable(descriptor, False)
    process_tree.adopt_orphans()
    Warden(socket.socket(fileno=descriptor)).serve()


class Warden:
    """State of one warden: its processes by the worker's number for them.

    :param worker: the socket to the worker.
    """

    def __init__(self, worker: socket.socket) -> None:
        self._worker = worker
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._descriptors: list[int] = []
        self._rest = b""
        self._scratch = ""

    def serve(self) -> None:
        """Do what the worker asks and tell it which processes have ended, until it is gone."""
        wakeup, writing = socket.socketpair()
        for end in (wakeup, writing):
            end.setblocking(False)
        # Handlers, not SIG_IGN: a program that a simulation starts would inherit that.
        for number in (*_HANDLED, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            while self._serve_once(wakeup):
                pass
        finally:
            self._end()

    def _serve_once(self, wakeup: socket.socket) -> bool:
        import select

        ready, _, _ = select.select([self._worker, wakeup], [], [], 1.0)
        if wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                wakeup.recv(4096)
        if self._worker in ready and not self._receive():
            return False
        return self._report()

    def _receive(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._worker, 1 << 16, 48)
        except ConnectionError:
            return False
        self._descriptors.extend(descriptors)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            with contextlib.suppress(Garbled):
                self._obey(parse(line))
        return bool(data)

    def _obey(self, request: dict[str, Any]) -> None:
        if "scratch" in request:
            self._scratch = request["scratch"]
        elif "start" in request:
            self._start(request["start"], request["command"], request["environment"])
        elif request["kill"] in self._processes:
            process_tree.kill_tree(self._processes[request["kill"]].pid)

    def _start(self, number: int, command: list[str], environment: dict[str, str]) -> None:
        log, *pipes = self._descriptors[:3]
        del self._descriptors[:3]
        try:
            self._processes[number] = process = subprocess.Popen(
                [*command, *map(str, pipes)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pipes,
                start_new_session=True,
                env={**os.environ, **environment},
            )
            self._tell({"started": number, "pid": process.pid})
        except OSError as error:
            self._tell({"ended": number, "status": 127, "why": str(error)})
        finally:
            for descriptor in (log, *pipes):
                os.close(descriptor)

    def _report(self) -> bool:
        ended = [
            number for number, process in self._processes.items() if process.poll() is not None
        ]
        if not ended:
            self._reap_orphans()
            return True
        self._kill_orphans()
        heard = [self._report_end(number) for number in ended]
        return all(heard)

    def _report_end(self, number: int) -> bool:
        process = self._processes.pop(number)
        if not process_tree.IS_LINUX:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        return self._tell({"ended": number, "status": process.returncode})

    def _tell(self, message: dict[str, Any]) -> bool:
        try:
            self._worker.sendall(render(message))
        except OSError:
            return False
        return True

    def _own(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def _kill_orphans(self) -> None:
        """Kill what a dead process left: all children that are no process of the pool."""
        give_up = time.monotonic() + _KILL_LIMIT
        while time.monotonic() < give_up:
            process_tree.kill_descendants(os.getpid(), spare=self._own())
            if not self._reap_orphans():
                return
            time.sleep(0.001)

    def _reap_orphans(self) -> int:
        """Wait for adopted children that have ended; return how many adopted ones are left."""
        own = frozenset(self._own())
        left = 0
        for child in process_tree.children(os.getpid()):
            if child in own:
                continue
            with contextlib.suppress(ChildProcessError):
                left += os.waitpid(child, os.WNOHANG)[0] == 0
        return left

    def _end(self) -> None:
        give_up = time.monotonic() + _KILL_LIMIT
        for process in self._processes.values():
            process_tree.kill_tree(process.pid)
        while time.monotonic() < give_up:
            process_tree.kill_descendants(os.getpid())
            for process in self._processes.values():
                process.poll()
            if not self._reap_orphans() and not _running(self._processes):
                break
            time.sleep(0.002)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
        sys.exit(0)


def _running(processes: dict[int, subprocess.Popen[bytes]]) -> bool:
    return any(process.poll() is None for process in processes.values())
