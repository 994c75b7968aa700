"""``ensemble run``: register, dispatch and run all that is missing."""

from __future__ import annotations

import os
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

from airflow_ensemble.cli.command import Command, add_file_argument, positive, seconds
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import file_option, load_ensemble
from airflow_ensemble.cli.others import WAIT_INTERVAL, wait_for_others
from airflow_ensemble.cli.plan import listed, plan_run, render_plan
from airflow_ensemble.cli.progress import Progress, make_progress
from airflow_ensemble.cli.registering import add_register_options, new_batch_key, register_batch
from airflow_ensemble.cli.slurm.place import make_settlers
from airflow_ensemble.cli.stopping import stop_on_signals
from airflow_ensemble.cli.summary import summarise
from airflow_ensemble.engine.errors import Interrupted

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.index.interface import ChunkInfo, Counts, Registration


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be dispatched; change nothing"
    )
    parser.add_argument(
        "--first", type=positive, metavar="N", help="a canary: only the first N rows of the table"
    )
    add_register_options(parser)
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait also for simulations that another run owns; with the backends slurm and "
        "kubernetes, wait for array jobs and pods, which else go on without this command",
    )
    parser.add_argument(
        "--poll",
        type=seconds,
        default=WAIT_INTERVAL,
        metavar="SECONDS",
        help="longest time between two looks at results while waiting (default: "
        f"{WAIT_INTERVAL:g}); Slurm itself is asked every 2 to 30 seconds, Kubernetes every 5",
    )
    parser.add_argument("--backend", metavar="B", help="where to run: local, slurm or kubernetes")
    parser.add_argument(
        "--n-workers",
        type=positive,
        metavar="N",
        help="simulations at once (default: all CPUs); with the backend slurm, array elements; "
        "with kubernetes, pods (default: 1)",
    )
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    ensemble = load_ensemble(args)
    backend = ensemble.execution.get("backend", "local")
    if backend == "slurm":
        from airflow_ensemble.cli.slurm import running

        return (running.dry_run if args.dry_run else running.run)(ensemble, args, console)
    if backend == "kubernetes":
        from airflow_ensemble.cli.kubernetes import running as pods

        return (pods.dry_run if args.dry_run else pods.run)(ensemble, args, console)
    processes = count_processes(ensemble)
    if args.dry_run:
        plan = plan_run(ensemble, args)
        console.say(render_plan(plan, f"up to {processes} at once", listed(args)))
        return 0
    from airflow_ensemble.cli.model_loading import refuse_unusable_model
    from airflow_ensemble.cli.starting import refuse_bad_start
    from airflow_ensemble.engine.control import open_control

    refuse_unusable_model(ensemble)
    refuse_bad_start(ensemble, args.first)
    with open_control(ensemble, create=True) as control, stop_on_signals(console) as stop:
        return _BatchRun(control, console, args, processes, stop).run()


def count_processes(ensemble: Ensemble) -> int:
    """Return how many simulations run at once: ``execution.n_workers``, else the usable CPUs."""
    given = ensemble.execution.get("n_workers")
    return int(given) if given else len(os.sched_getaffinity(0))


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
            reconcile(self.control, settlers=make_settlers(self.control.ensemble))
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
        settlers = make_settlers(self.control.ensemble)
        return wait_for_others(self.control, self.console, self.stop, self.args.poll, settlers)

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
    summary="Run every simulation that is missing: here, in array jobs of Slurm, or in pods.",
    example="ensemble run --first 2\nensemble run --n-workers 8\n"
    "ensemble run --backend slurm --wait\nensemble run --backend kubernetes --wait",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={
        0: "all complete (or no more failed than max_failed allows); slurm and kubernetes without "
        "--wait: submitted",
        1: "some failed, or are left to another run",
        2: "wrong input, nothing was changed",
        3: "interrupted: repeat the command to go on",
    },
)
