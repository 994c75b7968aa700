"""Working directories of the simulations of one process.

Making and removing a directory can be the slowest part of a short simulation, above all on a busy
disk. One that is as new after a simulation is therefore given to the next; any other is removed.
Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from airflow_ensemble.engine.model import remove_workdir


class Workdirs:
    """Gives each simulation an empty directory of its own.

    :param folder: belongs to this process alone; made here.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._number = 0
        self._current: Path | None = None
        self._mode = 0

    def enter(self) -> Path:
        """Make an empty directory the current one and return it.

        :raises OSError: when none can be made.
        """
        if self._current is None:
            self._number += 1
            path = self._folder / str(self._number)
            path.mkdir()
            self._mode = path.stat().st_mode
            self._current = path
        os.chdir(self._current)
        return self._current

    def leave(self) -> None:
        """Leave the current directory; what a simulation has put there is removed."""
        if self._current is None or self._is_as_new(self._current):
            return
        os.chdir(self._folder)
        remove_workdir(self._current)
        self._current = None

    def keep(self, name: str) -> Path:
        """Leave the current directory and keep it under a name, beside this process's folder."""
        os.chdir(self._folder)
        kept, self._current = self._current, None
        return keep_workdir(kept, self._folder.parent / name)

    def _is_as_new(self, path: Path) -> bool:
        try:
            with os.scandir(path) as entries:
                return next(entries, None) is None and path.stat().st_mode == self._mode
        except OSError:
            return False


def keep_workdir(workdir: Path | None, place: Path) -> Path:
    """Move a working directory to where people find it, and return the place."""
    if workdir is not None:
        with contextlib.suppress(OSError):
            workdir.rename(place)
    return place


def workdir_of_dead(folder: Path) -> Path | None:
    """Return the working directory that a process had when it died, given its folder."""
    try:
        return max(folder.iterdir(), key=lambda path: int(path.name), default=None)
    except OSError:
        return None
