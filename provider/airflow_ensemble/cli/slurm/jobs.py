"""Slurm's view of an ensemble's array jobs, beside that of the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_ensemble.cli.text import render_table

if TYPE_CHECKING:
    from airflow_ensemble.engine.index.interface import (
        ElementInfo,
        EnsembleKey,
        JobInfo,
        OutputIndex,
    )
    from airflow_ensemble.slurm.client import Snapshot

#: The word for what Slurm has not said anything of.
UNKNOWN = "unknown"
#: The word for the elements of a job whose ``sbatch`` has not been answered.
UNANSWERED = "not submitted"


@dataclass(frozen=True)
class JobView:
    """One array job with elements that are not settled.

    :param job: as the index knows it.
    :param states: its open elements by Slurm's word.
    :param reasons: those that wait, by Slurm's reason.
    """

    job: JobInfo
    states: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        """Return the number of its open elements."""
        return sum(self.states.values())


@dataclass(frozen=True)
class SlurmView:
    """The open array jobs of an ensemble.

    :param jobs: oldest first.
    :param problem: why Slurm could not be asked; empty when it answered.
    """

    jobs: Sequence[JobView] = ()
    problem: str = ""


def read_slurm_view(index: OutputIndex, key: EnsembleKey) -> SlurmView | None:
    """Ask Slurm once about all open array jobs; None when there are none.

    :param index: the open index.
    :param key: the ensemble.
    """
    elements = open_elements(index, key)
    if not elements:
        return None
    snapshot, problem = _ask([element.job for element in elements])
    return SlurmView(view_jobs(elements, snapshot), problem)


def open_elements(index: OutputIndex, key: EnsembleKey) -> list[ElementInfo]:
    """Return the newest element of each open chunk that was given to Slurm."""
    return [
        element
        for batch in index.open_batches(key)
        if batch.backend == "slurm"
        for element in index.elements(batch=batch.id)
    ]


def view_jobs(elements: Sequence[ElementInfo], snapshot: Snapshot | None) -> list[JobView]:
    """Count elements by job and by what Slurm says of them.

    :param elements: open ones.
    :param snapshot: Slurm's answers; None when there were none.
    """
    words: dict[str, Counter[str]] = {}
    reasons: dict[str, Counter[str]] = {}
    jobs: dict[str, JobInfo] = {}
    for element in elements:
        name = element.job.name
        jobs[name] = element.job
        word, reason = _say(element, snapshot)
        words.setdefault(name, Counter())[word] += 1
        if reason:
            reasons.setdefault(name, Counter())[reason] += 1
    return [
        JobView(job, dict(words[name]), dict(reasons.get(name, ()))) for name, job in jobs.items()
    ]


def _say(element: ElementInfo, snapshot: Snapshot | None) -> tuple[str, str]:
    from airflow_ensemble.slurm.states import Phase

    if element.end is not None:
        return element.end, ""
    if element.job.job_id is None:
        return UNANSWERED, ""
    if snapshot is None:
        return UNKNOWN, ""
    view = snapshot.view(element.job, element.element)
    waits = view.phase in (Phase.PENDING, Phase.BLOCKED)
    return view.word or UNKNOWN, view.reason if waits else ""


def _ask(jobs: Sequence[JobInfo]) -> tuple[Snapshot | None, str]:
    from airflow_ensemble.slurm.client import SlurmClient
    from airflow_ensemble.slurm.errors import ClusterError
    from airflow_ensemble.slurm.local_runner import LocalRunner

    named = {job.name: job for job in jobs if job.job_id is not None}
    if not named:
        return None, ""
    try:
        with LocalRunner() as runner:
            snapshot = SlurmClient(runner).poll(list(named.values()))
    except ClusterError as error:
        return None, str(error)
    if snapshot.queue is None:
        return None, "squeue did not answer here"
    return snapshot, ""


# --- writing --------------------------------------------------------------------------------------


def as_record(view: SlurmView | None) -> dict[str, Any] | None:
    """Return Slurm's view as JSON values; None when there is nothing to view."""
    if view is None:
        return None
    return {
        "answered": not view.problem,
        "problem": view.problem or None,
        "jobs": [
            {
                "id": one.job.job_id,
                "name": one.job.name,
                "batch": one.job.batch,
                "place": one.job.place,
                "folder": one.job.folder,
                "elements": one.elements,
                "states": dict(one.states),
                "reasons": dict(one.reasons),
            }
            for one in view.jobs
        ],
    }


def render_slurm_view(view: SlurmView) -> str:
    """Return Slurm's view as a table."""
    rows = [
        (
            one.job.job_id or "—",
            one.job.name,
            f"{one.elements:,}",
            count_words(one.states),
            count_words(one.reasons),
        )
        for one in view.jobs
    ]
    headers = ("Slurm job", "name", "elements", "states", "why they wait")
    table = render_table(headers, rows, right=("elements",))
    if not view.problem:
        return table
    return f"{table}\nSlurm's own view is missing: {view.problem}"


def summarise_slurm_view(view: SlurmView | None) -> str:
    """Return Slurm's view of all jobs together in a few words."""
    if view is None or view.problem:
        return ""
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for one in view.jobs:
        states.update(one.states)
        reasons.update(one.reasons)
    waiting = f" ({count_words(reasons)})" if reasons else ""
    return f"Slurm: {count_words(states)}{waiting}"


def count_words(counts: Mapping[str, int]) -> str:
    """Return ``12 RUNNING, 3 PENDING``, most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {word}" for word, number in ordered)
