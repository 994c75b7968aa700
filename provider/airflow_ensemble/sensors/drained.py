"""Waits until every simulation of a batch is terminal, whoever runs them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.index.interface import Counts, Scope
from airflow_ensemble.hooks.ensemble import index_spec
from airflow_ensemble.operators.base import EnsembleOperator, airflow_errors
from airflow_ensemble.operators.dispatch import batch_of
from airflow_ensemble.operators.pull_worker import POD_END
from airflow_ensemble.sensors.deadline import begin_time, deadline_of, deferral_timeout
from airflow_ensemble.triggers.drained import (
    DrainedTrigger,
    Patience,
    ProgressLines,
    Solitude,
    are_over,
)
from airflow_ensemble.triggers.index_poller import BatchNews
from airflow_ensemble.triggers.own_task import states_of

#: Ways for pods to end that a message names, at most.
MAX_ENDS = 5


class EnsembleDrainedSensor(EnsembleOperator):
    """Waits until no simulation of this run's batch is unfinished, and reports progress meanwhile.

    The output index decides, and no pod does. How many have failed is for ``CollectOperator`` to
    judge. Work that is left with nobody to do it ends the waiting with an error: when no worker
    has had a lease for a while, and all tasks that could start another have ended.

    :param registration: the result of ``RegisterSimulationsOperator``. Templated.
    :param worker_tasks: ids of the tasks whose pods are the workers; none when others drain the
        index, such as a Deployment of ``serve``.
    :param grace: seconds for which no worker may be alive when the worker tasks have all ended.
    :param no_workers_timeout: seconds for which no worker may be alive while work is left, whatever
        the worker tasks do; default is no limit.
    :param deferrable: wait in the triggerer; else the task holds a worker slot.
    :param poll_interval: seconds between two looks into the index, at least.
    """

    template_fields: Sequence[str] = (*EnsembleOperator.template_fields, "registration")
    ui_color = "#d9c9ea"

    _stop: threading.Event | None = None

    def __init__(
        self,
        *,
        registration: Any,
        worker_tasks: Sequence[str] = (),
        grace: float = 60.0,
        no_workers_timeout: float | None = None,
        deferrable: bool = True,
        poll_interval: float = 10.0,
        retries: int = 2,
        retry_delay: timedelta = timedelta(seconds=30),
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.registration = registration
        self.worker_tasks = tuple(worker_tasks)
        self.grace = grace
        self.no_workers_timeout = no_workers_timeout
        self.deferrable = deferrable
        self.poll_interval = poll_interval

    # --- what Airflow calls -----------------------------------------------------------------------

    def execute(self, context: Context) -> None:
        """Look once; wait if anything is left."""
        begin_time(context, self.execution_timeout)
        self._attend(context)

    def resume(self, context: Context, event: Mapping[str, Any]) -> None:
        """Go on with what the trigger has found."""
        if event["status"] == "timeout":
            raise AirflowTaskTimeout(self._late())
        self._attend(context, abandoned=event["status"] == "abandoned")

    def on_kill(self) -> None:
        """Wait no longer; what others run goes on."""
        if self._stop is not None:
            self._stop.set()

    # --- waiting ----------------------------------------------------------------------------------

    @property
    def patience(self) -> Patience:
        """Return how long unfinished work may lie with nobody to do it."""
        return Patience(self.worker_tasks, self.grace, self.no_workers_timeout)

    def _attend(self, context: Context, *, abandoned: bool = False) -> None:
        with airflow_errors(), self.open_control() as control:
            news = self._look(control)
            if not news.counts.unfinished:
                self._finish(news.counts)
            elif abandoned and not news.workers:
                self._give_up(context, news.counts)
            elif self.deferrable:
                self._defer(context, control)
            else:
                self._wait_here(context, control)

    def _look(self, control: Control) -> BatchNews:
        counts = control.index.counts(control.key, Scope(batch=batch_of(self.registration)))
        return BatchNews(counts, len(control.index.workers(control.key)))

    def _defer(self, context: Context, control: Control) -> NoReturn:
        deadline = deadline_of(context, self.execution_timeout)
        trigger = DrainedTrigger(
            index=index_spec(control.ensemble),
            ensemble=control.ensemble.name,
            settings_hash=control.key.settings_hash,
            batch=batch_of(self.registration),
            worker_tasks=self.worker_tasks,
            grace=self.grace,
            no_workers_timeout=self.no_workers_timeout,
            poll_interval=self.poll_interval,
            deferred_at=time.time(),
            deadline=deadline,
        )
        self.defer(trigger=trigger, method_name="resume", timeout=deferral_timeout(deadline))

    def _wait_here(self, context: Context, control: Control) -> None:
        """Hold the worker's slot until the batch is drained."""
        self._stop = threading.Event()
        deadline = deadline_of(context, self.execution_timeout) or float("inf")
        solitude, lines = Solitude(), ProgressLines()
        while True:
            news, now = self._look(control), time.monotonic()
            line = lines.look(news, now)
            if line is not None:
                self.log.info("%s", line)
            if not news.counts.unfinished:
                self._finish(news.counts)
                return
            if self._is_abandoned(context, solitude.look(news, now)):
                self._give_up(context, news.counts)
            if time.time() >= deadline:
                raise AirflowTaskTimeout(self._late())
            if self._stop.wait(min(self.poll_interval, max(0.0, deadline - time.time()))):
                raise AirflowException("this task was stopped")

    def _is_abandoned(self, context: Context, alone: float) -> bool:
        if self.patience.is_worn(alone):
            return True
        if not self.patience.asks_for_tasks(alone):
            return False
        return are_over(states_of(context["ti"], self.worker_tasks))

    # --- the end ----------------------------------------------------------------------------------

    def _late(self) -> str:
        batch = batch_of(self.registration)
        return f"batch {batch}: the task's execution_timeout of {self.execution_timeout} has passed"

    def _finish(self, counts: Counts) -> None:
        self.log.info(
            "batch %s: %d complete (%d empty), %d failed of %d",
            *(batch_of(self.registration), counts.complete, counts.empty),
            *(counts.failed, counts.total),
        )

    def _give_up(self, context: Context, counts: Counts) -> NoReturn:
        """Fail for good: another look would find nobody either."""
        ends: Iterable[Any] = ()
        if self.worker_tasks:
            ends = context["ti"].xcom_pull(task_ids=list(self.worker_tasks), key=POD_END) or ()
        text = abandoned_text(counts, [end for end in ends if end], self.worker_tasks)
        raise AirflowFailException(f"batch {batch_of(self.registration)}: {text}")


def abandoned_text(
    counts: Counts, ends: Sequence[Mapping[str, Any]], worker_tasks: Sequence[str]
) -> str:
    """Return what to say of a batch that nobody works on any more.

    :param counts: its simulations by status.
    :param ends: how the pods of the worker tasks ended, as their XComs say.
    :param worker_tasks: ids of those tasks.
    """
    text = (
        f"{counts.unfinished} of {counts.total} simulations are unfinished ({counts.complete} "
        f"complete, {counts.failed} failed), and no worker is alive"
    )
    if not worker_tasks:
        return f"{text}: is the Deployment of workers up? Clear this task to wait again"
    ways = Counter(_way(end) for end in ends)
    said = [f"{count} × {way}" for way, count in ways.most_common(MAX_ENDS)]
    if len(ways) > MAX_ENDS:
        said.append(f"{len(ways) - MAX_ENDS} other ways")
    told = "; ".join(said) or "nobody knows how"
    names = ", ".join(worker_tasks)
    return f"{text}. The pods of {names} ended: {told}. Clear {names} and this task to go on"


def _way(end: Mapping[str, Any]) -> str:
    reason = end.get("reason")
    return f"{reason}: {end['detail']}" if reason else f"well: {end['detail']}"
