"""Who owns a simulation: chunks of a batch (push), workers with a lease (pull)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.errors import Fenced, UsageError
from airflow_ensemble.engine.index import recording, rows
from airflow_ensemble.engine.index.database import Session
from airflow_ensemble.engine.index.interface import BatchInfo, ChunkInfo, EnsembleKey
from airflow_ensemble.engine.simulation import Reason

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """The end of a chunk's execution.

    :param reason: what its running simulations are charged with.
    :param detail: one line for people; empty says that the chunk ended without them.
    :param submission: the submission that has ended; None is the newest.
    """

    reason: Reason
    detail: str
    submission: int | None


# --- push ---------------------------------------------------------------------------------------


def dispatch(
    session: Session,
    ensemble: EnsembleKey,
    batch: str,
    backend: str,
    n_chunks: int,
    max_chunk_size: int | None,
) -> list[ChunkInfo]:
    """Deal the batch's pending simulations to new chunks; return all chunks of the batch."""
    if n_chunks < 1 or (max_chunk_size is not None and max_chunk_size < 1):
        raise UsageError("the number of chunks and their largest size must be at least 1")
    if session.row("batch_find", batch=batch) is None:
        raise UsageError(f"batch {batch} is not in this output index: register it first")
    session.run("batch_backend", batch=batch, backend=backend)
    classes = {
        name: int(size)
        for name, size in session.rows("dispatch_lock", ensemble=ensemble.number, batch=batch)
    }
    for name, number in share_chunks(classes, n_chunks, max_chunk_size).items():
        _dispatch_class(session, ensemble, batch, name, classes[name], number)
    return chunks(session, batch)


def share_chunks(
    classes: dict[str, int], n_chunks: int, max_chunk_size: int | None = None
) -> dict[str, int]:
    """Share out chunks to resource classes, by size.

    :param classes: simulations by resource class.
    :param n_chunks: chunks in total, exceeded only where every class needs one of its own or
        ``max_chunk_size`` asks for more.
    :param max_chunk_size: simulations that a chunk may hold; None is no bound.
    :return: chunks by resource class, at least 1 and at most the class's size.
    """
    shares = dict.fromkeys(classes, 1)
    for _ in range(n_chunks - len(classes)):
        open_classes = [name for name in classes if shares[name] < classes[name]]
        if not open_classes:
            break
        # The class with the longest chunks gets the next one.
        shares[max(open_classes, key=lambda name: classes[name] / shares[name])] += 1
    if max_chunk_size is None:
        return shares
    return {name: max(shares[name], -(-classes[name] // max_chunk_size)) for name in classes}


def _dispatch_class(
    session: Session, ensemble: EnsembleKey, batch: str, name: str, size: int, n_chunks: int
) -> None:
    (first,) = session.row("chunk_next", batch=batch) or (0,)
    for i in range(n_chunks):
        session.run(
            "chunk_insert",
            id=f"{batch}-{first + i:04d}",
            batch=batch,
            number=first + i,
            size=size // n_chunks + (i < size % n_chunks),
            resource_class=name,
        )
    session.run(
        "dispatch_move",
        ensemble=ensemble.number,
        batch=batch,
        first=first,
        n_chunks=n_chunks,
        resource_class=name,
    )


def chunks(session: Session, batch: str) -> list[ChunkInfo]:
    """Return the chunks of a batch by number."""
    return [rows.chunk_info(row) for row in session.rows("chunk_list", batch=batch)]


def chunk(session: Session, id: str) -> ChunkInfo:
    """Return one chunk."""
    row = session.row("chunk_one", chunk=id)
    if row is None:
        raise _unknown_chunk(id)
    return rows.chunk_info(row)


def chunk_owner(session: Session, id: str) -> tuple[EnsembleKey, BatchInfo]:
    """Return the ensemble and the batch of a chunk."""
    row = session.row("chunk_owner", chunk=id)
    if row is None:
        raise _unknown_chunk(id)
    return EnsembleKey(*row[:3]), rows.batch_info(row[3:])


def assignments(session: Session, chunk: str) -> list[Assignment]:
    """Return the unfinished simulations of a chunk."""
    return [rows.assignment(row) for row in session.rows("chunk_assignments", chunk=chunk)]


def resubmit(session: Session, id: str, ended: Ended) -> ChunkInfo:
    """Charge what ran, number the unfinished attempts anew."""
    if _has_ended(session, id, ended):
        _charge_chunk(session, id, ended)
        if session.run("chunk_renumber", chunk=id):
            session.run("chunk_submit", chunk=id)
        else:
            session.run("chunk_settle", chunk=id)
    return chunk(session, id)


def charge(session: Session, id: str, ended: Ended) -> int:
    """Charge what ran; return how many."""
    return _charge_chunk(session, id, ended) if _has_ended(session, id, ended) else 0


def settle(session: Session, id: str, ended: Ended) -> int:
    """Charge what ran, give back the unfinished."""
    if not _has_ended(session, id, ended):
        return 0
    _charge_chunk(session, id, ended)
    session.run("chunk_settle", chunk=id)
    given_back = session.run("chunk_give_back", chunk=id)
    if given_back:
        ensemble, _ = chunk_owner(session, id)
        session.announce(ensemble.number)
    return given_back


def _has_ended(session: Session, id: str, ended: Ended) -> bool:
    """Lock the chunk, and say whether what has ended is its newest submission."""
    newest = _lock_chunk(session, id)
    return ended.submission is None or ended.submission == newest


def _charge_chunk(session: Session, id: str, ended: Ended) -> int:
    running = session.rows("chunk_running", chunk=id)
    return _charge(session, running, ended.reason, ended.detail or f"chunk {id} ended without it")


def reopen_chunk(session: Session, id: str) -> int:
    """Give the chunk its failed simulations back."""
    _lock_chunk(session, id)
    revived = session.run("chunk_revive", chunk=id)
    if revived:
        session.run("chunk_reopen", chunk=id)
    return revived


def _lock_chunk(session: Session, id: str) -> int:
    """Keep everyone else from changing the chunk, and return its newest submission."""
    row = session.row("chunk_lock", chunk=id)
    if row is None:
        raise _unknown_chunk(id)
    return int(row[0])


def _unknown_chunk(id: str) -> UsageError:
    return UsageError(f"chunk {id!r} is not in this output index: was it dispatched from another?")


# --- pull ---------------------------------------------------------------------------------------


def claim(session: Session, worker: str, limit: int) -> tuple[list[Assignment], float]:
    """Claim simulations for a worker; return them and the database's time of the claim."""
    ensemble, now = renew(session, worker)
    expire(session)
    found = session.rows("claim", ensemble=ensemble, worker=worker, limit=limit)
    return in_order(found), now


def in_order(found: Sequence[rows.Row]) -> list[Assignment]:
    """Return claimed rows in the order of claims: tries, priority, table."""
    return [rows.assignment(row) for row in sorted(found, key=lambda r: (r[7], -r[4], r[8]))]


def renew(session: Session, worker: str) -> tuple[int, float]:
    """Renew the worker's lease; return its ensemble's number and the database's time."""
    row = session.row("worker_renew", worker=worker)
    if row is None:
        raise Fenced(
            f"worker {worker}: its lease has expired, or it was never enlisted; what it held may "
            "be running elsewhere, so it must stop"
        )
    return int(row[0]), float(row[1])


def expire(session: Session) -> int:
    """Take back what expired workers hold; return how many simulations."""
    found = session.rows("worker_expired")
    return sum(_take_back(session, id, Reason.LOST, f"worker {id} fell silent") for (id,) in found)


def dismiss(session: Session, host: str, reason: Reason, detail: str) -> int:
    """Take back what the workers of a host hold; return how many simulations."""
    found = session.rows("worker_of_host", host=host)
    return sum(_take_back(session, id, reason, detail) for (id,) in found)


def _take_back(session: Session, worker: str, reason: Reason, detail: str) -> int:
    running = session.rows("worker_running", worker=worker)
    # One that kills its worker before it is known to run must not do so for ever: it is the first.
    running = running or session.rows("worker_next", worker=worker)
    _charge(session, running, reason, detail)
    claimed = session.run("worker_give_back_claimed", worker=worker)
    _forget(session, worker)
    taken = len(running) + claimed
    log.warning("%s: %d simulations of worker %s taken back", detail, taken, worker)
    return taken


def hand_back(session: Session, worker: str, ids: Sequence[str]) -> int:
    """Give back what the worker has claimed and not begun; return how many."""
    ensemble, _ = renew(session, worker)
    returned = session.run("worker_hand_back", worker=worker, ids=json.dumps(list(ids)))
    if returned:
        session.announce(ensemble)
    return returned


def discharge(session: Session, worker: str) -> int:
    """Hand back all that the worker holds, and forget it."""
    held = session.run("worker_give_back_all", worker=worker)
    _forget(session, worker)
    return held


def _forget(session: Session, worker: str) -> None:
    """Forget a worker; the others hear of it: what it held is free, or it did the last one."""
    ensemble = session.row("worker_forget", worker=worker)
    if ensemble is not None:
        session.announce(*ensemble)


def _charge(session: Session, running: Sequence[rows.Row], reason: Reason, detail: str) -> int:
    if not running:
        return 0
    records = rows.ended_json(running, reason, detail)
    return recording.charge(session, int(running[0][0]), records)
