"""Server programs that a test starts, stops, kills and freezes, one process each."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

#: Ports below the range from which the kernel hands out those of outgoing connections.
PORTS = range(20000, 32000)


class Daemon:
    """A program that stays in the foreground and logs to a file.

    :param name: for messages.
    :param command: the program and its arguments.
    :param log: the file that takes what it prints.
    :param environment: all of its environment.
    :param user: the account to run as; None for our own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        user: str | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, if it does not run already; it may not answer yet."""
        if self.runs:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                user=self._user,
                cwd="/",
                start_new_session=True,
            )

    def stop(self) -> None:
        """End it politely, and with SIGKILL when that takes longer than 15 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: its port still takes connections, and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        if self.runs:
            os.kill(self.pid, signal.SIGCONT)

    def wait_until(self, answers: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait until it answers; fail with the end of its log when it ends or takes too long."""
        deadline = time.monotonic() + timeout
        while not answers():
            if not self.runs or time.monotonic() > deadline:
                text = self.log.read_text(errors="replace")[-2000:]
                raise AssertionError(f"{self.name} did not start:\n{text}")
            time.sleep(0.03)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            probe = socket.socket()
            try:
                probe.bind(("0.0.0.0", random.choice(PORTS)))
            except OSError:
                probe.close()
            else:
                held.append(probe)
        return [probe.getsockname()[1] for probe in held]
    finally:
        for probe in held:
            probe.close()


def pods_host() -> str | None:
    """Return the address at which a real cluster's pods reach this machine; None without one."""
    return os.environ.get("ENSEMBLE_TEST_KUBE_HOST")


def listens(port: int) -> bool:
    """Return whether a connection to a port of this machine is accepted."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def processes_with(variable: str, value: str) -> list[int]:
    """Return the processes that were started with this variable in their environment."""
    mark = f"{variable}={value}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0"):
                found.append(int(folder.name))
    return found


def descendants(pid: int) -> Iterator[int]:
    """Yield the children of a process, and theirs."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(status.rpartition(")")[2].split()[1]), []).append(
                int(folder.name)
            )
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        yield from children
        waiting += children
