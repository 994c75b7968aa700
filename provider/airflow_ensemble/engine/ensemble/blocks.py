"""What the formats of tables share: blocks of rows, and what is known and noted of a table."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from airflow_ensemble.engine.ensemble.schema import (
    RESERVED,
    Place,
    read_json,
    refuse,
    refuse_marked,
)
from airflow_ensemble.engine.ensemble.written import written_argument
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.parameters import WRITTEN
from airflow_ensemble.engine.simulation import Resources

ID = "id"
SEED = "seed"
#: Columns with a meaning of their own, each with values of one kind.
OWN = frozenset({ID, SEED, *RESERVED})
#: Column names that mean nothing yet, but will.
FUTURE = ("depends_on",)
#: Rows that are judged together.
BLOCK = 2000
EMPTY = "the cell is empty: give every simulation a value, or leave the row out"

_KINDS = {int: "number", float: "number", str: "text", bool: "truth value"}


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
class Rules:
    """What an ensemble file says of the columns of its table.

    :param columns: names of columns by what they are to be called.
    :param texts: columns whose cells are texts, by what they are called.
    :param common: parameters that all simulations share.
    :param filled: names that the command uses and the run itself fills.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    texts: Collection[str] = ()
    common: Collection[str] = ()
    filled: Collection[str] = ()


@dataclass
class Remarks:
    """What is worth saying of a table, gathered while it is read.

    :param columns: what each column became, by its name.
    :param left_out: columns that are not read.
    :param warnings: what is not likely to be meant.
    """

    columns: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table that is being read.

    :param file: how errors name it.
    :param row_word: what a row is called.
    :param needed: parameters that every simulation must bring.
    :param resources: what a simulation needs whose row says nothing else.
    :param rules: what the ensemble file says of its columns.
    :param remarks: what is noted of it.
    """

    file: str
    row_word: str
    needed: Collection[str] = ()
    resources: Resources = field(default_factory=Resources)
    rules: Rules = field(default_factory=Rules)
    remarks: Remarks = field(default_factory=Remarks)
    _kinds: dict[str, dict[str, str]] = field(default_factory=dict)

    def place(self, row: int, column: str | None = None) -> Place:
        """Return the place of a row or of one of its cells."""
        place = RowPlace(self.file, f"{self.row_word} {row}")
        return place.below(column) if column else place

    def warn(self, text: str) -> None:
        """Note what is not likely to be meant, once."""
        if text not in self.remarks.warnings:
            self.remarks.warnings.append(text)

    def warn_long(self, name: str, row: int, number: str) -> None:
        """Warn of a whole number beyond 64 bits."""
        self.warn(
            f"{self.file}: {self.row_word} {row}, column {name!r}: {number[:40]} is a whole number "
            "beyond 2^63 - 1, so that this column holds texts and no numbers"
        )

    def note_kinds(
        self, name: str, values: Sequence[Any], rows: Sequence[int], cells: Sequence[Any]
    ) -> None:
        """Warn when a column holds values of two kinds, naming the first of each as written."""
        known = self._kinds.setdefault(name, {})
        new = {_KINDS[kind] for kind in set(map(type, values)) if kind in _KINDS} - known.keys()
        if not new:
            return
        for row, value, cell in zip(rows, values, cells):
            kind = _KINDS.get(type(value))
            if kind in new:
                shown = shorten(value) if kind == "text" else str(cell).strip()
                known[kind] = f"the first {kind}, {shown}, is in {self.row_word} {row}"
                new.remove(kind)
        if len(known) > 1:
            kinds = " and ".join(f"{kind}s" for kind in known)
            self.warn(
                f"{self.file}: the column {name!r} holds {kinds}: {'; '.join(known.values())}. "
                f"Where all are texts, {self._say_text(name)}"
            )

    def _say_text(self, name: str) -> str:
        if self.file.lower().endswith(".csv"):
            return f"say so in the ensemble file: types: {{{name}: text}}"
        return "put all of them in quotes"


class RowPlace(Place):
    """A row of a table; what lies below it are its columns."""

    def below(self, key: str) -> Place:
        """Return the place of a cell of this row."""
        return Place(self.file, f"{self.key}, column {key!r}")


# --- names ----------------------------------------------------------------------------------------


def judge_header(found: Sequence[str], table: Table) -> list[str]:
    """Return the names of a table's columns, as the ensemble file wants them called.

    :raises UsageError: on blank or repeated names, or without what is needed.
    """
    for position, name in enumerate(found, 1):
        if not name:
            raise UsageError(f"{table.file}: column {position} has no name")
        if found.count(name) > 1:
            raise UsageError(f"{table.file}: two columns have the name {name!r}")
    refuse_unknown_columns(found, table)
    names = judge_names(found, table, f"{table.file}: ")
    for name in table.rules.texts:
        if name not in names:
            new = next((new for new, old in table.rules.columns.items() if old == name), None)
            what = f"columns calls {name!r} {new!r}" if new else f"there is no column {name!r}"
            raise UsageError(f"{table.file}: types: {what}; {_list(names)}")
        if name in RESERVED:
            raise UsageError(f"{table.file}: types: the column {name!r} is no parameter")
    return names


def refuse_types(table: Table) -> None:
    """Refuse types for the cells of a table that has types of its own.

    :raises UsageError: naming the first column.
    """
    for name in table.rules.texts:
        raise UsageError(
            f"{table.file}: types.{name}: only the cells of a CSV table have no type of their own; "
            "here, a text is written as one"
        )


def refuse_unknown_columns(found: Collection[str], table: Table) -> None:
    """Refuse to rename what is not there.

    :raises UsageError: naming it.
    """
    for new, old in table.rules.columns.items():
        if old not in found:
            raise UsageError(
                f"{table.file}: columns.{new}: there is no column {old!r}; {_list(found)}"
            )


def judge_names(found: Sequence[str], table: Table, where: str) -> list[str]:
    """Return what columns are to be called, and note what each of them is.

    :param where: begins the sentence of an error.
    :raises UsageError: when a name has two owners, is missing, or is kept.
    """
    names = _rename(found, table, where)
    _refuse_missing(names, table, where)
    for name in names:
        refuse_marked(name, where.removesuffix(": "))
        if name in FUTURE:
            raise UsageError(
                f"{where}the name {name!r} is kept for a later version: rename it, such as "
                f"columns: {{my_{name}: {name}}} in the ensemble file"
            )
        _refuse_two_owners(name, table, where)
    for old, name in zip(found, names):
        table.remarks.columns[name] = "" if old == name else old
    return names


def _rename(found: Sequence[str], table: Table, where: str) -> list[str]:
    new_names = {old: new for new, old in table.rules.columns.items()}
    names = [new_names.get(name, name) for name in found]
    for name in table.rules.columns:
        if names.count(name) > 1:
            raise UsageError(f"{where}columns.{name}: another column has the name {name!r} already")
    return names


def _refuse_missing(names: Sequence[str], table: Table, where: str) -> None:
    for name in (ID, *sorted(table.needed)):
        if name not in names:
            use = "every simulation needs one" if name == ID else "the command uses it"
            listed = _list(names)
            is_other = len(names) == 1 and any(mark in listed for mark in (";", "\\t", "|"))
            advice = ". Separate the columns with commas" if is_other else ""
            raise UsageError(f"{where}there is no column {name!r}, {use}; {listed}{advice}")


def _refuse_two_owners(name: str, table: Table, where: str) -> None:
    way_out = f"rename the column, such as columns: {{my_{name}: {name}}} in the ensemble file"
    if name != ID and name in table.rules.filled:
        raise UsageError(
            f"{where}{{{name}}} in the command is filled by the run itself, and there is a column "
            f"{name!r}, too: {way_out}"
        )
    if name in RESERVED and name in table.rules.common:
        raise UsageError(
            f"{where}{name!r} is one of the ensemble's parameters, and the column of that name is "
            f"not a parameter: {way_out}"
        )


def _list(names: Collection[str]) -> str:
    return f"found: {', '.join(map(repr, names))}"


# --- values ---------------------------------------------------------------------------------------


def is_plain(names: Iterable[str]) -> bool:
    """Return whether columns are parameters and nothing more."""
    return not any(name == SEED or name in RESERVED for name in names)


def column_values(columns: Mapping[str, Column], count: int) -> Iterable[dict[str, Any]]:
    """Return the record of each row.

    :param columns: by name.
    :param count: of rows.
    """
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


def judge_column(name: str, values: Sequence[Any], rows: Sequence[int], table: Table) -> Column:
    """Return values that have a type of their own as JSON knows them, and as they were written."""
    kinds = set(map(type, values))
    if kinds <= {int, str, bool} or (kinds == {float} and all(map(math.isfinite, values))):
        return Column(values)
    judged = [judge(value, table, row, name) for value, row in zip(values, rows)]
    written = [written_argument(value) for value in values]
    return Column(judged, written if any(written) else ())


def judge(value: Any, table: Table, row: int, name: str) -> Any:
    """Return a value as JSON would hold it; moments and durations become ISO 8601 texts."""
    if value is None:
        raise UsageError(f"{table.place(row, name)}: {EMPTY}")
    if isinstance(value, timedelta):
        return _duration(value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return read_json(value, table.place(row, name))


def _duration(value: timedelta) -> str:
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f"{value.microseconds:06}{getattr(value, 'nanoseconds', 0):03}".rstrip("0")
    point = "." if fraction else ""
    return f"P{value.days}DT{hours}H{minutes}M{seconds}{point}{fraction}S"


def id_text(value: Any, place: Place) -> str:
    """Return an id that has a type of its own."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        refuse(place, "a text or a whole number", value)
    return str(value)


def shorten(value: Any) -> str:
    """Return a value for a sentence."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
