"""Every way for a worker's pod to end, and whose fault it was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.simulation import Reason
from airflow_ensemble.kubernetes.ends import (
    EVENTS,
    MAX_DETAIL,
    MEANINGS,
    PodEnd,
    as_told,
    how_ended,
    how_stopped,
    how_vanished,
    is_over,
    why_waiting,
)

#: Words of the API, by where they appear.
DISRUPTIONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "EvictionByEvictionAPI": Reason.PREEMPTED,
    "TerminationByKubelet": Reason.PREEMPTED,
    "DeletionByTaintManager": Reason.NODE_FAILURE,
    "DeletionByPodGC": Reason.NODE_FAILURE,
}
POD_REASONS = {
    "Evicted": Reason.PREEMPTED,
    "Preempting": Reason.PREEMPTED,
    "NodeLost": Reason.NODE_FAILURE,
    "NodeShutdown": Reason.NODE_FAILURE,
    "Shutdown": Reason.NODE_FAILURE,
    "Terminated": Reason.NODE_FAILURE,
    "DeadlineExceeded": Reason.TIME_LIMIT,
}


def pod(phase: str = "Failed", state: dict[str, Any] | None = None, **status: Any) -> Any:
    """Return a pod on a node, with a sidecar beside the worker."""
    containers = [
        {"name": "proxy", "state": {"terminated": {"exitCode": 9, "reason": "Error"}}},
        {"name": "worker", "state": state or {}},
    ]
    return {
        "metadata": {"name": "slc-0"},
        "spec": {"nodeName": "node-7"},
        "status": {"phase": phase, "containerStatuses": containers, **status},
    }


def ended(exit_code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "reason": reason, **more}}


def disrupted(reason: str, status: str = "True") -> dict[str, Any]:
    return {"conditions": [{"type": "DisruptionTarget", "status": status, "reason": reason}]}


def test_the_table_is_closed() -> None:
    assert dict(MEANINGS) == {"OOMKilled": Reason.OUT_OF_MEMORY, **DISRUPTIONS, **POD_REASONS}


def test_a_pod_that_succeeded_charges_nobody() -> None:
    assert how_ended(pod("Succeeded", ended(0, "Completed"))) == PodEnd(None, "ended well", 0)
    assert how_ended({"status": {"phase": "Succeeded"}}).reason is None


def test_a_worker_that_ended_well_beside_a_sidecar_that_did_not_charges_nobody() -> None:
    assert how_ended(pod("Failed", ended(0, "Completed"))).reason is None


def test_memory_that_ran_out_on_the_way_to_a_good_end_charges_nobody() -> None:
    """A child of the worker may have been killed: the worker has recorded that itself."""
    assert how_ended(pod("Succeeded", ended(0, "OOMKilled"))).reason is None


@pytest.mark.parametrize(("word", "reason"), POD_REASONS.items())
def test_a_pods_own_reason(word: str, reason: Reason) -> None:
    end = how_ended(pod("Failed", ended(137), reason=word, message="the node says\n why"))
    assert end == PodEnd(reason, f"{word}: the node says why on node node-7", 137)


@pytest.mark.parametrize(("word", "reason"), DISRUPTIONS.items())
def test_a_disruption(word: str, reason: Reason) -> None:
    assert how_ended(pod("Failed", ended(137), **disrupted(word))).reason is reason
    assert how_ended(pod("Running", {"running": {}}, **disrupted(word))).reason is reason
    assert how_ended(pod("Failed", ended(137), **disrupted(word, "False"))).reason is Reason.LOST


def test_out_of_memory_comes_before_what_is_said_of_the_pod() -> None:
    end = how_ended(pod("Failed", ended(137, "OOMKilled"), reason="Evicted"))
    assert end == PodEnd(Reason.OUT_OF_MEMORY, "OOMKilled on node node-7", 137)


def test_a_shutdown_of_the_node_is_told_from_an_eviction() -> None:
    status = {"reason": "Terminated", **disrupted("TerminationByKubelet")}
    assert how_ended(pod("Failed", ended(137), **status)).reason is Reason.NODE_FAILURE


@pytest.mark.parametrize(("code", "text"), [(1, "exit code 1"), (2, "refused"), (137, "SIGKILL")])
def test_any_other_exit_code_says_that_the_worker_is_gone(code: int, text: str) -> None:
    end = how_ended(pod("Failed", ended(code)))
    assert (end.reason, end.exit_code) == (Reason.LOST, code)
    assert text in end.detail


def test_a_pod_that_never_ran_says_why() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    end = how_ended(pod("Pending", waiting))
    assert end == PodEnd(Reason.LOST, "never ran: ImagePullBackOff: Back-off pulling image")
    refused = {"status": {"phase": "Failed", "reason": "OutOfcpu", "message": "no cpu left"}}
    assert how_ended(refused).detail == "never ran: OutOfcpu: no cpu left"


def test_a_pod_that_has_vanished_is_judged_by_what_was_seen_last() -> None:
    deleted = PodEnd(Reason.LOST, "the pod was deleted by somebody else")
    assert how_vanished(None) == deleted
    assert how_vanished(pod("Running", {"running": {}})) == deleted
    preempted = pod("Running", {"running": {}}, **disrupted("PreemptionByScheduler"))
    assert how_vanished(preempted).reason is Reason.PREEMPTED
    assert how_vanished(pod("Failed", ended(137))).exit_code == 137
    assert how_vanished(pod("Succeeded", ended(0))).reason is None


def test_events_tell_what_a_pod_did_not_say() -> None:
    told = {"Preempted", "Evicted", "TaintManagerEviction"}
    assert set(EVENTS) == told
    begun = {"reason": "Started", "message": "Started container worker"}
    preempted = {"reason": "Preempted", "message": "Preempted by slc/big on node node-7"}
    stopped = how_ended(pod("Failed", ended(3)))
    end = as_told(stopped, [begun, preempted])
    assert end == PodEnd(Reason.PREEMPTED, "Preempted: Preempted by slc/big on node node-7", 3)
    assert as_told(how_vanished(None), [preempted]).reason is Reason.PREEMPTED
    assert as_told(stopped, [begun, {}]) == stopped


def test_events_change_nothing_about_an_end_that_is_known() -> None:
    preempted = [{"reason": "Preempted", "message": "Preempted by slc/big"}]
    for end in (
        how_ended(pod("Succeeded", ended(0))),
        how_ended(pod("Failed", ended(1, "OOMKilled"))),
    ):
        assert as_told(end, preempted) == end


def test_a_worker_is_over_before_its_sidecars_are() -> None:
    assert is_over(pod("Running", ended(0)))
    assert is_over({"status": {"phase": "Failed"}})
    assert not is_over(pod("Running", {"running": {}}))
    assert not is_over(pod("Pending"))


def test_a_pod_that_we_delete_ends_as_we_say_unless_it_never_ran() -> None:
    running = how_stopped(pod("Running", {"running": {}}), Reason.TIME_LIMIT, "too late")
    assert running == PodEnd(Reason.TIME_LIMIT, "too late")
    waiting = pod("Pending", {"waiting": {"reason": "ErrImagePull"}})
    assert how_stopped(waiting, Reason.TIME_LIMIT, "too late").detail == "never ran: ErrImagePull"


def test_what_keeps_a_pod_from_starting() -> None:
    unschedulable = {
        "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"},
        ]
    }
    assert why_waiting({"status": {"phase": "Pending", **unschedulable}}) == "Unschedulable"
    creating = {"waiting": {"reason": "ContainerCreating"}}
    assert why_waiting(pod("Pending", creating)) is None
    missing = {"waiting": {"reason": "CreateContainerConfigError", "message": 'no secret "x"'}}
    assert why_waiting(pod("Pending", missing)) == 'CreateContainerConfigError: no secret "x"'
    assert why_waiting(pod("Running", {"running": {}})) is None


words = st.none() | st.sampled_from([*MEANINGS, "Error", "Completed", "Something new", ""])
messages = st.none() | st.text(max_size=900)
states = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "running": st.just({}),
        "waiting": st.fixed_dictionaries({}, optional={"reason": words, "message": messages}),
        "terminated": st.fixed_dictionaries(
            {"exitCode": st.integers(0, 255)}, optional={"reason": words, "message": messages}
        ),
    },
)
conditions = st.none() | st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["DisruptionTarget", "PodScheduled", "Ready"])},
        optional={"status": st.sampled_from(["True", "False"]), "reason": words},
    )
)
pods = st.fixed_dictionaries(
    {},
    optional={
        "spec": st.none() | st.fixed_dictionaries({}, optional={"nodeName": st.just("node-7")}),
        "status": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
                "reason": words,
                "message": messages,
                "conditions": conditions,
                "containerStatuses": st.none()
                | st.lists(
                    st.fixed_dictionaries(
                        {"name": st.sampled_from(["worker", "proxy"])}, optional={"state": states}
                    ),
                    max_size=2,
                ),
            },
        ),
    },
)


@given(pods)
def test_whatever_the_api_leaves_out_there_is_an_answer_of_one_line(seen: Any) -> None:
    for end in (how_ended(seen), how_vanished(seen)):
        assert end.detail
        assert "\n" not in end.detail
        assert len(end.detail) <= MAX_DETAIL + len("never ran: ")
    why_waiting(seen)
