"""``ensemble check``: find what is wrong before anything runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from airflow_ensemble.cli.command import Command, add_file_argument
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import load_ensemble


def _add_arguments(parser: ArgumentParser) -> None:
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    from airflow_ensemble.cli.checking import check_ensemble

    ensemble = load_ensemble(args)
    problems = 0
    for finding in check_ensemble(ensemble):
        problems += len(finding.problems)
        word = console.style("problem" if finding.problems else "ok", _style(finding.problems))
        console.say(f"{word:8}  {finding.what:12}  {finding.text}".rstrip())
        for problem in finding.problems:
            console.say(f"            {problem}")
        for warning in finding.warnings:
            console.say(f"            warning: {warning}")
    if problems:
        console.say(f"\n{problems} {'problem' if problems == 1 else 'problems'} found")
        return 2
    console.say("\nnothing is wrong; `ensemble run --first 1` tries one simulation")
    return 0


def _style(problems: tuple[str, ...]) -> str:
    return "bad" if problems else "good"


COMMAND = Command(
    name="check",
    summary="Find what is wrong with file, table, model, output and index before anything runs.",
    example="ensemble check",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={0: "nothing is wrong", 2: "problems were found; check never changes anything"},
)
