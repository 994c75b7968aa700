"""Kubernetes' view of an ensemble's Jobs and pods, beside that of the index."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_ensemble.cli.kubernetes.errors import KubernetesError
from airflow_ensemble.cli.kubernetes.kubectl import Kubectl
from airflow_ensemble.cli.text import render_table, shorten

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble

log = logging.getLogger(__name__)

#: How a Job that is over calls it.
_ENDS = ("Complete", "Failed")
#: Longest reason in a table, characters.
_WIDTH = 60


@dataclass(frozen=True)
class JobView:
    """One Job and its pods.

    :param name: its name.
    :param batch: id of the batch that it was created for.
    :param end: ``Complete`` or ``Failed``; None while it may start pods.
    :param detail: why it ended.
    :param pods: as the API's JSON has them.
    """

    name: str
    batch: str
    end: str | None = None
    detail: str = ""
    pods: Sequence[Mapping[str, Any]] = ()

    @property
    def states(self) -> dict[str, int]:
        """Return how many pods are in each phase."""
        return dict(Counter(_phase(pod) for pod in self.pods))

    @property
    def reasons(self) -> dict[str, int]:
        """Return how many pods failed, or cannot start, for each reason."""
        return dict(Counter(filter(None, map(trouble, self.pods))))


@dataclass(frozen=True)
class KubernetesView:
    """The Jobs of an ensemble that the cluster still knows.

    :param jobs: oldest first.
    :param problem: why the cluster could not be asked; empty when it answered.
    """

    jobs: Sequence[JobView] = field(default_factory=tuple)
    problem: str = ""


def open_kubectl(ensemble: Ensemble) -> Kubectl:
    """Return the namespace that the ensemble file names."""
    options = ensemble.execution.get("kubernetes", {})
    return Kubectl(options.get("context"), options.get("namespace"))


def read_view(ensemble: Ensemble) -> KubernetesView | None:
    """Ask once for the Jobs of an ensemble; None when it has none, or is not for Kubernetes.

    A file that only describes pods, as one for DAGs does, need not be where ``kubectl`` is.

    :param ensemble: the loaded ensemble file.
    """
    is_backend = ensemble.execution.get("backend") == "kubernetes"
    if not is_backend and not ("kubernetes" in ensemble.execution and shutil.which("kubectl")):
        return None
    try:
        jobs = ask(open_kubectl(ensemble), ensemble)
    except KubernetesError as error:
        return KubernetesView(problem=str(error)) if is_backend else None
    return KubernetesView(jobs) if jobs else None


def ask(kubectl: Kubectl, ensemble: Ensemble) -> list[JobView]:
    """Return the Jobs of an ensemble with its present settings, oldest first.

    :raises KubernetesError: when the cluster does not say.
    """
    selected = job_selector(ensemble)
    jobs = kubectl.list("jobs", selected)
    return view_jobs(jobs, kubectl.list("pods", selected)) if jobs else []


def delete_idle_jobs(ensemble: Ensemble) -> list[str]:
    """Delete the Jobs of an ensemble that has nothing left to run; return their names.

    Where ``kubectl`` does not reach, the pods end by themselves as soon as they ask the index.
    """
    view = read_view(ensemble)
    if view is None:
        return []
    if view.problem:
        log.warning("jobs that may be there were not deleted: %s", view.problem)
    names = [job.name for job in view.jobs if job.end is None]
    for name in names:
        open_kubectl(ensemble).delete_job(name)
    return names


def job_selector(ensemble: Ensemble) -> str:
    """Return the labels that an ensemble's Jobs and their pods bear."""
    from airflow_ensemble.kubernetes.pod import label_value, labels, selector

    marks = labels(ensemble.name)
    marks["settings"] = label_value(ensemble.settings.hash[:8])
    return selector(marks)


def view_jobs(
    jobs: Sequence[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]]
) -> list[JobView]:
    """Bring Jobs and pods together.

    :param jobs: as the API's JSON has them.
    :param pods: of any of them.
    """
    ordered = sorted(jobs, key=lambda job: str(job["metadata"].get("creationTimestamp", "")))
    return [_view(job, pods) for job in ordered]


def _view(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> JobView:
    name = job["metadata"]["name"]
    end, detail = None, ""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("type") in _ENDS and condition.get("status") == "True":
            end = condition["type"]
            words = (condition.get("reason"), condition.get("message"))
            detail = ": ".join(word for word in words if word)
    return JobView(
        name=name,
        batch=(job["metadata"].get("labels") or {}).get("batch", ""),
        end=end,
        detail=detail,
        pods=[pod for pod in pods if (pod["metadata"].get("labels") or {}).get("job-name") == name],
    )


def trouble(pod: Mapping[str, Any]) -> str | None:
    """Return why a pod failed or does not start; None when nothing is wrong with it."""
    from airflow_ensemble.kubernetes.ends import how_ended, why_waiting

    if _phase(pod) == "Failed":
        return how_ended(pod).detail
    return why_waiting(pod) if _phase(pod) == "Pending" else None


def _phase(pod: Mapping[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase") or "Unknown")


# --- writing --------------------------------------------------------------------------------------


def as_record(view: KubernetesView | None) -> dict[str, Any] | None:
    """Return Kubernetes' view as JSON values; None when there is nothing to view."""
    if view is None:
        return None
    return {
        "answered": not view.problem,
        "problem": view.problem or None,
        "jobs": [
            {
                "name": one.name,
                "batch": one.batch,
                "end": one.end,
                "detail": one.detail,
                "pods": one.states,
                "reasons": one.reasons,
            }
            for one in view.jobs
        ],
    }


def render_view(view: KubernetesView) -> str:
    """Return Kubernetes' view as a table."""
    if view.problem:
        return f"Kubernetes' own view is missing: {view.problem}"
    rows = [
        (
            one.name,
            (one.end or "active").lower(),
            count_words(one.states) or "none",
            shorten(count_words(one.reasons), _WIDTH),
        )
        for one in view.jobs
    ]
    return render_table(("Kubernetes job", "state", "pods", "why they failed or wait"), rows)


def summarise_view(view: KubernetesView | None) -> str:
    """Return Kubernetes' view of the Jobs that are not over in a few words."""
    live = [one for one in view.jobs if one.end is None] if view is not None else []
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for one in live:
        states.update(one.states)
        reasons.update(one.reasons)
    if not live:
        return ""
    why = f" ({shorten(count_words(reasons), _WIDTH)})" if reasons else ""
    return f"Kubernetes: {count_words(states) or 'no pod yet'}{why}"


def count_words(counts: Mapping[str, int]) -> str:
    """Return ``12 Running, 3 Pending``, most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {word}" for word, number in ordered)
