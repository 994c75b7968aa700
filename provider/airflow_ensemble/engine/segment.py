"""Outcome segments: what workers append, and everybody else reads by offset.

One segment belongs to one execution (one chunk submission and execution token, or one pull worker)
and lies under ``.ensemble/outcomes/`` of the output root. It is JSON Lines: a ``header`` record,
then ``started`` and ``outcome`` records. A torn last line (the writer died in it) is no record yet:
readers stop before it, and the next execution of the same chunk opens a segment of its own, so that
two executions can never write into one file. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ensemble.engine.simulation import Outcome, canonical_json

FORMAT = 1


@dataclass(frozen=True)
class Header:
    """Who writes a segment, and for which ensemble.

    :param ensemble: the ensemble's name.
    :param settings_hash: the full settings hash.
    :param index: uuid of the index that owns the simulations.
    :param writer: chunk id of a push worker, worker id of a pull worker.
    :param token: the execution token.
    :param host: where it runs.
    :param pid: the worker's process id.
    """

    ensemble: str
    settings_hash: str
    index: str
    writer: str
    token: str
    host: str
    pid: int


@dataclass(frozen=True)
class Started:
    """An attempt has begun.

    :param id: the simulation.
    :param attempt: its number.
    :param token: the execution token.
    :param time: Unix time, seconds.
    :param host: where it runs.
    """

    id: str
    attempt: int
    token: str
    time: float
    host: str


@dataclass(frozen=True)
class Finished:
    """An attempt has ended, with all that :func:`rebuild` needs to know the simulation again.

    :param outcome: what came of it.
    :param generation: the generation that the attempt belongs to.
    :param params: the simulation's own parameters.
    """

    outcome: Outcome
    generation: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)


def render(record: Header | Started | Finished) -> str:
    """Return the one line of a record, newline included."""
    if isinstance(record, Header):
        return canonical_json({"record": "header", "format": FORMAT, **record.__dict__}) + "\n"
    if isinstance(record, Started):
        return canonical_json({"record": "started", **record.__dict__}) + "\n"
    values = record.outcome.as_dict()
    values.update(record="outcome", generation=record.generation, params=dict(record.params))
    return canonical_json(values) + "\n"


@dataclass(frozen=True)
class Reading:
    """What one look at a segment gave.

    :param records: the complete records, in order.
    :param consumed: bytes up to the end of the last complete line.
    :param torn: bytes after it.
    :param garbled: complete lines that are no records (a full disk, a crashed host).
    """

    records: tuple[Header | Started | Finished, ...]
    consumed: int
    torn: int
    garbled: int


def parse(data: bytes) -> Reading:
    """Read complete lines from the bytes of a segment, from any line start on.

    A line that is no record is counted and passed over: one bad sector must not hide what follows.
    """
    end = data.rfind(b"\n") + 1
    records = []
    garbled = 0
    for line in data[:end].splitlines():
        record = _parse_line(line)
        if record is None:
            garbled += 1
        else:
            records.append(record)
    return Reading(tuple(records), end, len(data) - end, garbled)


def outcomes(records: Iterable[Header | Started | Finished]) -> Iterable[Finished]:
    """Return the finished attempts among records."""
    return (record for record in records if isinstance(record, Finished))


def _parse_line(line: bytes) -> Header | Started | Finished | None:
    try:
        values = json.loads(line)
        kind = values.pop("record")
        if kind == "header":
            values.pop("format")
            return Header(**values)
        if kind == "started":
            return Started(**values)
        if kind == "outcome":
            return Finished(Outcome.from_dict(values), values["generation"], values["params"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return None
