"""A cluster as submitting, watching and settling need it: who to ask, and where files go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.ensemble.paths import HERE, Side, expand
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.local_runner import LocalRunner

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.ensemble import Ensemble

#: The place of jobs that were submitted on a login node.
LOCAL = "local"


@dataclass(frozen=True)
class Cluster:
    """One account on one cluster.

    :param client: speaks to its Slurm; ``client.runner`` to its files.
    :param place: the name that the index knows it by: an Airflow connection's id, or ``local``.
    :param remote_root: path of the folder on it below which everything of ours lies, as people
        write it.
    :param defaults: options of ``sbatch`` that hold where the ensemble file gives none.
    :param setup: shell lines that every job begins with.
    :param makes_root: whether a missing ``remote_root`` is made; else it is an error.
    :param side: looks up what paths name there.
    """

    client: SlurmClient
    place: str
    remote_root: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    makes_root: bool = False
    side: Side = HERE

    @classmethod
    def local(
        cls, source: Ensemble | Control, environment: Mapping[str, str] | None = None
    ) -> Cluster:
        """Return the cluster whose login node this machine is.

        Files go to ``execution.remote_root``, else to ``slurm`` in the ensemble's control folder.

        :param source: the loaded ensemble file, or the opened ensemble.
        :param environment: variables added for Slurm's commands, such as ``SLURM_CONF``.
        """
        ensemble = source.ensemble if hasattr(source, "ensemble") else source
        return cls(
            client=SlurmClient(LocalRunner(environment)),
            place=LOCAL,
            remote_root=str(ensemble.control / "slurm").replace("$", "$$"),
            makes_root=True,
        )

    def root(self, execution: Mapping[str, Any]) -> str:
        """Return the folder that an ensemble's files go to: its own, else the cluster's.

        :raises UsageError: when the cluster's own names what is not known there.
        """
        return str(execution.get("remote_root") or self._own_root()).rstrip("/") or "/"

    def _own_root(self) -> str:
        place = Place(f"connection {self.place!r}", "remote_root")
        root = expand(self.remote_root, place, self.side)
        if not root.startswith("/") or "\n" in root:
            raise UsageError(
                f"{place} comes to {root!r}, which is not the absolute path of a folder"
            )
        return root
