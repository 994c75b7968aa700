"""As many empty deferrable tasks as chunks on a cluster, and chunks that wait in the queue."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, Context, Param

from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.slurm import Slurm

COUNT = int(os.environ.get("BENCHMARK_COUNT", "40"))


class EmptyDeferrable(BaseOperator):
    """Defers once, for as long as a chunk's sensor does at least."""

    def __init__(self, *, number: int, **options: Any) -> None:
        super().__init__(**options)
        self.number = number

    def execute(self, context: Context) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=10)), method_name="resume")

    def resume(self, context: Context, event: Any) -> None:
        pass


with DAG("empty_deferrables", schedule=None, max_active_tasks=2000):
    EmptyDeferrable.partial(task_id="empty").expand(number=list(range(COUNT)))

with DAG(
    "sensors",
    schedule=None,
    max_active_tasks=2000,
    max_active_runs=4,
    params={
        "ensemble": Param("missing.yaml", type="string"),
        "n_workers": Param(1, type="integer"),
    },
):
    EnsembleTaskGroup(
        "group",
        ensemble="{{ params.ensemble }}",
        backend=Slurm("hpc", n_workers="{{ params.n_workers }}"),
    )
