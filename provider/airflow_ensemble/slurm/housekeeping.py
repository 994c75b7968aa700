"""Removing what jobs of a login node have left in the control folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
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
#: Folders in which jobs of all batches find what they share.
_STAGED = ("bundles", "code")


def remove_job_folders(
    control: Control, *, min_age: float = MIN_AGE, dry_run: bool = False
) -> list[Path]:
    """Remove folders of jobs of which nothing is open and that nobody has written to for long.

    Only those that a login node has made below ``slurm`` in the control folder: what an ensemble's
    own ``remote_root`` or a connection's holds may be another machine's. What the index does not
    know stays.

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


def remove_staged(
    control: Control,
    *,
    without: Collection[Path] = (),
    min_age: float = MIN_AGE,
    dry_run: bool = False,
) -> list[Path]:
    """Remove worker bundles and copies of code that no job folder names, nor an open batch may.

    What a later run needs of them, it stages again.

    :param without: job folders that count as removed.
    :param min_age: seconds since one was staged.
    :return: their folders.
    """
    index, base = control.index, control.ensemble.control / "slurm"
    if any(index.open_batches(key) for key in index.ensembles(control.ensemble.name)):
        return []
    folders = [folder for kind in _STAGED for folder in sorted((base / kind).glob("*"))]
    now = time.time()
    old = [folder for folder in folders if now - folder.lstat().st_mtime >= min_age]
    named = "".join(_texts(base, without)) if old else ""
    removed = [folder for folder in old if f"{folder.parent.name}/{folder.name}" not in named]
    for folder in () if dry_run else removed:
        shutil.rmtree(folder)
    return removed


def _texts(base: Path, without: Collection[Path]) -> Iterator[str]:
    """Yield what names bundles and code in job folders: scripts, and the first lines of chunks."""
    for script in base.glob("*/*/*/job.sh"):
        if script.parent in without:
            continue
        yield script.read_text()
        for chunk in script.parent.glob("*.jsonl"):
            with chunk.open() as lines:
                yield lines.readline()


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
