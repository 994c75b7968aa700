"""Bring what workers wrote into their segments into the output index.

Reading is by offset, recording is idempotent and fenced, so any number of processes may ingest the
same segments at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from airflow_ensemble.engine import segment
from airflow_ensemble.engine.control import Ledger
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.segment import Finished, Header, Started
from airflow_ensemble.engine.storage import OutputRoot, segment_head, segments_prefix

log = logging.getLogger(__name__)

#: Bytes that are read from a segment at once, and those recorded in one transaction, about.
READ_SIZE = 4 * 1024 * 1024
#: Bytes that hold the header of any segment.
HEADER_SIZE = 4096


def ingest(ledger: Ledger, chunk: str | None = None, batch: str | None = None) -> int:
    """Record all new records of the ensemble's segments; lists the root once.

    :param ledger: index, ensemble and output root.
    :param chunk: only the segments of this chunk.
    :param batch: only the segments of this batch's chunks.
    :return: how many finished attempts counted.
    """
    offsets = ledger.index.offsets(ledger.key)
    haul = _Haul(ledger)
    try:
        for name, size in ledger.root.list(_prefix(ledger, chunk, batch)):
            offset = offsets.get(name, 0)
            # What was recorded in part was found to be our own before.
            if size > offset and (offset or _is_own(ledger, name)):
                haul.read(name, offset, size)
    finally:
        haul.record()  # what was read counts, even where the next segment cannot be read
    return haul.counted


def refuse_forgotten_outcomes(root: OutputRoot, recipe: Recipe) -> None:
    """Refuse to begin anew, with an index that knows nothing, where results lie already.

    :param root: the output root.
    :param recipe: with settings that the index does not know.
    :raises UsageError: when workers have recorded outcomes with these settings there.
    """
    if next(iter(root.list(segments_prefix(recipe.hash8))), None) is None:
        return
    raise UsageError(
        f"output root {root.uri} holds outcomes of ensemble {recipe.ensemble!r} with these "
        f"settings ({recipe.hash8}) that the output index does not know: it was lost, or 'index' "
        "names another one. `ensemble rebuild` reads them into it, and nothing is computed twice"
    )


def read_finished(ledger: Ledger) -> Iterator[Finished]:
    """Yield every finished attempt that the ensemble's segments hold, whoever wrote them."""
    for name, _ in sorted(ledger.root.list(segments_prefix(ledger.hash8))):
        offset = 0
        while reading := _read(ledger, name, offset):
            offset += reading.consumed
            yield from segment.outcomes(reading.records)
        log.debug("%s: read to byte %d", name, offset)


def _prefix(ledger: Ledger, chunk: str | None, batch: str | None) -> str:
    prefix = segments_prefix(ledger.hash8, chunk)
    return f"{prefix}{batch}-" if batch is not None and chunk is None else prefix


def _is_own(ledger: Ledger, name: str) -> bool:
    """Say whether a segment tells of attempts that this index has given.

    Another index counts its attempts from 1 too: its workers' outcomes are for ``rebuild`` alone.
    """
    head, known = segment_head(name), ledger.own_segments
    if head not in known:
        records = segment.parse(ledger.root.read(head, 0, HEADER_SIZE)).records
        if not records:  # the first line is not whole yet
            return False
        known[head] = isinstance(records[0], Header) and records[0].index == ledger.index.uuid
    return known[head]


@dataclass
class _Haul:
    """What was read from segments and is not recorded yet: many small ones take one transaction.

    :param ledger: where it is recorded.
    :param counted: finished attempts that have counted so far.
    """

    ledger: Ledger
    counted: int = 0
    _records: list[Started | Finished] = field(default_factory=list)
    _offsets: dict[str, int] = field(default_factory=dict)
    _size: int = 0

    def read(self, name: str, offset: int, size: int) -> None:
        """Read what a segment has got since ``offset``."""
        while offset < size and (reading := _read(self.ledger, name, offset)):
            offset += reading.consumed
            self._records += [one for one in reading.records if not isinstance(one, Header)]
            self._offsets[name] = offset
            self._size += reading.consumed
            if self._size >= READ_SIZE:
                self.record()

    def record(self) -> None:
        """Bring it into the index."""
        self.counted += self.ledger.index.record(
            self.ledger.key, self._records, offsets=self._offsets
        )
        self._records, self._offsets, self._size = [], {}, 0


def _read(ledger: Ledger, name: str, offset: int) -> segment.Reading | None:
    """Return what stands after ``offset``, or None when there is no complete line."""
    length = READ_SIZE
    while True:
        data = ledger.root.read(name, offset, length)
        reading = segment.parse(data)
        if reading.garbled:
            log.warning("%s: passed over %d unreadable lines", name, reading.garbled)
        if reading.consumed:
            return reading
        if len(data) < length:
            return None
        length *= 2  # one record is longer than what was read
