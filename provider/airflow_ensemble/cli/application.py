"""The program around the commands: parsing, logging, errors, exit codes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.cli.commands import COMMANDS
from airflow_ensemble.cli.console import Console, OutputUnwritable
from airflow_ensemble.cli.parser import build_parser
from airflow_ensemble.engine.errors import EnsembleError, Interrupted, UsageError
from airflow_ensemble.engine.words import describe, detail_of, one_line, printable

if TYPE_CHECKING:
    from argparse import Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: the arguments, without the program's name; those of the process by default.
    :return: the exit code: 0 all complete, 1 some failed, 2 wrong input, 3 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _fill_in_closed_streams()
    _accept_any_encoding()
    try:
        code = _run(arguments)
        Console().flush()
        return code
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted; every command may be repeated"), arguments)
    except OutputUnwritable as error:
        _forget_stdout()
        return _report(error, arguments)
    except EnsembleError as error:
        return _report(error, arguments)
    except OSError as error:
        return _report(UsageError(_describe(error)), arguments)
    except Exception as error:
        return _report(Fault(f"{FAULT}: {one_line(describe(error))}"), arguments, cause=error)


class Fault(EnsembleError):
    """The program itself is wrong, not what it was given."""

    exit_code = 2


#: What a report of an error begins with that no input should be able to cause.
FAULT = "a fault of ensemble itself, please report it with what --debug shows"


def _run(arguments: Sequence[str]) -> int:
    parser = build_parser(COMMANDS)
    try:
        args = parser.parse_args(arguments)
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    if sys.stdout is None:
        raise UsageError("standard output is closed: redirect it, for instance to /dev/null")
    if args.command is None:
        parser.print_help(sys.stderr)
        raise UsageError("no command given")
    _set_up_logging(args)
    command = next(command for command in COMMANDS if command.name == args.command)
    return command.run(args, Console(quiet=args.quiet))


def _report(
    error: EnsembleError, arguments: Sequence[str], cause: BaseException | None = None
) -> int:
    if "--debug" in arguments:
        logging.getLogger(__name__).error("where it came up:", exc_info=cause or error)
    with contextlib.suppress(OSError):
        print(f"ensemble: error: {detail_of(str(error))}", file=sys.stderr, flush=True)
    return error.exit_code


def _describe(error: OSError) -> str:
    """Return what the operating system refused, and of which file."""
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
    why = error.strerror or str(error)
    return f"{files}: {why}" if files else why


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
        return printable(super().format(record))


def _fill_in_closed_streams() -> None:
    """Let no file that is opened later take the place of a standard stream that is closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the end)


def _accept_any_encoding() -> None:
    """Print a question mark, rather than fail, for what the terminal's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _forget_stdout() -> None:
    """Keep the interpreter from failing once more when it flushes a pipe that nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # it is no file of the operating system
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
