"""Forgetting from the command line: counted and shown first, and never what somebody runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.text import format_count
from airflow_ensemble.engine.errors import UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.index.interface import Entry

#: Ids that are named.
NAMED = 10


@dataclass
class Leavers:
    """Simulations that the table does not have.

    :param going: those that nobody runs, by status.
    :param owned: how many are dispatched or running, and stay.
    :param ids: the first of those that go.
    """

    going: Counter[str] = field(default_factory=Counter)
    owned: int = 0
    ids: list[str] = field(default_factory=list)

    @property
    def number(self) -> int:
        """Return how many go."""
        return sum(self.going.values())


def forget_others(
    control: Control, console: Console, *, ids: Sequence[str] = (), command: str | None = None
) -> None:
    """Remove from the index what the table does not have, or say what would be removed.

    :param control: the opened ensemble.
    :param console: where to say it.
    :param ids: only these; all when empty.
    :param command: what would remove them; None removes them.
    :raises UsageError: when the table has one of the ids.
    """
    from airflow_ensemble.engine.forgetting import forget

    find = _finder(control, ids)
    leavers = count(find())
    if not leavers.number and not leavers.owned:
        console.note("nothing to forget: the index knows no simulation that the table has not")
        return
    if command is not None:
        console.say(render(leavers, f"nothing was changed: `{command}` forgets"))
        return
    removed = forget(control, find()) if leavers.number else 0
    console.say(
        f"forgot {format_count(removed, 'simulation')}; `ensemble gc` removes what files they left"
    )
    for line in _owned_lines(leavers):
        console.note(line)


def _finder(control: Control, ids: Sequence[str]) -> Callable[[], Iterator[Entry]]:
    """Read the table, and return what finds the simulations that it does not have."""
    from airflow_ensemble.engine.standing import others, take_standing

    standing = take_standing(control.index, control.key, control.ensemble.read_simulations())
    if not ids:
        return lambda: others(control, standing)
    from airflow_ensemble.engine.index.interface import Scope

    scope = Scope(ids=ids)
    kept = [
        entry.id
        for entry in control.index.entries(control.key, scope)
        if entry.position in standing.rows or entry.position >= standing.extent
    ]
    if kept:
        raise UsageError(
            f"the table still has {', '.join(map(repr, kept))}: take out of the table what is to "
            "be forgotten, or `ensemble run --no-skip` to run all of it again; nothing was changed"
        )
    return lambda: control.index.entries(control.key, scope)


def count(entries: Iterator[Entry]) -> Leavers:
    """Count simulations by status; those that somebody owns apart."""
    from airflow_ensemble.engine.simulation import OWNED

    leavers = Leavers()
    for entry in entries:
        if entry.status in OWNED:
            leavers.owned += 1
            continue
        leavers.going[entry.status.value] += 1
        if len(leavers.ids) < NAMED:
            leavers.ids.append(entry.id)
    return leavers


def render(leavers: Leavers, last: str) -> str:
    """Return what would be forgotten, as text.

    :param last: the last line.
    """
    statuses = ", ".join(f"{number:,} {status}" for status, number in sorted(leavers.going.items()))
    lines = [
        f"would forget {format_count(leavers.number, 'simulation')} that the table does not have"
        + (f": {statuses}" if statuses else ""),
        *(f"  {id}" for id in leavers.ids),
    ]
    if leavers.number > len(leavers.ids):
        lines.append(f"  … and {leavers.number - len(leavers.ids):,} more")
    return "\n".join([*lines, *_owned_lines(leavers), last])


def _owned_lines(leavers: Leavers) -> list[str]:
    if not leavers.owned:
        return []
    return [
        f"{leavers.owned:,} more {'is' if leavers.owned == 1 else 'are'} dispatched or running, "
        "and stays until then: wait, or `ensemble cancel`, and forget again"
    ]
