"""Evidence that the kernel's out-of-memory killer was at work while a simulation ran.

Standard library only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

_VMSTAT = Path("/proc/vmstat")
_CGROUPS = Path("/sys/fs/cgroup")
_INTERVAL = 1.0


def counter_files() -> list[Path]:
    """Return the files that count kills for this machine and for this process's control group."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    files = [_VMSTAT]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            files.append(_CGROUPS / "memory" / path.strip("/") / "memory.oom_control")
        elif not controllers:
            files.append(_CGROUPS / path.strip("/") / "memory.events")
    return [file for file in files if file.exists()]


def count_kills(files: Sequence[Path]) -> int:
    """Return the sum of all ``oom_kill`` counters."""
    return sum(map(_count, files))


class MemoryKills:
    """Remembers how the counters moved, so that a kill can be told from another's.

    :param files: from :func:`counter_files`.
    """

    def __init__(self, files: Sequence[Path] | None = None) -> None:
        self._files = counter_files() if files is None else files
        self._seen: deque[tuple[float, int]] = deque(maxlen=1000)
        self._seen.append((time.monotonic(), count_kills(self._files)))
        self._next = 0.0

    def look(self) -> None:
        """Read the counters, at most once a second."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL
            self._look(now)

    def happened_since(self, moment: float) -> bool:
        """Tell whether something was killed for memory since ``moment`` (monotonic seconds)."""
        self._look(time.monotonic())
        before = [count for seen, count in self._seen if seen <= moment]
        return self._seen[-1][1] > (before[-1] if before else self._seen[0][1])

    def _look(self, now: float) -> None:
        count = count_kills(self._files)
        if count != self._seen[-1][1]:
            self._seen.append((now, count))


def _count(file: Path) -> int:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    pairs = (line.split() for line in lines)
    return sum(int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == "oom_kill")
