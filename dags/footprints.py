"""# Atmospheric footprints, every night

Runs the STILT model for every receptor of a table and collects the footprints. A scheduled run
computes the day before it: the receptors keep their hours and are moved to that day. A run by hand
takes the table as it is, or moves it to the `day` of its form. What is complete is skipped.

Results, and the tables of single days, go below the folder that the environment variable
`ENSEMBLE_HOME` names, else beside the ensemble file, `footprints/ensemble.yaml`. The output index
lies there, too, or in the PostgreSQL database of the connection that `ENSEMBLE_INDEX_CONN` names.
It runs at 03:00 UTC, or when the cron expression in `ENSEMBLE_SCHEDULE` says; if that is empty,
only by hand.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset
from receptor_days import FOLDER, FORM, HOME, OVERRIDES, SCHEDULE, choose_receptors

from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.local import Local

with DAG(
    dag_id="footprints",
    description="STILT footprints of every receptor of a table",
    doc_md=__doc__,
    schedule=SCHEDULE,
    catchup=False,
    max_active_runs=2,
    tags=["ensemble", "stilt"],
    params=FORM,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
):
    EnsembleTaskGroup(
        "footprints",
        ensemble=str(FOLDER / "ensemble.yaml"),
        backend=Local(n_workers="{{ params.n_workers }}"),
        overrides={**OVERRIDES, "output": str(HOME / "output")},
        simulations=choose_receptors(),
        asset=Asset("footprints"),
    )
