"""Bring what workers wrote into their segments into the output index.

Reading is by offset, recording is idempotent and fenced, so any number of processes may ingest the
same segments at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from airflow_ensemble.engine import segment
from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.segment import Finished, Header
from airflow_ensemble.engine.storage import segments_prefix

log = logging.getLogger(__name__)

#: Bytes read from a segment and recorded in one transaction.
READ_SIZE = 4 * 1024 * 1024


def ingest(control: Control, chunk: str | None = None) -> int:
    """Record all new records of the ensemble's segments.

    :param control: the opened ensemble.
    :param chunk: only the segments of this chunk.
    :return: how many finished attempts counted.
    """
    offsets = control.index.offsets(control.key)
    counted = 0
    for name, size in _segments(control, chunk):
        if size > offsets.get(name, 0):
            counted += _ingest_segment(control, name, offsets.get(name, 0), size)
    return counted


def read_finished(control: Control) -> Iterator[Finished]:
    """Yield every finished attempt that the ensemble's segments hold, whoever wrote them."""
    for name, _ in sorted(_segments(control, None)):
        offset = 0
        while reading := _read(control, name, offset):
            offset += reading.consumed
            yield from segment.outcomes(reading.records)
        log.debug("%s: read to byte %d", name, offset)


def _segments(control: Control, chunk: str | None) -> Iterator[tuple[str, int]]:
    return control.root.list(segments_prefix(control.recipe.hash8, chunk))


def _ingest_segment(control: Control, name: str, offset: int, size: int) -> int:
    counted = 0
    while offset < size and (reading := _read(control, name, offset)):
        records = [record for record in reading.records if not isinstance(record, Header)]
        counted += control.index.record(control.key, records)
        offset += reading.consumed
        control.index.set_offset(control.key, name, offset)
    return counted


def _read(control: Control, name: str, offset: int) -> segment.Reading | None:
    """Return what stands after ``offset``, or None when there is no complete line."""
    length = READ_SIZE
    while True:
        data = control.root.read(name, offset, length)
        reading = segment.parse(data)
        if reading.garbled:
            log.warning("%s: passed over %d unreadable lines", name, reading.garbled)
        if reading.consumed:
            return reading
        if len(data) < length:
            return None
        length *= 2  # one record is longer than what was read
