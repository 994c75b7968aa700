"""``ensemble init``: a small ensemble that runs as it stands, to be edited."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from airflow_ensemble.cli.command import Command
from airflow_ensemble.cli.console import Console


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", default=".", metavar="DIR", help="where to (default: here)"
    )


def _run(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.control import open_control
    from airflow_ensemble.engine.ensemble import load
    from airflow_ensemble.engine.ensemble.starter import FILE, write_starter

    folder = Path(args.folder)
    written = write_starter(folder)
    with open_control(load(folder / FILE), create=True):
        pass
    for path in written:
        console.say(f"wrote {path}")
    where = "" if args.folder == "." else f" {folder}"
    console.note(f"next: `ensemble check{where}`, then `ensemble run{where}`")
    return 0


COMMAND = Command(
    name="init",
    summary="Write a starter ensemble (file, table, model) that runs as it stands.",
    example="ensemble init my-ensemble",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={0: "written", 2: "files are there already: nothing was overwritten"},
)
