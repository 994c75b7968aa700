"""``ensemble show``: all that the index knows of one simulation."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_ensemble.cli.command import Command, add_file_option
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import opened, unknown_ids
from airflow_ensemble.cli.slurm.whereabouts import Whereabouts, find_whereabouts
from airflow_ensemble.cli.slurm.whereabouts import as_record as slurm_record
from airflow_ensemble.cli.text import format_bytes, format_duration, render_fields, render_table
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.parameters import take_apart
from airflow_ensemble.engine.words import one_line, printable

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.index.interface import AttemptInfo, SimulationInfo
    from airflow_ensemble.engine.simulation import Product, Resources


#: What there is to say where the table is not what the index knows.
IN_TABLE = {
    "absent": "the table no longer has it: it is not collected, and `ensemble forget` removes it",
    "changed": "the table has other parameters for it now: this result is not collected",
}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the simulation")
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_file_option(parser)


def _run(args: Namespace, console: Console) -> int:
    with opened(args, read_only=True) as control:
        info = control.index.simulation(control.key, args.id)
        if info is None:
            raise unknown_ids(control, [args.id])
        attempts = control.index.attempts(control.key, args.id)
        common = dict(control.recipe.settings.parameters)
        where = find_whereabouts(control.index, info.chunk)
        in_table = find_in_table(control.ensemble, info)
    if args.json:
        console.say_json({**as_record(info, attempts, common, where), "table": in_table})
        return 0
    console.say(render(info, attempts, common, where))
    if in_table in IN_TABLE:
        console.say(f"\n{IN_TABLE[in_table]}")
    return 0


def find_in_table(ensemble: Ensemble, info: SimulationInfo) -> str | None:
    """Return how the table has a simulation: ``same``, ``changed`` or ``absent``.

    None where the table cannot be read: what the index knows can be shown all the same.
    """
    try:
        id = info.simulation.id
        row = next((one for one in ensemble.read_simulations() if one.id == id), None)
    except UsageError:
        return None
    if row is None:
        return "absent"
    return "same" if row.digest == info.simulation.digest else "changed"


def render(
    info: SimulationInfo,
    attempts: Sequence[AttemptInfo],
    common: dict[str, Any],
    where: Whereabouts | None = None,
) -> str:
    """Return what is known of a simulation as text.

    :param info: the simulation.
    :param attempts: its unsuccessful attempts.
    :param common: parameters that all simulations share.
    :param where: the array element that it belongs to, if any.
    """
    parts = [render_fields([*_fields(info, common), *_slurm_fields(where)])]
    if info.products:
        parts.append(_render_products(info.products))
    if attempts:
        parts.append("unsuccessful attempts:\n" + _render_attempts(attempts))
    if info.log:
        parts.append(f"its log: ensemble logs {info.simulation.id}")
    return "\n\n".join(parts)


def as_record(
    info: SimulationInfo,
    attempts: Sequence[AttemptInfo],
    common: dict[str, Any],
    where: Whereabouts | None = None,
) -> dict[str, Any]:
    """Return what is known of a simulation as JSON values; parameters as for :func:`render`."""
    return {
        "id": info.simulation.id,
        "status": info.status.value,
        "reason": info.reason.value if info.reason else None,
        "detail": info.detail,
        "generation": info.generation,
        "attempt": info.attempt,
        "tries": info.tries,
        "interruptions": info.interruptions,
        "parameters": take_apart(info.simulation.params).values,
        "common_parameters": take_apart(common).values,
        "resources": info.simulation.resources.as_dict(),
        "time_limit": info.simulation.time_limit,
        "priority": info.simulation.priority,
        "host": info.host,
        "started": info.started,
        "duration": info.duration,
        "log": info.log,
        "batch": info.batch,
        "chunk": info.chunk,
        "worker": info.worker,
        "slurm": slurm_record(where),
        "result_generation": info.result_generation,
        "products": [product.as_dict() for product in info.products],
        "attempts": [{**attempt.__dict__, "reason": attempt.reason.value} for attempt in attempts],
    }


def _fields(info: SimulationInfo, common: dict[str, Any]) -> list[tuple[str, object]]:
    simulation = info.simulation
    parameters = take_apart(common, simulation.params)
    texts = {name: json.dumps(value) for name, value in parameters.values.items()}
    texts.update(parameters.written)
    own = [(f"  {name}", text) for name, text in texts.items() if name in simulation.params]
    shared = [
        (f"  {name}", f"{text} (of the ensemble)")
        for name, text in texts.items()
        if name not in simulation.params
    ]
    return [
        ("simulation", simulation.id),
        ("status", info.status.value),
        ("reason", info.reason.value if info.reason else None),
        ("detail", printable(info.detail)),
        ("attempt", f"{info.attempt} ({info.tries} tries, {info.interruptions} interruptions)"),
        ("generation", info.generation),
        ("resources", _render_needs(simulation.resources)),
        ("time limit", format_duration(limit) if (limit := simulation.time_limit) else None),
        ("priority", simulation.priority or None),
        ("host", info.host),
        ("started", format_time(info.started)),
        ("duration", None if info.duration is None else format_duration(info.duration)),
        ("chunk", info.chunk),
        ("worker", info.worker),
        ("parameters", " " if own or shared else None),
        *own,
        *shared,
    ]


def _slurm_fields(where: Whereabouts | None) -> list[tuple[str, object]]:
    if where is None:
        return []
    return [("Slurm element", where.title), ("Slurm log", where.log)]


def _render_needs(resources: Resources) -> str:
    units = {"memory": " MiB", "disk": " MiB", "walltime": " s"}
    needs = resources.as_dict().items()
    return ", ".join(f"{name} {value}{units.get(name, '')}" for name, value in needs)


def format_time(seconds: float | None) -> str | None:
    """Return a Unix time as UTC to the second."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _render_products(products: Sequence[Product]) -> str:
    rows = [
        (
            product.name,
            product.status.value,
            "" if product.size is None else format_bytes(product.size),
            product.path or "",
        )
        for product in products
    ]
    return render_table(("product", "status", "size", "path"), rows, right=("size",))


def _render_attempts(attempts: Sequence[AttemptInfo]) -> str:
    rows = [
        (
            attempt.attempt,
            attempt.reason.value,
            attempt.host,
            format_duration(attempt.duration),
            one_line(attempt.detail),
        )
        for attempt in attempts
    ]
    headers = ("attempt", "reason", "host", "duration", "detail")
    return render_table(headers, rows, right=("attempt", "duration"))


COMMAND = Command(
    name="show",
    summary="Show all that is known of one simulation: parameters, attempts, products.",
    example="ensemble show receptor-017",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={0: "shown", 2: "no such simulation"},
)
