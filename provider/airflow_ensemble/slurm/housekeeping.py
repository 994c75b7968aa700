"""Removing what jobs of a login node have left in the control folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.engine.index.interface import JobInfo
from airflow_ensemble.slurm.batches import collection_chunk
from airflow_ensemble.slurm.cluster import LOCAL

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control

#: Seconds for which nothing in a job's folder may have changed before it is removed.
MIN_AGE = 86400.0


def remove_job_folders(
    control: Control, *, min_age: float = MIN_AGE, dry_run: bool = False
) -> list[Path]:
    """Remove folders of jobs of which nothing is open and that nobody has written to for long.

    Only those that a login node has made below ``slurm`` in the control folder: what an ensemble's
    own ``remote_root`` or a connection's holds may be another machine's. What the index does not
    know stays, and so do the worker bundle and the model's code.

    :param min_age: seconds since the last change of any file in it.
    :return: the folders, oldest job first.
    """
    base = control.ensemble.control / "slurm"
    now = time.time()
    removed = []
    for job in _settled_jobs(control):
        folder = Path(job.folder)
        if base not in folder.parents or ".." in folder.parts or not folder.is_dir():
            continue
        if now - _last_change(folder) < min_age:
            continue
        removed.append(folder)
        if not dry_run:
            shutil.rmtree(folder)
            with suppress(OSError):  # other jobs of the batch are in it
                folder.parent.rmdir()
    return removed


def _settled_jobs(control: Control) -> Iterator[JobInfo]:
    """Yield this machine's jobs of batches that are over, of all settings of the ensemble."""
    index = control.index
    for key in index.ensembles(control.ensemble.name):
        open_ids = {batch.id for batch in index.open_batches(key)}
        for job in index.jobs(key):
            if job.place == LOCAL and job.batch not in open_ids and not _is_open(control, job):
                yield job


def _is_open(control: Control, job: JobInfo) -> bool:
    """Say whether a collection, which is no chunk of its batch, may still run in a job."""
    name = collection_chunk(job.batch)
    return any(
        element.chunk == name and element.end is None
        for element in control.index.elements(job=job.name)
    )


def _last_change(folder: Path) -> float:
    """Return when anything in a folder changed last."""
    times = [folder.lstat().st_mtime]
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            times.append(path.lstat().st_mtime)
    return max(times)
