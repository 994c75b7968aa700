"""Upkeep of an ensemble: rebuild its index from segments, collect garbage, read logs."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.forgetting import read_forgotten
from airflow_ensemble.engine.index.interface import Scope, SimulationInfo
from airflow_ensemble.engine.ingest import read_finished
from airflow_ensemble.engine.simulation import Status
from airflow_ensemble.engine.words import one_line

log = logging.getLogger(__name__)

#: The batch key under which ``rebuild`` registers the table.
REBUILD_KEY = "rebuild"


@dataclass(frozen=True)
class Garbage:
    """What a garbage collection removed, or would remove.

    :param files: number of product and log files that no result refers to.
    :param bytes: their size.
    :param batches: settled batches whose chunk files were removed.
    """

    files: int
    bytes: int
    batches: int


def rebuild(control: Control) -> int:
    """Fill the index from the table of simulations and the outcome segments.

    Segments, not listings: ``complete-empty`` and failures survive, and so do simulations of
    earlier tables. What the index knows already and is newer stays, and what a person had forgotten
    stays forgotten.

    :return: how many simulations are terminal by it.
    """
    key = control.index.define(control.recipe)
    for attempts in read_forgotten(control):
        control.index.note_forgotten(key, attempts)
    control.index.register(key, control.ensemble.read_simulations(), batch_key=REBUILD_KEY)
    return control.index.restore(key, read_finished(control))


def collect_garbage(control: Control, *, dry_run: bool = False) -> Garbage:
    """Remove products and logs that no result refers to, and chunk files of settled batches.

    These are what fenced or killed executions published, and generations that newer ones replaced.
    Segments stay: ``rebuild`` needs them.

    :raises UsageError: while simulations are owned by anyone, whose files would look like garbage.
    """
    counts = control.index.counts(control.key)
    if counts.dispatched or counts.running:
        raise UsageError(
            f"{counts.dispatched + counts.running} simulations are dispatched or running and may "
            "publish files at any moment: wait for them, or `ensemble cancel` them, then gc again"
        )
    kept = _referenced(control)
    garbage = [
        (name, size)
        for name, size in control.root.list(f"{control.recipe.hash8}/")
        if name not in kept
    ]
    if not dry_run:
        for name, _ in garbage:
            control.root.delete(name)
    batches = _remove_settled_batches(control, dry_run)
    return Garbage(len(garbage), sum(size for _, size in garbage), batches)


def read_log(control: Control, id: str) -> str:
    """Return the log of a simulation's last finished attempt.

    :raises UsageError: when the simulation is unknown or no log was kept.
    """
    info = control.index.simulation(control.key, id)
    if info is None:
        raise UsageError(f"ensemble {control.ensemble.name!r} has no simulation {id!r}")
    if info.log is None:
        raise UsageError(f"no log of simulation {id} was kept: {_why_no_log(info)}")
    return read_log_at(control, info.log)


def _why_no_log(info: SimulationInfo) -> str:
    if info.reason is not None:
        return f"it failed ({info.reason.value}) without one: {one_line(info.detail)}"
    if info.status is not Status.COMPLETE:
        return f"it is {info.status.value} and has not finished an attempt"
    return "it is complete, and only `logs: all` in the ensemble file keeps logs of those"


def read_log_at(control: Control, reference: str) -> str:
    """Return the log at ``name`` or, in a packed file, at ``name#offset:length``."""
    name, _, place = reference.partition("#")
    if not place:
        return control.root.read(name).decode(errors="replace")
    offset, _, length = place.partition(":")
    return control.root.read(name, int(offset), int(length)).decode(errors="replace")


def _referenced(control: Control) -> set[str]:
    kept = {
        product.path
        for result in control.index.results(control.key)
        for product in result.products
        if product.path
    }
    kept.update(_logs(control))
    return kept


def _logs(control: Control) -> Iterator[str]:
    for info in control.index.simulations(control.key, Scope()):
        if info.log:
            yield info.log.partition("#")[0]


def _remove_settled_batches(control: Control, dry_run: bool) -> int:
    open_ids = {batch.id for batch in control.index.open_batches(control.key)}
    folder = control.ensemble.control / "chunks"
    if not folder.is_dir():
        return 0
    settled = [path for path in folder.iterdir() if path.is_dir() and path.name not in open_ids]
    for path in settled:
        if not dry_run:
            shutil.rmtree(path)
    return len(settled)
