"""How much a pull worker takes on at a time. Standard library only, no input or output."""

from __future__ import annotations

import random

#: Seconds of work that a worker claims ahead, and how many simulations at most.
AHEAD = 1.5
MAX_AHEAD = 5000
#: Seconds over which a worker's own pace is measured.
WINDOW = 1.0
#: Seconds without an end after which what waits may be better off with others.
STUCK = 2 * AHEAD
#: Seconds over which as many workers spread their looks as come in vain otherwise.
FIRST_SPREAD = 0.02
LONGEST_SPREAD = 0.5


class Appetite:
    """How many simulations to hold: what is free now, and a moment's work ahead.

    How long simulations take says how many fit into a moment, and so does how many the worker has
    really got done of late. Where many workers share few cores the second is much less, and whoever
    went by the first would take the others' share and sit on it.

    :param cpus: cores that simulations may occupy at one time.
    """

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus
        self._pace: float | None = None
        self._began: float | None = None
        self._ended = 0
        self._was_busy = False
        self._moved = 0.0
        #: Whether nothing has ended for a while: how long the last ones took says nothing then.
        self.is_stuck = False

    def note(self, ended: int, is_busy: bool, now: float) -> None:
        """Take into account how many simulations have ended since the last call.

        :param is_busy: whether there is more to do; idle time says nothing about the pace.
        :param now: monotonic seconds.
        """
        if ended or not (is_busy and self._was_busy):
            self._moved = now
        self._was_busy = is_busy
        self.is_stuck = now - self._moved > STUCK
        if self._began is None:
            self._began, self._ended = now, 0
        self._ended += ended
        lasted = now - self._began
        if lasted >= WINDOW or (not is_busy and self._ended):
            self._pace = self._ended / max(lasted, 0.05)
            self._began = now if is_busy else None
            self._ended = 0
        elif not is_busy:
            self._began = None

    def wanted(self, held: int, mean: float | None) -> int:
        """Return how many simulations to claim now.

        :param held: simulations that wait or run.
        :param mean: how long the last ones took, seconds; None before the first.
        """
        ahead = min(self._ahead(mean), MAX_AHEAD)
        wanted = self._cpus + ahead - held
        # Half a belly at a time: many small claims would cost more than they bring.
        return wanted if held <= self._cpus or wanted > ahead // 2 else 0

    def _ahead(self, mean: float | None) -> int:
        if mean is None or self.is_stuck:
            return 0
        fits = AHEAD * self._cpus / max(mean, 1e-6)
        # Before the pace is known: twice as many each time.
        done = 2 * self._ended if self._pace is None else AHEAD * self._pace
        return int(min(fits, done))


class Spread:
    """Random delays that grow as long as coming at once is in vain, because others came first.

    So one that waits alone looks at once, and of a thousand only a few at a time.
    """

    def __init__(self) -> None:
        self._longest = 0.0

    def next(self) -> float:
        """Return how long to wait before looking, seconds."""
        return random.uniform(0, self._longest)

    def came_in_vain(self) -> None:
        """Others were quicker: let them be, next time."""
        self._longest = min(LONGEST_SPREAD, max(FIRST_SPREAD, 2 * self._longest))

    def found_some(self) -> None:
        """There was enough for this one, too."""
        self._longest = self._longest / 2 if self._longest > FIRST_SPREAD else 0.0
