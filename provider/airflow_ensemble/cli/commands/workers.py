"""``ensemble push-worker | pull-worker | serve | worker-bundle``: what runs simulations."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.cli.command import (
    Command,
    add_file_argument,
    add_index_options,
    positive,
)
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import open_named_index, opened

if TYPE_CHECKING:
    from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex

PULL_EXIT_CODES = {
    0: "nothing is left to run, and all that this worker ran is complete",
    1: "some of what this worker ran failed",
    2: "wrong input, or the model cannot be used: no try was charged",
    3: "stopped, fenced, or the index was lost on the way",
}


def _add_cpus(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--cpus", type=positive, default=1, metavar="N", help="simulations at once (default: 1)"
    )


# --- push -----------------------------------------------------------------------------------------


def _add_push_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("chunk", metavar="CHUNK", help="the chunk file")
    _add_cpus(parser)


def _push(args: Namespace, console: Console) -> int:
    from airflow_ensemble.engine.worker.push import push_worker
    from airflow_ensemble.engine.worker.stop import Stop, stop_on_signals

    stop = Stop()
    with stop_on_signals(stop):
        return push_worker(Path(args.chunk), cpus=args.cpus, stop=stop)


# --- pull -----------------------------------------------------------------------------------------


def _add_pull_arguments(parser: ArgumentParser) -> None:
    _add_cpus(parser)
    add_index_options(parser)
    add_file_argument(parser)


def _pull(args: Namespace, console: Console) -> int:
    return _work(args, serve=False)


def _serve(args: Namespace, console: Console) -> int:
    return _work(args, serve=True)


def _work(args: Namespace, *, serve: bool) -> int:
    from airflow_ensemble.engine.worker.pull import pull_worker
    from airflow_ensemble.engine.worker.stop import Stop, stop_on_signals

    stop = Stop()
    with _opened(args) as (index, key), stop_on_signals(stop):
        return pull_worker(index, key, cpus=args.cpus, serve=serve, stop=stop)


@contextmanager
def _opened(args: Namespace) -> Iterator[tuple[OutputIndex, EnsembleKey]]:
    if args.index or args.name:
        with open_named_index(args) as found:
            yield found
        return
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
    example="ensemble register && ensemble pull-worker --cpus 4",
    add_arguments=_add_pull_arguments,
    run=_pull,
    exit_codes=PULL_EXIT_CODES,
)
SERVE = Command(
    name="serve",
    summary="Be a pull worker that never ends: when nothing is left, wait for more.",
    example="ensemble serve --index env:ENSEMBLE_INDEX --name footprints",
    add_arguments=_add_pull_arguments,
    run=_serve,
    exit_codes=PULL_EXIT_CODES,
)
BUNDLE = Command(
    name="worker-bundle",
    summary="Pack the worker into one file that Python 3.9 or newer runs with nothing installed.",
    example="ensemble worker-bundle -o ensemble-worker.pyz",
    add_arguments=_add_bundle_arguments,
    run=_bundle,
)
