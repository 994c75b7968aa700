"""What a try of the sensor does first: decided from a real index; the cluster is a stand-in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferralError,
    TaskDeferralTimeout,
    TaskDeferred,
)

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.index.interface import Counts, JobInfo
from airflow_ensemble.sensors import slurm_chunk
from airflow_ensemble.sensors.deadline import BACKSTOP
from airflow_ensemble.sensors.slurm_chunk import SlurmChunkSensor
from airflow_ensemble.slurm.decision import Over
from airflow_ensemble.slurm.settling import Settled
from airflow_ensemble.slurm.states import End, Phase, View
from airflow_ensemble.slurm.watch import News, Watched
from airflow_ensemble.triggers import own_task
from tests.airflow.fake_watch import FakeWatch, dispatched, elements, fake_settings

FAILED = View(Phase.ENDED, "NODE_FAIL", End.NODE_FAILURE)


class Store(dict[str, Any]):
    """The task state store."""

    def set(self, key: str, value: Any, retention: Any = None) -> None:
        self[key] = value


class Bench:
    """A sensor over chunk 0 of a real index, and what it asked of the cluster."""

    def __init__(self, control: Control, **options: Any) -> None:
        self.control = control
        self.element = elements(control)[0]
        self.calls: list[str] = []
        self.next = "done"
        self.watch = FakeWatch()
        self.store = Store()
        self.pushed: dict[str, Any] = {}
        self.settled: list[Over] = []
        self.ti = SimpleNamespace(
            dag_id="d", task_id="t", run_id="r", map_index=0, try_number=1, max_tries=3,
            xcom_push=self.pushed.__setitem__,
        )  # fmt: skip
        self.context: Any = {"ti": self.ti, "task_state_store": self.store}
        self.sensor = SlurmChunkSensor(
            task_id="t",
            ensemble=control.ensemble.path,
            slurm_conn_id="fake",
            chunk={"chunk": self.element.chunk, "label": "chunk", "count": 2},
            dag=DAG("d"),
            **options,
        )
        self.sensor.__dict__["slurm_settings"] = fake_settings(conn_id="fake")

    def settle(self, control: Control, cluster: Any, chunk: str, over: Over) -> Settled:
        self.calls.append("settle")
        self.settled.append(over)
        control.index.end_element(chunk, over.submission or 1, over.end.value, over.detail)
        return Settled(self.next, Counts(), [], f"ended as {over.end.value}")

    def resubmit(self, control: Control, cluster: Any, chunk: str) -> JobInfo:
        self.calls.append("resubmit")
        info = control.index.resubmit(chunk)
        pair = [(chunk, info.submission)]
        job = control.index.prepare_job(info.batch, pair, place="fake", parent="/nowhere")
        control.index.begin_attempt(job.name, 300)
        return control.index.note_submitted(job.name, "88")

    def cancel_chunk(self, control: Control, cluster: Any, chunk: str) -> None:
        self.calls.append("cancel")

    def execute(self) -> None:
        self.sensor.execute(self.context)

    def event(self, end: End = End.NODE_FAILURE, submission: int = 1) -> dict[str, Any]:
        over = Over(end, "n1 failed", FAILED, submission)
        return {
            "status": "over",
            "submission": submission,
            "over": over.as_dict(),
            "log_tail": "slurmstepd: error",
        }


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    with dispatched(tmp_path) as control:

        @contextmanager
        def opened(self: Any, **_: Any) -> Iterator[Any]:
            yield control, SimpleNamespace(client=None)

        def make(**options: Any) -> Bench:
            bench = Bench(control, **options)
            monkeypatch.setattr(SlurmChunkSensor, "open_on_cluster", opened)
            monkeypatch.setattr(slurm_chunk, "ClusterWatch", lambda _: bench.watch)
            for name in ("settle", "resubmit", "cancel_chunk"):
                monkeypatch.setattr(slurm_chunk, name, getattr(bench, name))
            return bench

        yield make


Make = Callable[..., Bench]


def finish(bench: Bench) -> None:
    """Let all of the chunk's simulations be terminal."""
    bench.control.index.cancel(bench.control.key, _scope(bench))


def _scope(bench: Bench) -> Any:
    from airflow_ensemble.engine.index.interface import Scope

    return Scope(chunk=bench.element.chunk)


def test_a_first_try_defers_and_asks_nothing_of_the_cluster(make: Make) -> None:
    bench = make()
    with pytest.raises(TaskDeferred) as deferred:
        bench.execute()
    assert bench.calls == []
    assert deferred.value.timeout is None
    trigger = deferred.value.trigger
    assert Watched.from_dict(trigger.watched).id == "77_0"
    assert bench.pushed["slurm_job_id"] == "77_0"
    assert bench.pushed["slurm_log"].endswith("/logs/0.log")


def test_retry_burned_by_airflow_reattaches_and_submits_nothing(make: Make) -> None:
    bench = make()
    for tries in (1, 2, 3):
        bench.ti.try_number = tries
        with pytest.raises(TaskDeferred) as deferred:
            bench.execute()
        assert Watched.from_dict(deferred.value.trigger.watched).id == "77_0"
    assert bench.calls == []


def test_a_chunk_that_is_all_terminal_is_finished_without_deferring(make: Make) -> None:
    bench = make()
    finish(bench)
    bench.execute()
    assert bench.calls == ["settle"]
    assert bench.settled[0].submission == 1


def test_a_try_after_an_ended_element_submits_what_is_unfinished(make: Make) -> None:
    bench = make()
    bench.control.index.end_element(bench.element.chunk, 1, "node-failure")
    with pytest.raises(TaskDeferred) as deferred:
        bench.execute()
    assert bench.calls == ["resubmit"]
    watched = Watched.from_dict(deferred.value.trigger.watched)
    assert (watched.id, watched.submission) == ("88_0", 2)


def test_simulations_with_tries_left_run_again_within_the_try(make: Make) -> None:
    bench = make()
    bench.next = "again"
    with pytest.raises(TaskDeferred) as deferred:
        bench.sensor.resume(bench.context, bench.event(End.FAILED))
    assert bench.calls == ["settle", "resubmit"]
    assert Watched.from_dict(deferred.value.trigger.watched).id == "88_0"


def test_a_node_failure_fails_the_try_and_leaves_the_rest_to_the_next(make: Make) -> None:
    bench = make()
    bench.next = "retry"
    with pytest.raises(AirflowException, match="ended as node-failure") as failed:
        bench.sensor.resume(bench.context, bench.event())
    assert not isinstance(failed.value, AirflowFailException)
    assert bench.calls == ["settle"]


def test_what_another_try_would_not_mend_burns_no_retries(make: Make) -> None:
    bench = make()
    bench.next = "give-up"
    with pytest.raises(AirflowFailException, match="ended as cancelled"):
        bench.sensor.resume(bench.context, bench.event(End.CANCELLED))


def test_an_event_of_an_older_submission_settles_nothing(make: Make) -> None:
    bench = make()
    bench.control.index.end_element(bench.element.chunk, 1, "vanished")
    bench.resubmit(bench.control, None, bench.element.chunk)
    bench.calls.clear()
    with pytest.raises(TaskDeferred) as deferred:
        bench.sensor.resume(bench.context, bench.event(submission=1))
    assert bench.calls == []
    assert Watched.from_dict(deferred.value.trigger.watched).id == "88_0"


def test_a_clear_cancels_the_live_element_and_submits_again(make: Make) -> None:
    bench = make()
    with pytest.raises(TaskDeferred):
        bench.execute()
    bench.ti.try_number, bench.ti.max_tries = 2, 5
    bench.next = "give-up"  # what a cancelled element is answered with otherwise
    with pytest.raises(TaskDeferred) as deferred:
        bench.execute()
    assert bench.calls == ["settle", "resubmit"]
    assert bench.settled[0].end is End.CANCELLED
    assert Watched.from_dict(deferred.value.trigger.watched).id == "88_0"


def test_execution_timeout_is_absolute_across_deferrals(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(execution_timeout=timedelta(seconds=100))
    now = [1000.0]
    monkeypatch.setattr(slurm_chunk.time, "time", lambda: now[0])
    with pytest.raises(TaskDeferred) as first:
        bench.execute()
    assert (first.value.trigger.deadline, first.value.timeout) == (1100.0, 100 + BACKSTOP)
    now[0], bench.next = 1070.0, "again"
    with pytest.raises(TaskDeferred) as second:
        bench.sensor.resume(bench.context, bench.event(End.FAILED))
    assert (second.value.trigger.deadline, second.value.timeout) == (1100.0, 30 + BACKSTOP)
    # The next try has a time of its own.
    bench.ti.try_number = 2
    with pytest.raises(TaskDeferred) as third:
        bench.execute()
    assert third.value.trigger.deadline == 1170.0


@pytest.mark.parametrize("way", ["trigger", "backstop"])
def test_a_timeout_while_deferred_cancels_the_element_and_may_be_retried(
    make: Make, way: str
) -> None:
    bench = make(execution_timeout=timedelta(seconds=100))
    bench.next = "retry"
    method, values = {
        "trigger": ("resume", {"event": {"status": "timeout"}}),
        "backstop": ("__fail__", {"error": "Trigger timeout"}),
    }[way]
    with pytest.raises(AirflowTaskTimeout, match=r"execution_timeout of 0:01:40"):
        bench.sensor.resume_execution(method, values, bench.context)
    assert bench.settled[0].end is End.RUN_DEADLINE


def test_what_airflow_raises_for_a_deferral_that_failed_is_known() -> None:
    """The two are no relatives, and only one of them is a time-out."""
    assert not issubclass(TaskDeferralTimeout, TaskDeferralError)


@pytest.mark.parametrize(("try_number", "calls"), [(3, []), (4, ["cancel"])])
def test_a_crashed_trigger_leaves_its_element_to_the_next_try_if_there_is_one(
    make: Make, try_number: int, calls: list[str]
) -> None:
    bench = make()
    bench.ti.try_number = try_number
    with pytest.raises(AirflowException, match="its trigger failed"):
        bench.sensor.resume_execution(
            "__fail__", {"error": "Trigger failure", "traceback": ["bug"]}, bench.context
        )
    assert bench.calls == calls


@pytest.mark.parametrize(("state", "calls"), [("failed", ["cancel"]), ("running", [])])
def test_a_kill_on_the_worker_cancels_only_what_a_person_has_ended(
    make: Make, state: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.sensor._begin(bench.context)
    states = {"r": {"t_0": state}}
    monkeypatch.setattr(own_task.RuntimeTaskInstance, "get_task_states", lambda **_: states)
    bench.sensor.on_kill()
    for thread in threading.enumerate():
        if thread.name == "cancel":
            thread.join(timeout=5)
    assert bench.calls == calls


def test_without_deferring_the_same_watch_is_asked_until_it_is_over(make: Make) -> None:
    bench = make(deferrable=False)
    key = f"{bench.element.job.name}_0"
    over = News(FAILED, 2, "node failure", Over(End.NODE_FAILURE, "n1", FAILED, 1), "tail")
    threading.Timer(0.5, lambda: bench.watch.says.__setitem__(key, over)).start()
    bench.execute()
    assert len(bench.watch.looks) > 2
    assert bench.calls == ["settle"]


def test_without_deferring_the_time_ends_too(make: Make) -> None:
    bench = make(deferrable=False, execution_timeout=timedelta(seconds=0.3))
    bench.next = "retry"
    with pytest.raises(AirflowTaskTimeout):
        bench.execute()
    assert bench.settled[0].end is End.RUN_DEADLINE


def test_a_mapped_sensor_is_retried_by_default() -> None:
    sensor = SlurmChunkSensor(task_id="t", ensemble="e.yaml", chunk={})
    assert sensor.retries >= 1
