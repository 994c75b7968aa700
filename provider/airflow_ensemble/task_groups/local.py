"""The local backend: chunks run as mapped tasks on Airflow's own workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ensemble.operators.collect import CollectOperator
from airflow_ensemble.operators.dispatch import DispatchOperator
from airflow_ensemble.operators.run_chunk import RunChunkOperator


@dataclass(frozen=True)
class Local:
    """Runs chunks on Airflow's own workers.

    :param n_workers: number of chunks; default is ``execution.n_workers`` of the ensemble file,
        else the number of CPUs. May be a template.
    :param cpus: processes for each chunk; default is ``execution.cpus-per-task``, else 1.
    :param task_options: further arguments of the mapped tasks, such as ``pool``, ``queue``,
        ``retries`` or ``max_active_tis_per_dagrun``.
    """

    n_workers: int | str | None = None
    cpus: int | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def collect_operator(self) -> type[CollectOperator]:
        """Return what collects the products."""
        return CollectOperator

    @property
    def options(self) -> Mapping[str, Any]:
        """Return what every operator of the group is given: nothing."""
        return {}

    def add_tasks(self, registration: Any, common: Mapping[str, Any]) -> Any:
        """Add a dispatching task, and a mapped one that runs the chunks; return the latter."""
        dispatch = DispatchOperator(
            task_id="dispatch", registration=registration, n_workers=self.n_workers, **common
        )
        run = RunChunkOperator.partial(
            task_id="run_chunk", cpus=self.cpus, **common, **self.task_options
        )
        return run.expand(chunk=dispatch.output)
