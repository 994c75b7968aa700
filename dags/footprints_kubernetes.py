"""# Atmospheric footprints on a Kubernetes cluster, every night

The DAG `footprints`, with the same table and form, in pods: each claims receptors from the output
index until none are left. Products go to an object store.

Airflow's side needs a connection of type `kubernetes`: `kubernetes_default`, or the one that the
form names; and one of type `postgres`: `ensemble_index`. The cluster needs two Secrets, which
`footprints_kubernetes/ensemble.yaml` names: with the index's address as pods are to use it, and
with the object store's credentials. What the form offers at first, environment variables say:

* `ENSEMBLE_KUBERNETES_CONN`: the connection.
* `ENSEMBLE_KUBERNETES_OUTPUT`: output root; else what the ensemble file says.
* `ENSEMBLE_KUBERNETES_IMAGE`: image that has the worker and the model, likewise.
* `ENSEMBLE_KUBERNETES_INDEX_SECRET`: Secret with the index's address, likewise.
* `ENSEMBLE_HOME`: folder on Airflow's side for the batch records and the tables of single days;
  else the folder of the ensemble file.
* `ENSEMBLE_SCHEDULE`: cron expression, 03:00 UTC by default; empty: only by hand.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Asset, Param
from receptor_days import FOLDER, FORM, HOME, OVERRIDES, SCHEDULE, choose_receptors

from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.kubernetes import Kubernetes


def optional(variable: str, title: str, description: str) -> Param:
    """Return a field of the form that may stay empty: then the ensemble file says it."""
    return Param(
        os.environ.get(f"ENSEMBLE_KUBERNETES_{variable}") or None,
        type=["string", "null"],
        title=title,
        description=f"{description} Empty: what the ensemble file says.",
    )


CLUSTER = {
    "kubernetes_conn_id": Param(
        os.environ.get("ENSEMBLE_KUBERNETES_CONN") or "kubernetes_default",
        type="string",
        minLength=1,
        title="Cluster",
        description="Connection of type kubernetes.",
    ),
    "output": optional("OUTPUT", "Output", "URI as pods and Airflow see it."),
    "image": optional("IMAGE", "Image", "With worker and model."),
    "index_secret": optional("INDEX_SECRET", "Index", "Secret (NAME/KEY) with its address."),
}
IN_PODS = {
    "output": "{{ params.output }}",
    "control": str(HOME / "footprints_kubernetes"),
    "execution": {
        "kubernetes": {
            "image": "{{ params.image }}",
            "index_secret": "{{ params.index_secret }}",
        }
    },
}

with DAG(
    dag_id="footprints_kubernetes",
    description="STILT footprints of every receptor of a table, in pods of a Kubernetes cluster",
    doc_md=__doc__,
    schedule=SCHEDULE,
    catchup=False,
    max_active_runs=2,
    tags=["ensemble", "stilt", "kubernetes"],
    params={**CLUSTER, **FORM},
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
):
    EnsembleTaskGroup(
        "footprints",
        ensemble=str(FOLDER.with_name("footprints_kubernetes") / "ensemble.yaml"),
        backend=Kubernetes(
            conn_id="{{ params.kubernetes_conn_id }}", n_workers="{{ params.n_workers }}"
        ),
        overrides={**OVERRIDES, **IN_PODS},
        simulations=choose_receptors(),
        asset=Asset("footprints_kubernetes"),
    )
