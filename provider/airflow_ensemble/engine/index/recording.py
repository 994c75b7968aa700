"""What happened: started and finished attempts come into the index, in bulk, idempotent, fenced."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from airflow_ensemble.engine.index import rows
from airflow_ensemble.engine.index.database import Session
from airflow_ensemble.engine.index.interface import EnsembleKey
from airflow_ensemble.engine.segment import Finished, Started
from airflow_ensemble.engine.simulation import Status


@dataclass
class Wave:
    """Records of which no two are about one simulation: their order does not matter."""

    started: list[Started] = field(default_factory=list)
    complete: list[Finished] = field(default_factory=list)
    failed: list[Finished] = field(default_factory=list)

    def add(self, record: Started | Finished) -> None:
        """Add a record."""
        if isinstance(record, Started):
            self.started.append(record)
        elif record.outcome.is_complete:
            self.complete.append(record)
        else:
            self.failed.append(record)


def waves(records: Sequence[Started | Finished]) -> Iterator[Wave]:
    """Split records so that applying wave after wave equals applying them one by one.

    A start that is followed by the completion of the same attempt says nothing of its own.
    """
    kept: list[Started | Finished] = []
    last: dict[str, Started | Finished] = {}
    for record in reversed(records):
        later = last.get(_id(record))
        if isinstance(record, Started) and _completes(later, record.attempt):
            continue
        last[_id(record)] = record
        kept.append(record)
    found: list[Wave] = []
    depth: dict[str, int] = {}
    for record in reversed(kept):
        level = depth.get(_id(record), 0)
        depth[_id(record)] = level + 1
        if level == len(found):
            found.append(Wave())
        found[level].add(record)
    return iter(found)


def record(
    session: Session,
    ensemble: EnsembleKey,
    records: Sequence[Started | Finished],
    *,
    locks_rows: bool,
) -> int:
    """Apply records; return how many finished attempts counted."""
    if locks_rows:
        # Always in one order, so that two that record the same rows cannot block each other.
        ids = json.dumps(sorted({_id(item) for item in records}))
        session.rows("record_lock", ensemble=ensemble.number, ids=ids)
    return sum(_apply(session, ensemble, wave) for wave in waves(records))


def charge(session: Session, ensemble: int, records: str) -> int:
    """Charge unsuccessful attempts, each execution once; return how many counted.

    :param records: what :func:`rows.records_json` or :func:`rows.ended_json` made.
    """
    noted = {id for (id,) in session.rows("charge_note", ensemble=ensemble, records=records)}
    if not noted:
        return 0
    counted = [values for values in json.loads(records) if values[0] in noted]
    found = session.rows("charge", ensemble=ensemble, records=json.dumps(counted))
    if (Status.PENDING.value,) in found:
        session.announce(ensemble)
    return len(found)


def _apply(session: Session, ensemble: EnsembleKey, wave: Wave) -> int:
    number, counted = ensemble.number, 0
    if wave.started:
        session.run("record_started", ensemble=number, records=rows.records_json(wave.started))
    if wave.complete:
        records = rows.records_json(wave.complete)
        counted += session.run("record_complete", ensemble=number, records=records)
    if wave.failed:
        counted += charge(session, number, rows.records_json(wave.failed))
    return counted


def _completes(record: Started | Finished | None, attempt: int) -> bool:
    return (
        isinstance(record, Finished)
        and record.outcome.is_complete
        and record.outcome.attempt == attempt
    )


def _id(record: Started | Finished) -> str:
    return record.id if isinstance(record, Started) else record.outcome.id
