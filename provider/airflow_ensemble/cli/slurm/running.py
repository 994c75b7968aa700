"""``ensemble run`` on a login node: register, submit one array per resource class, perhaps wait."""

from __future__ import annotations

import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import file_option
from airflow_ensemble.cli.plan import listed, plan_run, render_plan
from airflow_ensemble.cli.progress import make_progress
from airflow_ensemble.cli.registering import new_batch_key, register_batch
from airflow_ensemble.cli.slurm.place import PLACE, make_settlers, open_cluster
from airflow_ensemble.cli.slurm.waiting import ArrayWait
from airflow_ensemble.cli.stopping import stop_on_signals
from airflow_ensemble.cli.summary import summarise
from airflow_ensemble.cli.text import format_count, render_fields, render_table
from airflow_ensemble.engine.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.index.interface import JobInfo, Registration
    from airflow_ensemble.slurm.cluster import Cluster

DETACHING = "detaching: the array jobs go on; once more to stop at once"
SUBMITTING = "stopping after the submission; once more to stop at once"


def run(ensemble: Ensemble, args: Namespace, console: Console) -> int:
    """Submit what is missing, and wait for it if asked to.

    :param ensemble: the loaded ensemble file.
    :param args: of ``ensemble run``.
    :param console: where to say what came of it.
    :return: the exit code.
    """
    from airflow_ensemble.cli.slurm.checking import refuse_unusable_cluster
    from airflow_ensemble.cli.starting import refuse_bad_start
    from airflow_ensemble.engine.control import open_control

    cluster = open_cluster(ensemble)
    refuse_unusable_cluster(ensemble, cluster)
    refuse_bad_start(ensemble, args.first)
    message = DETACHING if args.wait else SUBMITTING
    with open_control(ensemble, create=True) as control, stop_on_signals(console, message) as stop:
        return _ArrayRun(control, cluster, console, args, stop).run()


def dry_run(ensemble: Ensemble, args: Namespace, console: Console) -> int:
    """Print the batch scripts that would be submitted, and for what; change nothing."""
    from airflow_ensemble.slurm.batches import policy_warnings, preview

    plan, cluster = plan_run(ensemble, args), open_cluster(ensemble)
    previews = preview(ensemble, cluster, sorted(plan.classes.items()))
    for one in previews:
        console.say(f"{one.script.rstrip()}\n")
    for line in policy_warnings(ensemble, cluster, plan.classes):
        console.note(f"warning: {line}")
    elements = format_count(sum(one.n_elements for one in previews), "array element")
    console.say(render_plan(plan, f"in {elements} of Slurm", listed(args)))
    return 0


@dataclass
class _ArrayRun:
    """One run of one ensemble on the cluster of this login node."""

    control: Control
    cluster: Cluster
    console: Console
    args: Namespace
    stop: threading.Event

    @property
    def file_option(self) -> str:
        """Return what hints need to name the same ensemble."""
        return file_option(self.args)

    def run(self) -> int:
        """Submit what is missing; return the exit code."""
        started, key = time.monotonic(), new_batch_key()
        if not self.args.wait:
            registration = self._register(key)
            if self._submit(registration) or registration.elsewhere:
                self._say_what_next(registration)
                return 0
        else:
            registration = self._run_to_the_end(key)
        seconds = time.monotonic() - started
        return summarise(self.control, self.console, registration, seconds, self.file_option)

    def _run_to_the_end(self, key: str) -> Registration:
        """Submit and wait, until what other runs owned is over, too."""
        while True:
            registration = self._register(key)
            with self._driven(registration) as batches:
                given_up = self._wait(registration, batches)
            for chunk, why in given_up.items():
                self.console.note(f"gave up chunk {chunk}: {why}")
            self._wait_for_others()
            if given_up or not registration.elsewhere:
                return registration

    def _register(self, key: str) -> Registration:
        return register_batch(self.control, self.args, self.console, key)

    def _submit(self, registration: Registration) -> list[JobInfo]:
        from airflow_ensemble.engine.batch import driving

        with driving(self.control, registration.batch):
            return self._submit_driven(registration)

    def _submit_driven(self, registration: Registration) -> list[JobInfo]:
        if not registration.pending:
            return []
        from airflow_ensemble.engine.batch import dispatch
        from airflow_ensemble.slurm.batches import allowed_chunks, submit, wanted_chunks
        from airflow_ensemble.slurm.errors import ClusterError

        wanted = wanted_chunks(self.control.ensemble, registration.pending)
        n_chunks = allowed_chunks(self.control, self.cluster, wanted)
        chunks = dispatch(self.control, registration.batch, backend="slurm", n_chunks=n_chunks)
        try:
            jobs = submit(self.control, self.cluster, chunks, stop=self.stop)
        except (UsageError, OSError):
            for chunk in chunks:
                self.control.index.settle(chunk.id)
            raise
        except (ClusterError, Interrupted) as error:
            raise Interrupted(
                f"{error}\nrepeat the command: it first finds out what Slurm has taken"
            ) from error
        self._say_submitted(jobs)
        return jobs

    # --- waiting ----------------------------------------------------------------------------------

    @contextmanager
    def _driven(self, registration: Registration) -> Iterator[list[str]]:
        """Submit the own batch, take over those whose drivers have gone, and hold them all."""
        from airflow_ensemble.engine.batch import driving
        from airflow_ensemble.engine.evidence import LockHeld

        with ExitStack() as held:
            held.enter_context(driving(self.control, registration.batch))
            self._submit_driven(registration)
            batches = [registration.batch]
            for batch in self._left_alone(registration.batch):
                try:
                    held.enter_context(driving(self.control, batch))
                    batches.append(batch)
                except LockHeld:
                    self.console.note(f"another `ensemble run --wait` drives batch {batch}")
            if len(batches) > 1:
                self.console.note("attached to array jobs that an earlier run has submitted")
            yield batches

    def _left_alone(self, own: str) -> list[str]:
        """Return the open batches of this cluster besides the own one."""
        index = self.control.index
        return [
            batch.id
            for batch in index.open_batches(self.control.key)
            if batch.backend == "slurm"
            and batch.id != own
            and all(job.place == PLACE for job in index.jobs(self.control.key, batch.id))
        ]

    def _wait(self, registration: Registration, batches: Sequence[str]) -> Mapping[str, str]:
        from airflow_ensemble.engine.index.interface import Scope

        scope = Scope() if registration.elsewhere else Scope(batch=registration.batch)
        with make_progress(self.console.quiet) as progress:
            waiting = ArrayWait(
                self.control, self.cluster, scope, progress, self.stop, self.args.poll
            )
            try:
                return waiting.follow(batches)
            except Interrupted as error:
                raise Interrupted(f"{error}\n{self._how_to_go_on()}") from error

    def _wait_for_others(self) -> None:
        """Wait until nobody owns a simulation any more."""
        from airflow_ensemble.cli.others import wait_for_others

        settlers = make_settlers(self.control.ensemble)
        wait_for_others(self.control, self.console, self.stop, self.args.poll, settlers)

    # --- what is said -----------------------------------------------------------------------------

    def _say_submitted(self, jobs: Sequence[JobInfo]) -> None:
        index = self.control.index
        rows = [(job.job_id, len(index.elements(job=job.name)), job.folder) for job in jobs]
        self.console.say(describe_jobs(rows))

    def _say_what_next(self, registration: Registration) -> None:
        if registration.elsewhere:
            self.console.note(f"{registration.elsewhere:,} are in array jobs of an earlier run")
        self.console.note(self._how_to_go_on())

    def _how_to_go_on(self) -> str:
        option = self.file_option
        hints = (
            (f"ensemble status{option}", "shows how far it is, and Slurm's view of it"),
            (f"ensemble run --wait{option}", "waits for it, and runs again what Slurm ended"),
            (f"ensemble cancel --all{option}", "cancels it"),
        )
        return render_fields(hints)


def describe_jobs(jobs: Sequence[tuple[str | None, int, str]]) -> str:
    """Return a table of submitted array jobs.

    :param jobs: (id, number of elements, folder) of each.
    """
    rows = [(id or "—", f"{elements:,}", folder) for id, elements, folder in jobs]
    table = render_table(("Slurm job", "elements", "folder"), rows, right=("elements",))
    total = sum(elements for _, elements, _ in jobs)
    return f"submitted {format_count(total, 'array element')}\n{table}"
