"""# Atmospheric footprints on a Slurm cluster, every night

The DAG `footprints`, with the same table and form, on a cluster: one array job for each run, and
one deferred task for each of its chunks. Products stay on the cluster.

Airflow's side needs a connection of type `slurm`: `slurm_default`, or the one that the form names.
What the form offers at first, and where files go, is said by environment variables:

* `ENSEMBLE_SLURM_CONN`: the connection.
* `ENSEMBLE_SLURM_OUTPUT`: output root, as the cluster sees it; else what
  `footprints_slurm/ensemble.yaml` says.
* `ENSEMBLE_SLURM_PYTHON`: interpreter on the cluster that has the model's packages, likewise.
* `ENSEMBLE_HOME`: folder on Airflow's side for the index, the batch records and the tables of
  single days; else the folder of the ensemble file.
* `ENSEMBLE_INDEX_CONN`: connection of type `postgres` whose database holds the index; else SQLite.
* `ENSEMBLE_SCHEDULE`: cron expression, 03:00 UTC by default; empty: only by hand.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Asset, Param
from receptor_days import FOLDER, FORM, HOME, OVERRIDES, SCHEDULE, choose_receptors

from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.slurm import Slurm

CLUSTER = {
    "slurm_conn_id": Param(
        os.environ.get("ENSEMBLE_SLURM_CONN") or "slurm_default",
        type="string",
        minLength=1,
        title="Cluster",
        description="Connection of type slurm.",
    ),
    "output": Param(
        os.environ.get("ENSEMBLE_SLURM_OUTPUT") or None,
        type=["string", "null"],
        title="Output",
        description="Folder or URI as the cluster sees it. Empty: what the ensemble file says.",
    ),
    "python": Param(
        os.environ.get("ENSEMBLE_SLURM_PYTHON") or None,
        type=["string", "null"],
        title="Interpreter",
        description="Of the model, on the cluster. Empty: what the ensemble file says.",
    ),
}
ON_THE_CLUSTER = {
    "output": "{{ params.output }}",
    "control": str(HOME / "footprints_slurm"),
    "execution": {"python": "{{ params.python }}"},
}

with DAG(
    dag_id="footprints_slurm",
    description="STILT footprints of every receptor of a table, on a Slurm cluster",
    doc_md=__doc__,
    schedule=SCHEDULE,
    catchup=False,
    max_active_runs=2,
    tags=["ensemble", "stilt", "slurm"],
    params={**CLUSTER, **FORM},
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
):
    EnsembleTaskGroup(
        "footprints",
        ensemble=str(FOLDER.with_name("footprints_slurm") / "ensemble.yaml"),
        backend=Slurm(conn_id="{{ params.slurm_conn_id }}", n_workers="{{ params.n_workers }}"),
        overrides={**OVERRIDES, **ON_THE_CLUSTER},
        simulations=choose_receptors(),
        asset=Asset("footprints_slurm"),
    )
