"""Waiting for a batch: what is decided from what is seen, and what is said about it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_ensemble.engine.batch import register
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index.interface import Counts, Scope
from airflow_ensemble.operators.plan_workers import plan_workers
from airflow_ensemble.sensors.deadline import BACKSTOP
from airflow_ensemble.sensors.drained import EnsembleDrainedSensor, abandoned_text
from airflow_ensemble.triggers import own_task
from airflow_ensemble.triggers.drained import (
    DrainedTrigger,
    Patience,
    ProgressLines,
    Solitude,
    are_over,
)
from airflow_ensemble.triggers.index_poller import BatchAddress, BatchNews, IndexPoller
from airflow_ensemble.triggers.poll_thread import Trouble
from tests.ensembles import write_ensemble

LEFT = Counts(pending=3, complete=2)
NONE_LEFT = Counts(complete=4, failed=1)
WORKERS = ("group.pull_worker",)


# --- decisions ------------------------------------------------------------------------------------


def test_solitude_is_counted_from_when_the_last_worker_went() -> None:
    solitude = Solitude()
    assert solitude.look(BatchNews(LEFT, 0), 100.0) == 0
    assert solitude.look(BatchNews(LEFT, 0), 130.0) == 30
    assert solitude.look(BatchNews(LEFT, 1), 140.0) == 0
    assert solitude.look(BatchNews(LEFT, 0), 150.0) == 0
    assert solitude.look(BatchNews(LEFT, 0), 160.0) == 10
    assert solitude.look(BatchNews(NONE_LEFT, 0), 170.0) == 0


def test_with_worker_tasks_only_their_end_wears_patience_out() -> None:
    patience = Patience(WORKERS, grace=60)
    assert not patience.asks_for_tasks(59)
    assert patience.asks_for_tasks(60)
    assert not patience.is_worn(10**6)


def test_without_worker_tasks_only_a_limit_wears_patience_out() -> None:
    assert not Patience().is_worn(10**6)
    assert not Patience().asks_for_tasks(10**6)
    assert Patience(no_workers=300).is_worn(300)
    assert not Patience(no_workers=300).is_worn(299)


@pytest.mark.parametrize(
    ("states", "over"),
    [
        (["success", "failed", "upstream_failed"], True),
        (["skipped"], True),
        (["success", "up_for_retry"], False),
        (["success", "deferred"], False),
        (["success", None], False),  # cleared, or not scheduled yet
        ([], False),  # not there yet
    ],
)
def test_tasks_are_over_when_none_can_start_a_worker(states: list[Any], over: bool) -> None:
    assert are_over(states) is over


def test_progress_is_told_now_and_then_and_only_when_something_changed() -> None:
    lines = ProgressLines()
    first = lines.look(BatchNews(Counts(pending=90, complete=10), 2), 0.0)
    assert first == "10/100 · complete 10 (empty 0) · failed 0 · running 0 · 2 workers alive"
    assert lines.look(BatchNews(Counts(pending=80, complete=20), 2), 10.0) is None
    later = lines.look(BatchNews(Counts(pending=70, running=5, complete=25), 1), 40.0)
    assert later is not None
    assert later.startswith("25/100 · complete 25")
    assert later.endswith("1 worker alive")
    assert lines.look(BatchNews(Counts(pending=70, running=5, complete=25), 1), 80.0) is None


def test_what_is_said_of_an_abandoned_batch() -> None:
    ends: list[Mapping[str, Any]] = [
        *[{"pod": f"p{n}", "reason": "out-of-memory", "detail": "OOMKilled"} for n in range(3)],
        {"pod": "p3", "reason": None, "detail": "ended well"},
    ]
    text = abandoned_text(Counts(pending=3, complete=2, failed=1), ends, WORKERS)
    assert "3 of 6 simulations are unfinished (2 complete, 1 failed)" in text
    assert "3 × out-of-memory: OOMKilled; 1 × well: ended well" in text
    assert "Clear group.pull_worker and this task" in text
    assert "Deployment" in abandoned_text(LEFT, [], ())


@pytest.mark.parametrize(
    ("wanted", "unfinished", "limit", "planned"),
    [(4, 100, 1024, 4), (4, 2, 1024, 2), (4, 0, 1024, 0), (5000, 9999, 1024, 1024)],
)
def test_no_worker_comes_to_an_empty_table(
    wanted: int, unfinished: int, limit: int, planned: int
) -> None:
    assert plan_workers(wanted, unfinished, limit) == planned


# --- a real index ---------------------------------------------------------------------------------


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    path = write_ensemble(tmp_path, [{"id": f"s{n}"} for n in range(5)])
    with open_control(load(path), create=True) as control:
        yield control


@pytest.fixture
def batch(control: Control) -> str:
    return register(control, "d/r/g").batch


def finish(control: Control) -> None:
    control.index.cancel(control.key, Scope())


def address(control: Control, batch: str) -> BatchAddress:
    return BatchAddress(control.ensemble.name, control.key.settings_hash, batch)


def await_item(heard: list[Any], fits: Callable[[Any], bool]) -> None:
    deadline = time.monotonic() + 20
    while not any(map(fits, heard)):
        assert time.monotonic() < deadline, heard
        time.sleep(0.02)


def test_one_thread_looks_for_all_who_wait_and_ends_with_them(control: Control, batch: str) -> None:
    poller = IndexPoller(control.ensemble.index_location(), 0.05, linger=0.1)
    heard: list[list[Any]] = [[], [], []]
    with ExitStack() as stack:
        for ears in heard:
            stack.enter_context(poller.watching(address(control, batch), ears.append))
        for ears in heard:
            await_item(ears, lambda news: news.counts.pending == 5)
        thread = poller._thread
        control.index.enlist(control.key, "pod.x", "pod")
        finish(control)
        await_item(
            heard[2], lambda n: (n.counts.failed, n.counts.unfinished, n.workers) == (5, 0, 1)
        )
        assert poller._thread is thread is not None
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_an_index_that_is_away_is_told_and_waited_for(tmp_path: Path) -> None:
    poller, heard = IndexPoller(str(tmp_path / "gone.sqlite"), 0.05, linger=0.1), list[Any]()
    with poller.watching(BatchAddress("x", "y", "z"), heard.append):
        await_item(heard, lambda item: isinstance(item, Trouble) and "gone.sqlite" in item.text)
    assert all(item.error is None for item in heard)


def make_trigger(control: Control, batch: str, **options: Any) -> DrainedTrigger:
    values = {
        "index": control.ensemble.index_location(),
        "ensemble": control.ensemble.name,
        "settings_hash": control.key.settings_hash,
        "batch": batch,
        "worker_tasks": list(WORKERS),
        "grace": 0.2,
        "no_workers_timeout": None,
        "poll_interval": 0.05,
        "deferred_at": 0.0,
    }
    return DrainedTrigger(**{**values, **options})


async def first_event(trigger: DrainedTrigger) -> Any:
    async for event in trigger.run():
        return event.payload
    return None


def in_run(
    trigger: DrainedTrigger, monkeypatch: pytest.MonkeyPatch, states: Callable[[], Any]
) -> None:
    """Give the trigger a task instance, and let Airflow say how the worker tasks are."""
    trigger._task_instance = SimpleNamespace(dag_id="d", task_id="w", run_id="r", map_index=-1)
    monkeypatch.setattr(
        own_task.RuntimeTaskInstance, "get_task_states", lambda **_: {"r": states()}
    )


def test_it_fires_when_the_batch_is_drained(control: Control, batch: str) -> None:
    async def drain() -> Any:
        waiting = asyncio.create_task(first_event(make_trigger(control, batch)))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await asyncio.to_thread(lambda: finish_elsewhere(control))
        return await waiting

    assert asyncio.run(drain()) == {"status": "drained"}


def finish_elsewhere(control: Control) -> None:
    with open_control(control.ensemble) as other:
        finish(other)


def test_it_fires_when_no_worker_is_left_and_none_will_come(
    control: Control, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger, asked = make_trigger(control, batch), list[float]()
    begun = time.monotonic()

    def states() -> Any:
        asked.append(time.monotonic() - begun)
        over = "failed" if len(asked) > 3 else "up_for_retry"
        return {"group.pull_worker_0": "success", "group.pull_worker_1": over}

    in_run(trigger, monkeypatch, states)
    assert asyncio.run(first_event(trigger)) == {"status": "abandoned"}
    assert len(asked) == 4
    assert asked[0] >= 0.2  # grace


def test_a_live_worker_keeps_it_waiting_until_the_deadline(
    control: Control, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.index.enlist(control.key, "pod.x", "pod")
    trigger = make_trigger(control, batch, deadline=time.time() + 1.0)
    in_run(trigger, monkeypatch, lambda: {"group.pull_worker": "failed"})
    assert asyncio.run(first_event(trigger)) == {"status": "timeout"}


def test_always_on_workers_may_be_away_only_for_so_long(control: Control, batch: str) -> None:
    trigger = make_trigger(control, batch, worker_tasks=[], no_workers_timeout=0.5)
    assert asyncio.run(first_event(trigger)) == {"status": "abandoned"}


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could fail these tasks for an early event."""
    assert own_task.FIRST_EVENT >= 10
    monkeypatch.setattr(own_task, "FIRST_EVENT", 0.0)


def test_it_can_be_made_again_from_what_is_stored_and_holds_no_secret(
    control: Control, batch: str
) -> None:
    trigger = make_trigger(control, batch, index="conn:results", deadline=5.0)
    path, values = trigger.serialize()
    assert path == "airflow_ensemble.triggers.drained.DrainedTrigger"
    again = DrainedTrigger(**json.loads(json.dumps(values)))
    assert again.serialize() == (path, values)


# --- the sensor -----------------------------------------------------------------------------------


class Store(dict[str, Any]):
    """The task state store."""

    def set(self, key: str, value: Any, retention: Any = None) -> None:
        self[key] = value


def make_sensor(control: Control, batch: str, **options: Any) -> EnsembleDrainedSensor:
    return EnsembleDrainedSensor(
        task_id="w",
        ensemble=control.ensemble.path,
        registration={"batch": batch},
        dag=DAG("d"),
        worker_tasks=WORKERS,
        **options,
    )


def make_context(**ti: Any) -> Any:
    values = {"dag_id": "d", "task_id": "w", "run_id": "r", "map_index": -1, "try_number": 1}
    return {"ti": SimpleNamespace(**{**values, **ti}), "task_state_store": Store()}


def test_a_batch_that_is_drained_already_defers_nothing(control: Control, batch: str) -> None:
    finish(control)
    make_sensor(control, batch).execute(make_context())


def test_its_time_is_absolute_across_deferrals(
    control: Control, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = make_sensor(control, batch, execution_timeout=timedelta(seconds=100))
    context, begun = make_context(), time.time()
    with pytest.raises(TaskDeferred) as first:
        sensor.execute(context)
    assert begun + 100 <= first.value.trigger.deadline <= time.time() + 100
    assert 100 < first.value.timeout <= 100 + BACKSTOP
    with pytest.raises(TaskDeferred) as second:
        sensor.resume(context, {"status": "drained"})  # which it is not any more
    assert second.value.trigger.deadline == first.value.trigger.deadline
    with pytest.raises(AirflowTaskTimeout, match=r"execution_timeout of 0:01:40"):
        sensor.resume(context, {"status": "timeout"})


def test_an_abandoned_batch_fails_it_for_good_with_the_reasons(
    control: Control, batch: str
) -> None:
    asked = []

    def xcom_pull(**options: Any) -> Any:
        asked.append(options)
        return [None, {"pod": "p", "reason": "lost", "detail": "never ran: ImagePullBackOff"}]

    sensor, context = make_sensor(control, batch), make_context(xcom_pull=xcom_pull)
    with pytest.raises(AirflowFailException, match=r"5 of 5 .* 1 × lost: never ran: ImagePull"):
        sensor.resume(context, {"status": "abandoned"})
    assert asked == [{"task_ids": list(WORKERS), "key": "pod_end"}]
    # A worker that has come meanwhile makes it wait again.
    control.index.enlist(control.key, "pod.x", "pod")
    with pytest.raises(TaskDeferred):
        sensor.resume(context, {"status": "abandoned"})


@pytest.mark.parametrize("way", ["drained", "abandoned", "late"])
def test_without_deferring_the_same_is_decided(
    control: Control, batch: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"deferrable": False, "poll_interval": 0.05, "grace": 0.2}
    context = make_context(xcom_pull=lambda **_: [])
    states = {"r": {"group.pull_worker": "failed" if way == "abandoned" else "running"}}
    monkeypatch.setattr(own_task.RuntimeTaskInstance, "get_task_states", lambda **_: states)
    if way == "late":
        options["execution_timeout"] = timedelta(seconds=0.5)
    sensor = make_sensor(control, batch, **options)
    if way == "drained":
        from threading import Timer

        Timer(0.5, finish_elsewhere, [control]).start()
        sensor.execute(context)
        return
    expected = AirflowFailException if way == "abandoned" else AirflowTaskTimeout
    with pytest.raises(expected):
        sensor.execute(context)
