"""``ensemble run``: register, dispatch and run all that is missing, on this machine."""

from __future__ import annotations

import os
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

from airflow_ensemble.cli.command import Command, add_file_argument, positive
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import file_option, load_ensemble
from airflow_ensemble.cli.plan import find_key, make_plan, open_existing_index, render_plan
from airflow_ensemble.cli.progress import Progress, make_progress
from airflow_ensemble.cli.registering import add_register_options, new_batch_key, register_batch
from airflow_ensemble.cli.stopping import stop_on_signals
from airflow_ensemble.cli.summary import summarise
from airflow_ensemble.engine.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.index.interface import ChunkInfo, Counts, Registration

#: Seconds between two looks at simulations that another run owns.
WAIT_INTERVAL = 2.0
#: Ids that a dry run lists unless asked for all.
LISTED = 20


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be dispatched; change nothing"
    )
    parser.add_argument(
        "--first", type=positive, metavar="N", help="a canary: only the first N rows of the table"
    )
    add_register_options(parser)
    parser.add_argument(
        "--wait", action="store_true", help="wait also for simulations that another run owns"
    )
    parser.add_argument("--backend", metavar="B", help="where to run: local")
    parser.add_argument(
        "--n-workers", type=positive, metavar="N", help="simulations at once (default: all CPUs)"
    )
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    ensemble = load_ensemble(args)
    _refuse_other_backends(ensemble.execution.get("backend", "local"))
    processes = count_processes(ensemble)
    if args.dry_run:
        return _dry_run(ensemble, args, console, processes)
    from airflow_ensemble.cli.checking import refuse_bad_start, refuse_unusable_model
    from airflow_ensemble.engine.control import open_control

    refuse_unusable_model(ensemble)
    refuse_bad_start(ensemble, args.first)
    with open_control(ensemble, create=True) as control, stop_on_signals(console) as stop:
        return _BatchRun(control, console, args, processes, stop).run()


def _refuse_other_backends(backend: str) -> None:
    if backend != "local":
        raise UsageError(
            f"backend {backend!r} is not in this version: `ensemble run --backend local` runs on "
            "this machine"
        )


def count_processes(ensemble: Ensemble) -> int:
    """Return how many simulations run at once: ``execution.n_workers``, else the usable CPUs."""
    given = ensemble.execution.get("n_workers")
    return int(given) if given else len(os.sched_getaffinity(0))


def _dry_run(ensemble: Ensemble, args: Namespace, console: Console, processes: int) -> int:
    from airflow_ensemble.cli.checking import refuse_forgotten_outcomes

    index = open_existing_index(ensemble)
    try:
        key = find_key(index, ensemble) if index else None
        if key is None:
            refuse_forgotten_outcomes(ensemble)
        plan = make_plan(
            ensemble.read_simulations(args.first),
            index,
            key,
            skip_existing=ensemble.skip_existing and not args.no_skip,
            replace=args.replace,
        )
    finally:
        if index:
            index.close()
    if plan.changed and not args.replace:
        raise UsageError(
            f"the parameters of {', '.join(plan.changed[:5])} differ from those they were "
            "registered with: give changed simulations new ids, or use --replace"
        )
    console.say(render_plan(plan, processes, None if args.verbose else LISTED))
    return 0


@dataclass
class _BatchRun:
    """One run of one ensemble, from registration to summary."""

    control: Control
    console: Console
    args: Namespace
    processes: int
    stop: threading.Event

    @property
    def file_option(self) -> str:
        """Return what hints need to name the same ensemble."""
        return file_option(self.args)

    def run(self) -> int:
        """Run what is missing; return the exit code."""
        from airflow_ensemble.engine.batch import reconcile

        started = time.monotonic()
        batch_key = new_batch_key()
        registration = register_batch(self.control, self.args, self.console, batch_key)
        try:
            self._run_chunks(registration)
            while self.args.wait and self._wait_for_others():
                registration = register_batch(self.control, self.args, self.console, batch_key)
                self._run_chunks(registration)
        except Interrupted as error:
            reconcile(self.control)
            raise Interrupted(f"{error}\n{self._how_to_go_on()}") from error
        seconds = time.monotonic() - started
        return summarise(self.control, self.console, registration, seconds, self.file_option)

    def _run_chunks(self, registration: Registration) -> None:
        from airflow_ensemble.engine.batch import dispatch, driving, run_chunk

        with driving(self.control, registration.batch):
            chunks = dispatch(self.control, registration.batch, n_chunks=1)
            with make_progress(self.console.quiet) as progress:
                sums = ChunkCounts(chunks, progress)
                for chunk in chunks:
                    run_chunk(
                        self.control,
                        chunk.id,
                        cpus=self.processes,
                        on_progress=partial(sums.update, chunk.id),
                        stop=self.stop,
                    )

    def _wait_for_others(self) -> bool:
        """Wait until nobody owns a simulation; return whether anybody did."""
        from airflow_ensemble.engine.batch import reconcile
        from airflow_ensemble.engine.ingest import ingest

        waited = False
        while True:
            ingest(self.control)
            reconcile(self.control)
            counts = self.control.index.counts(self.control.key)
            if not counts.dispatched + counts.running:
                return waited
            if not waited:
                self.console.note("waiting for simulations that another run owns")
            waited = True
            if self.stop.wait(WAIT_INTERVAL):
                raise Interrupted("stopped while waiting for another run")

    def _how_to_go_on(self) -> str:
        if self.args.no_skip:
            return "to go on: the same command without --no-skip runs what is missing"
        command = f"ensemble run{self.file_option}"
        if not self.control.ensemble.skip_existing:
            command += " --set skip_existing=true"
        return f"to go on: `{command}` runs what is missing"


class ChunkCounts:
    """Adds up the counts of a batch's chunks, which report one by one.

    :param chunks: the chunks, none of which has reported yet.
    :param progress: what is told the sums.
    """

    def __init__(self, chunks: Sequence[ChunkInfo], progress: Progress) -> None:
        from airflow_ensemble.engine.index.interface import Counts

        self._counts = {chunk.id: Counts(dispatched=chunk.size) for chunk in chunks}
        self._progress = progress

    def update(self, chunk: str, counts: Counts) -> None:
        """Take the counts of one chunk."""
        self._counts[chunk] = counts
        self._progress.update(add_counts(list(self._counts.values())))


def add_counts(counts: Sequence[Counts]) -> Counts:
    """Add counts up, reasons apart."""
    from airflow_ensemble.engine.index.interface import Counts

    names = [field.name for field in fields(Counts) if field.name != "reasons"]
    return Counts(**{name: sum(getattr(one, name) for one in counts) for name in names})


COMMAND = Command(
    name="run",
    summary="Run every simulation that is missing, on this machine, and wait for all of them.",
    example="ensemble run --first 2\nensemble run --n-workers 8",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={
        0: "all complete (or no more failed than max_failed allows)",
        1: "some failed, or are left to another run",
        2: "wrong input, nothing was changed",
        3: "interrupted: repeat the command to go on",
    },
)
