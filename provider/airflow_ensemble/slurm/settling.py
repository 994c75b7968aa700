"""Settling an ended element in the index, and reaching elements that are to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_ensemble.engine.index.interface import BatchInfo, Counts, SimulationInfo
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.decision import Over

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control

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
    raise NotImplementedError


def cancel_chunk(control: Control, cluster: Cluster, chunk: str) -> None:
    """Cancel the element that runs the newest submission of a chunk, if it may live.

    :param chunk: the chunk's id.
    """
    raise NotImplementedError


def reach(control: Control, cluster: Cluster) -> Callable[[str, Sequence[str]], None]:
    """Return what tells the cluster of cancelled simulations, for ``batch.cancel``.

    Their worker is told by a file; an element that has nothing left is cancelled as a whole.
    """
    raise NotImplementedError


def settler(
    cluster_of: ClusterOf,
) -> Callable[[Control, BatchInfo, bool], list[tuple[str, int]]]:
    """Return what settles batches whose driver is gone, for ``batch.reconcile``.

    What lives stays owned. What has ended is brought in and given back.

    :param cluster_of: finds a cluster by its place; a batch of an unknown place is left alone.
    """
    raise NotImplementedError
