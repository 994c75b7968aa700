"""Live progress: a bar on a terminal, one plain line every few seconds anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from airflow_ensemble.cli.console import is_terminal
from airflow_ensemble.cli.text import format_duration, format_rate

if TYPE_CHECKING:
    from airflow_ensemble.engine.index.interface import Counts

#: Seconds between two plain lines.
LINE_INTERVAL = 5.0
#: Seconds over which the rate is measured.
RATE_WINDOW = 120.0


@dataclass
class Pace:
    """Measures how many simulations end per second, over the last couple of minutes.

    :param window: seconds.
    """

    window: float = RATE_WINDOW
    _looks: deque[tuple[float, int]] = field(default_factory=deque)

    def look(self, now: float, ended: int) -> None:
        """Note that ``ended`` simulations are terminal at the time ``now``, in seconds."""
        while len(self._looks) > 1 and now - self._looks[1][0] > self.window:
            self._looks.popleft()
        self._looks.append((now, ended))

    @property
    def rate(self) -> float | None:
        """Return simulations per second, or None while nothing has ended."""
        if not self._looks:
            return None
        (begin, before), (now, ended) = self._looks[0], self._looks[-1]
        if now <= begin or ended <= before:
            return None
        return (ended - before) / (now - begin)

    def seconds_left(self, unfinished: int) -> float | None:
        """Return the seconds that ``unfinished`` simulations will take, or None if unknown."""
        rate = self.rate
        return unfinished / rate if rate and unfinished else None


def progress_line(counts: Counts, rate: float | None, eta: float | None) -> str:
    """Return counts, rate and remaining time on one line."""
    parts = [
        f"{counts.complete + counts.failed}/{counts.total}",
        f"complete {counts.complete} (empty {counts.empty})",
        f"failed {counts.failed}",
        f"running {counts.running}",
    ]
    if rate:
        parts.append(format_rate(rate))
    if eta is not None:
        parts.append(f"ETA {format_duration(eta)}")
    return " · ".join(parts)


class Progress:
    """Shows counts as they change. A context manager; this one shows nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.pace = Pace()
        #: What stands behind the counts, such as what a queue says of them.
        self.remark = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, counts: Counts) -> None:
        """Take new counts, and show them when it is time to."""
        self.pace.look(self._clock(), counts.complete + counts.failed)
        self.show(counts)

    def show(self, counts: Counts) -> None:
        """Show counts; :attr:`pace` knows them already."""

    def close(self) -> None:
        """Leave the terminal in order."""

    def line(self, counts: Counts) -> str:
        """Return the progress line of these counts."""
        line = progress_line(counts, self.pace.rate, self.pace.seconds_left(counts.unfinished))
        return f"{line} · {self.remark}" if self.remark else line


class PlainProgress(Progress):
    """One line every :data:`LINE_INTERVAL` seconds, as far as anything has changed."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._stream = stream
        self._shown: tuple[float, Counts | None, str] = (float("-inf"), None, "")

    def show(self, counts: Counts) -> None:
        """Print a line if the last one is old enough and says something else."""
        time_shown, *shown = self._shown
        if self._clock() - time_shown < LINE_INTERVAL or shown == [counts, self.remark]:
            return
        self._shown = (self._clock(), counts, self.remark)
        with contextlib.suppress(OSError):  # nobody reads it: no reason to stop what is done
            print(self.line(counts), file=self._stream, flush=True)


class BarProgress(Progress):
    """A bar that moves, by rich."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        console = Console(file=stream)
        self._bar = RichProgress(*columns, console=console, refresh_per_second=4)
        self._task = self._bar.add_task("", total=None)
        self._bar.start()

    def show(self, counts: Counts) -> None:
        """Move the bar."""
        ended = counts.complete + counts.failed
        self._bar.update(
            self._task, total=counts.total, completed=ended, description=self.line(counts)
        )

    def close(self) -> None:
        """Leave the bar's last state on the terminal."""
        self._bar.stop()


def make_progress(quiet: bool, stream: TextIO | None = None) -> Progress:
    """Return the progress display that fits the stream (standard error by default)."""
    stream = stream or sys.stderr
    if quiet:
        return Progress()
    return BarProgress(stream) if is_terminal(stream) else PlainProgress(stream)
