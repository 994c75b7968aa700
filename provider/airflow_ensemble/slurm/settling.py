"""Settling an ended element in the index, and reaching elements that are to end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.engine import segment
from airflow_ensemble.engine.chunk import cancel_path
from airflow_ensemble.engine.index.interface import (
    BatchInfo,
    ChunkInfo,
    Counts,
    ElementInfo,
    JobInfo,
    Scope,
    SimulationInfo,
)
from airflow_ensemble.engine.ingest import ingest
from airflow_ensemble.engine.simulation import Reason, Status
from airflow_ensemble.engine.storage import segments_prefix
from airflow_ensemble.slurm.batches import newest_element
from airflow_ensemble.slurm.client import Snapshot, element_id
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.decision import Deadlines, Over, Sight, decide
from airflow_ensemble.slurm.errors import ClusterError
from airflow_ensemble.slurm.policies import GIVE_UP, RETRY, read_policies
from airflow_ensemble.slurm.states import End, Phase, View
from airflow_ensemble.slurm.watch import ClusterWatch, Watched

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control

log = logging.getLogger(__name__)

DONE, AGAIN = "done", "again"
_UNSEEN = View(Phase.UNKNOWN)
#: Failed simulations that a result names.
MAX_NAMED = 20
#: Seconds to wait for a cancelled element to be gone, and between two looks at it.
CANCEL_WAIT, CANCEL_PAUSE = 60.0, 1.0

#: Submissions of a chunk that may vanish in a row: then no further one is made.
_VANISHINGS = 3
_INVISIBLE = (
    f"That was so {_VANISHINGS} times in a row, so nothing more is submitted: neither squeue nor "
    "sacct shows a job with the name, comment, script or folder that we gave it. Look at `squeue "
    "--me` on the cluster, cancel there what is ours, and ask the site to leave one of these as it "
    "is"
)

#: What simulations are charged with that an element's end has caught running.
_REASONS = {
    End.TIME_LIMIT: Reason.TIME_LIMIT,
    End.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    End.NODE_FAILURE: Reason.NODE_FAILURE,
    End.PREEMPTED: Reason.PREEMPTED,
    End.CANCELLED: Reason.INTERRUPTED,
    End.BLOCKED: Reason.INTERRUPTED,
    End.QUEUE_DEADLINE: Reason.INTERRUPTED,
    End.RUN_DEADLINE: Reason.INTERRUPTED,
}

#: Finds the cluster of a place; None when it cannot be reached from here.
ClusterOf = Callable[[str], "Cluster | None"]


@dataclass(frozen=True)
class Settled:
    """What follows from an element's end.

    :param next: ``done``: nothing is left to run; the chunk is settled. ``again``: its worker did
        its work, and simulations with tries left are to be submitted again at once. ``retry``:
        something around it failed, which another try may mend. ``give-up``: another try would not
        help. After the last three the chunk stays open and keeps what is unfinished.
    :param counts: the chunk's simulations by status.
    :param failures: the first failed ones.
    :param message: for people: how the element ended, and what is left.
    """

    next: str
    counts: Counts
    failures: Sequence[SimulationInfo]
    message: str


def settle(control: Control, cluster: Cluster, chunk: str, over: Over) -> Settled:
    """Enter how an element ended, and decide what follows.

    What may still live is cancelled first. Safe to call again, also after the chunk was settled or
    submitted again by somebody else: then nothing is changed, and ``next`` is ``done`` or
    ``again``.

    :param control: the opened ensemble.
    :param cluster: where the element ran.
    :param chunk: the chunk's id.
    :param over: what :meth:`ClusterWatch.look` said.
    """
    info = control.index.chunk(chunk)
    if info.state != "open":
        return _settled(control, info, DONE, "it was settled before")
    if over.submission is not None and over.submission != info.submission:
        return _settled(control, info, AGAIN, "it was submitted again since")
    element = newest_element(control, info)
    words = f"{_name(element, chunk)} ended ({over.end.value}: {over.detail})"
    # The index first: where nothing is left, neither the cluster nor its files are asked.
    if info.unfinished and element is not None and element.end is None:
        if over.may_live:
            _end_element(cluster, element)
        ingest(control, chunk)
    if element is not None:
        control.index.end_element(chunk, info.submission, over.end.value, over.detail)
    if info.unfinished:
        reason = _REASONS.get(over.end, Reason.LOST)
        control.index.charge(chunk, reason=reason, detail=over.detail, submission=info.submission)
        info = control.index.chunk(chunk)
    if not info.unfinished:
        control.index.settle(chunk, submission=info.submission)
        return _settled(control, info, DONE, words)
    if over.end is End.VANISHED and _vanishes_each_time(control, info):
        return _settled(control, info, GIVE_UP, f"{words}. {_INVISIBLE}")
    return _settled(control, info, _next(control, info, over), words)


def cancel_chunk(control: Control, cluster: Cluster, chunk: str) -> None:
    """Cancel the element that runs the newest submission of a chunk, if it may live.

    :param chunk: the chunk's id.
    """
    element = newest_element(control, control.index.chunk(chunk))
    if element is None or element.end is not None:
        return
    if element.job.job_id is not None:
        cancel_elements(cluster, [element])
        return
    # sbatch was perhaps not answered: whatever bears the mark is ours.
    found = cluster.client.find(element.job.name) or []
    if found:
        cluster.client.cancel([f"{id}_{element.element}" for id in found])


def reach(control: Control, cluster: Cluster) -> Callable[[Mapping[str, Sequence[str]]], None]:
    """Return what tells the cluster of cancelled simulations, for ``batch.cancel``.

    Their worker is told by a file; an element that has nothing left is cancelled as a whole.
    Chunks of other places are left to those.
    """

    def tell(cancelled: Mapping[str, Sequence[str]]) -> None:
        whole = []
        for chunk, ids in cancelled.items():
            info = control.index.chunk(chunk)
            element = newest_element(control, info)
            if element is None or element.end or element.job.place != cluster.place:
                continue
            if not info.unfinished and element.job.job_id is not None:
                whole.append(element)
            else:
                _write_cancel_file(cluster, element, ids)
        if whole:
            cancel_elements(cluster, whole)

    return tell


def cancel_elements(cluster: Cluster, elements: Sequence[ElementInfo]) -> None:
    """Cancel submitted elements, but for those whose id is another job's now.

    :param elements: with jobs that have their ``job_id``.
    """
    snapshot = cluster.client.poll([element.job for element in elements])
    for element in elements:
        snapshot.view(element.job, element.element)
    cluster.client.cancel([element_id(element.job, element.element) for element in elements])


def settler(
    cluster_of: ClusterOf,
) -> Callable[[Control, BatchInfo, bool], list[tuple[str, int]]]:
    """Return what settles batches whose driver is gone, for ``batch.reconcile``.

    What lives stays owned. What has ended is brought in and given back.

    :param cluster_of: finds a cluster by its place; a batch of an unknown place is left alone.
    """

    def settle_batch(
        control: Control, batch: BatchInfo, is_abandoned: bool
    ) -> list[tuple[str, int]]:
        if not is_abandoned:
            return []
        elements = {element.chunk: element for element in control.index.elements(batch=batch.id)}
        chunks = [chunk for chunk in control.index.chunks(batch.id) if chunk.state == "open"]
        settled = [
            (chunk.id, control.index.settle(chunk.id))
            for chunk in chunks
            if chunk.id not in elements
        ]
        for place in sorted({element.job.place for element in elements.values()}):
            cluster = cluster_of(place)
            if cluster is None:
                log.info("batch %s: its jobs at %s cannot be seen from here", batch.id, place)
                continue
            there = [e for e in elements.values() if e.job.place == place]
            try:
                settled += _settle_ended(control, cluster, there)
            except ClusterError as error:
                log.warning("batch %s: left as it is: %s", batch.id, error)
        return settled

    return settle_batch


# --- one element ------------------------------------------------------------------------------


def _next(control: Control, info: ChunkInfo, over: Over) -> str:
    """Return what follows from an end that left simulations unfinished."""
    if over.worker_ended:
        # A worker that never came so far as to try one would not do so at once either.
        return AGAIN if _has_tried(control, info) else RETRY
    policy = read_policies(control.ensemble.execution)[over.end]
    return GIVE_UP if policy.action == GIVE_UP else RETRY


def _vanishes_each_time(control: Control, info: ChunkInfo) -> bool:
    """Say whether Slurm has lost sight of a chunk's last submissions, one after the other."""
    ends = [element.end for element in control.index.elements(chunk=info.id)]
    return ends[-_VANISHINGS:] == [End.VANISHED.value] * _VANISHINGS


def _has_tried(control: Control, info: ChunkInfo) -> bool:
    """Say whether the newest submission's worker has recorded the end of any attempt."""
    prefix = f"{segments_prefix(control.hash8, info.id)}{info.submission}."
    return any(
        any(True for _ in segment.outcomes(segment.parse(control.root.read(name)).records))
        for name, _ in control.root.list(prefix)
    )


def _settled(control: Control, info: ChunkInfo, what: str, words: str) -> Settled:
    scope = Scope(chunk=info.id)
    counts = control.index.counts(control.key, scope)
    failed = Scope(chunk=info.id, statuses=(Status.FAILED,))
    failures = list(control.index.simulations(control.key, failed, limit=MAX_NAMED))
    message = (
        f"chunk {info.id}: {words}; {counts.complete} complete, {counts.failed} failed, "
        f"{counts.unfinished} unfinished"
    )
    return Settled(what, counts, failures, message)


def _name(element: ElementInfo | None, chunk: str) -> str:
    if element is None or element.job.job_id is None:
        return f"submission of {chunk}"
    return f"element {element_id(element.job, element.element)}"


def _end_element(cluster: Cluster, element: ElementInfo) -> None:
    """Cancel an element, and wait for some time until it is gone."""
    if element.job.job_id is None:
        return
    name = element_id(element.job, element.element)
    cancel_elements(cluster, [element])
    give_up = time.monotonic() + CANCEL_WAIT
    while time.monotonic() < give_up:
        view = cluster.client.poll([element.job]).view(element.job, element.element)
        if view.phase in (Phase.ENDED, Phase.UNKNOWN):
            return
        time.sleep(CANCEL_PAUSE)
    # Its attempts are fenced: whatever it may still record does not count.
    log.warning("element %s was cancelled but is not gone after %g s", name, CANCEL_WAIT)


def _write_cancel_file(cluster: Cluster, element: ElementInfo, ids: Sequence[str]) -> None:
    path = str(cancel_path(Path(element.job.folder), element.chunk))
    lines = "".join(f"{id}\n" for id in ids)
    try:
        cluster.client.runner.append(path, lines.encode())
    except FileNotFoundError:
        log.info("chunk %s: nothing is staged yet, so its worker will not run them", element.chunk)


# --- elements of batches that nobody drives -----------------------------------------------------


def _settle_ended(
    control: Control, cluster: Cluster, elements: Sequence[ElementInfo]
) -> list[tuple[str, int]]:
    """Settle those elements of one place that have ended or were never submitted."""
    submitted = []
    overs = {}
    for element in elements:
        if element.end is not None:
            overs[element.chunk] = _recorded(element)
        elif element.job.job_id is not None:
            submitted.append(element)
        elif _was_never_submitted(control, cluster, element.job):
            overs[element.chunk] = Over(End.VANISHED, "it was never submitted", _UNSEEN)
    if submitted:
        overs.update(_judge_submitted(control, cluster, submitted))
    return [
        (element.chunk, _give_back(control, element, overs[element.chunk]))
        for element in elements
        if element.chunk in overs
    ]


def _judge_submitted(
    control: Control, cluster: Cluster, elements: Sequence[ElementInfo]
) -> dict[str, Over]:
    """Return by chunk which elements are over, with one poll and one reading of results."""
    snapshot = cluster.client.poll(list({e.job.name: e.job for e in elements}.values()))
    batch = elements[0].job.batch
    ingest(control, batch=batch)
    chunks = {chunk.id: chunk for chunk in control.index.chunks(batch)}
    watch = ClusterWatch(cluster.client)
    overs = {}
    for element in elements:
        sight = _sight(control, snapshot, element, chunks[element.chunk].unfinished)
        over = decide(sight, Deadlines())
        watched = Watched.of(element, control)
        if over and not (over.end is End.VANISHED and watch.shows_life(watched)):
            overs[element.chunk] = over
    return overs


def _sight(control: Control, snapshot: Snapshot, element: ElementInfo, unfinished: int) -> Sight:
    """Return what is known of an element of which nobody remembers an earlier look."""
    view = snapshot.view(element.job, element.element)
    age = control.index.now() - (element.job.submitted or 0.0)
    # A bad end promises no results that could come late; a good one does.
    waits = view.end is End.COMPLETED and view.ended is not None
    return Sight(
        view,
        snapshot.now,
        unfinished,
        answered=snapshot.answered,
        absent=age if snapshot.queue is not None else None,
        ended=None if waits else math.inf,
    )


def _was_never_submitted(control: Control, cluster: Cluster, job: JobInfo) -> bool:
    """Say whether a job without an id is certain not to exist; one that is found is noted."""
    if not job.attempt:
        return True
    found = cluster.client.find(job.name)
    if found:
        control.index.note_submitted(job.name, found[0])
        log.info("job %s was submitted as %s", job.name, found[0])
    return found == [] and control.index.now() > job.deadline


def _recorded(element: ElementInfo) -> Over:
    known = {end.value: end for end in End}
    return Over(known.get(element.end or "", End.FAILED), element.detail, _UNSEEN)


def _give_back(control: Control, element: ElementInfo, over: Over) -> int:
    control.index.end_element(element.chunk, element.submission, over.end.value, over.detail)
    return control.index.settle(
        element.chunk,
        reason=_REASONS.get(over.end, Reason.LOST),
        detail=over.detail,
        submission=element.submission,
    )
