"""A batch's chunks as array jobs: rendered, staged and submitted, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_ensemble.engine.index.interface import ChunkInfo, JobInfo, Result
from airflow_ensemble.slurm.cluster import Cluster

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.ensemble import Ensemble


@dataclass(frozen=True)
class Preview:
    """An array job that would be submitted.

    :param script: the batch script.
    :param n_elements: elements of the array.
    :param resource_class: the needs that its simulations share.
    """

    script: str
    n_elements: int
    resource_class: str


def allowed_chunks(
    control: Control, cluster: Cluster, wanted: int, map_limit: int | None = None
) -> int:
    """Return how many chunks fit the site's limits: array size, and free places in the queue.

    :param wanted: chunks of one resource class.
    :param map_limit: another limit of the caller's, such as Airflow's ``max_map_length``.
    :return: at least 1, at most ``wanted``.
    """
    raise NotImplementedError


def submit(control: Control, cluster: Cluster, chunks: Sequence[ChunkInfo]) -> list[JobInfo]:
    """Submit chunks, one array for each resource class; split only where the site forces it.

    Goes on from whatever an earlier call has left; chunks that were submitted are not again.

    :param chunks: open ones of one batch, as ``batch.dispatch`` gives them.
    :return: the jobs that have them, each with its ``job_id``.
    :raises SlurmRefused: when Slurm will not take them; no attempt is left open.
    :raises StagingError: when files cannot be put on the cluster; nothing half staged is left.
    :raises OutcomeUnknown: when it is not known in time whether Slurm has taken them: call again.
    """
    raise NotImplementedError


def resubmit(control: Control, cluster: Cluster, chunk: str) -> JobInfo:
    """Submit what is unfinished of a chunk as an array of one element, under a new attempt.

    To be called after :func:`~airflow_ensemble.slurm.settling.settle`; safe to call at any time: a
    chunk whose newest submission may live is left as it is, and a submission that somebody began
    and did not finish is finished.

    :param chunk: the chunk's id.
    :return: the job that has the chunk's newest submission.
    """
    raise NotImplementedError


def render_scripts(control: Control, cluster: Cluster, chunks: Sequence[ChunkInfo]) -> list[str]:
    """Return the batch scripts of chunks, as they were or would be submitted.

    :param chunks: of one batch.
    """
    raise NotImplementedError


def preview(
    ensemble: Ensemble,
    cluster: Cluster,
    sizes: Sequence[tuple[str, int]],
    map_limit: int | None = None,
) -> list[Preview]:
    """Return what would be submitted, without index and without changing anything.

    :param sizes: (resource class, simulations) of each class.
    :param map_limit: as of :func:`allowed_chunks`.
    """
    raise NotImplementedError


def submit_collection(
    control: Control,
    cluster: Cluster,
    batch: str,
    results: Iterable[Result],
    to: str,
    format: str = "netcdf",
) -> JobInfo:
    """Submit one more job that collects products on the cluster, in the model's interpreter.

    A call that finds an earlier one's job which may live returns that.

    :param results: what to collect.
    :param to: absolute path of the dataset on the cluster, or a URI.
    :param format: as of ``ensemble collect``.
    :return: its job: element 0, watched with ``chunk=None``. After its end, a call of
        ``index.end_element(collection_chunk(batch), …)`` lets the next one submit anew.
    """
    raise NotImplementedError


def collection_chunk(batch: str) -> str:
    """Return the name under which a batch's collections are entered as elements."""
    return f"{batch}-collect"
