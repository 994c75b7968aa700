"""The cluster whose login node this is, as the rest of the command line needs it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ensemble.engine.batch import Reach, Settler
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.index.interface import BatchInfo
    from airflow_ensemble.slurm.cluster import Cluster

log = logging.getLogger(__name__)

#: How the index names what was submitted from a login node.
PLACE = "local"


def open_cluster(ensemble: Ensemble) -> Cluster:
    """Return the cluster that Slurm's commands on this machine speak to.

    :param ensemble: names, by its control folder, where batch folders go.
    """
    from airflow_ensemble.slurm.cluster import Cluster

    return Cluster.local(ensemble)


def make_settlers(ensemble: Ensemble) -> Mapping[str, Settler]:
    """Return what settles batches of this machine's cluster; those of other places are left alone.

    Nothing of Slurm is loaded, or asked, before there is a batch to settle.

    :param ensemble: the loaded ensemble file.
    """

    def cluster_of(place: str) -> Cluster | None:
        return open_cluster(ensemble) if place == PLACE else None

    def settle(control: Control, batch: BatchInfo, is_driver_dead: bool) -> list[tuple[str, int]]:
        from airflow_ensemble.slurm.settling import settler

        return settler(cluster_of)(control, batch, is_driver_dead)

    return {"slurm": settle}


def make_reach(control: Control) -> Reach:
    """Return what tells this machine's cluster of simulations that were cancelled.

    :param control: the opened ensemble.
    """

    def tell(chunks: Mapping[str, Sequence[str]]) -> None:
        from airflow_ensemble.slurm.settling import reach

        places = {chunk: _place_of(control, chunk) for chunk in chunks}
        for place in sorted({place for place in places.values() if place not in (PLACE, "")}):
            log.warning(
                "some of them run in array jobs that connection %r submitted, which cannot be "
                "reached from here: clear or mark their tasks in Airflow to end them at once",
                place,
            )
        ours = {chunk: ids for chunk, ids in chunks.items() if places[chunk] == PLACE}
        if ours:
            reach(control, open_cluster(control.ensemble))(ours)

    return tell


def _place_of(control: Control, chunk: str) -> str:
    """Return where the newest submission of a chunk was sent; empty if it was not."""
    elements = control.index.elements(chunk=chunk)
    return elements[-1].job.place if elements else ""
