"""``ensemble run`` on Kubernetes: register, let one Job drain what is missing, perhaps wait."""

from __future__ import annotations

import threading
import time
from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.kubernetes.errors import AlreadyThere, Unreachable
from airflow_ensemble.cli.kubernetes.jobs import JobView, ask, open_kubectl
from airflow_ensemble.cli.kubernetes.kubectl import Kubectl
from airflow_ensemble.cli.kubernetes.waiting import DrainWait
from airflow_ensemble.cli.kubernetes.workers import make_workers
from airflow_ensemble.cli.opening import file_option
from airflow_ensemble.cli.plan import listed, plan_run, render_plan
from airflow_ensemble.cli.progress import make_progress
from airflow_ensemble.cli.registering import new_batch_key, register_batch
from airflow_ensemble.cli.stopping import stop_on_signals
from airflow_ensemble.cli.summary import summarise
from airflow_ensemble.cli.text import format_count, render_fields
from airflow_ensemble.engine.errors import Interrupted

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.index.interface import Registration
    from airflow_ensemble.kubernetes.manifests import Workers

DETACHING = "detaching: the pods go on; once more to stop at once"
CREATING = "stopping after the job is created; once more to stop at once"
#: Times that a creation without an answer is tried: under its name it happens once.
TRIES = 3
#: The batch whose Job the server judges before there is one.
TRIAL = "0000000000"


def run(ensemble: Ensemble, args: Namespace, console: Console) -> int:
    """Create the Job that drains what is missing, and wait for it if asked to.

    :param ensemble: the loaded ensemble file.
    :param args: of ``ensemble run``.
    :param console: where to say what came of it.
    :return: the exit code.
    """
    from airflow_ensemble.cli.starting import refuse_bad_start
    from airflow_ensemble.engine.control import open_control

    workers, kubectl = make_workers(ensemble), open_kubectl(ensemble)
    release = kubectl.release()
    kubectl.create(_job(workers, TRIAL, release), dry=True)
    refuse_bad_start(ensemble, args.first)
    message = DETACHING if args.wait else CREATING
    with open_control(ensemble, create=True) as control, stop_on_signals(console, message) as stop:
        return _JobRun(control, workers, kubectl, release, console, args, stop).run()


def dry_run(ensemble: Ensemble, args: Namespace, console: Console) -> int:
    """Print the manifest of the Job that would be created, and for what; change nothing."""
    from airflow_ensemble.cli.commands.manifests import render

    workers = make_workers(ensemble)
    plan = plan_run(ensemble, args)
    console.say(render([_job(workers, "BATCH", open_kubectl(ensemble).release())]))
    where = f"in {format_count(workers.n_workers, 'pod')} of Kubernetes"
    console.say(render_plan(plan, where, listed(args)))
    return 0


def judge_job(ensemble: Ensemble) -> str:
    """Let the API server judge the Job that the ensemble would need, without creating it.

    :return: what it is.
    :raises KubernetesError: with what the server answered.
    """
    workers, kubectl = make_workers(ensemble), open_kubectl(ensemble)
    release = kubectl.release()
    kubectl.create(_job(workers, TRIAL, release), dry=True)
    pods = format_count(workers.n_workers, "pod")
    return f"a job of {pods} would be taken by Kubernetes {release[0]}.{release[1]}"


def _job(workers: Workers, batch: str, release: tuple[int, int]) -> dict[str, Any]:
    from airflow_ensemble.kubernetes.manifests import job

    return job(workers, batch, release)


@dataclass
class _JobRun:
    """One run of one ensemble in one namespace."""

    control: Control
    workers: Workers
    kubectl: Kubectl
    release: tuple[int, int]
    console: Console
    args: Namespace
    stop: threading.Event

    def run(self) -> int:
        """Create the Job, unless one is at work already; return the exit code."""
        started = time.monotonic()
        registration = register_batch(self.control, self.args, self.console, new_batch_key())
        if registration.pending or registration.elsewhere:
            self._start(registration)
            if not self.args.wait:
                self.console.note(self._how_to_go_on())
                return 0
            self._wait(registration)
        seconds = time.monotonic() - started
        return summarise(self.control, self.console, registration, seconds, file_option(self.args))

    def _start(self, registration: Registration) -> None:
        live = [job for job in self._look() if job.end is None]
        if live:
            self.console.note(f"job {live[-1].name} of an earlier run drains the ensemble already")
            return
        if not registration.pending:
            return  # other workers hold all of it
        manifest = _job(self.workers, registration.batch, self.release)
        self._create(manifest)
        self.console.say(
            f"created job {manifest['metadata']['name']} of "
            f"{format_count(self.workers.n_workers, 'pod')} in {self.kubectl.place}"
        )

    def _create(self, manifest: dict[str, Any]) -> None:
        for left in reversed(range(TRIES)):
            try:
                self.kubectl.create(manifest)
            except AlreadyThere:
                return  # an earlier try, whose answer was lost
            except Unreachable:
                if not left:
                    raise
            else:
                return

    def _look(self) -> list[JobView]:
        return ask(self.kubectl, self.control.ensemble)

    def _wait(self, registration: Registration) -> None:
        from airflow_ensemble.engine.index.interface import Scope

        scope = Scope() if registration.elsewhere else Scope(batch=registration.batch)
        with make_progress(self.console.quiet) as progress:
            waiting = DrainWait(
                self.control, self.kubectl, self._look, scope, progress, self.stop, self.args.poll
            )
            try:
                waiting.follow()
            except Interrupted as error:
                raise Interrupted(f"{error}\n{self._how_to_go_on()}") from error

    def _how_to_go_on(self) -> str:
        option = file_option(self.args)
        hints = (
            (f"ensemble status{option}", "shows how far it is, and Kubernetes' view of it"),
            (f"ensemble run --wait{option}", "waits for it"),
            (f"ensemble cancel --all{option}", "cancels it, and deletes the job"),
        )
        return render_fields(hints)
