"""A DAG whose texts look like something else: they reach the model as they stand here."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup

with DAG(
    dag_id="as_written",
    schedule=None,
    render_template_as_native_obj=True,
    params={
        "ensemble": Param("missing.yaml", type="string"),
        "release": Param("0.0", type="string"),
        "size": Param(None, type=["number", "null"]),
        "table": Param(None),
        "to": Param("", type="string"),
        "anything": Param(None),
    },
):
    EnsembleTaskGroup(
        "group",
        ensemble="{{ params.ensemble }}",
        overrides={
            "model_version": "1.10",
            "max_failed": "{{ params.to }}",
            "parameters": {
                "day": "2024_01_01",
                "exponent": "12e3",
                "nothing": "None",
                "pair": "1,2",
                "count": 7,
                "release": "{{ params.release }}",
                "size": "{{ params.size }}",
                "label": "v{{ params.release }}",
                "anything": "{{ params.anything }}",
                "n": "{{ dag_run.conf.get('n') }}",
            },
        },
        simulations="{{ params.table }}",
        asset="as_written",
        to="{{ params.to }}",
    )
