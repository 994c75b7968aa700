"""Tables in CSV: read in blocks, and typed column by column."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from airflow_ensemble.engine.ensemble.blocks import (
    BLOCK,
    EMPTY,
    ID,
    OWN,
    Block,
    Column,
    Table,
    column_values,
    is_plain,
    judge_header,
)
from airflow_ensemble.engine.ensemble.written import (
    LongNumber,
    WrittenFloat,
    WrittenInt,
    WrittenTruth,
    plain,
    read_number,
)
from airflow_ensemble.engine.errors import UsageError

_NOT_FINITE = re.compile(r"[-+]?(?:nan|inf|infinity)", re.IGNORECASE)
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WRITTEN = frozenset({WrittenInt, WrittenFloat, WrittenTruth})
# A whole column of numbers that print as they are written, joined by newlines: 15 digits at most,
# which a float holds, and no zero at the end.
_WHOLE = r"(?:0|-?[1-9][0-9]{0,17})"
_DECIMAL = r"-?(?:0\.0|0\.(?!0000)[0-9]{0,14}[1-9]|[1-9][0-9]{0,6}\.(?:0|[0-9]{0,7}[1-9]))"
_WHOLES = re.compile(f"{_WHOLE}(?:\n{_WHOLE})*")
_DECIMALS = re.compile(f"{_DECIMAL}(?:\n{_DECIMAL})*")
# The same for numbers that may print otherwise; none of them can overflow or vanish.
_ANY_DECIMAL = r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,40}(?:[eE][-+]?[0-9]{1,2})?"
_ANY_DECIMALS = re.compile(f"{_ANY_DECIMAL}(?:\n{_ANY_DECIMAL})*")
#: Digits in a row without which no whole number is beyond 64 bits.
MANY_DIGITS = 19
_MANY = re.compile(rb"(?<![0-9.])[0-9]{%d}" % MANY_DIGITS)
# Where there are none at all, this is found in no time.
_ZEROS, _AS_ZEROS = b"0" * MANY_DIGITS, bytes.maketrans(b"123456789", b"000000000")


def csv_blocks(path: Path, table: Table) -> Iterator[Block]:
    """Yield the rows of a CSV table."""
    long = _long_columns(path) if has_many_digits(path) else {}
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = _reader(stream)
        try:
            header = next(reader, None)
            if header is None:
                raise UsageError(f"{path} is empty: a table begins with a line of column names")
            found = [name.strip() for name in header]
            names = judge_header(found, table)
            long_names = _note_long(dict(zip(found, names)), long, table)
            while rows := _read_rows(reader, len(names), table):
                yield _block(names, rows, table, long_names)
        except csv.Error as error:
            raise UsageError(f"{path}: line {reader.line_num}: {error}") from error


def type_cell(cell: str) -> Any:
    """Return the value of a cell: a number, a truth value or the text itself.

    :raises ValueError: when it is empty or not a finite number.
    """
    text = cell.strip()
    number = read_number(text)
    if number is not None:
        return cell if isinstance(number, LongNumber) else _finite(number, text)
    if not text:
        raise ValueError(EMPTY)
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


def _reader(stream: IO[str]) -> Any:
    return csv.reader(stream, skipinitialspace=True, strict=True)


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


def _block(
    names: Sequence[str], rows: Mapping[int, list[str]], table: Table, long: Collection[str]
) -> Block:
    lines = list(rows)
    cells = dict(zip(names, zip(*rows.values())))
    ids = cells.pop(ID)
    columns = {}
    for name, column in cells.items():
        if name in table.rules.texts:
            columns[name] = _text_column(name, column, lines, table)
            continue
        typed = _type_column(name, column, lines, table)
        columns[name] = Column(column) if name in long else typed
        table.note_kinds(name, columns[name].values, lines, column)
    return Block(lines, ids, column_values(columns, len(ids)), is_plain(cells))


def _text_column(name: str, cells: Sequence[str], lines: Sequence[int], table: Table) -> Column:
    """Return cells as they are written, which the ensemble file asks for."""
    for line, cell in zip(lines, cells):
        if not cell.strip():
            raise UsageError(f"{table.place(line, name)}: {EMPTY}")
    return Column(cells)


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


# --- whole numbers beyond 64 bits -----------------------------------------------------------------


def has_many_digits(path: Path) -> bool:
    """Return whether a file may hold a whole number that 64 bits do not hold."""
    rest = b""
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            block = rest + block
            if _ZEROS in block.translate(_AS_ZEROS) and _MANY.search(block):
                return True
            rest = block[-MANY_DIGITS:]
    return False


def _long_columns(path: Path) -> dict[str, tuple[int, str]]:
    """Return the columns that have such a number, each with the first, and its line."""
    found: dict[str, tuple[int, str]] = {}
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = _reader(stream)
        try:
            names = [name.strip() for name in next(reader, [])]
            line = reader.line_num + 1
            for row in reader:
                for name, cell in zip(names, row):
                    if len(cell) >= MANY_DIGITS and isinstance(
                        read_number(cell.strip()), LongNumber
                    ):
                        found.setdefault(name, (line, cell))
                line = reader.line_num + 1
        except csv.Error:
            pass  # said, with its line, where the table is read
    return found


def _note_long(
    names: Mapping[str, str], long: Mapping[str, tuple[int, str]], table: Table
) -> frozenset[str]:
    """Warn of columns that become texts for such a number; return what they are called."""
    texts = set()
    for found, (line, cell) in long.items():
        name = names.get(found, ID)
        if name in OWN or name in table.rules.texts:
            continue
        texts.add(name)
        table.warn_long(name, line, cell.strip())
    return frozenset(texts)
