"""The Slurm backend: chunks run as elements of array jobs on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ensemble.operators.collect import CollectOperator
from airflow_ensemble.operators.slurm_collect import SlurmCollectOperator
from airflow_ensemble.operators.slurm_submit import SlurmSubmitOperator
from airflow_ensemble.sensors.slurm_chunk import SlurmChunkSensor


@dataclass(frozen=True)
class Slurm:
    """Runs chunks on a Slurm cluster.

    :param conn_id: Airflow connection of type ``slurm``. May be a template.
    :param n_workers: number of chunks; default is ``execution.n_workers`` of the ensemble file,
        else one for each simulation. May be a template.
    :param queue_deadline: seconds that an element may wait to start; default is
        ``execution.queue_deadline`` of the ensemble file, else no limit.
    :param run_deadline: seconds that an element may run; default is ``execution.run_deadline``.
    :param deferrable: wait in the triggerer instead of holding a worker slot.
    :param task_options: further arguments of the mapped sensors, such as ``pool``, ``queue``,
        ``retries``, ``execution_timeout`` or ``max_active_tis_per_dagrun``.
    """

    conn_id: str = "slurm_default"
    n_workers: int | str | None = None
    queue_deadline: float | None = None
    run_deadline: float | None = None
    deferrable: bool = True
    task_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def collect_operator(self) -> type[CollectOperator]:
        """Return what collects the products."""
        return SlurmCollectOperator

    @property
    def options(self) -> Mapping[str, Any]:
        """Return what every operator of the group is given: through whom the output is reached."""
        return {"slurm_conn_id": self.conn_id}

    def add_tasks(self, registration: Any, common: Mapping[str, Any]) -> Any:
        """Add a submitting task, and a mapped one that waits for the chunks; return the latter."""
        submit = SlurmSubmitOperator(
            task_id="submit", registration=registration, n_workers=self.n_workers, **common
        )
        wait = SlurmChunkSensor.partial(
            task_id="wait_for_chunk",
            queue_deadline=self.queue_deadline,
            run_deadline=self.run_deadline,
            deferrable=self.deferrable,
            **common,
            **self.task_options,
        )
        return wait.expand(chunk=submit.output)
