"""Waiting for pods that drain an ensemble: the index decides, and the Job is evidence."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_ensemble.cli.kubernetes.errors import Refused, Unreachable
from airflow_ensemble.cli.kubernetes.jobs import JobView, KubernetesView, count_words
from airflow_ensemble.cli.kubernetes.jobs import summarise_view as summarise
from airflow_ensemble.cli.kubernetes.kubectl import Kubectl
from airflow_ensemble.cli.text import format_count
from airflow_ensemble.engine.errors import EnsembleError, Interrupted

if TYPE_CHECKING:
    from airflow_ensemble.cli.progress import Progress
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.index.interface import Counts, Scope

log = logging.getLogger(__name__)

#: Seconds between two questions to the cluster; the index is asked more often.
CLUSTER_INTERVAL = 5.0
#: Seconds after which a Job is given up of which no pod can even start its container.
STUCK_LIMIT = 120.0
#: Why a container does not start although it has a node: a person must mend that.
BROKEN = (
    *("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"),
    *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
)
#: Exit code of a worker that cannot work at all.
REFUSED = 2
#: What the waiting ends with when it is asked to stop.
DETACHED = "detached: the pods go on without this command"


class JobEnded(EnsembleError):
    """All pods have gone with work left: a later run goes on where they stopped."""


@dataclass
class DrainWait:
    """Waits until simulations are terminal, or until nobody is left to run them.

    :param control: the opened ensemble.
    :param kubectl: where the Jobs are.
    :param look: asks the cluster for the ensemble's Jobs.
    :param scope: the simulations that are waited for.
    :param progress: shows them.
    :param stop: set it to detach.
    :param poll: seconds between two looks at the index.
    """

    control: Control
    kubectl: Kubectl
    look: Callable[[], list[JobView]]
    scope: Scope
    progress: Progress
    stop: threading.Event
    poll: float
    _next: float = 0.0
    _seen: set[str] = field(default_factory=set)
    _stuck: dict[str, float] = field(default_factory=dict)

    def follow(self) -> None:
        """Wait for the end.

        :raises JobEnded: when no Job and no other worker is left, naming why pods ended.
        :raises Refused: when no pod can start, or all refuse to work; their Job is deleted then.
        :raises Interrupted: when asked to stop; the pods go on.
        """
        while True:
            counts = self._counts()
            if counts.unfinished and time.monotonic() >= self._next:
                self._look()
                self._next = time.monotonic() + CLUSTER_INTERVAL
                counts = self._counts()
            self.progress.update(counts)
            if not counts.unfinished:
                return
            if self.stop.wait(self.poll):
                raise Interrupted(DETACHED)

    def _counts(self) -> Counts:
        return self.control.index.counts(self.control.key, self.scope)

    def _look(self) -> None:
        try:
            jobs = self.look()
        except Unreachable as error:
            log.warning("%s", error)
            return
        for job in jobs:
            self._dismiss_dead(job)
        self.control.index.expire()
        live = [job for job in jobs if job.end is None]
        self.progress.remark = summarise(KubernetesView(live))
        for job in live:
            self._give_up_refused(job)
            self._give_up_stuck(job)
        if not live and not self.control.index.workers(self.control.key):
            self._refuse_leftovers(jobs)

    def _dismiss_dead(self, job: JobView) -> None:
        """Charge what a dead pod ran with the reason that Kubernetes knows, at once."""
        from airflow_ensemble.kubernetes.ends import how_ended

        for pod in job.pods:
            name = pod["metadata"]["name"]
            if name in self._seen or not _has_failed(pod):
                continue
            self._seen.add(name)
            end = how_ended(pod)
            if end.reason is None:
                continue
            taken = self.control.index.dismiss(name, end.reason, end.detail)
            log.info("pod %s: %s; %d simulations taken back", name, end.detail, taken)

    def _refuse_leftovers(self, jobs: list[JobView]) -> None:
        """Raise if something waits that nobody will claim; what a push run owns is its own."""
        left = self._counts().pending
        if left:
            raise JobEnded(
                f"{describe_ends(jobs)} with {format_count(left, 'simulation')} left, and no "
                "worker is there to run them: mend what ended the pods, and repeat the command"
            )

    def _give_up_refused(self, job: JobView) -> None:
        """End a Job whose workers all refuse to work: one more pod would refuse, too."""
        from airflow_ensemble.kubernetes.ends import how_ended

        ends = [how_ended(pod).exit_code for pod in job.pods if _has_failed(pod)]
        if not job.pods or len(ends) < len(job.pods) or set(ends) != {REFUSED}:
            return
        words = self.kubectl.last_words(job.pods[-1]["metadata"]["name"])
        self._delete(job, f"the workers of job {job.name} refuse to work: {words}")

    def _delete(self, job: JobView, why: str) -> NoReturn:
        self.kubectl.delete_job(job.name)
        raise Refused(f"{why}; the job was deleted: mend that, and repeat the command")

    def _give_up_stuck(self, job: JobView) -> None:
        since = self._stuck.setdefault(job.name, time.monotonic())
        if not job.pods or not all(map(_is_broken, job.pods)):
            self._stuck[job.name] = time.monotonic()
        elif time.monotonic() - since >= STUCK_LIMIT:
            self._delete(job, f"no pod of job {job.name} can start: {count_words(job.reasons)}")


def _has_failed(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") == "Failed"


def _is_broken(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod's container cannot be started as things are."""
    from airflow_ensemble.kubernetes.ends import why_waiting

    return (why_waiting(pod) or "").split(":")[0] in BROKEN


def describe_ends(jobs: list[JobView]) -> str:
    """Return how Jobs ended, and why their pods did."""
    if not jobs:
        return "the job was deleted"
    newest = jobs[-1]
    how = "completed" if newest.end == "Complete" else f"failed ({newest.detail})"
    reasons = count_words(newest.reasons)
    return f"job {newest.name} {how}{f', pods: {reasons}' if reasons else ''},"
