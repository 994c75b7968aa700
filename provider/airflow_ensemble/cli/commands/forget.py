"""``ensemble forget``: remove simulations that the table no longer has from the index."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from airflow_ensemble.cli.command import Command, add_file_option
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.forgetting import forget_others
from airflow_ensemble.cli.opening import check_ids, file_option, opened


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "ids",
        nargs="*",
        metavar="ID",
        help="only these (default: all that the table does not have)",
    )
    parser.add_argument("--yes", action="store_true", help="do it; else only say what would go")
    add_file_option(parser)


def _run(args: Namespace, console: Console) -> int:
    with opened(args, read_only=not args.yes) as control:
        check_ids(control, args.ids)
        command = " ".join(["ensemble forget --yes", *args.ids]) + file_option(args)
        forget_others(control, console, ids=args.ids, command=command if not args.yes else None)
    return 0


COMMAND = Command(
    name="forget",
    summary="Remove simulations that the table no longer has from the index; gc removes their "
    "files.",
    example="ensemble forget\nensemble forget --yes && ensemble gc",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={
        0: "said what would go; with --yes: done, also when there was nothing to forget",
        2: "no such simulation, or the table still has it: nothing was changed",
        3: "the index was lost on the way: repeat the command to go on",
    },
)
