"""The trigger that waits for a worker's pod: against a server, and what it does when killed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger

from airflow_ensemble.kubernetes.ends import how_ended, how_vanished, is_over
from airflow_ensemble.triggers import own_task
from airflow_ensemble.triggers.pull_worker import PullWorkerTrigger, as_plain
from tests.services.kubernetes import Cluster


def make_trigger(cluster: Cluster, pod: str, **options: Any) -> PullWorkerTrigger:
    values = {
        "pod_name": pod,
        "pod_namespace": cluster.namespace,
        "trigger_start_time": datetime.fromtimestamp(0, timezone.utc),
        "base_container_name": "base",
        "kubernetes_conn_id": "cluster",
        "poll_interval": 0.2,
        "startup_check_interval": 0.2,
        "log_events_on_startup": False,
    }
    return PullWorkerTrigger(**{**values, **options})


@pytest.fixture(autouse=True)
def connection(kubernetes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", kubernetes.airflow_connection())


async def first_event(trigger: PullWorkerTrigger) -> Any:
    async for event in trigger.run():
        return event.payload
    return None


def in_state(trigger: PullWorkerTrigger, monkeypatch: pytest.MonkeyPatch, state: Any) -> None:
    """Give the trigger a task instance, and let Airflow say, slowly, that it is in a state."""
    trigger._task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=1)
    answer = {"r": {"t_1": state}} if state else {}
    monkeypatch.setattr(
        own_task.RuntimeTaskInstance, "get_task_states", lambda **_: time.sleep(0.2) or answer
    )


async def kill(trigger: PullWorkerTrigger) -> None:
    """Call ``on_kill`` as Airflow does: and cancel that call soon after."""
    call = asyncio.create_task(trigger.on_kill())
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.gather(*own_task._BACKGROUND)


def test_it_is_airflows_own_but_holds_no_credentials(kubernetes: Cluster) -> None:
    theirs = KubernetesPodTrigger(
        pod_name="p",
        pod_namespace="n",
        trigger_start_time=datetime.now(timezone.utc),
        base_container_name="worker",
        connection_extras={"kube_config": "users: [{token: s3cret}]"},
        logging_interval=7,
    )
    path, values = PullWorkerTrigger.of(theirs).serialize()
    assert path == "airflow_ensemble.triggers.pull_worker.PullWorkerTrigger"
    assert "s3cret" not in json.dumps(values, default=str)
    assert values == {**theirs.serialize()[1], "connection_extras": None}
    assert PullWorkerTrigger(**values).serialize() == (path, values)


def test_its_first_event_comes_no_earlier_than_the_scheduler_can_bear(
    kubernetes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_task.FIRST_EVENT >= 10
    monkeypatch.setattr(own_task, "FIRST_EVENT", 3.0)
    pod = kubernetes.run("true")
    kubernetes.await_end(pod)
    started = time.time()
    hour = datetime.fromtimestamp(started + 3600, timezone.utc)  # a clock that is ahead
    payload = asyncio.run(first_event(make_trigger(kubernetes, pod, trigger_start_time=hour)))
    assert 3.0 <= time.time() - started < 30
    assert payload["status"] == "success"
    assert how_ended(payload["last_seen"], "base").reason is None


def test_what_was_seen_last_of_a_pod_outlives_it(
    kubernetes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_task, "FIRST_EVENT", 0.0)
    pod = kubernetes.run("sleep", "600")
    kubernetes.await_phase(pod, "Running")

    async def delete() -> Any:
        waiting = asyncio.create_task(first_event(make_trigger(kubernetes, pod)))
        await asyncio.sleep(2)
        await asyncio.to_thread(kubernetes.delete, pod, 0)
        return await waiting

    payload = asyncio.run(delete())
    assert payload["status"] == "error"
    seen = json.loads(json.dumps(payload["last_seen"]))
    assert seen["metadata"] == {"name": pod}
    assert seen["status"]["phase"] == "Running"
    assert not is_over(seen, "base")
    assert how_vanished(seen, "base").detail == "the pod was deleted by somebody else"


@pytest.mark.parametrize("client", [lambda cluster: cluster.core])
def test_a_pod_is_as_plain_as_the_servers_json(
    kubernetes: Cluster, client: Callable[[Cluster], Any]
) -> None:
    pod = kubernetes.run("sh", "-c", "exit 3")
    said = kubernetes.await_end(pod)
    plain = as_plain(client(kubernetes).read_namespaced_pod(pod, kubernetes.namespace))
    assert plain["spec"]["nodeName"] == said["spec"]["nodeName"]
    (ours,) = plain["status"]["containerStatuses"]
    assert ours["state"]["terminated"]["exitCode"] == 3
    assert how_ended(plain, "base") == how_ended(said, "base")


@pytest.mark.parametrize("state", ["failed", "success"])
def test_on_kill_deletes_the_pod_though_airflow_cancels_on_kill(
    kubernetes: Cluster, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    pod = kubernetes.run("sleep", "600")
    trigger = make_trigger(kubernetes, pod, termination_grace_period=1)
    in_state(trigger, monkeypatch, state)
    asyncio.run(kill(trigger))
    kubernetes.await_gone(pod)


@pytest.mark.parametrize("state", ["deferred", "running", "queued", "up_for_retry", None])
def test_on_kill_deletes_nothing_after_a_fail_over_a_clear_or_a_deletion(
    kubernetes: Cluster, monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    pod = kubernetes.run("sleep", "600")
    trigger = make_trigger(kubernetes, pod)
    in_state(trigger, monkeypatch, state)
    asyncio.run(kill(trigger))
    found = kubernetes.pod(pod)
    assert found is not None
    assert "deletionTimestamp" not in found["metadata"]
    kubernetes.delete(pod, grace=0)
