"""Runs one chunk of simulations on the Airflow worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from airflow_ensemble.engine.batch import ChunkReport, reopen_chunk, run_chunk
from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.index.interface import Counts, SimulationInfo
from airflow_ensemble.engine.words import one_line
from airflow_ensemble.operators.base import (
    EnsembleOperator,
    airflow_errors,
    note_start,
    was_cleared,
)

#: Seconds between two lines about progress in a task's log.
PROGRESS_INTERVAL = 30.0


class RunChunkOperator(EnsembleOperator):
    """Runs a chunk's simulations in worker processes on this machine, until all are terminal.

    A retry runs only what is missing: what an earlier try finished is read from what its worker
    wrote, and a worker that still lives is waited for. A clear, in addition, runs the chunk's
    failed simulations again. Simulations that failed for good fail the task at once: retries are
    for infrastructure, and a simulation's own tries (``max_attempts``) are all spent within one try
    of the task. The worker is stopped with the task, however that ends.

    :param chunk: one element of ``DispatchOperator``'s result. Templated.
    :param cpus: processes of the worker; default is ``execution.cpus-per-task`` of the ensemble
        file, else 1.
    """

    template_fields: Sequence[str] = (*EnsembleOperator.template_fields, "chunk")
    ui_color = "#c5dcf0"

    _stop: threading.Event | None = None

    def __init__(
        self,
        *,
        chunk: Mapping[str, Any],
        cpus: int | None = None,
        map_index_template: str = "{{ task.chunk['label'] }}",
        retries: int = 2,
        retry_delay: timedelta = timedelta(seconds=30),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            map_index_template=map_index_template,
            retries=retries,
            retry_delay=retry_delay,
            **kwargs,
        )
        self.chunk = chunk
        self.cpus = cpus

    def execute(self, context: Context) -> None:
        """Run the chunk and judge it."""
        self._stop = threading.Event()
        chunk = str(self.chunk["chunk"])
        with airflow_errors(), self.open_control() as control:
            self._reopen_if_cleared(control, chunk, context)
            report = run_chunk(
                control,
                chunk,
                cpus=self.cpus or int(control.ensemble.execution.get("cpus-per-task") or 1),
                on_progress=progress_logger(self.log.info, chunk),
                stop=self._stop,
            )
        self.log.info("%s", summary(report))
        if report.taken_over:
            self.log.warning(
                "chunk %s: another batch has taken over %d simulations", chunk, report.taken_over
            )
        if report.counts.failed:
            text = failure_text(chunk, report.counts, report.failures, self.command_arguments)
            self.log.error("%s", text)
            raise AirflowFailException(
                f"chunk {chunk}: {report.counts.failed} simulations failed for good, see above"
            )

    def on_kill(self) -> None:
        """Stop the worker: running simulations end as interrupted and may run again."""
        if self._stop is not None:
            self._stop.set()

    def _reopen_if_cleared(self, control: Control, chunk: str, context: Context) -> None:
        if was_cleared(context):
            again = reopen_chunk(control, chunk)
            self.log.info("chunk %s: cleared, %d failed simulations run again", chunk, again)
        note_start(context)


def summary(report: ChunkReport) -> str:
    """Return a report in one line for the log."""
    counts = report.counts
    return (
        f"chunk {report.chunk}: {counts.complete} complete ({counts.empty} empty), "
        f"{counts.failed} failed of {counts.total}; {report.ran} ran in this try"
    )


def failure_text(
    chunk: str, counts: Counts, failures: Sequence[SimulationInfo], target: str
) -> str:
    """Return which simulations of a chunk failed, why, and how to read their logs.

    :param counts: the chunk's simulations by status.
    :param failures: the first failed ones.
    :param target: the arguments with which ``ensemble`` finds them.
    """
    failed = counts.failed
    lines = [f"chunk {chunk}: {failed} of {counts.total} simulations failed for good"]
    lines += [_failure_line(info) for info in failures]
    if failed > len(failures):
        lines.append(f"  … and {failed - len(failures)} more: `ensemble status --all {target}`")
    example = failures[0].simulation.id if failures else "ID"
    lines.append(f"read a log: ensemble logs {example} {target}")
    lines.append("run the failed ones again: clear this task")
    return "\n".join(lines)


def progress_logger(log: Callable[..., None], chunk: str) -> Callable[[Counts], None]:
    """Return a listener that logs a chunk's progress, but not every second."""
    last = time.monotonic()

    def listen(counts: Counts) -> None:
        nonlocal last
        if time.monotonic() - last < PROGRESS_INTERVAL:
            return
        last = time.monotonic()
        log(
            "chunk %s: %d complete, %d failed, %d running of %d",
            *(chunk, counts.complete, counts.failed, counts.running, counts.total),
        )

    return listen


def _failure_line(info: SimulationInfo) -> str:
    reason = info.reason.value if info.reason else "unknown"
    where = f" on {info.host}" if info.host else ""
    why = one_line(info.detail)
    return f"  {info.simulation.id}: {reason} in attempt {info.attempt}{where}: {why}"
