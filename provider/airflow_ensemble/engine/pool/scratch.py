"""A worker's directory for the working directories of its processes. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.model import remove_workdir
from airflow_ensemble.engine.pool.workdir import keep_workdir, workdir_of_dead


class Scratch:
    """A fresh directory below ``ENSEMBLE_SCRATCH`` or the system's place for temporary files.

    :ivar is_kept: whether people want to see the working directories of failed simulations.
    """

    def __init__(self) -> None:
        parent = os.environ.get("ENSEMBLE_SCRATCH")
        try:
            self.path = _make_folder(parent or tempfile.gettempdir())
        except (OSError, ValueError) as error:
            named = f"ENSEMBLE_SCRATCH, {parent}," if parent else "the folder for temporary files"
            raise UsageError(
                f"no working directories for simulations can be made below {named}: {error}. Let "
                "ENSEMBLE_SCRATCH name a folder on this machine that can be written"
            ) from error
        self.is_kept = bool(os.environ.get("ENSEMBLE_KEEP_WORKDIR"))

    def folder(self, number: int) -> Path:
        """Return the folder of the process with this number."""
        return self.path / str(number)

    def keep(self, number: int, name: str) -> Path:
        """Keep what a dead process left of its last simulation, under a name; return the place."""
        return keep_workdir(workdir_of_dead(self.folder(number)), self.path / name)

    def discard(self, number: int) -> None:
        """Remove a dead process's folder; nobody waits for that."""
        threading.Thread(target=remove_workdir, args=[self.folder(number)], daemon=True).start()

    def close(self, numbers: Iterable[int]) -> None:
        """Remove the directory; if it is kept, the folders of these processes alone."""
        if not self.is_kept:  # the warden did it already, unless it was killed
            shutil.rmtree(self.path, ignore_errors=True)
            return
        for number in numbers:
            remove_workdir(self.folder(number))
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _make_folder(parent: str) -> Path:
    Path(parent).mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="ensemble-", dir=parent)).resolve()
