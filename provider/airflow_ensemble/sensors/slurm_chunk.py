"""Waits for a chunk that runs as an element of an array job, and judges it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn

from airflow.sdk import BaseOperatorLink, Context
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferralError,
    TaskDeferralTimeout,
)

from airflow_ensemble.engine.batch import reopen_chunk
from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.index.interface import ElementInfo, Scope
from airflow_ensemble.hooks.slurm import SlurmHook
from airflow_ensemble.operators.base import (
    EnsembleOperator,
    airflow_errors,
    note_start,
    was_cleared,
)
from airflow_ensemble.operators.collect import name_offenders
from airflow_ensemble.operators.run_chunk import failure_text
from airflow_ensemble.operators.slurm_job_link import JOB_ID, LOG, SlurmJobLink, job_page
from airflow_ensemble.sensors.deadline import begin_time, deadline_of, deferral_timeout
from airflow_ensemble.slurm.batches import newest_element, resubmit
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.decision import Over
from airflow_ensemble.slurm.settling import Settled, cancel_chunk, settle
from airflow_ensemble.slurm.states import End, Phase, View
from airflow_ensemble.slurm.watch import ClusterWatch, Watched
from airflow_ensemble.triggers.own_task import TERMINAL, state_of
from airflow_ensemble.triggers.slurm_chunk import SlurmChunkTrigger


class SlurmChunkSensor(EnsembleOperator):
    """Waits for a chunk's element of an array job, without holding a worker slot, and judges it.

    Every try first settles the chunk's newest submission, found in the output index: while it is
    alive or unknown, the task waits for it, whoever submitted it; when it has ended, its results
    are read, and only what is unfinished is submitted again, as an array of one element. A
    simulation's own tries (``max_attempts``) are all spent within one try of the task; retries are
    for the cluster: how an element's end is answered, by kind, is ``execution.policies`` of the
    ensemble file. A clear cancels the element, and runs the chunk's failed simulations again.

    :param chunk: one element of ``SlurmSubmitOperator``'s result. Templated.
    :param slurm_conn_id: connection of type ``slurm``. Templated.
    :param deferrable: wait in the triggerer; else the task holds a worker slot.
    :param queue_deadline: seconds that an element may wait to start, before it is cancelled and the
        try fails; default is ``execution.queue_deadline`` of the ensemble file, else no limit.
    :param run_deadline: seconds that an element may run; default is ``execution.run_deadline``.
    """

    template_fields: Sequence[str] = (*EnsembleOperator.template_fields, "chunk")
    operator_extra_links: Sequence[BaseOperatorLink] = (SlurmJobLink(),)
    ui_color = "#d9c9ea"

    job_page = ""
    _context: Context | None = None
    _stop: threading.Event | None = None

    def __init__(
        self,
        *,
        chunk: Mapping[str, Any],
        slurm_conn_id: str = SlurmHook.default_conn_name,
        deferrable: bool = True,
        queue_deadline: float | None = None,
        run_deadline: float | None = None,
        map_index_template: str = "{{ task.chunk['label'] }}",
        retries: int = 3,
        retry_delay: timedelta = timedelta(seconds=30),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            slurm_conn_id=slurm_conn_id,
            map_index_template=map_index_template,
            retries=retries,
            retry_delay=retry_delay,
            **kwargs,
        )
        self.chunk = chunk
        self.deferrable = deferrable
        self.queue_deadline = queue_deadline
        self.run_deadline = run_deadline

    # --- what Airflow calls -----------------------------------------------------------------------

    def execute(self, context: Context) -> None:
        """Settle what an earlier try or the submission has left, then wait."""
        self._begin(context)
        with airflow_errors(), self.open_on_cluster() as (control, cluster):
            self._restart_if_cleared(control, cluster, context)
            begin_time(context, self.execution_timeout)
            self._attend(control, cluster, context)

    def resume(self, context: Context, event: Mapping[str, Any]) -> None:
        """Go on with what the trigger has found."""
        self._begin(context)
        with airflow_errors(), self.open_on_cluster() as (control, cluster):
            if event["status"] == "timeout":
                self._time_out(control, cluster)
            elif event["submission"] != control.index.chunk(self.chunk_id).submission:
                self._attend(control, cluster, context)
            else:
                self._log_tail(event["log_tail"])
                over = Over.from_dict(event["over"])
                settled = settle(control, cluster, self.chunk_id, over)
                self._answer(control, cluster, context, settled)

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Resume; leave the cluster in order where the trigger could not."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            with airflow_errors(), self.open_on_cluster() as (control, cluster):
                self._time_out(control, cluster)
        except TaskDeferralError as error:
            self._mend_crash(context, error)

    def on_kill(self) -> None:
        """Cancel the element, if a person has ended this task.

        Airflow calls this in a signal's handler, also when a worker is merely shut down. A thread
        finds out what it was, for the main one may be in the middle of talking to Airflow.
        """
        if self._stop is not None:
            self._stop.set()
            threading.Thread(target=self._cancel_if_ended, name="cancel").start()

    # --- one try ----------------------------------------------------------------------------------

    @property
    def chunk_id(self) -> str:
        """Return the id of the chunk that this task waits for."""
        return str(self.chunk["chunk"])

    def _newest(self, control: Control) -> ElementInfo | None:
        return newest_element(control, control.index.chunk(self.chunk_id))

    def _end(self, control: Control, cluster: Cluster, end: End, detail: str) -> Settled:
        """Settle the newest submission, whatever it does: what may live is cancelled."""
        submission = control.index.chunk(self.chunk_id).submission
        over = Over(end, detail, View(Phase.UNKNOWN), submission)
        return settle(control, cluster, self.chunk_id, over)

    def _begin(self, context: Context) -> None:
        self._context = context
        self._stop = threading.Event()

    def _restart_if_cleared(self, control: Control, cluster: Cluster, context: Context) -> None:
        if was_cleared(context):
            newest = self._newest(control)
            if newest is not None and newest.end is None:
                self._end(control, cluster, End.CANCELLED, "its task was cleared")
            again = reopen_chunk(control, self.chunk_id)
            self.log.info("cleared: %d failed simulations run again", again)
        note_start(context)

    def _attend(self, control: Control, cluster: Cluster, context: Context) -> None:
        """Finish, submit what is unfinished, or wait: whatever the index says is next.

        Only what is submitted needs the cluster: how an element is, the trigger finds out.
        """
        newest = self._newest(control)
        if not control.index.chunk(self.chunk_id).unfinished:
            self._finish(self._end(control, cluster, End.COMPLETED, "all of its work is done"))
        elif newest is None or newest.job.job_id is None or newest.end is not None:
            self._submit_again(control, cluster, context)
        else:
            self._wait(control, cluster, context, newest)

    def _answer(
        self, control: Control, cluster: Cluster, context: Context, settled: Settled
    ) -> None:
        """Do what settling has shown to be next."""
        if settled.next == "done":
            self._finish(settled)
        elif settled.next == "again":
            self.log.info("%s", settled.message)
            self._submit_again(control, cluster, context)
        elif settled.next == "retry":
            raise AirflowException(settled.message)
        else:
            scope = Scope(chunk=self.chunk_id)
            for line in name_offenders(control, scope, self.command_arguments):
                self.log.error("%s", line)
            raise AirflowFailException(settled.message)

    def _finish(self, settled: Settled) -> None:
        counts = settled.counts
        self.log.info(
            "chunk %s: %d complete (%d empty), %d failed of %d",
            *(self.chunk_id, counts.complete, counts.empty, counts.failed, counts.total),
        )
        if counts.failed:
            target = self.command_arguments
            text = failure_text(self.chunk_id, counts, settled.failures, target)
            self.log.error("%s", text)
            raise AirflowFailException(
                f"chunk {self.chunk_id}: {counts.failed} simulations failed for good, see above"
            )

    def _submit_again(self, control: Control, cluster: Cluster, context: Context) -> None:
        job = resubmit(control, cluster, self.chunk_id)
        self.log.info("what is unfinished runs as job %s (%s)", job.job_id, job.name)
        newest = self._newest(control)
        if newest is None or newest.job.job_id is None or newest.end is not None:
            raise AirflowException(
                f"chunk {self.chunk_id}: somebody else has settled it; see there"
            )
        self._wait(control, cluster, context, newest)

    # --- waiting ----------------------------------------------------------------------------------

    def _wait(
        self, control: Control, cluster: Cluster, context: Context, element: ElementInfo
    ) -> None:
        watched = Watched.of(
            element,
            control,
            queue_deadline=self.queue_deadline,
            run_deadline=self.run_deadline,
        )
        self._show(context, watched)
        if not self.deferrable:
            self._wait_here(control, cluster, context, watched)
            return
        deadline = deadline_of(context, self.execution_timeout)
        trigger = SlurmChunkTrigger.of(
            watched, control, conn_id=self.slurm_settings.conn_id, deadline=deadline
        )
        self.defer(trigger=trigger, method_name="resume", timeout=deferral_timeout(deadline))

    def _wait_here(
        self, control: Control, cluster: Cluster, context: Context, watched: Watched
    ) -> None:
        """Hold the worker's slot until the element is over."""
        assert self._stop is not None
        interval = self.slurm_settings.poll_interval
        deadline = deadline_of(context, self.execution_timeout) or float("inf")
        watch, last = ClusterWatch(cluster.client), ""
        while True:
            (news,) = watch.look([watched], lambda _: control).values()
            if news.text != last:
                last = news.text
                self.log.info("%s", last)
            if news.over is not None:
                self._log_tail(news.log_tail)
                settled = settle(control, cluster, self.chunk_id, news.over)
                self._answer(control, cluster, context, settled)
                return
            if self._stop.wait(min(interval, max(0.0, deadline - time.time()))):
                raise AirflowException(f"chunk {self.chunk_id}: this task was stopped")
            if time.time() >= deadline:
                self._time_out(control, cluster)

    def _show(self, context: Context, watched: Watched) -> None:
        """Leave for people where the job is and what it writes."""
        ti = context["ti"]
        ti.xcom_push(JOB_ID, watched.id)
        ti.xcom_push(LOG, watched.log)
        self.job_page = job_page(self.slurm_settings.job_url, watched.id)

    def _log_tail(self, tail: str) -> None:
        if tail:
            self.log.info("the end of the element's log:\n%s", tail)

    # --- the end of the task's time ---------------------------------------------------------------

    def _time_out(self, control: Control, cluster: Cluster) -> NoReturn:
        """Cancel the element and fail this try; the next one submits what is unfinished."""
        text = f"the task's execution_timeout of {self.execution_timeout} has passed"
        settled = self._end(control, cluster, End.RUN_DEADLINE, text)
        if settled.next == "give-up":
            raise AirflowFailException(settled.message)
        raise AirflowTaskTimeout(f"chunk {self.chunk_id}: {text}; its element was cancelled")

    def _mend_crash(self, context: Context, error: TaskDeferralError) -> NoReturn:
        """Leave the element to the next try; without one, nobody would wait for it."""
        ti = context["ti"]
        if ti.try_number > ti.max_tries:
            with airflow_errors(), self.open_on_cluster() as (control, cluster):
                cancel_chunk(control, cluster, self.chunk_id)
        raise AirflowException(f"chunk {self.chunk_id}: its trigger failed: {error}") from error

    def _cancel_if_ended(self) -> None:
        assert self._context is not None
        if state_of(self._context["ti"]) in TERMINAL:
            with self.open_on_cluster() as (control, cluster):
                cancel_chunk(control, cluster, self.chunk_id)
