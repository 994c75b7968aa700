"""How the pod of a worker ended, and what its simulations are charged with: one closed table.

A pod is a mapping as the API server's JSON has it. A word that is not in the table says that the
worker is gone, and not why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ensemble.engine.simulation import Reason
from airflow_ensemble.kubernetes.pod import CONTAINER

#: Words of Kubernetes: of a container, of a pod, and of the condition ``DisruptionTarget``.
MEANINGS: Mapping[str, Reason] = {
    "OOMKilled": Reason.OUT_OF_MEMORY,
    # Made room for others, or for an administrator's drain.
    "Evicted": Reason.PREEMPTED,
    "Preempting": Reason.PREEMPTED,
    "PreemptionByScheduler": Reason.PREEMPTED,
    "EvictionByEvictionAPI": Reason.PREEMPTED,
    "TerminationByKubelet": Reason.PREEMPTED,
    # The node went away, or was shut down.
    "NodeLost": Reason.NODE_FAILURE,
    "NodeShutdown": Reason.NODE_FAILURE,
    "Shutdown": Reason.NODE_FAILURE,
    "Terminated": Reason.NODE_FAILURE,
    "DeletionByTaintManager": Reason.NODE_FAILURE,
    "DeletionByPodGC": Reason.NODE_FAILURE,
    # activeDeadlineSeconds of the pod or its job.
    "DeadlineExceeded": Reason.TIME_LIMIT,
}
#: Reasons of events about a pod that somebody ends: they outlive the pod.
EVENTS: Mapping[str, Reason] = {
    "Preempted": Reason.PREEMPTED,
    "Evicted": Reason.PREEMPTED,
    "TaintManagerEviction": Reason.NODE_FAILURE,
}
#: Reasons for which a container waits that are none: it is on its way.
_STARTING = frozenset({"ContainerCreating", "PodInitializing", ""})
#: What the worker itself says with its exit code.
_EXIT_CODES: Mapping[int, str] = {
    2: "the worker refused: index, output root or model cannot be used, see its log",
    3: "the worker was stopped, or lost its lease",
    137: "killed by SIGKILL",
    143: "killed by SIGTERM",
}
#: Longest detail, characters.
MAX_DETAIL = 500


@dataclass(frozen=True)
class PodEnd:
    """How a pod ended.

    :param reason: what simulations that it left running are charged with; None when it ended well.
    :param detail: one line for people.
    :param exit_code: of the worker; None when it never ran, or nobody knows.
    """

    reason: Reason | None
    detail: str
    exit_code: int | None = None


def how_ended(pod: Mapping[str, Any], container: str = CONTAINER) -> PodEnd:
    """Return how a pod ended that will run no more.

    A pod that has not ended yet, because it is about to be deleted, is judged by what it says so
    far.

    :param pod: as it was seen last.
    :param container: name of the container that runs the worker.
    """
    terminated = _state(pod, container, "terminated") or {}
    exit_code = terminated.get("exitCode")
    if exit_code == 0 or _status(pod).get("phase") == "Succeeded":
        return PodEnd(None, "ended well", 0)
    for word, message in _words(pod, terminated):
        if word in MEANINGS:
            return PodEnd(MEANINGS[word], _detail(word, message, _node(pod)), exit_code)
    if exit_code is not None:
        meaning = _EXIT_CODES.get(exit_code, "")
        text = f"exit code {exit_code}"
        return PodEnd(Reason.LOST, _detail(text, meaning, _node(pod)), exit_code)
    return PodEnd(Reason.LOST, _why_never_ran(pod, container))


def is_over(pod: Mapping[str, Any], container: str = CONTAINER) -> bool:
    """Return whether the worker of a pod runs no more, and never will.

    :param pod: as the API server's JSON has it.
    :param container: name of the container that runs the worker.
    """
    if _status(pod).get("phase") in ("Succeeded", "Failed"):
        return True
    return _state(pod, container, "terminated") is not None


def how_stopped(
    pod: Mapping[str, Any], reason: Reason, detail: str, container: str = CONTAINER
) -> PodEnd:
    """Return how a pod ends that we delete.

    :param pod: as it was before.
    :param reason: what simulations are charged with that its worker leaves running all the same.
    :param detail: why we do so, one line for people.
    :param container: name of the container that runs the worker.
    """
    if _state(pod, container, "running") is not None:
        return PodEnd(reason, detail)
    return how_ended(pod, container)


def how_vanished(last_seen: Mapping[str, Any] | None, container: str = CONTAINER) -> PodEnd:
    """Return how a pod ended that the API server does not know any more.

    :param last_seen: the pod as it was when somebody looked last; None when nobody did.
    :param container: name of the container that runs the worker.
    """
    if last_seen is not None:
        end = how_ended(last_seen, container)
        if end.reason is not Reason.LOST or end.exit_code is not None:
            return end
    return PodEnd(Reason.LOST, "the pod was deleted by somebody else")


def as_told(end: PodEnd, events: Iterable[Mapping[str, Any]]) -> PodEnd:
    """Return an end with what events tell of it, where the pod itself did not say why.

    A pod that makes room for others is gone soon after it has been told to end, and on clusters
    before 1.26 it never says so itself.

    :param end: as the pod tells it.
    :param events: about the pod, as the API server's JSON has them.
    """
    if end.reason is not Reason.LOST:
        return end
    for event in events:
        word = event.get("reason") or ""
        if word in EVENTS:
            return PodEnd(EVENTS[word], _detail(word, event.get("message")), end.exit_code)
    return end


def why_waiting(pod: Mapping[str, Any]) -> str | None:
    """Return what keeps a pod from starting, such as ``ImagePullBackOff: …``; None when nothing.

    :param pod: as the API server's JSON has it.
    """
    for condition in _status(pod).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _detail(condition.get("reason") or "Unschedulable", condition.get("message"))
    for status in _container_statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        if (waiting.get("reason") or "") not in _STARTING:
            return _detail(waiting["reason"], waiting.get("message"))
    return None


def _words(
    pod: Mapping[str, Any], terminated: Mapping[str, Any]
) -> Iterator[tuple[str, str | None]]:
    """Yield what Kubernetes says, with its message: what is said of the worker itself first."""
    yield terminated.get("reason") or "", terminated.get("message")
    yield _status(pod).get("reason") or "", _status(pod).get("message")
    for condition in _status(pod).get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            yield condition.get("reason") or "", condition.get("message")


def _why_never_ran(pod: Mapping[str, Any], container: str) -> str:
    if _state(pod, container, "running") is not None:
        return _detail("it was still running when it was last seen", None, _node(pod))
    status = _status(pod)
    if status.get("reason"):
        return _detail(f"never ran: {status['reason']}", status.get("message"), _node(pod))
    return f"never ran: {why_waiting(pod) or 'nobody knows why'}"


def _status(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return pod.get("status") or {}


def _node(pod: Mapping[str, Any]) -> str | None:
    return (pod.get("spec") or {}).get("nodeName")


def _container_statuses(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        yield from _status(pod).get(kind) or ()


def _state(pod: Mapping[str, Any], container: str, name: str) -> Mapping[str, Any] | None:
    """Return one of a container's states; None when it is in another."""
    for status in _status(pod).get("containerStatuses") or ():
        if status.get("name") == container:
            state: Mapping[str, Any] | None = (status.get("state") or {}).get(name)
            return state
    return None


def _detail(word: str, message: str | None, node: str | None = None) -> str:
    """Return a line for people, of what is known."""
    text = f"{word}: {' '.join(message.split())}" if message else word
    where = f" on node {node}" if node else ""
    return f"{text[: MAX_DETAIL - len(where)]}{where}"
