"""The trigger that waits for an element: when it fires, and what it does when it is killed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_ensemble.engine.control import Control
from airflow_ensemble.hooks.ensemble import index_spec
from airflow_ensemble.hooks.slurm import SlurmHook
from airflow_ensemble.slurm.decision import Over
from airflow_ensemble.slurm.states import End, Phase, View
from airflow_ensemble.slurm.watch import News, Watched
from airflow_ensemble.triggers import own_task, slurm_chunk
from airflow_ensemble.triggers.cluster_poller import ClusterPoller
from airflow_ensemble.triggers.slurm_chunk import SlurmChunkTrigger
from tests.airflow.fake_watch import (
    FakeSettings,
    FakeWatch,
    dispatched,
    elements,
    fake_settings,
)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with dispatched(tmp_path) as control:
        yield control


@pytest.fixture
def watch() -> FakeWatch:
    return FakeWatch()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, watch: FakeWatch) -> FakeSettings:
    """Let triggers reach the fake by any connection's id."""
    settings = fake_settings()
    poller = ClusterPoller(settings, watch=lambda _: watch, linger=0.2)

    async def read(conn_id: str) -> FakeSettings:
        return settings

    monkeypatch.setattr(SlurmHook, "aget_settings", read)
    monkeypatch.setattr(slurm_chunk, "poller_of", lambda _: poller)
    return settings


def make_trigger(control: Control, **options: Any) -> SlurmChunkTrigger:
    values = {
        "watched": Watched.of(elements(control)[1], control).as_dict(),
        "slurm_conn_id": "hpc",
        "index": index_spec(control.ensemble),
        "ensemble": control.ensemble.name,
        "settings_hash": control.recipe.settings.hash,
        "output": control.ensemble.output,
        "deferred_at": 0.0,
    }
    return SlurmChunkTrigger(**{**values, **options})


async def first_event(trigger: SlurmChunkTrigger) -> Any:
    async for event in trigger.run():
        return event.payload
    return None


def over(trigger: SlurmChunkTrigger) -> News:
    view = View(Phase.ENDED, "FAILED", End.FAILED, exit_code=9)
    return News(view, 2, "failed", Over(End.FAILED, "exit code 9", view, 1), "last words")


def test_it_fires_with_what_ended_the_element(
    control: Control, watch: FakeWatch, settings: FakeSettings
) -> None:
    trigger = make_trigger(control)
    watch.says[Watched.from_dict(trigger.watched).key] = over(trigger)
    payload = json.loads(json.dumps(asyncio.run(first_event(trigger))))
    assert (payload["status"], payload["submission"]) == ("over", 1)
    assert payload["log_tail"] == "last words"
    assert Over.from_dict(payload["over"]).end is End.FAILED


def test_the_first_event_comes_no_earlier_than_the_scheduler_can_bear(
    control: Control,
    watch: FakeWatch,
    settings: FakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert own_task.FIRST_EVENT >= 10
    monkeypatch.setattr(own_task, "FIRST_EVENT", 1.0)
    started = time.time()
    # A worker whose clock is an hour ahead does not keep anybody waiting for an hour.
    trigger = make_trigger(control, deferred_at=started + 3600)
    watch.says[Watched.from_dict(trigger.watched).key] = over(trigger)
    asyncio.run(first_event(trigger))
    assert 1.0 <= time.time() - started < 5


def test_it_keeps_an_absolute_deadline(
    control: Control, watch: FakeWatch, settings: FakeSettings
) -> None:
    payload = asyncio.run(first_event(make_trigger(control, deadline=time.time() + 0.3)))
    assert payload == {"status": "timeout"}
    assert settings.cancelled == []


def test_every_change_of_state_stands_in_the_task_log_once(
    control: Control,
    watch: FakeWatch,
    settings: FakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trigger, lines = make_trigger(control), list[str]()
    log = SimpleNamespace(info=lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(type(trigger), "log", log)
    key = Watched.from_dict(trigger.watched).key

    async def change() -> None:
        waiting = asyncio.create_task(first_event(trigger))
        await asyncio.to_thread(watch.await_looks, 3)
        watch.says[key] = News(View(Phase.RUNNING, "RUNNING"), 2, "running on n1")
        await asyncio.to_thread(watch.await_looks, 3)
        watch.says[key] = over(trigger)
        await waiting

    asyncio.run(change())
    assert lines == ["pending (Priority)", "running on n1", "failed"]


def test_it_can_be_made_again_from_what_is_stored_and_holds_no_secret(control: Control) -> None:
    trigger = make_trigger(control, index="conn:results", deadline=5.0)
    path, values = trigger.serialize()
    assert path == "airflow_ensemble.triggers.slurm_chunk.SlurmChunkTrigger"
    again = SlurmChunkTrigger(**json.loads(json.dumps(values)))
    assert again.serialize() == (path, values)
    assert "password" not in json.dumps(values)


def in_state(trigger: SlurmChunkTrigger, monkeypatch: pytest.MonkeyPatch, state: Any) -> None:
    """Give the trigger a task instance, and let Airflow say that it is in a state."""
    ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=1)
    trigger._task_instance = ti
    answer = {"r": {"t_1": state}} if state else {}
    monkeypatch.setattr(
        own_task.RuntimeTaskInstance, "get_task_states", lambda **_: time.sleep(0.2) or answer
    )


async def kill(trigger: SlurmChunkTrigger) -> None:
    """Call ``on_kill`` as Airflow does: and cancel that call soon after."""
    call = asyncio.create_task(trigger.on_kill())
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.gather(*own_task._BACKGROUND)
    await asyncio.sleep(0.3)


@pytest.mark.parametrize("state", ["failed", "success", "skipped"])
def test_on_kill_cancels_exactly_the_element_though_airflow_cancels_on_kill(
    control: Control, settings: FakeSettings, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    trigger = make_trigger(control)
    in_state(trigger, monkeypatch, state)
    asyncio.run(kill(trigger))
    assert settings.cancelled == [["77_1"]]


@pytest.mark.parametrize("state", ["deferred", "running", "queued", "up_for_retry", None])
def test_on_kill_cancels_nothing_after_a_fail_over_a_clear_or_a_deletion(
    control: Control, settings: FakeSettings, monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    trigger = make_trigger(control)
    in_state(trigger, monkeypatch, state)
    asyncio.run(kill(trigger))
    assert settings.cancelled == []
