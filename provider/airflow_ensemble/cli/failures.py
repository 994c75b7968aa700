"""Failed simulations grouped by reason, with a few to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_ensemble.cli.text import render_fields, render_table
from airflow_ensemble.engine.words import one_line

if TYPE_CHECKING:
    from airflow_ensemble.engine.index.interface import (
        Counts,
        EnsembleKey,
        OutputIndex,
        Scope,
        SimulationInfo,
    )

#: Failed simulations that are looked at to name a few of each reason.
LOOKED_AT = 1000
#: Ids that are named of each reason.
NAMED = 3


@dataclass(frozen=True)
class FailureGroup:
    """Failed simulations with the same reason.

    :param reason: why they failed.
    :param number: how many.
    :param ids: the first few.
    :param detail: what the first one said.
    """

    reason: str
    number: int
    ids: tuple[str, ...]
    detail: str


def read_failures(
    index: OutputIndex, key: EnsembleKey, counts: Counts, scope: Scope
) -> list[FailureGroup]:
    """Return the failures that ``counts`` holds, most frequent reason first.

    :param scope: the scope of the counts; where it has ids, those are named in their order.
    """
    if not counts.failed:
        return []
    from dataclasses import replace

    from airflow_ensemble.engine.simulation import Status

    failed = replace(scope, statuses=(Status.FAILED,))
    found = list(index.simulations(key, failed, limit=LOOKED_AT))
    if scope.ids is not None:
        order = {id: number for number, id in enumerate(scope.ids)}
        found.sort(key=lambda info: order[info.simulation.id])
    return group(counts, found)


def group(counts: Counts, failed: Iterable[SimulationInfo]) -> list[FailureGroup]:
    """Group failures by reason; numbers come from the counts, names from the simulations."""
    by_reason: dict[str, list[SimulationInfo]] = {}
    for info in failed:
        by_reason.setdefault(info.reason.value if info.reason else "", []).append(info)
    groups = []
    for reason, number in sorted(counts.reasons.items(), key=lambda item: (-item[1], item[0])):
        named = by_reason.get(reason, [])[:NAMED]
        ids = tuple(info.simulation.id for info in named)
        groups.append(FailureGroup(reason, number, ids, named[0].detail if named else ""))
    return groups


def render_failures(groups: Iterable[FailureGroup], file_option: str = "") -> str:
    """Return the failures as a table, and how to see more; empty when there are none.

    :param groups: from :func:`group`.
    :param file_option: what the hints need to name the same ensemble.
    """
    groups = list(groups)
    if not groups:
        return ""
    rows = [
        (
            found.reason,
            f"{found.number:,}",
            ", ".join(found.ids) + (", …" if found.number > len(found.ids) else ""),
            one_line(found.detail, 60),
        )
        for found in groups
    ]
    table = render_table(("reason", "failed", "ids", "the first says"), rows, right=("failed",))
    first = next((id for found in groups for id in found.ids), "ID")
    hints = [
        (f"ensemble logs {first}{file_option}", "shows what it printed"),
        (f"ensemble retry --all{file_option}", "sends failed ones back, for the next run"),
    ]
    return f"{table}\n\n{render_fields(hints)}"
