"""``ensemble register``: bring the table of simulations into the index, and run nothing."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from airflow_ensemble.cli.command import Command, add_file_argument, positive
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.forgetting import forget_others
from airflow_ensemble.cli.opening import file_option, load_ensemble
from airflow_ensemble.cli.registering import (
    add_register_options,
    new_batch_key,
    register_batch,
)
from airflow_ensemble.engine.errors import UsageError


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--first", type=positive, metavar="N", help="only the first N rows of the table"
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="then say what `ensemble forget` would remove: simulations that the table does not "
        "have; with --yes, remove it",
    )
    parser.add_argument("--yes", action="store_true", help="with --prune: do it")
    add_register_options(parser)
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    from airflow_ensemble.cli.starting import refuse_bad_start
    from airflow_ensemble.engine.control import open_control

    _check_prune(args)
    ensemble = load_ensemble(args)
    refuse_bad_start(ensemble, args.first)
    with open_control(ensemble, create=True) as control:
        register_batch(control, args, console, new_batch_key())
        if args.prune:
            command = f"ensemble forget --yes{file_option(args)}"
            forget_others(control, console, command=None if args.yes else command)
    return 0


def _check_prune(args: Namespace) -> None:
    if args.yes and not args.prune:
        raise UsageError("--yes is for --prune: it says that what the table has not is forgotten")
    if args.prune and args.first is not None:
        raise UsageError("--prune needs the whole table: leave --first out")


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
