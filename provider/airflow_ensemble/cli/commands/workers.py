"""``ensemble push-worker | pull-worker | serve | worker-bundle``: what runs simulations."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.cli.command import Command, add_file_argument, positive
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import opened
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.pulling import (
    EXIT_CODES,
    add_index_options,
    add_worker_options,
    open_named_index,
    run_worker,
)

if TYPE_CHECKING:
    from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex


# --- push -----------------------------------------------------------------------------------------


def _add_push_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("chunk", metavar="CHUNK", help="the chunk file")
    parser.add_argument(
        "--cpus", type=positive, default=1, metavar="N", help="simulations at once (default: 1)"
    )


def _push(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.worker.push import push_worker
    from airflow_ensemble.engine.worker.stop import Stop, stop_on_signals

    stop = Stop()
    with stop_on_signals(stop):
        return push_worker(Path(args.chunk), cpus=args.cpus, stop=stop)


# --- pull -----------------------------------------------------------------------------------------


def _add_pull_arguments(parser: ArgumentParser) -> None:
    add_worker_options(parser)
    add_index_options(parser)
    add_file_argument(parser)


def _pull(args: Namespace, console: Console) -> int:
    return run_worker(args, _opened(args), serve=False)


def _serve(args: Namespace, console: Console) -> int:
    return run_worker(args, _opened(args), serve=True)


@contextmanager
def _opened(args: Namespace) -> Iterator[tuple[OutputIndex, EnsembleKey]]:
    if args.index or args.name:
        with open_named_index(args) as found:
            yield found
        return
    if args.settings_hash or args.uuid:
        raise UsageError("--settings and --uuid go with --index: the ensemble file says both")
    with opened(args) as control:
        yield control.index, control.key


# --- bundle ---------------------------------------------------------------------------------------


def _add_bundle_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        default="ensemble-worker.pyz",
        metavar="FILE",
        help="what to write (default: ensemble-worker.pyz)",
    )


def _bundle(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.bundle import write_bundle

    console.say(f"wrote {write_bundle(Path(args.output))}")
    return 0


PUSH = Command(
    name="push-worker",
    summary="Run the simulations of one chunk file; needs no index.",
    example="ensemble push-worker chunk.1.jsonl --cpus 4",
    add_arguments=_add_push_arguments,
    run=_push,
    exit_codes={
        0: "all of the chunk is complete",
        1: "some attempts failed",
        2: "no chunk file, a corrupt one, or the model cannot be used: no try was charged",
        3: "stopped: what ran is recorded as interrupted",
    },
)
PULL = Command(
    name="pull-worker",
    summary="Claim simulations from the index and run them until none is left.",
    example="ensemble register && ensemble pull-worker --cpus 4\n"
    "ensemble pull-worker --index env:ENSEMBLE_INDEX --name footprints --failed-ok",
    add_arguments=_add_pull_arguments,
    run=_pull,
    exit_codes=EXIT_CODES,
)
SERVE = Command(
    name="serve",
    summary="Be a pull worker that never ends: when nothing is left, wait for more.",
    example="ensemble serve --index env:ENSEMBLE_INDEX --name footprints",
    add_arguments=_add_pull_arguments,
    run=_serve,
    exit_codes=EXIT_CODES,
)
BUNDLE = Command(
    name="worker-bundle",
    summary="Pack the worker into one file that Python 3.9 or newer runs with nothing installed.",
    example="ensemble worker-bundle -o ensemble-worker.pyz",
    add_arguments=_add_bundle_arguments,
    run=_bundle,
)
