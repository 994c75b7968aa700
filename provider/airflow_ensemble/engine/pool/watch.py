"""What a pool waits for: pipes to read, pipes with room again, and a wake-up from outside.

Standard library only.
"""

from __future__ import annotations

import contextlib
import selectors
from collections.abc import Callable
from typing import Protocol

from airflow_ensemble.engine.bell import Bell
from airflow_ensemble.engine.pool.process import Process


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


class Watch:
    """Calls what belongs to each descriptor when something happens there."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._bell = Bell()
        self.input(self._bell, self._bell.hush)

    def wait(self, timeout: float) -> None:
        """Wait until something happens, at most ``timeout`` seconds, and have it dealt with."""
        for key, _ in self._selector.select(timeout):
            key.data()

    def wake(self) -> None:
        """End the present wait; may be called from any thread and from signal handlers."""
        self._bell.ring()

    def close(self) -> None:
        """Stop watching; what was watched stays open."""
        self._selector.close()
        self._bell.close()

    def input(self, source: int | _HasDescriptor, act: Callable[[], None]) -> None:
        """Call ``act`` when there is something to read."""
        self._selector.register(source, selectors.EVENT_READ, act)

    def room(self, process: Process) -> None:
        """Send the rest of what the process's pipe did not take at once, as it takes it."""
        if process.is_full and process.descriptor_for_tasks not in self._selector.get_map():
            self._selector.register(
                process.descriptor_for_tasks, selectors.EVENT_WRITE, lambda: self._on_room(process)
            )

    def log(self, process: Process) -> None:
        """Read what a process prints as it comes.

        Short simulations are not worth a wake-up of their own: their end tells in time.
        """
        if not process.is_log_watched and process.log >= 0:
            process.is_log_watched = True
            self.input(process.log, lambda: self._on_log(process))

    def forget_log(self, process: Process) -> None:
        """Leave what a process prints until its simulation has ended."""
        if process.is_log_watched:
            process.is_log_watched = False
            self.forget(process.log)

    def forget(self, *descriptors: int) -> None:
        """Do not watch these any more; those that are not watched are fine."""
        for descriptor in descriptors:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)

    def _on_room(self, process: Process) -> None:
        process.flush()
        if not process.is_full:
            self.forget(process.descriptor_for_tasks)

    def _on_log(self, process: Process) -> None:
        if not process.read_log():
            self.forget(process.log)
            process.close_log()
