"""As many chunks of one empty simulation each as empty Python tasks, one kind after the other."""

from __future__ import annotations

import os

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.local import Local

COUNT = int(os.environ.get("BENCHMARK_COUNT", "40"))


def nothing(number: int) -> None:
    pass


with DAG("overhead", schedule=None, max_active_tasks=100):
    empty = PythonOperator.partial(task_id="empty", python_callable=nothing).expand(
        op_kwargs=[{"number": number} for number in range(COUNT)]
    )
    group = EnsembleTaskGroup(
        "chunks", ensemble=os.environ.get("BENCHMARK_ENSEMBLE", ""), backend=Local(COUNT)
    )
    empty >> group
