"""``ensemble register``: bring the table of simulations into the index, and run nothing."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from airflow_ensemble.cli.command import Command, add_file_argument, positive
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import load_ensemble
from airflow_ensemble.cli.registering import (
    add_register_options,
    new_batch_key,
    register_batch,
)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--first", type=positive, metavar="N", help="only the first N rows of the table"
    )
    add_register_options(parser)
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    from airflow_ensemble.cli.starting import refuse_bad_start
    from airflow_ensemble.engine.control import open_control

    ensemble = load_ensemble(args)
    refuse_bad_start(ensemble, args.first)
    with open_control(ensemble, create=True) as control:
        register_batch(control, args, console, new_batch_key())
    return 0


COMMAND = Command(
    name="register",
    summary="Bring the table of simulations into the index, without running anything.",
    example="ensemble register && ensemble pull-worker",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={
        0: "registered",
        2: "wrong input, nothing was changed",
        3: "the index was lost on the way",
    },
)
