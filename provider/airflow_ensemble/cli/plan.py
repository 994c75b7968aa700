"""What a run would do, found without changing anything."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_ensemble.cli.opening import find_key, open_existing_index
from airflow_ensemble.cli.standing import describe_others
from airflow_ensemble.cli.starting import refuse_forgotten_outcomes
from airflow_ensemble.engine.errors import UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex, SimulationInfo
    from airflow_ensemble.engine.simulation import Simulation

log = logging.getLogger(__name__)

#: Ids that a dry run lists unless asked for all.
LISTED = 20
#: Changed simulations of which it says what has changed.
NAMED = 10
#: Rows of the table that are looked up in the index at once.
LOOK_UP = 500


@dataclass
class Plan:
    """What a run would do with the rows of the table.

    :param total: rows.
    :param new: not known to the index.
    :param complete: complete already, and skipped.
    :param failed: failed for good earlier, and not run again.
    :param elsewhere: owned by another run.
    :param others: known to the index, and not in the table.
    :param again: complete or failed ones that ``--no-skip`` or ``--replace`` runs again.
    :param to_run: ids that would be dispatched, in order.
    :param changed: known simulations whose parameters have changed.
    :param changes: what has changed in the first of them.
    :param classes: how many of ``to_run`` are of each resource class.
    """

    total: int = 0
    new: int = 0
    complete: int = 0
    failed: int = 0
    elsewhere: int = 0
    others: int = 0
    again: int = 0
    to_run: list[str] = field(default_factory=list)
    changed: int = 0
    changes: list[str] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)


def plan_run(ensemble: Ensemble, args: Namespace) -> Plan:
    """Return what ``ensemble run`` with these arguments would do.

    :raises UsageError: on anything that it would refuse.
    """
    from airflow_ensemble.engine.ensemble.blocks import Remarks

    remarks = Remarks()
    index = open_existing_index(ensemble)
    try:
        key = find_key(index, ensemble) if index else None
        if key is None:
            refuse_forgotten_outcomes(ensemble)
        plan = make_plan(
            ensemble.read_simulations(args.first, remarks),
            index,
            key,
            skip_existing=ensemble.skip_existing and not args.no_skip,
            replace=args.replace,
        )
    finally:
        if index:
            index.close()
    if args.first is not None:
        plan.others = 0  # the first rows are not the table
    for warning in remarks.warnings:
        log.warning("%s", warning)
    if plan.changed and not args.replace:
        more = f" ({plan.changed - 1:,} more changed, too)" if plan.changed > 1 else ""
        raise UsageError(
            f"{plan.changes[0]}{more}; give changed simulations new ids, or use --replace"
        )
    return plan


def listed(args: Namespace) -> int | None:
    """Return how many ids a dry run lists; None is all."""
    return None if args.verbose else LISTED


def make_plan(
    simulations: Iterable[Simulation],
    index: OutputIndex | None,
    key: EnsembleKey | None,
    *,
    skip_existing: bool,
    replace: bool,
) -> Plan:
    """Decide for each row of the table what a run would do with it.

    :param simulations: the rows.
    :param index: the index; None when there is none yet.
    :param key: the ensemble in it; None when its settings are new.
    """
    from airflow_ensemble.engine.standing import blocks

    plan, met = Plan(), 0
    for block in blocks(simulations, LOOK_UP):
        known = _look_up(index, key, [simulation.id for simulation in block])
        met += len(known)
        for simulation in block:
            _place(plan, simulation, known.get(simulation.id), skip_existing, replace)
    if index is not None and key is not None:
        plan.others = max(0, index.counts(key).total - met)
    return plan


def _place(
    plan: Plan,
    simulation: Simulation,
    known: SimulationInfo | None,
    skip_existing: bool,
    replace: bool,
) -> None:
    from airflow_ensemble.engine.simulation import OWNED, TERMINAL, Status

    plan.total += 1
    if known is None:
        plan.new += 1
        _run(plan, simulation)
        return
    changed = known.simulation.digest != simulation.digest
    if changed:
        _note_change(plan, known.simulation, simulation)
    if known.status in OWNED:
        plan.elsewhere += 1
    elif changed and not replace:
        return  # what it is known as is another simulation's state
    elif known.status not in TERMINAL:
        _run(plan, simulation)
    elif not skip_existing or (changed and replace):
        plan.again += 1
        _run(plan, simulation)
    elif known.status is Status.COMPLETE:
        plan.complete += 1
    else:
        plan.failed += 1


def _note_change(plan: Plan, known: Simulation, given: Simulation) -> None:
    from airflow_ensemble.engine.parameters import describe_change

    plan.changed += 1
    if len(plan.changes) < NAMED:
        change = describe_change(known.params, given.params)
        plan.changes.append(f"simulation {given.id} has changed: {change}")


def _run(plan: Plan, simulation: Simulation) -> None:
    plan.to_run.append(simulation.id)
    plan.classes[simulation.resources.resource_class] += 1


def _look_up(
    index: OutputIndex | None, key: EnsembleKey | None, ids: Sequence[str]
) -> dict[str, SimulationInfo]:
    from airflow_ensemble.engine.index.interface import Scope

    if index is None or key is None:
        return {}
    return {info.simulation.id: info for info in index.simulations(key, Scope(ids=ids))}


def render_plan(plan: Plan, where: str, show: int | None) -> str:
    """Return a plan as text.

    :param where: how they would run, such as ``up to 4 at once``.
    :param show: ids that are listed at most; None lists all.
    """
    lines = [
        f"would run {len(plan.to_run):,} of {plan.total:,} simulations, "
        f"{where}: {plan.new:,} new, {plan.again:,} again, "
        f"{len(plan.to_run) - plan.new - plan.again:,} pending"
    ]
    skipped = (
        (plan.complete, "complete already, skipped"),
        (plan.failed, "failed earlier, not run again (`ensemble retry --all` sends them back)"),
        (plan.elsewhere, "belong to another run, left to it"),
    )
    lines.extend(f"{number:,} {what}" for number, what in skipped if number)
    if plan.others:
        lines.append(describe_others(plan.others))
    lines.extend(f"  {id}" for id in plan.to_run[:show])
    if show is not None and len(plan.to_run) > show:
        lines.append(f"  … and {len(plan.to_run) - show:,} more (-v lists all)")
    lines.append("nothing was changed")
    return "\n".join(lines)
