"""The command line's grammar and its help. No input or output, and nothing of the engine."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn

from airflow_ensemble import __version__
from airflow_ensemble.cli.command import Command
from airflow_ensemble.engine.errors import UsageError

DESCRIPTION = "Runs ensembles of simulations: thousands of runs of one model, each run once."
EPILOG = """\
the usual order:
  ensemble init my-ensemble      write a starter file, table and model; edit them
  ensemble check                 find what is wrong before anything runs
  ensemble run --first 2         a canary: only the first two simulations
  ensemble run                   all of them; repeat it and only what is missing runs
  ensemble status                how far it is, and why simulations failed
  ensemble logs ID               the log of one that failed
  ensemble retry --all           send the failed ones back, then `ensemble run` again
  ensemble collect --to all.nc   all products in one file

exit codes:
  0  all complete    1  some failed    2  wrong input or usage    3  interrupted

`ensemble COMMAND --help` tells more of each. Every command may be repeated safely.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are those of the rest of the program."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse what is unknown here, where the command's own options can be suggested."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(_unrecognized(unknown, self._option_string_actions))
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Raise the error: only :func:`main` ends the process."""
        raise UsageError(f"{_with_suggestion(message)} — see `{self.prog} --help`")


def build_parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="ensemble",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ensemble {__version__}")
    _add_common_options(parser, verbose=0, quiet=False, debug=False)
    chosen = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in commands:
        child = chosen.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=_epilog(command),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(child)
        # A default here would overwrite what stood before the command.
        suppressed = argparse.SUPPRESS
        _add_common_options(child, verbose=suppressed, quiet=suppressed, debug=suppressed)
    return parser


def _add_common_options(parser: argparse.ArgumentParser, **defaults: object) -> None:
    group = parser.add_argument_group("what is said")
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=defaults["verbose"],
        help="tell more on standard error; -vv tells most",
    )
    group.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=defaults["quiet"],
        help="only results and errors",
    )
    group.add_argument(
        "--debug",
        action="store_true",
        default=defaults["debug"],
        help="show where in the program an error came up",
    )


def _epilog(command: Command) -> str:
    example = "\n".join(f"  {line}" for line in command.example.splitlines())
    return f"example:\n{example}\n\nexit codes:\n{_exit_codes(command.exit_codes)}"


def _exit_codes(codes: Mapping[int, str]) -> str:
    return "\n".join(f"  {code}  {meaning}" for code, meaning in sorted(codes.items()))


def _unrecognized(unknown: Sequence[str], options: Collection[str]) -> str:
    """Name what is unknown, and the option that the first of it may have meant."""
    meant = difflib.get_close_matches(unknown[0].partition("=")[0], options, n=1)
    question = f": did you mean {meant[0]!r}?" if meant else ""
    return f"unrecognized arguments: {' '.join(unknown)}{question}"


def _with_suggestion(message: str) -> str:
    """Name the nearest choice where argparse only lists all of them."""
    found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
    if not found:
        return message
    choices = [choice.strip(" '") for choice in found.group(2).split(",")]
    nearest = difflib.get_close_matches(found.group(1), choices, n=1)
    if not nearest:
        return message
    return f"there is no {found.group(1)!r}: did you mean {nearest[0]!r}?"
