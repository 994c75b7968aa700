"""The DAGs of the Slurm tests: their form names the ensemble file."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param

from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.slurm import Slurm


def make(name: str, connection: str = "hpc", **task_options: Any) -> DAG:
    """Return a DAG that runs one ensemble on the cluster of a connection."""
    with DAG(
        dag_id=name,
        schedule=None,
        max_active_runs=8,
        default_args={"retry_delay": timedelta(seconds=1)},
        params={
            "ensemble": Param("missing.yaml", type="string"),
            "n_workers": Param(2, type="integer", minimum=1),
            "to": Param(None, type=["string", "null"]),
        },
    ) as dag:
        EnsembleTaskGroup(
            "group",
            ensemble="{{ params.ensemble }}",
            backend=Slurm(
                connection,
                n_workers="{{ params.n_workers }}",
                task_options=task_options,
            ),
            asset=name,
            to="{{ params.to }}",
        )
    return dag


on_slurm = make("on_slurm")
in_a_hurry = make("in_a_hurry", execution_timeout=timedelta(seconds=25), retries=1)
over_a_jump_host = make("over_a_jump_host", "hpc_behind_a_gate")
over_an_open_master = make("over_an_open_master", "hpc_by_master")
without_accounts = make("without_accounts", "hpc_without_accounts")
