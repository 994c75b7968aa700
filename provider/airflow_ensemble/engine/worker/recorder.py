"""What a worker writes down: its segment, and the logs of its simulations.

Records are in the segment's file before anything else is done, and safe against a crash of the
machine within a second. Standard library only.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Union

from airflow_ensemble.engine.errors import EnsembleError
from airflow_ensemble.engine.pool.task import Began, Ended, Event, execution_token
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.segment import Finished, Header, Started, render
from airflow_ensemble.engine.simulation import INTERRUPTIONS, Outcome, ProductStatus, Reason
from airflow_ensemble.engine.storage import (
    OutputRoot,
    log_name,
    segment_name,
)
from airflow_ensemble.engine.words import detail_of, one_line
from airflow_ensemble.engine.worker.log_pack import LogPack

logger = logging.getLogger(__name__)

SYNC_INTERVAL = 1.0
#: Completed simulations that lasted longer (seconds) get a line in the worker's log.
WORTH_A_LINE = 1.0

Record = Union[Started, Finished]


class Tally:
    """Counts outcomes."""

    def __init__(self) -> None:
        self.complete = 0
        self.empty = 0
        self.reasons: Counter[Reason] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if outcome.reason is not None:
            self.reasons[outcome.reason] += 1
            return
        self.complete += 1
        self.empty += any(p.status is ProductStatus.COMPLETE_EMPTY for p in outcome.products)

    @property
    def failed(self) -> int:
        """Return how many attempts failed, interruptions not counted."""
        return sum(n for reason, n in self.reasons.items() if reason not in INTERRUPTIONS)

    @property
    def interrupted(self) -> int:
        """Return how many were interrupted."""
        return sum(n for reason, n in self.reasons.items() if reason in INTERRUPTIONS)

    @property
    def text(self) -> str:
        """Return one line for people."""
        failed = {reason: n for reason, n in self.reasons.items() if reason not in INTERRUPTIONS}
        reasons = ", ".join(f"{n} {reason.value}" for reason, n in sorted(failed.items()))
        return (
            f"{self.complete} complete ({self.empty} empty), {self.failed} failed"
            + (f" ({reasons})" if reasons else "")
            + (f", {self.interrupted} interrupted" if self.interrupted else "")
        )


class Recorder:
    """The records of one worker; use it as a context manager.

    :param recipe: of the ensemble.
    :param root: its output root.
    :param index: uuid of the index that owns the simulations.
    :param writer: the chunk of a push worker, the worker id of a pull worker.
    :param submission: the chunk's submission; 0 for a pull worker.
    :param token: the worker's token.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: OutputRoot,
        *,
        index: str,
        writer: str,
        submission: int,
        token: str,
    ) -> None:
        self.host = socket.gethostname()
        self.tally = Tally()
        self._recipe = recipe
        self._root = root
        self._writer = writer
        self._token = token
        self._pack = LogPack(root, recipe.hash8, writer, token)
        self._segment = Segment(root, segment_name(recipe.hash8, writer, submission, token))
        self._segment.write(
            render(
                Header(
                    ensemble=recipe.ensemble,
                    settings_hash=recipe.settings.hash,
                    index=index,
                    writer=writer,
                    token=token,
                    host=self.host,
                    pid=os.getpid(),
                )
            ).encode()
        )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._pack.close()
        finally:
            self._segment.close()

    def record(self, events: Sequence[Event]) -> list[Record]:
        """Write events down, logs first, and return the records."""
        records = [
            self._started(event) if isinstance(event, Began) else self._finished(event)
            for event in events
        ]
        if records:
            self._segment.write("".join(map(render, records)).encode())
        return records

    def _started(self, event: Began) -> Started:
        token = execution_token(self._token, event.assignment.attempt)
        simulation = event.assignment.simulation
        return Started(simulation.id, event.assignment.attempt, token, event.time, self.host)

    def _finished(self, event: Ended) -> Finished:
        assignment = event.assignment
        simulation = assignment.simulation
        outcome = Outcome(
            id=simulation.id,
            attempt=assignment.attempt,
            token=execution_token(self._token, assignment.attempt),
            reason=event.reason,
            detail=detail_of(event.detail),
            products=event.products,
            started=event.started,
            duration=event.duration,
            host=self.host,
            log=self._keep_log(event),
        )
        self.tally.add(outcome)
        self._tell(outcome)
        return Finished(outcome, assignment.generation, simulation.params)

    def _keep_log(self, event: Ended) -> str | None:
        if event.log is None:
            return None
        try:
            if event.reason is None and self._recipe.logs != "all":
                return None
            text = render_log(event, self.host)
            return self._pack.add(text) if event.reason is None else self._put_log(event, text)
        except EnsembleError as error:
            # The outcome is worth more than its log.
            logger.warning("the log of %s is lost: %s", event.assignment.simulation.id, error)
            return None
        finally:
            event.log.close()

    def _put_log(self, event: Ended, text: bytes) -> str:
        token = execution_token(self._token, event.assignment.attempt)
        name = log_name(self._recipe.hash8, event.assignment.simulation.id, token)
        self._root.write_text(name, text.decode(errors="replace"))
        return name

    def _tell(self, outcome: Outcome) -> None:
        where = (outcome.id, outcome.attempt, self.host, self._writer, outcome.duration)
        if outcome.reason is None:
            level = logging.INFO if outcome.duration >= WORTH_A_LINE else logging.DEBUG
            logger.log(level, "%s complete (attempt %d on %s, %s, %.2f s)", *where)
        elif outcome.reason in INTERRUPTIONS:
            logger.info("%s interrupted (attempt %d on %s, %s, %.2f s)", *where)
        else:
            logger.warning(
                "%s failed (attempt %d on %s, %s, %.2f s): %s: %s; log: %s",
                *where,
                outcome.reason.value,
                one_line(outcome.detail),
                outcome.log or "none",
            )


class Segment:
    """One segment being written, synced by a thread of its own.

    :param root: the output root.
    :param name: below the root.
    """

    def __init__(self, root: OutputRoot, name: str) -> None:
        self._appender = root.append(name)
        # A local append is done at once. An upload would hold the worker up.
        self._pending: bytearray | None = None if root.is_local else bytearray()
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._keep_synced, name="segment", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Append lines.

        :raises StorageError: when this, or an earlier sync, failed.
        """
        if self._error is not None:
            raise self._error
        if self._pending is None:
            self._appender.write(data)
            return
        with self._lock:
            self._pending += data

    def close(self) -> None:
        """Make everything safe.

        :raises StorageError: when that failed.
        """
        self._is_closing.set()
        self._thread.join()
        self._pass_on()
        self._appender.close()

    def _keep_synced(self) -> None:
        while not self._is_closing.wait(SYNC_INTERVAL):
            try:
                self._pass_on()
                self._appender.sync()
            except Exception as error:
                self._error = error
                return

    def _pass_on(self) -> None:
        if not self._pending:
            return
        with self._lock:
            data = bytes(self._pending)
            self._pending.clear()
        self._appender.write(data)


def render_log(event: Ended, host: str) -> bytes:
    """Return the text of a simulation's log: what it printed between two lines of ours."""
    assignment = event.assignment
    why = one_line(event.detail)
    status = "complete" if event.reason is None else f"{event.reason.value}: {why}"
    head = f"[{assignment.simulation.id}, attempt {assignment.attempt}, on {host}]\n"
    body = event.log.read() if event.log is not None else b""
    if body and not body.endswith(b"\n"):
        body += b"\n"
    return head.encode() + body + f"[{status}, after {event.duration:.2f} s]\n".encode()
