"""How fast simulations end, and how many are therefore sent to a process ahead of time.

A process that has just done a very short simulation must not wait for the next one to be sent.
What is sent ahead can be taken back when a long one holds it up. Standard library only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from airflow_ensemble.engine.pool.process import Process

#: Simulations shorter than this (seconds) on average are sent ahead of time.
SHORT = 0.02
#: Seconds of work that are sent ahead, and how many simulations at most.
AHEAD = 0.05
MAX_AHEAD = 512
#: Seconds that a simulation may hold up others sent to the same process.
HOLD_UP = 0.05
#: Seconds to let ends come together when simulations are much shorter than this.
RAPID = 0.002
#: Seconds after which the output of a running simulation is read as it comes.
LOG_DELAY = 0.005


class Pace:
    """What the last durations say about the next ones.

    :ivar mean: how long recent simulations took on average, seconds; None before the first.
    """

    def __init__(self) -> None:
        self.mean: float | None = None
        self._recent: deque[float] = deque(maxlen=16)

    def note(self, duration: float) -> None:
        """Take a simulation's duration (seconds) into account."""
        mean = duration if self.mean is None else self.mean
        self.mean = 0.8 * mean + 0.2 * duration
        self._recent.append(duration)

    @property
    def usual(self) -> float:
        """Return the median of the last durations: a busy machine makes some of them long."""
        if len(self._recent) < 3:
            return SHORT
        return sorted(self._recent)[len(self._recent) // 2]

    def depth(self, n_waiting: int, n_processes: int) -> int:
        """Return how many simulations one process may hold, the running one among them.

        :param n_waiting: simulations that no process has.
        :return: 0 when nothing is worth sending ahead.
        """
        usual = self.usual
        if not n_waiting or usual >= SHORT:
            return 0
        return min(MAX_AHEAD, int(AHEAD / max(usual, 1e-6)), n_waiting // n_processes + 1)

    def is_rapid(self, processes: Iterable[Process]) -> bool:
        """Tell whether so much is sent ahead that ends may come together for a moment."""
        usual = self.usual
        if usual > RAPID / 4:
            return False
        enough = min(2 * RAPID / max(usual, 1e-6), MAX_AHEAD // 4)
        return all(len(process.tasks) >= enough for process in processes)


def may_get_more(process: Process, depth: int, now: float) -> bool:
    """Tell whether a process is to be filled up to ``depth`` simulations now.

    :param now: monotonic seconds.
    """
    if not process.tasks or len(process.tasks) > depth // 2 or process.is_full:
        return False
    return process.tasks[0].verdict is None and now - process.tasks[0].clock <= HOLD_UP


def holds_up_others(process: Process, now: float) -> bool:
    """Tell whether a process must give back what was sent ahead.

    :param now: monotonic seconds.
    """
    return len(process.tasks) > 1 and now - process.tasks[0].clock > HOLD_UP


def patience(process: Process) -> float:
    """Return after how many seconds at most a process that runs something is looked at again."""
    longest = HOLD_UP if len(process.tasks) > 1 else float("inf")
    return longest if process.is_log_watched else min(longest, LOG_DELAY)
