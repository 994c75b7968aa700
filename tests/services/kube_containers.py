"""Containers of the fake Kubernetes: local processes, with their environment and signals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone

import psutil

from tests.services.daemons import descendants, processes_with
from tests.services.kube_objects import Object, expanded, now

#: By this variable the processes of a container are found, whoever started them.
MARK = "FAKE_CONTAINER"


class Container:
    """One container of a pod, started as it is made.

    :param spec: from the pod.
    :param environment: all of it.
    :param ended: set when it has ended.
    """

    def __init__(
        self, spec: Object, environment: Mapping[str, str], ended: threading.Event
    ) -> None:
        self.name: str = spec["name"]
        self.image: str = spec["image"]
        self.code: int | None = None
        self.reason = ""
        self.started = now()
        self.finished = ""
        self._mark = environment[MARK]
        self._ended = ended
        self._lines: list[tuple[datetime, bytes]] = []
        self._news = threading.Condition()
        self._process = self._start(spec, environment)
        if self._process:
            reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
            reader.start()
            threading.Thread(target=self._watch, args=(self._process, reader), daemon=True).start()

    def processes(self) -> list[int]:
        """Return every process of it."""
        if self._process is None or self.code is not None:
            return []
        pid = self._process.pid
        return sorted({pid, *descendants(pid), *processes_with(MARK, self._mark)})

    def memory(self) -> int:
        """Return the bytes that its processes hold."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(psutil.Error):
                total += psutil.Process(pid).memory_info().rss
        return total

    def terminate(self) -> None:
        """Send SIGTERM to its first process, as a container runtime does."""
        if self._process and self.code is None:
            self._process.terminate()

    def kill(self, reason: str = "") -> None:
        """Send SIGKILL to all of it.

        :param reason: what its state says afterwards, if that is not plain ``Error``.
        """
        if self.code is None:
            self.reason = self.reason or reason
            send(signal.SIGKILL, self.processes())

    def lines(self, *, follow: bool) -> Iterator[tuple[datetime, bytes] | None]:
        """Yield what it printed, with the time; while following, None now and then."""
        position = 0
        while True:
            with self._news:
                ended = self.code is not None
                if position == len(self._lines) and follow and not ended:
                    self._news.wait(1.0)
                    ended = False
                found = self._lines[position:]
            yield from found
            position += len(found)
            if not found and (ended or not follow):
                return
            if not found:
                yield None

    def state(self) -> Object:
        """Return its state as a pod's status tells it."""
        if self.code is None:
            return {"running": {"startedAt": self.started}}
        end = {"exitCode": self.code, "reason": self.reason, "containerID": f"fake://{self._mark}"}
        return {"terminated": {**end, "startedAt": self.started, "finishedAt": self.finished}}

    def _start(
        self, spec: Object, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes] | None:
        words = [*(spec.get("command") or ()), *(spec.get("args") or ())]
        words = [expanded(word, environment) for word in words]
        try:
            return subprocess.Popen(
                [shutil.which(words[0], path=environment["PATH"]) or words[0], *words[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=spec.get("workingDir") or environment["TMPDIR"],
                start_new_session=True,
            )
        except OSError as error:
            self._lines.append((datetime.now(timezone.utc), f"{error}\n".encode()))
            self._end(128, "StartError")
            return None

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with self._news:
                self._lines.append((datetime.now(timezone.utc), line))
                self._news.notify_all()

    def _watch(self, process: subprocess.Popen[bytes], reader: threading.Thread) -> None:
        code = process.wait()
        send(signal.SIGKILL, processes_with(MARK, self._mark))  # a container ends with its first
        reader.join(5)
        self._end(128 - code if code < 0 else code, self.reason)

    def _end(self, code: int, reason: str) -> None:
        with self._news:
            self.reason = reason or ("Completed" if code == 0 else "Error")
            self.finished = now()
            self.code = code
            self._news.notify_all()
        self._ended.set()


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to processes, of which some may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
