"""Tables of simulations: CSV, Parquet and JSON Lines, streamed and judged row by row.

A table has a column ``id``, columns with reserved names (resources, ``time_limit``, ``priority``),
and any number of parameters; a parameter ``seed`` is the seed of its simulation. CSV and Parquet
are read in blocks and judged column by column, which is what makes a million rows cheap; JSON Lines
and lists in the ensemble file are read record by record, and each record may have keys of its own.
An error names file, row and column. Rows of text files are counted as an editor counts lines, so a
CSV header is line 1.

Cells of a CSV table are typed as JSON would: ``12`` and ``-1.5e3`` are numbers, ``true`` and
``false`` truth values, everything else, ``007`` and dates included, is the text as it is written.
Ids are always text. Empty cells, NaN and infinities are refused. Standard library only, but for
Parquet, which needs pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.ensemble.blocks import (
    ID,
    SEED,
    Block,
    Remarks,
    Rules,
    Table,
)
from airflow_ensemble.engine.ensemble.csv_table import csv_blocks
from airflow_ensemble.engine.ensemble.parquet_table import parquet_blocks
from airflow_ensemble.engine.ensemble.record_table import json_blocks, record_blocks
from airflow_ensemble.engine.ensemble.schema import (
    RESERVED,
    Place,
    read_resources,
    read_seconds,
    refuse,
)
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.parameters import SEED as IS_SEED
from airflow_ensemble.engine.parameters import WRITTEN
from airflow_ensemble.engine.simulation import Resources, Simulation, check_id

#: The largest seed that a row may give.
MAX_SEED = 2**32 - 1


def read_table(
    path: Path,
    *,
    needed: Collection[str] = (),
    resources: Resources | None = None,
    rules: Rules | None = None,
    remarks: Remarks | None = None,
) -> Iterator[Simulation]:
    """Yield the simulations of a table, in order.

    :param path: of a ``.csv``, ``.parquet`` (``.pq``) or ``.jsonl`` (``.ndjson``) file.
    :param needed: columns that must be there, such as those that a command's arguments use.
    :param resources: what a simulation needs whose row says nothing else.
    :param rules: what the ensemble file says of the columns.
    :param remarks: takes what is worth saying of the table.
    :raises UsageError: naming file, row and column, when the stream reaches what is wrong.
    """
    read_blocks = _FORMATS.get(path.suffix.lower())
    if read_blocks is None:
        raise UsageError(f"table {path}: its name must end in one of {', '.join(_FORMATS)}")
    row_word = "row" if read_blocks is parquet_blocks else "line"
    table = Table(
        *(str(path), row_word, needed, resources or Resources()),
        *(rules or Rules(), remarks or Remarks()),
    )
    return _simulations(lambda: _readable_blocks(read_blocks, path, table), table)


def read_records(
    records: Sequence[Mapping[str, Any]],
    place: Place,
    *,
    needed: Collection[str] = (),
    resources: Resources | None = None,
    rules: Rules | None = None,
    remarks: Remarks | None = None,
) -> Iterator[Simulation]:
    """Yield the simulations that an ensemble file lists itself.

    :param records: one mapping for each simulation.
    :param place: of the list.
    :param needed: see :func:`read_table`.
    :param resources: see :func:`read_table`.
    :param rules: see :func:`read_table`.
    :param remarks: see :func:`read_table`.
    :raises UsageError: naming item and key.
    """
    table = Table(
        *(str(place), "item", needed, resources or Resources()),
        *(rules or Rules(), remarks or Remarks()),
    )
    return _simulations(lambda: record_blocks(lambda: enumerate(records, 1), table), table)


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
    _keep_written(values)
    if SEED in values:
        _check_seed(values[SEED], table.place(row, SEED))
        values[IS_SEED] = True
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


def _keep_written(values: dict[str, Any]) -> None:
    """Leave out how the seed was written, which is a number, and columns that are no parameters."""
    written = values.pop(WRITTEN, {})
    kept = {name: text for name, text in written.items() if name in values and name != SEED}
    if kept:
        values[WRITTEN] = kept


def _check_seed(seed: Any, place: Place) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        refuse(place, f"a seed, a whole number from 0 to {MAX_SEED}", seed)


def _readable_blocks(
    read_blocks: Callable[[Path, Table], Iterator[Block]], path: Path, table: Table
) -> Iterator[Block]:
    with _readable(path):
        if path.is_fifo() or path.is_char_device():  # one is read only once, the other has no end
            raise UsageError(f"table {path} is a pipe or a device: save the table as a file")
        yield from read_blocks(path, table)


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
    ".csv": csv_blocks,
    ".parquet": parquet_blocks,
    ".pq": parquet_blocks,
    ".jsonl": json_blocks,
    ".ndjson": json_blocks,
}
