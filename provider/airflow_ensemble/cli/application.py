"""The program around the commands: parsing, logging, errors, exit codes."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_ensemble.cli.commands import COMMANDS
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.parser import build_parser
from airflow_ensemble.engine.errors import EnsembleError, Interrupted, UsageError

if TYPE_CHECKING:
    from argparse import Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: the arguments, without the program's name; those of the process by default.
    :return: the exit code: 0 all complete, 1 some failed, 2 wrong input, 3 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _accept_any_encoding()
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted; every command may be repeated"), arguments)
    except (EnsembleError, OSError) as error:
        return _report(error, arguments)


def _run(arguments: Sequence[str]) -> int:
    parser = build_parser(COMMANDS)
    try:
        args = parser.parse_args(arguments)
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    if args.command is None:
        parser.print_help(sys.stderr)
        raise UsageError("no command given")
    _set_up_logging(args)
    command = next(command for command in COMMANDS if command.name == args.command)
    return command.run(args, Console(quiet=args.quiet))


def _report(error: Exception, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        logging.getLogger(__name__).error("where it came up:", exc_info=error)
    print(f"ensemble: error: {error}", file=sys.stderr)
    return error.exit_code if isinstance(error, EnsembleError) else EnsembleError.exit_code


def _set_up_logging(args: Namespace) -> None:
    level = logging.ERROR if args.quiet else logging.WARNING - 10 * min(args.verbose, 2)
    handler = logging.StreamHandler()
    handler.setFormatter(_Format("ensemble: %(label)s: %(message)s"))
    logger = logging.getLogger("airflow_ensemble")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.label = record.levelname.lower()
        return super().format(record)


def _accept_any_encoding() -> None:
    """Print a question mark, rather than fail, for what the terminal's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _forget_stdout() -> None:
    """Keep the interpreter from failing once more when it flushes a pipe that nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
