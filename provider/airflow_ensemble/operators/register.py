"""Registers the simulations of a DAG run in the output index."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from airflow.sdk import Context

from airflow_ensemble.engine.batch import register
from airflow_ensemble.engine.index.interface import BatchInfo, Registration
from airflow_ensemble.hooks.slurm import Clusters
from airflow_ensemble.operators.base import EnsembleOperator, airflow_errors
from airflow_ensemble.slurm.settling import settler

#: States of a DAG run whose tasks may still work on its batch.
LIVE_STATES = ["queued", "running"]


class RegisterSimulationsOperator(EnsembleOperator):
    """Registers the ensemble's table of simulations, as the batch of this DAG run.

    What is complete already is skipped, unless the ensemble says ``skip_existing: false``. What
    earlier runs that died have left undone is taken back first. The result, which the other
    operators take as ``registration``, holds the ensemble's name, its settings hash, the batch's
    id, its generation and the counts.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Register and return what was found."""
        with airflow_errors(), self.open_control(create=True) as control, Clusters() as clusters:
            registration = register(
                control,
                batch_key(context),
                driver_alive=lambda batch: dag_run_lives(context, batch),
                settlers={"slurm": settler(clusters)},
            )
            name, settings = control.ensemble.name, control.recipe.settings.hash
        self.log.info("%s", summary(name, registration, self.command_arguments))
        return {"ensemble": name, "settings": settings, **asdict(registration)}


def batch_key(context: Context) -> str:
    """Return what names the batch: DAG, run and task group. A retry finds its own again."""
    ti = context["ti"]
    group = ti.task_id.rpartition(".")[0]
    return f"{ti.dag_id}/{ti.run_id}/{group}"


def dag_run_lives(context: Context, batch: BatchInfo) -> bool | None:
    """Return whether the DAG run that a batch belongs to may still work on it.

    :return: None for a batch that no DAG run has made.
    """
    parts = batch.key.split("/")
    if len(parts) != 3:
        return None
    dag_id, run_id, _ = parts
    live = context["ti"].get_dr_count(dag_id=dag_id, run_ids=[run_id], states=LIVE_STATES)
    return bool(live)


def summary(name: str, registration: Registration, target: str) -> str:
    """Return a registration in one line for the log."""
    text = (
        f"ensemble {name}: {registration.total} simulations, {registration.new} new, "
        f"{registration.complete} complete already, {registration.pending} to run "
        f"(generation {registration.generation}, batch {registration.batch})"
    )
    if registration.elsewhere:
        text += f"; {registration.elsewhere} are running elsewhere and left to it"
    if registration.failed:
        text += (
            f"; {registration.failed} failed earlier and are not run again: "
            f"`ensemble retry {target}` or a clear of this run's dispatch task does"
        )
    return text
