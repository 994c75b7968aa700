"""One thread that polls for everybody who waits for the same thing in this process.

A triggerer's event loop must not be blocked, and what is polled with belongs to one thread: it is
opened and closed there. Whoever waits is told by callback, which is called in that thread. The
thread begins with the first that waits and ends some time after the last.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Waiting = TypeVar("Waiting")
Item = TypeVar("Item")

#: Seconds between two polls, at most, while there are answers.
CEILING = 60.0
#: Seconds between two tries while there are none, at most.
OUTAGE_CEILING = 120.0
#: Seconds that everything is kept open when nothing waits any more.
LINGER = 60.0


@dataclass(frozen=True)
class Trouble:
    """Something keeps the poller from saying more.

    :param text: what, for the task's log.
    :param refused: whether we are not let in: the connection may have been changed.
    :param error: set when waiting on is of no use.
    """

    text: str
    refused: bool = False
    error: BaseException | None = None


class Pace:
    """Seconds until the next poll: soon while things change, seldom while nothing does.

    :param floor: between two polls, at least.
    :param ceiling: at most, while there are answers.
    """

    def __init__(self, floor: float, ceiling: float = CEILING) -> None:
        self.floor = floor
        self._ceiling = max(floor, ceiling)
        self._interval = floor

    def quicken(self) -> float:
        """Something has changed."""
        self._interval = self.floor
        return self._jittered()

    def slacken(self) -> float:
        """Nothing has changed."""
        self._interval = min(self._interval * 1.5, self._ceiling)
        return self._jittered()

    def back_off(self) -> float:
        """There was no answer."""
        self._interval = min(self._interval * 2, max(self.floor, OUTAGE_CEILING))
        return self._jittered()

    def _jittered(self) -> float:
        return self._interval * random.uniform(1.0, 1.2)


class PollThread(Generic[Waiting]):
    """Keeps who waits, and when the next poll is due; a subclass does the polling.

    :param name: of the thread.
    :param pace: how often to poll.
    :param linger: seconds that the thread stays when nothing waits any more.
    """

    def __init__(self, name: str, pace: Pace, linger: float = LINGER) -> None:
        self._name = name
        self._pace = pace
        self._linger = linger
        self._changed = threading.Condition()
        self._subscriptions: dict[int, Waiting] = {}
        self._last_number = 0
        self._due = 0.0
        self._thread: threading.Thread | None = None

    @contextmanager
    def subscribed(self, waiting: Waiting) -> Iterator[None]:
        """Poll for somebody while the block runs."""
        with self._changed:
            self._last_number += 1
            number = self._last_number
            soon = time.monotonic() + self._pace.quicken()
            self._due = min(self._due, soon) if self._subscriptions else soon
            self._subscriptions[number] = waiting
            self._work_on()
        try:
            yield
        finally:
            with self._changed:
                del self._subscriptions[number]
                self._changed.notify()

    def _hasten(self, seconds: float = 0.0) -> None:
        """Poll after so many seconds at the latest; to be called with the lock held."""
        self._due = min(self._due, time.monotonic() + seconds)

    def _work_on(self) -> None:
        """Wake the thread, or start it; to be called with the lock held."""
        self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    # --- in the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        """Take turns while :meth:`_wait_until_due` says so, and close everything then."""
        raise NotImplementedError

    def _is_needed(self) -> bool:
        """Return whether there is anything to poll for; called with the lock held."""
        return bool(self._subscriptions)

    def _wait_until_due(self) -> bool:
        """Wait for the next poll; return whether there is one, else the thread is to end."""
        idle_since = time.monotonic()
        with self._changed:
            while True:
                now = time.monotonic()
                if self._is_needed():
                    idle_since = now
                    if now >= self._due:
                        return True
                    self._changed.wait(self._due - now)
                elif now - idle_since >= self._linger:
                    self._thread = None
                    return False
                else:
                    self._changed.wait(self._linger - (now - idle_since))

    def _begin_turn(self) -> list[Waiting]:
        """Return who waits now; to be called with the lock held."""
        self._due = math.inf  # whoever comes during this turn makes it sooner
        return list(self._subscriptions.values())

    def _end_turn(self, pause: float) -> None:
        with self._changed:
            self._hasten(pause)


def passer(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Item]) -> Callable[[Item], None]:
    """Return what passes news from the poller's thread to an event loop."""

    def tell(item: Item) -> None:
        with suppress(RuntimeError):  # the loop ends before the thread does
            loop.call_soon_threadsafe(queue.put_nowait, item)

    return tell
