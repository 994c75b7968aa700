"""``ensemble logs``: the log of one simulation."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from airflow_ensemble.cli.command import Command, add_file_option
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import opened
from airflow_ensemble.cli.slurm.whereabouts import find_whereabouts


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the simulation")
    add_file_option(parser)


def _run(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.upkeep import read_log

    with opened(args, read_only=True) as control:
        info = control.index.simulation(control.key, args.id)
        where = find_whereabouts(control.index, info.chunk if info else None)
        if where is not None:
            console.note(f"Slurm element {where.title}; what it printed: {where.log}")
        console.say(read_log(control, args.id).rstrip("\n"))
    return 0


COMMAND = Command(
    name="logs",
    summary="Print the log of a simulation's last finished attempt.",
    example="ensemble logs receptor-017 | tail",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={0: "printed", 2: "no such simulation, or no log of it was kept"},
)
