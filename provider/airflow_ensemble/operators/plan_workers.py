"""Decides how many pull workers a batch is given."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.index.interface import Scope
from airflow_ensemble.operators.base import airflow_errors
from airflow_ensemble.operators.dispatch import DispatchOperator, batch_of, map_limit


class PlanWorkersOperator(DispatchOperator):
    """Returns the numbers of the pull workers that this run's batch is given.

    To expand :class:`~airflow_ensemble.operators.pull_worker.PullWorkerOperator` over: at most
    ``n_workers``, at most one for each unfinished simulation, at most Airflow's ``max_map_length``,
    and none when there is nothing to do. After a clear, the failed simulations of the batch run
    again.

    :param n_workers: number of workers; default is ``execution.n_workers`` of the ensemble file,
        else 1. Templated.
    """

    def __init__(self, *, backend: str = "kubernetes", **kwargs: Any) -> None:
        super().__init__(backend=backend, **kwargs)

    def execute(self, context: Context) -> list[int]:  # type: ignore[override]
        """Count what is left, and return the workers' numbers."""
        batch = batch_of(self.registration)
        with airflow_errors(), self.open_control() as control:
            self.reopen_if_cleared(control, batch, context)
            wanted = self.wanted(control)
            unfinished = control.index.counts(control.key, Scope(batch=batch)).unfinished
        planned = plan_workers(wanted, unfinished, map_limit())
        if planned < min(wanted, unfinished):
            self.log.warning("max_map_length of this Airflow allows %d workers", planned)
        self.log.info("batch %s: %d workers for %d simulations", batch, planned, unfinished)
        return list(range(planned))

    def default_chunks(self, control: Control) -> int:
        """Return how many workers there are to be when this task's ``n_workers`` is not given."""
        return int(control.ensemble.execution.get("n_workers") or 1)


def plan_workers(wanted: int, unfinished: int, limit: int) -> int:
    """Return how many workers to start: none is to come to an empty table."""
    return min(wanted, unfinished, limit)
