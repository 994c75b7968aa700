"""Deals a batch's pending simulations to chunks and submits them as array jobs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperatorLink, Context

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.index.interface import JobInfo, Scope
from airflow_ensemble.hooks.slurm import SlurmHook
from airflow_ensemble.operators.base import airflow_errors
from airflow_ensemble.operators.dispatch import DispatchOperator, as_xcom, batch_of, map_limit
from airflow_ensemble.operators.slurm_job_link import SlurmJobLink, job_page
from airflow_ensemble.slurm.batches import (
    allowed_chunks,
    read_scripts,
    render_scripts,
    submit,
    wanted_chunks,
)
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.errors import ClusterError

#: Key of the XCom that holds the whole script; *Rendered Template* cuts long texts.
SCRIPT = "slurm_script"
#: Key of the XCom that holds id, name and folder of each array job.
JOBS = "slurm_jobs"


class SlurmSubmitOperator(DispatchOperator):
    """Deals the pending simulations of this run's batch to chunks and submits them to Slurm.

    One array job for each resource class; the chunks are cut so that arrays need not be split:
    at most ``n_workers``, what the site allows, and Airflow's ``max_map_length``. Returns a list of
    ``{"chunk": id, "label": text, "count": number}`` to expand
    :class:`~airflow_ensemble.sensors.slurm_chunk.SlurmChunkSensor` over; none when there is nothing
    to do. A retry finds what was submitted and submits nothing twice. After a clear, the failed
    simulations of the batch are submitted again. The script that was submitted, by whichever try,
    is shown under *Rendered Template*, and in full as the XCom ``slurm_script``.

    :param registration: the result of ``RegisterSimulationsOperator``. Templated.
    :param slurm_conn_id: connection of type ``slurm``. Templated.
    :param n_workers: number of chunks; default is ``execution.n_workers`` of the ensemble file,
        else one for each simulation. Templated.
    """

    template_fields: Sequence[str] = (*DispatchOperator.template_fields, "script")
    template_fields_renderers: ClassVar[dict[str, str]] = {"script": "bash"}
    overwrite_rtif_after_execution = True
    operator_extra_links: Sequence[BaseOperatorLink] = (SlurmJobLink(),)
    ui_color = "#e6dcf0"

    job_page = ""
    _stop: threading.Event | None = None

    def __init__(
        self,
        *,
        registration: Any,
        slurm_conn_id: str = SlurmHook.default_conn_name,
        n_workers: int | str | None = None,
        retries: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            registration=registration,
            slurm_conn_id=slurm_conn_id,
            n_workers=n_workers,
            backend="slurm",
            retries=retries,
            **kwargs,
        )
        self.script = ""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Dispatch, submit, and return the chunks."""
        batch = batch_of(self.registration)
        self._stop = threading.Event()
        with airflow_errors(), self.open_on_cluster() as (control, cluster):
            self.reopen_if_cleared(control, batch, context)
            wanted = self.wanted(control)
            allowed = allowed_chunks(control, cluster, wanted, map_limit())
            chunks = self.deal(control, batch, wanted, allowed)
            if not chunks:
                return []
            # What is refused is shown, too: as it would have been submitted.
            self.script = "\n".join(render_scripts(control, cluster, chunks))
            jobs = submit(control, cluster, chunks, stop=self._stop)
            self._read_back(cluster, jobs)
        for job in jobs:
            self.log.info(
                "array job %s (%s): files and logs in %s", job.job_id, job.name, job.folder
            )
        self._show(context, jobs)
        return [as_xcom(chunk) for chunk in chunks]

    def default_chunks(self, control: Control) -> int:
        """Return what a login node would ask for."""
        scope = Scope(batch=batch_of(self.registration))
        return wanted_chunks(control.ensemble, control.index.counts(control.key, scope).pending)

    def on_kill(self) -> None:
        """Stop waiting for an answer of Slurm; a retry finds out what became of it."""
        if self._stop is not None:
            self._stop.set()

    def _read_back(self, cluster: Cluster, jobs: Sequence[JobInfo]) -> None:
        """Show the scripts that were submitted: an earlier try may have had other options."""
        try:
            self.script = "\n".join(read_scripts(cluster, jobs))
        except (ClusterError, OSError) as error:
            self.log.warning("the submitted script cannot be read, and is rendered: %s", error)

    def _show(self, context: Context, jobs: Sequence[JobInfo]) -> None:
        ti = context["ti"]
        ti.xcom_push(SCRIPT, self.script)
        ti.xcom_push(JOBS, [{"id": j.job_id, "name": j.name, "folder": j.folder} for j in jobs])
        if jobs:
            self.job_page = job_page(self.slurm_settings.job_url, str(jobs[0].job_id))
