"""What a command is, and the arguments that commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from airflow_ensemble.cli.console import Console

#: The ensemble file that is used when none is named.
DEFAULT_FILE = "ensemble.yaml"


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    :param name: as the user types it.
    :param summary: one sentence.
    :param example: one or more complete command lines, one a line.
    :param exit_codes: what each exit code of this command means.
    :param add_arguments: adds its own arguments to its parser.
    :param run: does it and returns the exit code; it imports what it needs when it is called.
    """

    name: str
    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Console], int]
    exit_codes: Mapping[int, str] = field(
        default_factory=lambda: {0: "done", 2: "wrong input, nothing was changed"}
    )


def add_file_argument(parser: argparse.ArgumentParser) -> None:
    """Let the ensemble file be named in place, or by ``-f``."""
    parser.add_argument(
        "positional_file",
        nargs="?",
        metavar="FILE",
        help=f"the ensemble file, or its folder (default: {DEFAULT_FILE})",
    )
    add_file_option(parser)


def add_file_option(parser: argparse.ArgumentParser) -> None:
    """Let the ensemble file be named by ``-f``, and its keys be set."""
    parser.add_argument("-f", "--file", metavar="FILE", help="the same as an option")
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="use VALUE (YAML) in place of what the file says for KEY, such as "
        "parameters.n_hours=-6; may be repeated",
    )


def add_ids_argument(parser: argparse.ArgumentParser, verb: str) -> None:
    """Let simulations be named, or all be meant."""
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"the simulations to {verb}")
    parser.add_argument("--all", action="store_true", help=f"{verb} all that there are")


def positive(text: str) -> int:
    """Read a whole number of at least 1, for ``type=`` of an argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


positive.__name__ = "whole number"


def seconds(text: str) -> float:
    """Read a number of seconds of at least 0.1, for ``type=`` of an argument."""
    number = float(text)
    if not 0.1 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not at least 0.1")
    return number


seconds.__name__ = "number of seconds"
