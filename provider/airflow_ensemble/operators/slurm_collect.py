"""Collects the products of an ensemble that ran on a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from airflow.sdk import BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from airflow_ensemble.engine.collect import check_format
from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.ensemble.paths import HERE
from airflow_ensemble.hooks.slurm import SlurmHook
from airflow_ensemble.operators.base import airflow_errors
from airflow_ensemble.operators.collect import CollectOperator
from airflow_ensemble.operators.dispatch import batch_of
from airflow_ensemble.operators.slurm_job_link import JOB_ID, LOG, SlurmJobLink, job_page
from airflow_ensemble.slurm.batches import collection_chunk, submit_collection
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.decision import Over
from airflow_ensemble.slurm.remote_root import RemoteRoot
from airflow_ensemble.slurm.settling import cancel_elements
from airflow_ensemble.slurm.states import End
from airflow_ensemble.slurm.watch import Watched
from airflow_ensemble.triggers.slurm_chunk import SlurmChunkTrigger


class SlurmCollectOperator(CollectOperator):
    """Judges this run's batch, and collects its products where they are, or brings them here.

    Products stay on the cluster. Where a dataset is to be written, ``to`` or ``collect_to`` of the
    file's ``execution``, one more job on the cluster does that in the model's own interpreter, and
    this task waits for it without a worker slot. With ``execution.fetch: products`` they are
    downloaded instead, and the dataset is written by the Airflow worker.

    :param slurm_conn_id: connection of type ``slurm``. Templated.
    :param options: further arguments of ``CollectOperator``.
    """

    operator_extra_links: Sequence[BaseOperatorLink] = (SlurmJobLink(),)

    job_page = ""

    def __init__(self, *, slurm_conn_id: str = SlurmHook.default_conn_name, **options: Any) -> None:
        super().__init__(slurm_conn_id=slurm_conn_id, **options)

    def execute(self, context: Context) -> dict[str, Any]:
        """Judge, collect here or have it done there, and return what the asset event says."""
        with airflow_errors(), self.open_on_cluster() as (control, cluster):
            self.judge(control)
            target = self._target_of(control, cluster)
            results = self.results(control) if target else []
            if not target or not results:
                return self.report(context, control, None)
            if must_fetch(control):
                return self.report(context, control, self.write(control, results, target))
            batch = batch_of(self.registration)
            form, align = check_format(target, self.format), self.alignment
            job = submit_collection(
                control,
                cluster,
                batch,
                results,
                target,
                form,
                align=align,
                products=self.products,
            )
            self.log.info(
                "collecting in job %s (%s), files in %s", job.job_id, job.name, job.folder
            )
            (element,) = control.index.elements(job=job.name)
            return self._wait(context, control, Watched.of(element, control))

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Judge the collecting job, and return what the asset event says."""
        with airflow_errors(), self.open_on_cluster() as (control, cluster):
            if event["status"] == "timeout":
                self._time_out(control, cluster)
            over = Over.from_dict(event["over"])
            chunk = collection_chunk(batch_of(self.registration))
            control.index.end_element(chunk, event["submission"], over.end.value, over.detail)
            if over.end is End.COMPLETED:
                return self.report(context, control, self._target_of(control, cluster))
        if event["log_tail"]:
            self.log.error("the end of the job's log:\n%s", event["log_tail"])
        kind = AirflowFailException if over.end is End.UNUSABLE else AirflowException
        raise kind(f"collecting on the cluster ended as {over.end.value}: {over.detail}")

    def _target_of(self, control: Control, cluster: Cluster) -> str | None:
        """Return where the dataset goes, on the side that writes it."""
        side = HERE if must_fetch(control) else cluster.side
        return self._target(side) or control.ensemble.execution.get("collect_to")

    def _wait(self, context: Context, control: Control, watched: Watched) -> NoReturn:
        settings, limit = self.slurm_settings, self.execution_timeout
        context["ti"].xcom_push(JOB_ID, watched.id)
        context["ti"].xcom_push(LOG, watched.log)
        self.job_page = job_page(settings.job_url, watched.id)
        deadline = time.time() + limit.total_seconds() if limit else None
        trigger = SlurmChunkTrigger.of(
            watched, control, conn_id=settings.conn_id, deadline=deadline
        )
        self.defer(trigger=trigger, method_name="resume")

    def _time_out(self, control: Control, cluster: Cluster) -> NoReturn:
        """Cancel the collecting job, and let the next try submit another."""
        chunk = collection_chunk(batch_of(self.registration))
        element = control.index.elements(chunk=chunk)[-1]
        text = f"the task's execution_timeout of {self.execution_timeout} has passed"
        cancel_elements(cluster, [element])
        control.index.end_element(chunk, element.submission, End.RUN_DEADLINE.value, text)
        raise AirflowTaskTimeout(f"{text}: the collecting job was cancelled")


def must_fetch(control: Control) -> bool:
    """Return whether the dataset is to be written by this machine: always when it can read it."""
    fetched = control.ensemble.execution.get("fetch") or ()
    return "products" in fetched or not isinstance(control.root, RemoteRoot)
