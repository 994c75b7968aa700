"""Tables in Parquet: read in batches, and judged column by column."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.ensemble.blocks import (
    BLOCK,
    ID,
    OWN,
    Block,
    Table,
    column_values,
    id_text,
    is_plain,
    judge_column,
    judge_header,
    refuse_types,
)
from airflow_ensemble.engine.ensemble.csv_table import type_cell
from airflow_ensemble.engine.ensemble.written import LARGEST, written_float
from airflow_ensemble.engine.errors import UsageError

#: What pandas calls a level of the index that has no name.
_INDEX_LEVEL = re.compile(r"__index_level_[0-9]+__")
#: How :mod:`struct` calls floats that are smaller than Python's, by their bits.
_SMALL = {16: "e", 32: "f"}
#: From here on Python prints whole numbers with an exponent; below, all of their digits.
_SCIENTIFIC = 1e16

Convert = Callable[[Any], Any]


def parquet_blocks(path: Path, table: Table) -> Iterator[Block]:
    """Yield the rows of a Parquet table."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UsageError(f"table {path} needs the Python package 'pyarrow'") from error
    try:
        with path.open("rb") as stream, ParquetFile(stream) as file:
            yield from _blocks(file, table)
    except (ArrowException, OverflowError) as error:
        raise UsageError(f"{path} is not a readable Parquet table: {error}") from error


def _blocks(file: Any, table: Table) -> Iterator[Block]:
    found = _columns(list(file.schema_arrow.names), table)
    refuse_types(table)
    names = judge_header(found, table)
    schema = file.schema_arrow
    converts = [
        _text if _becomes_text(file, old, new, table) else _converter(schema.field(old).type)
        for old, new in zip(found, names)
    ]
    first = 1
    for batch in file.iter_batches(batch_size=BLOCK, columns=found):
        rows = range(first, first + batch.num_rows)
        first += batch.num_rows
        columns = {}
        for name, old, convert in zip(names, found, converts):
            values = batch.column(old).to_pylist()
            columns[name] = values if convert is None else list(map(convert, values))
        yield _block(columns, rows, table)


def _columns(names: list[str], table: Table) -> list[str]:
    """Return the columns without pandas' own index, unless the ensemble file gives it a name."""
    named = table.rules.columns.values()
    kept = [name for name in names if name in named or not _INDEX_LEVEL.fullmatch(name)]
    table.remarks.left_out[:] = [name for name in names if name not in kept]
    return kept


def _block(cells: dict[str, list[Any]], rows: Sequence[int], table: Table) -> Block:
    ids = [id_text(id, table.place(row, ID)) for id, row in zip(cells.pop(ID), rows)]
    judged = {name: judge_column(name, column, rows, table) for name, column in cells.items()}
    return Block(rows, ids, column_values(judged, len(ids)), is_plain(cells))


# --- types that Python does not have --------------------------------------------------------------


def _converter(kind: Any) -> Convert | None:
    """Return what makes a value of such a type one that remembers how it is written."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _converter(kind.value_type)
    if types.is_floating(kind) and kind.bit_width in _SMALL:
        return _small_float(_SMALL[kind.bit_width])
    if types.is_decimal(kind):
        return _decimal
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _each(_converter(kind.value_type))
    if types.is_struct(kind):
        return _fields({field.name: _converter(field.type) for field in kind})
    return None


def _small_float(code: str) -> Convert:
    """Return what finds the shortest fraction that is the same float of that size."""
    size = struct.Struct(code)

    def is_same(short: float, value: float) -> bool:
        try:
            return bool(size.unpack(size.pack(short))[0] == value)
        except OverflowError:
            return False

    def convert(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return value
        if value.is_integer() and abs(value) < _SCIENTIFIC:
            return value
        numbers = (float(f"{value:.{digits}g}") for digits in range(1, 10))
        shortest = next((short for short in numbers if is_same(short, value)), value)
        return written_float(value, repr(shortest))

    return convert


def _decimal(value: Any) -> Any:
    return None if value is None else type_cell(format(value, "f"))


def _each(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda values: None if values is None else list(map(convert, values))


def _fields(converts: Mapping[str, Convert | None]) -> Convert | None:
    needed = {name: convert for name, convert in converts.items() if convert is not None}
    if not needed:
        return None

    def convert(record: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if record is None:
            return None
        return {**record, **{name: one(record[name]) for name, one in needed.items()}}

    return convert


# --- whole numbers beyond 64 bits -----------------------------------------------------------------


def _becomes_text(file: Any, old: str, new: str, table: Table) -> bool:
    """Return whether a column has a whole number that a signed one of 64 bits does not hold."""
    if new in OWN or not _may_be_long(file.schema_arrow.field(old).type):
        return False
    row = 0
    for batch in file.iter_batches(batch_size=BLOCK, columns=[old]):
        for value in batch.column(0).to_pylist():
            row += 1
            if value is not None and not -LARGEST <= value <= LARGEST:
                table.warn_long(new, row, str(value))
                return True
    return False


def _may_be_long(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _may_be_long(kind.value_type)
    return bool(types.is_uint64(kind) or (types.is_decimal(kind) and kind.scale <= 0))


def _text(value: Any) -> str | None:
    return None if value is None else format(value, "f" if hasattr(value, "as_tuple") else "")
