"""The worker's side of one process in which simulations run. Standard library only."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.pool.channel import Inbox, render
from airflow_ensemble.engine.pool.spool import LogReader, Spool
from airflow_ensemble.engine.pool.task import Task

_BLOCK = 1 << 18


class Process:
    """One process: its pipes, its log, and the tasks that it holds, the running one first.

    :param number: the pool's and the warden's number for it.
    :param cores: cores of every simulation that it runs.
    :param scratch: where long logs are put aside.
    """

    def __init__(self, number: int, cores: int, scratch: Path) -> None:
        self.number = number
        self.cores = cores
        self.pid = 0
        self.tasks: deque[Task] = deque()
        self.is_ready = False
        self.is_leaving = False
        self.is_log_watched = False
        self.born = time.monotonic()
        self.log_end = secrets.token_hex(16)
        self._log_reader = LogReader(scratch, self.log_end)
        self._outbox = b""
        log, self._child_log = os.pipe()
        self._child_tasks, self._tasks = os.pipe()
        results, self._child_results = os.pipe()
        for descriptor in (log, self._tasks, results):
            os.set_blocking(descriptor, False)
        self.log = log
        self.inbox: Inbox = Inbox(results)

    def hand_over(self, pass_on: Callable[[list[int]], None]) -> None:
        """Give the process's ends of the pipes away: its log, its tasks, its results."""
        descriptors = [self._child_log, self._child_tasks, self._child_results]
        try:
            pass_on(descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    @property
    def is_idle(self) -> bool:
        """Return whether it waits for a task."""
        return self.is_ready and not self.tasks and not self.is_leaving

    @property
    def is_full(self) -> bool:
        """Return whether its pipe holds all that goes in."""
        return bool(self._outbox)

    @property
    def descriptor_for_tasks(self) -> int:
        """Return the writing end of its task pipe."""
        return self._tasks

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, as far as the pipe takes it now; :meth:`flush` sends the rest."""
        self._outbox += render(dict(message))
        self.flush()

    def flush(self) -> None:
        """Send what the pipe did not take before."""
        try:
            while self._outbox:
                self._outbox = self._outbox[os.write(self._tasks, self._outbox) :]
        except BlockingIOError:
            return
        except OSError:  # it has died: the warden will say so
            self._outbox = b""

    def take_back(self) -> list[Task]:
        """Take the tasks back that it has not begun, if that is certain at once.

        It looks for recalls before it begins a task and after it has sent a result. So if no
        result has come after the recall was sent, it will see the recall in time. Otherwise it
        answers which tasks it gave back.
        """
        waiting = list(self.tasks)[1:]
        self.send({"recall": [task.sending for task in waiting]})
        if self._outbox or self._has_input():
            return []
        return [self.tasks.pop() for _ in waiting][::-1]

    def give_back(self, numbers: list[int]) -> list[Task]:
        """Remove the tasks that the process says it gave back, and return them.

        The first may be among them: its predecessor ended while the recall was under way.
        """
        back = [task for task in self.tasks if task.sending in numbers]
        for task in back:
            self.tasks.remove(task)
        return back

    def read_log(self) -> bool:
        """Read what it printed; return False at the end, when nobody can print any more."""
        try:
            while data := os.read(self.log, _BLOCK):
                self._log_reader.write(data)
                if len(data) < _BLOCK:  # more than a pipe holds: it was all that there is
                    return True
        except BlockingIOError:
            return True
        except OSError:  # closed already
            return False
        return False

    def take_log(self) -> Spool:
        """Return what the first simulation printed whose log was not taken yet."""
        self.read_log()
        return self._log_reader.take()

    def close_log(self) -> None:
        """Close the log's pipe."""
        if self.log >= 0:
            os.close(self.log)
            self.log = -1

    def leave(self) -> None:
        """Let it end when it has done its tasks."""
        self.is_leaving = True
        with contextlib.suppress(OSError):
            os.close(self._tasks)
        self._tasks = -1

    def close(self) -> None:
        """Close everything."""
        if self._tasks >= 0:
            self.leave()
        self.close_log()
        os.close(self.inbox.descriptor)
        self._log_reader.close()

    def _has_input(self) -> bool:
        poller = select.poll()
        poller.register(self.inbox.descriptor, select.POLLIN)
        return bool(poller.poll(0))
