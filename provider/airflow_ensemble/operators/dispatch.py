"""Deals a batch's pending simulations to chunks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context, conf
from airflow.sdk.exceptions import AirflowFailException

from airflow_ensemble.engine.batch import dispatch
from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.ensemble.schema import describe
from airflow_ensemble.engine.index.interface import ChunkInfo, Scope
from airflow_ensemble.engine.simulation import Status
from airflow_ensemble.operators.base import (
    EnsembleOperator,
    airflow_errors,
    as_number,
    note_start,
    was_cleared,
)


class DispatchOperator(EnsembleOperator):
    """Deals the pending simulations of this run's batch to chunks, one for each mapped task.

    Returns a list of ``{"chunk": id, "label": text, "count": number}`` to expand
    :class:`~airflow_ensemble.operators.run_chunk.RunChunkOperator` over: at most ``n_workers``, at
    most Airflow's ``max_map_length``, and none when there is nothing to do. A retry returns the
    same chunks. After a clear, the failed simulations of the batch are dispatched again.

    :param registration: the result of ``RegisterSimulationsOperator``. Templated.
    :param n_workers: number of chunks; default is ``execution.n_workers`` of the ensemble file,
        else the number of this machine's CPUs. Templated.
    :param backend: where the chunks go, for the index's books.
    """

    template_fields: Sequence[str] = (
        *EnsembleOperator.template_fields,
        "registration",
        "n_workers",
    )

    def __init__(
        self,
        *,
        registration: Any,
        n_workers: int | str | None = None,
        backend: str = "local",
        retries: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, **kwargs)
        self.registration = registration
        self.n_workers = n_workers
        self.backend = backend

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Dispatch and return the chunks."""
        batch = batch_of(self.registration)
        with airflow_errors(), self.open_control() as control:
            self.reopen_if_cleared(control, batch, context)
            wanted = self.wanted(control)
            chunks = self.deal(control, batch, wanted, min(wanted, map_limit()))
        return [as_xcom(chunk) for chunk in chunks]

    def reopen_if_cleared(self, control: Control, batch: str, context: Context) -> None:
        """Let the batch's failed simulations run again, if a person has cleared this task."""
        if was_cleared(context):
            failed = Scope(batch=batch, statuses=(Status.FAILED,))
            again = control.index.retry(control.key, failed)
            self.log.info("cleared: %d failed simulations run again", again)
        note_start(context)

    def deal(self, control: Control, batch: str, wanted: int, allowed: int) -> list[ChunkInfo]:
        """Deal the pending simulations to at most ``allowed`` chunks; say so when that is fewer."""
        chunks = dispatch(control, batch, backend=self.backend, n_chunks=allowed)
        if wanted > allowed:
            self.log.warning(
                "%d chunks were wanted, and limits allow %d: max_map_length of this Airflow, or "
                "array size and submit slots of the cluster",
                *(wanted, allowed),
            )
        self.log.info(
            "batch %s: %d simulations in %d chunks", batch, sum(c.size for c in chunks), len(chunks)
        )
        return chunks

    def wanted(self, control: Control) -> int:
        """Return how many chunks were asked for."""
        return as_number(self.n_workers, "n_workers") or self.default_chunks(control)

    def default_chunks(self, control: Control) -> int:
        """Return how many chunks there are to be when this task's ``n_workers`` is not given."""
        return int(control.ensemble.execution.get("n_workers") or os.cpu_count() or 1)


def map_limit() -> int:
    """Return over how many elements Airflow maps a task at most."""
    return conf.getint("core", "max_map_length", fallback=1024)


def batch_of(registration: Mapping[str, Any] | None) -> str:
    """Return the batch that a registration made.

    :raises AirflowFailException: when there is none.
    """
    if not registration:
        raise AirflowFailException(
            "there is no registration: the task that registers the simulations did not succeed, "
            "see its log"
        )
    if not isinstance(registration, Mapping):
        raise AirflowFailException(
            f"registration must be what RegisterSimulationsOperator returns, found "
            f"{describe(registration)}"
        )
    return str(registration["batch"])


def as_xcom(chunk: ChunkInfo) -> dict[str, Any]:
    """Return what a mapped task must know of its chunk."""
    needs = f" · {chunk.resource_class}" if chunk.resource_class else ""
    count = chunk.unfinished
    label = f"chunk {chunk.number:04d} · {count} simulation{'' if count == 1 else 's'}{needs}"
    return {"chunk": chunk.id, "label": label, "count": count}
