"""One DAG for every test ensemble: its form names the ensemble file."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.local import Local

with DAG(
    dag_id="cheap",
    schedule=None,
    max_active_runs=8,
    params={
        "ensemble": Param("missing.yaml", type="string"),
        "n_workers": Param(2, type="integer", minimum=1),
        "to": Param(None, type=["string", "null"]),
        "overrides": Param({}, type="object"),
    },
):
    EnsembleTaskGroup(
        "group",
        ensemble="{{ params.ensemble }}",
        backend=Local(
            n_workers="{{ params.n_workers }}",
            task_options={"retry_delay": timedelta(seconds=1)},
        ),
        overrides="{{ params.overrides }}",
        asset="cheap",
        to="{{ params.to }}",
    )
