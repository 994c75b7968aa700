"""Tables of simulations: CSV, Parquet and JSON Lines, streamed and judged row by row.

A table has a column ``id``, columns with reserved names (resources, ``time_limit``, ``priority``),
and any number of parameters. CSV and Parquet are read in blocks and judged column by column, which
is what makes a million rows cheap; JSON Lines and lists in the ensemble file are read record by
record, and each record may have keys of its own. An error names file, row and column. Rows of text
files are counted as an editor counts lines, so a CSV header is line 1.

Cells of a CSV table are typed as JSON would: ``12`` and ``-1.5e3`` are numbers, ``true`` and
``false`` truth values, everything else, ``007`` and dates included, is the text as it is written.
Ids are always text. Empty cells, NaN and infinities are refused. Standard library only, but for
Parquet, which needs pyarrow.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from airflow_ensemble.engine.ensemble.schema import (
    RESOURCES,
    Place,
    read_json,
    read_mapping,
    read_resources,
    read_seconds,
    refuse,
    refuse_marked,
)
from airflow_ensemble.engine.ensemble.written import (
    LongNumber,
    WrittenFloat,
    WrittenInt,
    WrittenTruth,
    as_record,
    plain,
    read_number,
)
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.parameters import WRITTEN
from airflow_ensemble.engine.simulation import Resources, Simulation, check_id

ID = "id"
RESERVED = ("time_limit", "priority", *RESOURCES)
#: Column names that mean nothing yet, but will.
FUTURE = ("depends_on",)
#: Rows that are judged together.
BLOCK = 2000

_NOT_FINITE = re.compile(r"[-+]?(?:nan|inf|infinity)", re.IGNORECASE)
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
# A whole column of numbers that print as they are written, joined by newlines: 15 digits at most,
# which a float holds, and no zero at the end.
_WHOLE = r"(?:0|-?[1-9][0-9]{0,17})"
_DECIMAL = r"-?(?:0\.0|0\.(?!0000)[0-9]{0,14}[1-9]|[1-9][0-9]{0,6}\.(?:0|[0-9]{0,7}[1-9]))"
_WHOLES = re.compile(f"{_WHOLE}(?:\n{_WHOLE})*")
_DECIMALS = re.compile(f"{_DECIMAL}(?:\n{_DECIMAL})*")
# The same for numbers that may print otherwise; none of them can overflow or vanish.
_ANY_DECIMAL = r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,40}(?:[eE][-+]?[0-9]{1,2})?"
_ANY_DECIMALS = re.compile(f"{_ANY_DECIMAL}(?:\n{_ANY_DECIMAL})*")
_WRITTEN = frozenset({WrittenInt, WrittenFloat, WrittenTruth})
_EMPTY = "the cell is empty: give every simulation a value, or leave the row out"


class Block(NamedTuple):
    """Some rows of a table.

    :param rows: the number of each row, as errors name it.
    :param ids: the id of each row.
    :param values: the other columns of each row by name.
    :param is_plain: whether all of these are parameters.
    """

    rows: Sequence[int]
    ids: Sequence[str]
    values: Iterable[dict[str, Any]]
    is_plain: bool


class Column(NamedTuple):
    """Some cells of a column.

    :param values: as JSON knows them.
    :param written: how each was written that prints otherwise; nothing where all print as written.
    """

    values: Sequence[Any]
    written: Sequence[str | None] = ()


@dataclass(frozen=True)
class Table:
    """What is known of a table before it is read.

    :param file: how errors name it.
    :param row_word: what a row is called.
    :param needed: parameters that every simulation must bring.
    :param resources: what a simulation needs whose row says nothing else.
    """

    file: str
    row_word: str
    needed: Collection[str] = ()
    resources: Resources = field(default_factory=Resources)

    def place(self, row: int, column: str | None = None) -> Place:
        """Return the place of a row or of one of its cells."""
        place = RowPlace(self.file, f"{self.row_word} {row}")
        return place.below(column) if column else place


class RowPlace(Place):
    """A row of a table; what lies below it are its columns."""

    def below(self, key: str) -> Place:
        """Return the place of a cell of this row."""
        return Place(self.file, f"{self.key}, column {key!r}")


def read_table(
    path: Path, *, needed: Collection[str] = (), resources: Resources | None = None
) -> Iterator[Simulation]:
    """Yield the simulations of a table, in order.

    :param path: of a ``.csv``, ``.parquet`` (``.pq``) or ``.jsonl`` (``.ndjson``) file.
    :param needed: columns that must be there, such as those that a command's arguments use.
    :param resources: what a simulation needs whose row says nothing else.
    :raises UsageError: naming file, row and column, when the stream reaches what is wrong.
    """
    read_blocks = _FORMATS.get(path.suffix.lower())
    if read_blocks is None:
        raise UsageError(f"table {path}: its name must end in one of {', '.join(_FORMATS)}")
    row_word = "row" if read_blocks is _parquet_blocks else "line"
    table = Table(str(path), row_word, needed, resources or Resources())
    return _simulations(lambda: read_blocks(path, table), table)


def read_records(
    records: Sequence[Mapping[str, Any]],
    place: Place,
    *,
    needed: Collection[str] = (),
    resources: Resources | None = None,
) -> Iterator[Simulation]:
    """Yield the simulations that an ensemble file lists itself.

    :param records: one mapping for each simulation.
    :param place: of the list.
    :param needed: see :func:`read_table`.
    :param resources: see :func:`read_table`.
    :raises UsageError: naming item and key.
    """
    table = Table(str(place), "item", needed, resources or Resources())
    return _simulations(lambda: _record_blocks(enumerate(records, 1), table), table)


def type_cell(cell: str) -> Any:
    """Return the value of a CSV cell: a number, a truth value or the text itself.

    :raises ValueError: when it is empty or not a finite number.
    """
    text = cell.strip()
    number = read_number(text)
    if number is not None:
        return cell if isinstance(number, LongNumber) else _finite(number, text)
    if not text:
        raise ValueError(_EMPTY)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if text not in _TRUTH:
        return cell
    return _TRUTH[text] if text.islower() else WrittenTruth(_TRUTH[text], text)


def _finite(number: float, text: str) -> float:
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    if isinstance(number, WrittenFloat) and number.vanishes:
        raise ValueError(f"{text} is too small to be told from zero")
    return number


# --- blocks to simulations ------------------------------------------------------------------------


def _simulations(read_blocks: Callable[[], Iterator[Block]], table: Table) -> Iterator[Simulation]:
    """Yield the simulations of all blocks; ids are unique, and there is at least one.

    :param read_blocks: begins to read the table anew each time.
    """
    seen: set[str] = set()
    for block in read_blocks():
        _check_ids(block, table)
        expected = len(seen) + len(block.ids)
        seen.update(block.ids)
        if len(seen) != expected:
            raise UsageError(_find_repeated(read_blocks(), table))
        if block.is_plain and table.resources == Resources():
            yield from map(Simulation, block.ids, block.values)
            continue
        for id, row, values in zip(block.ids, block.rows, block.values):
            yield _simulation(id, values, table, row)
    if not seen:
        raise UsageError(f"{table.file} has no simulations")


def _check_ids(block: Block, table: Table) -> None:
    for id, row in zip(block.ids, block.rows):
        try:
            check_id(id)
        except UsageError as error:
            raise UsageError(f"{table.place(row, ID)}: {error}") from error


def _find_repeated(blocks: Iterator[Block], table: Table) -> str:
    """Say which id stands twice, and where; rows are kept only here, where one is known to."""
    first: dict[str, int] = {}
    for block in blocks:
        for id, row in zip(block.ids, block.rows):
            if first.setdefault(id, row) != row:
                word = table.row_word
                return f"{table.file}: the id {id!r} stands in {word} {first[id]} and {word} {row}"
    return f"{table.file} changed while it was read"


def _simulation(id: str, values: dict[str, Any], table: Table, row: int) -> Simulation:
    """Make a simulation of one row: reserved columns are taken out, the rest are parameters."""
    given = {name: values.pop(name) for name in RESERVED if name in values}
    limit = given.pop("time_limit", None)
    priority = given.pop("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        refuse(table.place(row, "priority"), "a whole number", priority)
    return Simulation(
        id,
        values,
        read_resources(given, table.place(row), table.resources),
        None if limit is None else read_seconds(limit, table.place(row, "time_limit")),
        priority=priority,
    )


def _column_values(columns: Mapping[str, Column], count: int) -> Iterable[dict[str, Any]]:
    if not columns:
        return [{} for _ in range(count)]
    names = tuple(columns)
    rows = (dict(zip(names, row)) for row in zip(*(column.values for column in columns.values())))
    written = {name: column.written for name, column in columns.items() if column.written}
    return _add_written(rows, written) if written else rows


def _add_written(
    rows: Iterable[dict[str, Any]], written: Mapping[str, Sequence[str | None]]
) -> Iterator[dict[str, Any]]:
    for row, texts in zip(rows, zip(*written.values())):
        if any(texts):
            row[WRITTEN] = {name: text for name, text in zip(written, texts) if text is not None}
        yield row


def _check_header(names: list[str], table: Table) -> list[str]:
    """Refuse a header with blank or repeated names, or without what is needed."""
    for position, name in enumerate(names, 1):
        if not name:
            raise UsageError(f"{table.file}: column {position} has no name")
        if names.count(name) > 1:
            raise UsageError(f"{table.file}: two columns have the name {name!r}")
    _check_columns(names, table, f"{table.file}: ")
    return names


def _check_columns(names: Collection[str], table: Table, where: str) -> None:
    found = ", ".join(repr(name) for name in names)
    for name in (ID, *sorted(table.needed)):
        if name not in names:
            use = "every simulation needs one" if name == ID else "the command uses it"
            is_other = len(names) == 1 and any(mark in found for mark in (";", "\\t", "|"))
            advice = ". Separate the columns with commas" if is_other else ""
            raise UsageError(f"{where}there is no column {name!r}, {use}; found: {found}{advice}")
    for name in FUTURE:
        if name in names:
            raise UsageError(f"{where}the name {name!r} is kept for a later version: rename it")
    for name in names:
        refuse_marked(name, where.removesuffix(": "))


# --- CSV ------------------------------------------------------------------------------------------


def _csv_blocks(path: Path, table: Table) -> Iterator[Block]:
    with _readable(path), path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, skipinitialspace=True, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise UsageError(f"{path} is empty: a table begins with a line of column names")
            names = _check_header([name.strip() for name in header], table)
            while rows := _read_rows(reader, len(names), table):
                yield _csv_block(names, rows, table)
        except csv.Error as error:
            raise UsageError(f"{path}: line {reader.line_num}: {error}") from error


def _read_rows(reader: Any, width: int, table: Table) -> dict[int, list[str]]:
    """Return the next rows by the line that each begins in; blank lines are passed over."""
    rows: dict[int, list[str]] = {}
    line = reader.line_num
    while not rows:
        before = line
        for row in islice(reader, BLOCK):
            if len(row) == width:
                rows[line + 1] = row
            elif row:
                place = table.place(line + 1)
                raise UsageError(f"{place} has {len(row)} cells, the header has {width} columns")
            line = reader.line_num
        if line == before:
            break
    return rows


def _csv_block(names: Sequence[str], rows: Mapping[int, list[str]], table: Table) -> Block:
    lines = list(rows)
    cells = dict(zip(names, zip(*rows.values())))
    ids = cells.pop(ID)
    columns = {name: _type_column(name, column, lines, table) for name, column in cells.items()}
    values = _column_values(columns, len(ids))
    return Block(lines, ids, values, is_plain=cells.keys().isdisjoint(RESERVED))


def _type_column(name: str, cells: Sequence[str], lines: Sequence[int], table: Table) -> Column:
    """Return the values of a column's cells; columns of plain numbers are typed at once."""
    text = "\n".join(cells)
    try:
        if _WHOLES.fullmatch(text):
            return Column(list(map(int, cells)))
        if _DECIMALS.fullmatch(text):
            return Column(list(map(float, cells)))
        if _ANY_DECIMALS.fullmatch(text):
            return _compare(list(map(float, cells)), cells)
    except ValueError:  # a quoted cell with a line break looked like two numbers
        pass
    return _split([_type_at(cell, line, name, table) for cell, line in zip(cells, lines)])


def _compare(values: Sequence[float], cells: Sequence[str]) -> Column:
    printed = list(map(repr, values))
    if printed == list(cells):
        return Column(values)
    return Column(values, [None if a == b else b for a, b in zip(printed, cells)])


def _split(values: Sequence[Any]) -> Column:
    """Part values from how they were written."""
    if _WRITTEN.isdisjoint(map(type, values)):
        return Column(values)
    written = [value.text if type(value) in _WRITTEN else None for value in values]
    return Column(list(map(plain, values)), written)


def _type_at(cell: str, line: int, name: str, table: Table) -> Any:
    try:
        return type_cell(cell)
    except ValueError as error:
        raise UsageError(f"{table.place(line, name)}: {error}") from error


# --- Parquet --------------------------------------------------------------------------------------


def _parquet_blocks(path: Path, table: Table) -> Iterator[Block]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UsageError(f"table {path} needs the Python package 'pyarrow'") from error
    with _readable(path):
        try:
            with path.open("rb") as stream, ParquetFile(stream) as file:
                names = _check_header(list(file.schema_arrow.names), table)
                first = 1
                for batch in file.iter_batches(batch_size=BLOCK):
                    columns = [column.to_pylist() for column in batch.columns]
                    rows = range(first, first + batch.num_rows)
                    first += batch.num_rows
                    yield _parquet_block(names, columns, rows, table)
        except (ArrowException, OverflowError) as error:
            raise UsageError(f"{path} is not a readable Parquet table: {error}") from error


def _parquet_block(
    names: Sequence[str], columns: Sequence[list[Any]], rows: Sequence[int], table: Table
) -> Block:
    cells = dict(zip(names, columns))
    ids = [_id_text(id, table.place(row, ID)) for id, row in zip(cells.pop(ID), rows)]
    judged = {
        name: Column(_judge_column(name, column, rows, table)) for name, column in cells.items()
    }
    values = _column_values(judged, len(ids))
    return Block(rows, ids, values, is_plain=cells.keys().isdisjoint(RESERVED))


def _judge_column(name: str, values: list[Any], rows: Sequence[int], table: Table) -> list[Any]:
    kinds = set(map(type, values))
    if kinds <= {int, str, bool} or (kinds == {float} and all(map(math.isfinite, values))):
        return values
    return [_judge(value, table, row, name) for value, row in zip(values, rows)]


def _judge(value: Any, table: Table, row: int, name: str) -> Any:
    """Return a value as JSON would hold it; moments in time become ISO 8601 texts."""
    place = table.place(row, name)
    if value is None:
        raise UsageError(f"{place}: {_EMPTY}")
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return read_json(value, place)


# --- JSON Lines and lists -------------------------------------------------------------------------


def _json_blocks(path: Path, table: Table) -> Iterator[Block]:
    with _readable(path), path.open(encoding="utf-8-sig") as stream:
        yield from _record_blocks(_json_records(stream, table), table)


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


def _record_blocks(
    records: Iterable[tuple[int, Mapping[str, Any]]], table: Table
) -> Iterator[Block]:
    rest = iter(records)
    while some := list(islice(rest, BLOCK)):
        ids, values = [], []
        for row, record in some:
            _check_columns(list(record), table, f"{table.place(row)}: ")
            ids.append(_id_text(record[ID], table.place(row, ID)))
            others = {name: value for name, value in record.items() if name != ID}
            judged = {name: _judge(value, table, row, name) for name, value in others.items()}
            values.append(as_record(others, judged))
        yield Block([row for row, _ in some], ids, values, is_plain=False)


# --- what the formats share -----------------------------------------------------------------------


def _id_text(value: Any, place: Place) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        refuse(place, "a text or a whole number", value)
    return str(value)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which table cannot be read, and why."""
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"there is no table {path}: name another under 'simulations'") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: line {_undecodable_line(path)} is not UTF-8 text: save the table as UTF-8"
        ) from error
    except OSError as error:
        raise UsageError(f"table {path} cannot be read: {error.strerror or error}") from error


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as stream:
        return next((n for n, line in enumerate(stream, 1) if not _is_utf8(line)), 0)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


_FORMATS: dict[str, Callable[[Path, Table], Iterator[Block]]] = {
    ".csv": _csv_blocks,
    ".parquet": _parquet_blocks,
    ".pq": _parquet_blocks,
    ".jsonl": _json_blocks,
    ".ndjson": _json_blocks,
}
