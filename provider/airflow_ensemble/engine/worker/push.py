"""The push worker: runs the simulations of one chunk file, without any database.

Standard library only.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from airflow_ensemble.engine import segment, storage
from airflow_ensemble.engine.chunk import Assignment, Chunk, cancel_path, lock_path, read_chunk
from airflow_ensemble.engine.errors import Interrupted
from airflow_ensemble.engine.evidence import LockHeld, hold_lock
from airflow_ensemble.engine.pool.processes import Processes
from airflow_ensemble.engine.segment import Finished
from airflow_ensemble.engine.simulation import INTERRUPTIONS, Reason
from airflow_ensemble.engine.storage import OutputRoot
from airflow_ensemble.engine.worker.recorder import Record, Recorder
from airflow_ensemble.engine.worker.stop import Stop, charge_to_stop, stop_on_broken_root

logger = logging.getLogger(__name__)

CANCEL_INTERVAL = 1.0
PROGRESS_INTERVAL = 10.0
#: Seconds to wait for stopped simulations to be gone.
STOP_LIMIT = 10.0


def push_worker(chunk_file: Path, *, cpus: int = 1, stop: Stop | None = None) -> int:
    """Run what is unfinished of a chunk file.

    :param chunk_file: from :func:`airflow_ensemble.engine.chunk.write_chunk`.
    :param cpus: cores that simulations may occupy at one time.
    :param stop: ends the work early; running simulations are recorded with its ``charge``.
    :return: 0 when all are complete, 1 when attempts failed, 3 when stopped.
    :raises UsageError: on a chunk or an output root that cannot be used.
    :raises ModelError: when the model cannot be used at all; no attempt is charged.
    :raises Interrupted: when another worker runs this chunk file at this moment.
    """
    chunk = read_chunk(chunk_file)
    recipe = chunk.recipe
    root = storage.open_root(recipe.output)
    root.check_writable()
    root.check_owner(recipe.ensemble, recipe.settings)
    stop = Stop() if stop is None else stop
    try:
        with hold_lock(lock_path(chunk_file)):
            return _run(chunk, root, CancelFile(chunk_file, chunk.id), cpus, stop)
    except LockHeld as error:
        raise Interrupted(
            f"chunk {chunk.id} is run by another worker at this moment ({error}): wait until that "
            "one has ended, or stop it"
        ) from error


class CancelFile:
    """The file beside a chunk that names its cancelled simulations, one a line, or ``*``.

    :param chunk_file: the chunk's file.
    :param chunk: the chunk's id.
    """

    def __init__(self, chunk_file: Path, chunk: str) -> None:
        self._path = cancel_path(chunk_file.parent, chunk)
        self._size = 0
        self._next = 0.0

    def news(self) -> set[str] | None:
        """Return all cancelled ids if some are new; looks at most once a second."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + CANCEL_INTERVAL
        try:
            size = self._path.stat().st_size
            if size == self._size:
                return None
            text = self._path.read_text(encoding="utf-8")
        except OSError:
            return None
        self._size = size
        return {line.strip() for line in text.splitlines() if line.strip()}


def read_finished(chunk: Chunk, root: OutputRoot) -> dict[str, Finished]:
    """Return what earlier executions of this submission finished, by simulation.

    Interrupted ones are unfinished. A torn last line is what the death of its writer left.
    """
    attempts = {a.simulation.id: a.attempt for a in chunk.assignments}
    prefix = f"{storage.segments_prefix(chunk.recipe.hash8, chunk.id)}{chunk.submission}."
    finished: dict[str, Finished] = {}
    for name, _ in root.list(prefix):
        reading = segment.parse(root.read(name))
        if reading.torn or reading.garbled:
            logger.warning(
                "%s: passed over a torn end of %d bytes and %d unreadable lines",
                name,
                reading.torn,
                reading.garbled,
            )
        for record in segment.outcomes(reading.records):
            outcome = record.outcome
            if outcome.attempt != attempts.get(outcome.id) or outcome.reason in INTERRUPTIONS:
                continue
            finished[outcome.id] = record
    return finished


def _run(chunk: Chunk, root: OutputRoot, cancel: CancelFile, cpus: int, stop: Stop) -> int:
    began = time.monotonic()
    finished = read_finished(chunk, root)
    todo = [a for a in chunk.assignments if a.simulation.id not in finished]
    token = secrets.token_hex(5)
    recorder = Recorder(
        chunk.recipe,
        root,
        index=chunk.index,
        writer=chunk.id,
        submission=chunk.submission,
        token=token,
    )
    with recorder:
        logger.info(
            "chunk %s: %d simulations to run with %d cores on %s (pid %d, token %s), %d finished",
            chunk.id,
            len(todo),
            cpus,
            recorder.host,
            os.getpid(),
            token,
            len(finished),
        )
        _run_all(chunk, todo, recorder, cancel, cpus, token, stop)
    tally = recorder.tally
    logger.info("chunk %s: %s in %.1f s", chunk.id, tally.text, time.monotonic() - began)
    if stop:
        logger.warning("chunk %s: stopped before its end: %s", chunk.id, stop.reason)
        return Interrupted.exit_code
    failed_before = sum(not record.outcome.is_complete for record in finished.values())
    return 1 if tally.failed or failed_before else 0


def _run_all(
    chunk: Chunk,
    todo: list[Assignment],
    recorder: Recorder,
    cancel: CancelFile,
    cpus: int,
    token: str,
    stop: Stop,
) -> None:
    if not todo:
        return
    report = _progress(chunk.id, recorder, len(todo))
    with Processes(chunk.recipe, token=token, cpus=cpus) as pool, stop.notifying(pool.wake):
        try:
            pool.submit(todo)
            while pool.is_busy and not stop:
                _cancel(pool, cancel.news())
                events = charge_to_stop(stop, pool.wait(CANCEL_INTERVAL))
                recorder.record(events)
                stop_on_broken_root(stop, events)
                report()
            if stop:
                stop_pool(pool, recorder, stop)
        except BaseException as error:
            recorder.record(pool.abandon(Reason.INTERRUPTED, f"the worker broke off: {error}"))
            raise


def stop_pool(
    pool: Processes, recorder: Recorder, stop: Stop, limit: float = STOP_LIMIT
) -> list[Record]:
    """Stop what runs, record it as the stop says, and return the records.

    :param limit: seconds to wait for what was killed to be gone.
    """
    pool.stop(stop.charge, stop.reason)
    give_up = time.monotonic() + limit
    records: list[Record] = []
    while pool.is_busy and time.monotonic() < give_up:
        records += recorder.record(pool.wait(0.5))
    return records + recorder.record(pool.abandon(stop.charge, stop.reason))


def _cancel(pool: Processes, ids: set[str] | None) -> None:
    if ids is None:
        return
    detail = "cancelled while it waited or ran"
    pool.cancel(None if "*" in ids else ids, Reason.CANCELLED, detail)


def _progress(name: str, recorder: Recorder, total: int) -> Callable[[], None]:
    state = {"next": time.monotonic() + PROGRESS_INTERVAL}

    def report() -> None:
        if time.monotonic() >= state["next"]:
            state["next"] = time.monotonic() + PROGRESS_INTERVAL
            logger.info("chunk %s: %s of %d", name, recorder.tally.text, total)

    return report
