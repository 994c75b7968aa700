"""The DAGs of the Kubernetes tests: their form names the ensemble file."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param

from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.kubernetes import Kubernetes

#: The pods see this folder of the machine at the same path.
SHARED = os.environ.get("ENSEMBLE_TEST_SHARED", "/nowhere")
POD = {
    "spec": {
        # What pods and Airflow write below this folder, both can write: as the same user.
        "securityContext": {"runAsUser": os.geteuid()},
        "containers": [
            {"name": "worker", "volumeMounts": [{"name": "shared", "mountPath": SHARED}]},
        ],
        "volumes": [{"name": "shared", "hostPath": {"path": SHARED, "type": "Directory"}}],
    }
}


def make(name: str, **worker_options: Any) -> DAG:
    """Return a DAG that runs one ensemble on the cluster of the connection ``cluster``."""
    with DAG(
        dag_id=name,
        schedule=None,
        max_active_runs=8,
        default_args={"retry_delay": timedelta(seconds=1)},
        params={
            "ensemble": Param("missing.yaml", type="string"),
            "n_workers": Param(2, type="integer", minimum=1),
            "overrides": Param({}, type="object"),
        },
    ) as dag:
        EnsembleTaskGroup(
            "group",
            ensemble="{{ params.ensemble }}",
            backend=Kubernetes(
                "cluster",
                n_workers="{{ params.n_workers }}",
                worker_options={
                    "pod_template_dict": POD,
                    "poll_interval": 1,
                    "logging_interval": 5,
                    "startup_check_interval_seconds": 1,
                    **worker_options,
                },
                wait_options={"poll_interval": 2, "grace": 6},
            ),
            overrides="{{ params.overrides }}",
            asset=name,
        )
    return dag


on_kubernetes = make("on_kubernetes", retries=2)
pods_in_a_hurry = make("pods_in_a_hurry", execution_timeout=timedelta(seconds=25), retries=1)
no_second_pod = make("no_second_pod", retries=0)
