"""The table of simulations, as it is now, against what the index knows.

An index keeps every simulation that was ever registered; a table changes. Whoever asks how far an
ensemble is, or what came of it, means the simulations of the table, in its order and with its
parameters. A table is read as a stream and looked up block by block: nothing is written, also not
into a temporary table, so that this works for those who may only read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.index import rows
from airflow_ensemble.engine.index.interface import (
    Counts,
    EnsembleKey,
    Entry,
    OutputIndex,
    Result,
    Scope,
)
from airflow_ensemble.engine.simulation import Simulation, Status, digest

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Rows of the table that are looked up in the index at once.
BLOCK = 2000
#: Ids that are kept of the changed ones, and of those that failed for one reason.
NAMED = 5


class Rows:
    """Which rows of the index the table has: one bit for each position."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, position: int) -> None:
        """Add a row."""
        byte, bit = divmod(position, 8)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits)))
        self._bits[byte] |= 1 << bit

    def __contains__(self, position: int) -> bool:
        byte, bit = divmod(position, 8)
        return byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)


@dataclass(frozen=True)
class Standing:
    """How the simulations of a table stand in the index.

    :param counts: those that are registered with the parameters that the table gives them.
    :param unregistered: rows of the table that the index does not know.
    :param changed: rows of the table that the index knows with other parameters.
    :param others: simulations that the index knows and the table does not have.
    :param changed_ids: the first of the changed ones, in the order of the table.
    :param failed_ids: the first of the failed ones of each reason, in the order of the table.
    :param extent: how far registrations had come when the table was read.
    :param rows: the rows of the index that the table has.
    """

    counts: Counts
    unregistered: int
    changed: int
    others: int
    changed_ids: tuple[str, ...]
    failed_ids: tuple[str, ...]
    extent: int
    rows: Rows = field(repr=False, compare=False)

    @property
    def absent(self) -> int:
        """Return how many rows of the table have not run as they are, and are not about to."""
        return self.unregistered + self.changed

    @property
    def total(self) -> int:
        """Return the number of rows of the table."""
        return self.counts.total + self.absent

    @property
    def is_whole(self) -> bool:
        """Whether table and index have the same simulations with the same parameters."""
        return not self.absent and not self.others


def take_standing(
    index: OutputIndex, key: EnsembleKey, simulations: Iterable[Simulation]
) -> Standing:
    """Compare a table with the index.

    :param index: the open index.
    :param key: the ensemble in it.
    :param simulations: the table, read once; no id stands in it twice.
    """
    tally = _Tally(index.extent(key))
    for simulation, entry in look_up(index, key, simulations):
        tally.add(simulation, entry)
    return tally.standing(index.counts(key).total)


def look_up(
    index: OutputIndex, key: EnsembleKey, simulations: Iterable[Simulation]
) -> Iterator[tuple[Simulation, Entry | None]]:
    """Yield each row of a table with what the index knows of its id, in the order of the table."""
    for block in blocks(simulations, BLOCK):
        scope = Scope(ids=[simulation.id for simulation in block])
        known = {entry.id: entry for entry in index.entries(key, scope)}
        for simulation in block:
            yield simulation, known.get(simulation.id)


def table_results(control: Control) -> Iterator[Result]:
    """Yield the results of the ensemble's table as it is now: what ``ensemble collect`` collects.

    They come in the order of the table. A simulation whose newest complete result was made with
    other parameters than the table gives it has none.

    :param control: the opened ensemble.
    :raises UsageError: on anything wrong with the table.
    """
    passed_over: Counter[str] = Counter()
    for block in blocks(control.ensemble.read_simulations(), BLOCK):
        scope = Scope(ids=[simulation.id for simulation in block])
        known = {result.id: result for result in control.index.results(control.key, scope)}
        for simulation in block:
            result = known.get(simulation.id)
            if result is None:
                continue
            if digest(result.params) == simulation.digest:
                yield result
            else:
                passed_over[simulation.id] += 1
    if passed_over:
        log.warning(
            "left out, because the table has other parameters now (%d): %s",
            len(passed_over),
            ", ".join(islice(passed_over, NAMED)) + (", …" if len(passed_over) > NAMED else ""),
        )


def in_table_order(control: Control, results: Iterable[Result]) -> list[Result]:
    """Return results, such as those of a batch, in the order of the table as it is now.

    What the table does not have comes last, in the order in which it came.

    :param control: the opened ensemble.
    :param results: held in memory, and the table's ids as well.
    :raises UsageError: on anything wrong with the table.
    """
    numbers = {one.id: number for number, one in enumerate(control.ensemble.read_simulations())}
    return sorted(results, key=lambda result: numbers.get(result.id, len(numbers)))


def others(control: Control, standing: Standing) -> Iterator[Entry]:
    """Yield what the index knows and the table does not have, in the order of registration.

    What was registered after the table was read may be in a newer table: it is left out.

    :param control: the opened ensemble.
    :param standing: of its table.
    """
    for entry in control.index.entries(control.key):
        if entry.position >= standing.extent:
            return
        if entry.position not in standing.rows:
            yield entry


def blocks(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in lists of ``size``, the last one as long as it comes out."""
    source = iter(items)
    while block := list(islice(source, size)):
        yield block


class _Tally:
    """Adds up rows of a table as they are looked up."""

    def __init__(self, extent: int) -> None:
        self._extent = extent
        self._rows = Rows()
        self._met = self._unregistered = self._changed = 0
        self._changed_ids: list[str] = []
        self._failed_ids: dict[str, list[str]] = {}
        self._counted: Counter[tuple[object, ...]] = Counter()

    def add(self, simulation: Simulation, entry: Entry | None) -> None:
        if entry is None:
            self._unregistered += 1
            return
        self._met += 1
        self._rows.add(entry.position)
        if entry.digest != simulation.digest:
            self._changed += 1
            _keep(self._changed_ids, entry.id)
            return
        reason = entry.reason.value if entry.reason else None
        self._counted[entry.status.value, reason, entry.n_empty, entry.result_generation] += 1
        if entry.status is Status.FAILED:
            _keep(self._failed_ids.setdefault(reason or "", []), entry.id)

    def standing(self, known: int) -> Standing:
        """Return the sums.

        :param known: simulations in the index, whether or not the table has them.
        """
        return Standing(
            counts=rows.counts([(*what, number) for what, number in self._counted.items()]),
            unregistered=self._unregistered,
            changed=self._changed,
            others=max(0, known - self._met),
            changed_ids=tuple(self._changed_ids),
            failed_ids=tuple(id for ids in self._failed_ids.values() for id in ids),
            extent=self._extent,
            rows=self._rows,
        )


def _keep(ids: list[str], id: str) -> None:
    if len(ids) < NAMED:
        ids.append(id)
