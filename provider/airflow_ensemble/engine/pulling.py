"""``pull-worker`` and ``serve`` as commands: one way for both command lines.

``ensemble`` and ``python -m airflow_ensemble.engine`` (the worker bundle) take the same arguments
and do the same with them. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.engine.errors import UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex

#: The environment variable that names the worker where ``--worker`` does not.
WORKER_VARIABLE = "ENSEMBLE_WORKER"

EXIT_CODES = {
    0: "nothing is left to run, and all are complete; with --failed-ok also when some failed",
    1: "some failed",
    2: "wrong input, or the model cannot be used: no try was charged",
    3: "stopped, fenced, or the index was lost on the way",
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
_SOME_FAILED = 1


# --- which ensemble -------------------------------------------------------------------------------


def add_index_options(parser: ArgumentParser, *, default: str | None = None) -> None:
    """Let an index and an ensemble in it be named, without an ensemble file.

    :param default: the index that is meant where none is named.
    """
    said = f" (default: {default})" if default else ""
    parser.add_argument(
        "--index",
        metavar="LOCATION",
        default=default,
        help="the output index itself, without the ensemble file: a path, env:NAME or "
        f"postgresql://… without a password; needs --name{said}",
    )
    parser.add_argument("--name", metavar="NAME", help="the ensemble's name in that index")
    parser.add_argument(
        "--settings",
        dest="settings_hash",
        metavar="HASH",
        help="the settings hash, or its beginning (default: the settings used last)",
    )


@contextmanager
def open_named_index(
    args: Namespace, *, read_only: bool = False
) -> Iterator[tuple[OutputIndex, EnsembleKey]]:
    """Open the index that ``--index`` names, and find the ensemble of ``--name`` in it.

    :param read_only: nothing will be written, so that the right to read is enough.
    :raises UsageError: when one of both options is missing, or the ensemble is not in the index.
    """
    from airflow_ensemble.engine.index import open_index
    from airflow_ensemble.engine.worker import find_ensemble

    if not args.index or not args.name:
        raise UsageError("--index and --name go together: the index, and the ensemble in it")
    uuid = getattr(args, "uuid", None)
    location = _read_location(args.index)
    with closing(open_index(location, uuid=uuid, read_only=read_only)) as index:
        yield index, find_ensemble(index, args.name, args.settings_hash)


def _read_location(text: str) -> str:
    from airflow_ensemble.engine.ensemble.index_spec import locate_index, read_index_spec
    from airflow_ensemble.engine.ensemble.schema import Place

    place = Place("the command line", "--index")
    here = Path.cwd()
    return locate_index(read_index_spec(text, place), here, here / ".ensemble", place)


# --- what a worker does ---------------------------------------------------------------------------


def add_worker_options(parser: ArgumentParser) -> None:
    """Let it be said how much a pull worker takes on, and what it is called."""
    parser.add_argument(
        "--cpus", type=positive, default=1, metavar="N", help="simulations at once (default: 1)"
    )
    parser.add_argument(
        "--worker",
        metavar="NAME",
        help=f"what this worker's host is called in the index (default: {WORKER_VARIABLE}, else "
        "the host's name)",
    )
    parser.add_argument(
        "--failed-ok",
        action="store_true",
        help="exit with 0 instead of 1 when simulations failed: the verdict is someone else's",
    )
    parser.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="stop when standard input ends, because the parent is gone",
    )
    parser.add_argument("--uuid", help="refuse any other index than this one")
    parser.add_argument("--lease", type=float, help=argparse.SUPPRESS)


def run_worker(
    args: Namespace,
    opened: AbstractContextManager[tuple[OutputIndex, EnsembleKey]],
    *,
    serve: bool,
) -> int:
    """Work as the arguments say, until the end or a signal.

    :param opened: opens the index and finds the ensemble.
    :return: the exit code.
    """
    from airflow_ensemble.engine.index.interface import LEASE
    from airflow_ensemble.engine.worker import Stop, pull_worker, stop_on_signals

    host = worker_name(args.worker)
    stop = Stop()
    # First of all: the first process of a container is deaf to signals that it does not handle.
    with stop_on_signals(stop, stdin=args.stop_with_stdin), opened as (index, key):
        code = pull_worker(
            index,
            key,
            cpus=args.cpus,
            serve=serve,
            host=host,
            lease=args.lease or LEASE,
            stop=stop,
        )
    return 0 if code == _SOME_FAILED and args.failed_ok else code


def worker_name(given: str | None) -> str | None:
    """Return what the worker's host is to be called; None where only its own name is known.

    :param given: what the command line says.
    :raises UsageError: when it cannot be part of a file's name.
    """
    name = given or os.environ.get(WORKER_VARIABLE) or None
    if name is not None and not _NAME.fullmatch(name):
        where = "--worker" if given else WORKER_VARIABLE
        raise UsageError(
            f"{where} {name!r} is no name of a worker: use at most 128 letters, digits, '.', '_' "
            "and '-', the first of them a letter or a digit"
        )
    return name


def positive(text: str) -> int:
    """Read a whole number of at least 1, for ``type=`` of an argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


positive.__name__ = "whole number"
