"""Rebuild: finished attempts, read from all segments, become the state of the index again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index import rows
from airflow_ensemble.engine.index.database import Database, Session
from airflow_ensemble.engine.index.interface import EnsembleKey
from airflow_ensemble.engine.index.registration import MANY
from airflow_ensemble.engine.segment import Finished
from airflow_ensemble.engine.simulation import canonical_json

#: The columns of the stage table, in the order of :func:`_staged`.
_STAGE = (
    *("n", "id", "attempt", "token", "started", "host", "duration", "log", "products", "n_empty"),
    *("reason", "kind", "detail", "generation", "params", "digest"),
)


def restore(database: Database, ensemble: EnsembleKey, finished: Iterable[Finished]) -> int:
    """Stage the records, then bring them into the rows in one transaction."""
    database.read(lambda session: session.run("restore_stage_drop"))
    database.read(lambda session: session.run("restore_stage_create"))
    staged = database.load(
        "stage_finished", _STAGE, (_staged(n, record) for n, record in enumerate(finished))
    )
    terminal = database.transact(lambda session: _restore(session, ensemble, staged), repeat=False)
    database.read(lambda session: session.run("restore_stage_drop"))
    if staged >= MANY:
        database.read(lambda session: session.script("register_analyze"))
    return terminal


def _staged(n: int, record: Finished) -> tuple[Any, ...]:
    values = rows.record_values(record)
    products = canonical_json(values[7])
    reason, kind, detail = values[9:] or (None, None, "")
    params = canonical_json(record.params)
    return (
        n,
        *values[:7],
        products,
        values[8],
        reason,
        kind,
        detail,
        record.generation,
        params,
        hashlib.sha256(params.encode()).hexdigest()[:16],
    )


def _restore(session: Session, ensemble: EnsembleKey, staged: int) -> int:
    number = ensemble.number
    locked = session.row("ensemble_lock", ensemble=number)
    if locked is None:
        raise UsageError(f"ensemble {ensemble.name!r} is not defined in this output index")
    generation, base = locked
    (newest,) = session.row("restore_newest") or (1,)
    (before,) = session.row("restore_count", ensemble=number) or (0,)
    session.run("restore_forgotten", ensemble=number)
    session.run("restore_distinct")
    session.run("restore_insert", ensemble=number, base=base)
    for step in ("forget", "generation", "known", "charge", "note", "results"):
        session.run(f"restore_{step}", ensemble=number)
    session.run(
        "ensemble_advance",
        ensemble=number,
        generation=max(generation, newest),
        next_position=base + staged,
    )
    session.announce(number)
    (after,) = session.row("restore_count", ensemble=number) or (0,)
    return int(after) - int(before)
