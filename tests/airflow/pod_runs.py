"""Runs of ensembles through the real Airflow in pods, and what the tests ask of both."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_airflow import wait_until

from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from tests.airflow.live import Live, Run
from tests.airflow.slurm_runs import GATED_MODEL
from tests.ensembles import executions, write_ensemble
from tests.services.kubernetes import Cluster, open_to_all

WORKER = "group.pull_worker"
WAIT = "group.wait_until_drained"
PLAN = "group.plan_workers"


@dataclass
class PodPlace:
    """An ensemble whose folder Airflow and pods see alike.

    :param file: the ensemble file.
    :param name: the ensemble's name, by which its pods are found.
    :param dsn: of the index, for this process.
    """

    cluster: Cluster
    file: Path
    name: str
    dsn: str

    @property
    def folder(self) -> Path:
        return self.file.parent

    def executions(self) -> list[str]:
        """Return the ids that the model has run, in order, one per execution."""
        return executions(self.folder)

    def await_executions(self, count: int, timeout: float = 90) -> None:
        """Wait until the model has been started so many times."""
        wait_until(lambda: len(self.executions()) >= count, timeout, f"{count} executions")

    def open_gate(self, *ids: str) -> None:
        """Let these simulations end, or all."""
        for name in [f"go-{id}" for id in ids] or ["go"]:
            (self.folder / name).touch()

    def pods(self) -> list[dict[str, Any]]:
        """Return the ensemble's pods, by the number of their worker."""
        found = self.cluster.pods(f"ensemble={self.name}")
        return sorted(found, key=lambda pod: int(pod["metadata"]["labels"]["map_index"]))

    def pod_names(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods()]

    def await_no_pod(self, timeout: float = 90) -> None:
        wait_until(lambda: not self.pods(), timeout, f"the pods of {self.name} to be gone")

    @contextmanager
    def control(self) -> Iterator[Control]:
        """Open the control side."""
        with open_control(load(self.file), resolve_connection=lambda _: self.dsn) as control:
            yield control

    def reasons(self, id: str) -> list[str]:
        """Return why attempts of a simulation failed, oldest first."""
        with self.control() as control:
            return [attempt.reason.value for attempt in control.index.attempts(control.key, id)]


def make_pod_place(
    airflow: Live,
    cluster: Cluster,
    rows: Sequence[Mapping[str, Any]],
    *,
    model: str = GATED_MODEL,
    kubernetes: Mapping[str, Any] | None = None,
    **keys: Any,
) -> PodPlace:
    """Write an ensemble that runs in pods, with its index in Airflow's connection."""
    name = f"e{uuid.uuid4().hex[:8]}"
    folder = airflow.shared / name
    dsn = airflow.index_dsn
    options = {
        "image": cluster.image,
        "index_secret": cluster.index_secret(dsn),
        "grace_period": 10,
        **(kubernetes or {}),
    }
    file = write_ensemble(
        folder,
        rows,
        name=name,
        model=model,
        index="conn:ensemble_index",
        execution={"kubernetes": options},
        **keys,
    )
    (folder / "output").mkdir()
    (folder / "trace").touch()
    open_to_all(folder)
    return PodPlace(cluster, file, name, dsn)


def start(airflow: Live, place: PodPlace, dag: str = "on_kubernetes", **conf: Any) -> Run:
    """Start a run of a DAG of the tests."""
    id = airflow.client.trigger(dag, {"ensemble": str(place.file), **conf})
    return Run(airflow.client, dag, id)
