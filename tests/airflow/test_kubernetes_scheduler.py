"""The Kubernetes backend under a real scheduler and triggerer, with pods that are real processes.

What one run can show together, it does.
"""

from __future__ import annotations

import json
import time

import psutil
import pytest
from local_airflow import wait_until

from tests.airflow.components import (
    await_trigger,
    end_component,
    freeze,
    log_folder,
    pid_of,
    second_triggerer,
    triggerer_of,
    was_told_to_kill,
)
from tests.airflow.live import Live, Run
from tests.airflow.pod_runs import WAIT, WORKER, PodPlace, make_pod_place, start
from tests.airflow.slurm_runs import await_state
from tests.services.kubernetes import Cluster
from tests.services.postgres import PASSWORD

#: Seconds that a busy machine may take until a run's pods work.
PATIENCE = 240
pytestmark = pytest.mark.timeout(900)


def gated(airflow: Live, cluster: Cluster, *ids: str, **keys: object) -> PodPlace:
    return make_pod_place(airflow, cluster, [{"id": id} for id in ids], **keys)  # type: ignore[arg-type]


def written(airflow: Live, run: Run, task: str, map_index: int = -1) -> str:
    """Return all that a task and its triggers have logged until now."""
    folder = log_folder(airflow, run, task, map_index)
    return "".join(path.read_text() for path in folder.glob("attempt=*.log*"))


class Whole:
    """A run of two workers that ends well, and what could be seen on the way."""

    def __init__(self, airflow: Live, cluster: Cluster) -> None:
        ids = [f"s{n}" for n in range(7)]
        self.place = gated(airflow, cluster, "bad", *ids, max_attempts=1, max_failed=1)
        self.run = start(airflow, self.place)
        self.place.await_executions(3, PATIENCE)
        self.pods = self.place.pods()
        wait_until(lambda: self._is_told(airflow), 120, "pod log and progress in the task logs")
        self.place.open_gate()
        self.state = self.run.finish(PATIENCE)

    def _is_told(self, airflow: Live) -> bool:
        pods = [written(airflow, self.run, WORKER, n) for n in range(2)]
        progress = written(airflow, self.run, WAIT)
        return "no luck with bad" in "".join(pods) and "2 workers alive" in progress


@pytest.fixture(scope="module")
def whole(airflow: Live, cluster: Cluster) -> Whole:
    return Whole(airflow, cluster)


def test_a_whole_run_in_pods(whole: Whole) -> None:
    assert whole.state == "success", whole.run.states()
    assert sorted(whole.place.executions()) == ["bad", *(f"s{n}" for n in range(7))]
    event = whole.run.event()
    assert (event["complete"], event["failed"]) == (7, 1)
    states = whole.run.states()
    assert {states[WORKER, 0], states[WORKER, 1], states[WAIT, -1]} == {"success"}
    assert {task["try_number"] for task in whole.run.tasks(WORKER)} == {1}


def test_labels_say_whose_pods_they_are(whole: Whole) -> None:
    first, second = (pod["metadata"] for pod in whole.pods)
    assert first["name"] != second["name"]
    assert first["name"].startswith(f"{whole.place.name}-0-")
    assert first["labels"]["ensemble"] == whole.place.name
    assert first["labels"]["batch"] == whole.run.registration()["batch"]
    assert (first["labels"]["dag_id"], first["labels"]["task_id"]) == ("on_kubernetes", WORKER)
    assert [pod["labels"]["map_index"] for pod in (first, second)] == ["0", "1"]
    names = [task["rendered_map_index"] for task in whole.run.tasks(WORKER)]
    assert names == ["worker 0", "worker 1"]


def test_no_secret_reaches_spec_log_xcom_or_rendered_template(whole: Whole, airflow: Live) -> None:
    tasks = whole.run.client.tasks(whole.run.dag, whole.run.id)
    said = [written(airflow, whole.run, task["task_id"], task["map_index"]) for task in tasks]
    stored = json.dumps([whole.pods, tasks, whole.run.registration(), dict(whole.run.event())])
    assert PASSWORD in airflow.index_dsn
    assert PASSWORD not in "".join(said) + stored
    environment = whole.pods[0]["spec"]["containers"][0]["env"]
    (index,) = (entry for entry in environment if entry["name"] == "ENSEMBLE_INDEX")
    assert set(index["valueFrom"]) == {"secretKeyRef"}


@pytest.mark.faults
def test_one_run_twice_at_once_runs_every_simulation_once(airflow: Live, cluster: Cluster) -> None:
    place = gated(airflow, cluster, *(f"s{n}" for n in range(6)))
    runs = [start(airflow, place), start(airflow, place)]
    place.await_executions(2, PATIENCE)
    place.open_gate()
    assert [run.finish(PATIENCE) for run in runs] == ["success", "success"]
    assert sorted(place.executions()) == [f"s{n}" for n in range(6)]
    place.await_no_pod()


@pytest.mark.faults
def test_execution_timeout_counts_while_deferred_and_its_pod_is_deleted(
    airflow: Live, cluster: Cluster
) -> None:
    place = gated(airflow, cluster, "a", max_attempts=1)
    run = start(airflow, place, "pods_in_a_hurry", n_workers=1)
    place.await_executions(1, PATIENCE)
    (first,) = place.pod_names()
    # It costs the simulation no try: the next pod goes on.
    place.await_executions(2, PATIENCE)
    cluster.await_gone(first, timeout=PATIENCE)
    place.open_gate()
    assert run.finish(PATIENCE) == "success"
    assert "execution_timeout of 0:00:25" in run.log(WORKER, 0, attempt=1)
    assert set(place.reasons("a")) <= {"interrupted", "time-limit"}


def test_workers_that_are_all_gone_end_the_run_with_their_reasons(
    airflow: Live, cluster: Cluster
) -> None:
    place = gated(airflow, cluster, "a", "b", "c")
    run = start(airflow, place, "no_second_pod")
    place.await_executions(2, PATIENCE)
    cluster.kill(*place.pod_names())
    assert run.finish(PATIENCE) == "failed"
    states = run.states()
    assert [states[WORKER, n] for n in range(2)] == ["failed", "failed"]
    assert states[WAIT, -1] == "failed"
    log = run.log(WAIT)
    assert "3 of 3 simulations are unfinished" in log
    assert "lost: exit code 137: killed by SIGKILL" in log
    assert place.reasons("a") + place.reasons("b") == ["lost", "lost"]


def test_kill_is_kill_and_nothing_else_is(airflow: Live, cluster: Cluster) -> None:
    """Mark-failed, clear, restart of the scheduler, stall and fail-over and death of triggerers."""
    place = gated(airflow, cluster, "a", "b", "c", "d", max_attempts=1)
    run = start(airflow, place, n_workers=4)
    place.await_executions(4, PATIENCE)
    for n in range(4):
        await_state(run, n, "deferred", PATIENCE, WORKER)
        await_trigger(airflow, run, WORKER, n)
    pods = place.pod_names()

    # Marked as failed: exactly this pod is deleted.
    airflow.client.set_state(run.dag, run.id, WORKER, 0, "failed")
    cluster.await_gone(pods[0], timeout=PATIENCE)
    assert place.pod_names() == pods[1:]

    # Cleared: its pod is deleted, and another takes its place.
    airflow.client.clear(run.dag, run.id, [(WORKER, 1)])
    cluster.await_gone(pods[1], timeout=PATIENCE)
    wait_until(lambda: len(place.pods()) == 3, PATIENCE, "another pod")
    assert place.pod_names()[1:] == pods[2:]
    await_state(run, 1, "deferred", PATIENCE, WORKER)
    place.await_executions(5, PATIENCE)
    alive = place.pod_names()

    # The scheduler dies and comes back. The triggerer stalls until another has taken over, and
    # wakes up: then Airflow calls ``on_kill`` of all of its triggers.
    first = triggerer_of(run, WORKER, 2)
    end_component(airflow, "scheduler")
    stalled = freeze(psutil.Process(pid_of(airflow, "triggerer")))
    airflow.local._start_component("scheduler")
    with second_triggerer(airflow):
        wait_until(
            lambda: triggerer_of(run, WORKER, 2) not in (None, first), PATIENCE, "a fail-over"
        )
        for process in stalled:
            process.resume()
        wait_until(
            lambda: was_told_to_kill(airflow, run, WORKER, 2, first), 120, "on_kill of the first"
        )
        time.sleep(5)
        assert place.pod_names() == alive
    # The second triggerer was killed: the first takes over again.
    wait_until(lambda: triggerer_of(run, WORKER, 2) == first, PATIENCE, "the first to adopt again")
    assert place.pod_names() == alive

    place.open_gate()
    assert run.finish(PATIENCE) == "success"  # the index decides, and others did the work
    states = run.states()
    assert [states[WORKER, n] for n in range(4)] == ["failed", "success", "success", "success"]
    assert set(place.reasons("a") + place.reasons("b")) <= {"interrupted"}
    place.await_no_pod()
