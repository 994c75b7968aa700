"""Tables in JSON Lines, and lists in the ensemble file: read and judged record by record."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.ensemble.blocks import (
    BLOCK,
    ID,
    OWN,
    Block,
    Table,
    id_text,
    judge,
    judge_names,
    refuse_types,
    refuse_unknown_columns,
)
from airflow_ensemble.engine.ensemble.csv_table import has_many_digits
from airflow_ensemble.engine.ensemble.schema import read_mapping
from airflow_ensemble.engine.ensemble.written import as_record, find_long, is_long, read_number
from airflow_ensemble.engine.errors import UsageError

Records = Iterable[tuple[int, Mapping[str, Any]]]


def json_blocks(path: Path, table: Table) -> Iterator[Block]:
    """Yield the rows of a table in JSON Lines."""

    def read() -> Iterator[tuple[int, Mapping[str, Any]]]:
        with path.open(encoding="utf-8-sig") as stream:
            yield from _json_records(stream, table)

    yield from record_blocks(read, table, may_be_long=has_many_digits(path))


def record_blocks(
    read: Callable[[], Records], table: Table, *, may_be_long: bool = True
) -> Iterator[Block]:
    """Yield records, which may have keys of their own.

    :param read: begins to read them anew each time.
    :param table: that they belong to.
    :param may_be_long: whether there may be whole numbers beyond 64 bits.
    """
    refuse_types(table)
    names: dict[tuple[str, ...], list[str]] = {}
    texts = _find_long(read(), table) if may_be_long else frozenset()
    rest = iter(read())
    while some := list(islice(rest, BLOCK)):
        ids, values = [], []
        for row, found in some:
            keys = tuple(found)
            if keys not in names:
                names[keys] = judge_names(keys, table, f"{table.place(row)}: ")
            record = dict(zip(names[keys], found.values()))
            ids.append(id_text(record.pop(ID), table.place(row, ID)))
            values.append(_judge_record(record, texts, row, table))
        yield Block([row for row, _ in some], ids, values, is_plain=False)
    refuse_unknown_columns(dict.fromkeys(name for keys in names for name in keys), table)


def _judge_record(
    record: dict[str, Any], texts: Collection[str], row: int, table: Table
) -> dict[str, Any]:
    for name in record.keys() & texts:
        if isinstance(record[name], (int, float)) and not isinstance(record[name], bool):
            record[name] = str(record[name])
    judged = {name: judge(value, table, row, name) for name, value in record.items()}
    for name, value in judged.items():
        table.note_kinds(name, (value,), (row,), (record[name],))
    return as_record(record, judged)


def _find_long(records: Records, table: Table) -> frozenset[str]:
    """Return the keys that become texts for a whole number beyond 64 bits, and warn of them."""
    new_names = {old: new for new, old in table.rules.columns.items()}
    texts = set()
    for row, record in records:
        for key, value in record.items():
            name = new_names.get(key, key)
            long = find_long(value)
            if long is None or name in texts or name in OWN:
                continue
            if is_long(value):
                texts.add(name)
            table.warn_long(name, row, str(long))
    return frozenset(texts)


def _json_records(lines: Iterable[str], table: Table) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(
                line,
                object_pairs_hook=_unique,
                parse_constant=_refuse_constant,
                parse_int=read_number,
                parse_float=read_number,
            )
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{table.place(number)} is not JSON: {error}") from error
        yield number, read_mapping(record, table.place(number))


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(name for name, _ in pairs)}")
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")
