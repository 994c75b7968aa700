"""The one poller that all sensors of a cluster share in a triggerer process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.engine.control import Control, Ledger
from airflow_ensemble.slurm.errors import AccessRefused, SlurmUnavailable
from airflow_ensemble.slurm.states import Phase, View
from airflow_ensemble.slurm.watch import News, Watched
from airflow_ensemble.triggers.cluster_poller import ClusterPoller, LedgerAddress, poller_of
from airflow_ensemble.triggers.poll_thread import CEILING, Pace, Trouble
from tests.airflow.fake_watch import (
    PENDING,
    FakeSettings,
    FakeWatch,
    address_of,
    dispatched,
    elements,
    fake_settings,
)

Heard = list["News | Trouble"]


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with dispatched(tmp_path, chunks=4) as control:
        yield control


@pytest.fixture
def watched(control: Control) -> list[Watched]:
    return [Watched.of(element, control) for element in elements(control)]


@pytest.fixture
def watch() -> FakeWatch:
    return FakeWatch()


def make_poller(
    watch: FakeWatch, settings: FakeSettings | None = None, linger: float = 0.2
) -> ClusterPoller:
    return ClusterPoller(settings or fake_settings(), watch=lambda _: watch, linger=linger)


def test_shared_poll_asks_once_for_all_sensors(
    control: Control, watched: list[Watched], watch: FakeWatch
) -> None:
    settings = fake_settings()
    poller = make_poller(watch, settings)
    heard: list[Heard] = [[] for _ in watched]
    with ExitStack() as stack:
        for one, ears in zip(watched, heard, strict=True):
            stack.enter_context(poller.watching(one, address_of(control), ears.append))
        watch.await_looks(4)
    assert sorted(watch.looks[-1]) == sorted(one.key for one in watched)
    assert len(watch.threads) == len(settings.clusters) == 1
    assert all(PENDING in ears for ears in heard)
    # One ledger, opened in the poller's thread: an SQLite connection belongs to its thread.
    assert len({id(ledger) for ledger in watch.ledgers}) == 1
    assert isinstance(watch.ledgers[0], Ledger)
    assert watch.ledgers[0].key == control.key


def test_the_thread_ends_with_the_last_that_waits_and_begins_with_the_next(
    control: Control, watched: list[Watched], watch: FakeWatch
) -> None:
    poller = make_poller(watch, linger=0.1)
    for times in (1, 2):
        with poller.watching(watched[0], address_of(control), lambda _: None):
            watch.await_looks(1)
            thread = poller._thread
            assert thread is not None
        thread.join(timeout=5)
        assert not thread.is_alive()
        assert len(watch.threads) <= times


def test_an_outage_is_told_and_waited_out(
    control: Control, watched: list[Watched], watch: FakeWatch
) -> None:
    poller, heard = make_poller(watch), Heard()
    watch.failures = [SlurmUnavailable("slurmctld does not answer")]
    with poller.watching(watched[0], address_of(control), heard.append):
        watch.await_looks(3)
    assert heard[0] == Trouble("slurmctld does not answer")
    assert PENDING in heard


def test_a_refused_login_is_looked_up_again_by_one_of_all(
    control: Control, watched: list[Watched], watch: FakeWatch
) -> None:
    settings = fake_settings()
    poller = make_poller(watch, settings)
    heard: list[Heard] = [[], []]
    watch.failures = [AccessRefused("wrong key")]
    with (
        poller.watching(watched[0], address_of(control), heard[0].append),
        poller.watching(watched[1], address_of(control), heard[1].append),
    ):
        watch.await_looks(1)
        poller.use(fake_settings(remote_root="/elsewhere"))
        watch.await_looks(3)
    refused = [ears[0].refused for ears in heard if isinstance(ears[0], Trouble)]
    assert refused == [True, False]
    assert PENDING in heard[0]
    # The login has changed: the cluster is connected anew.
    assert poller._settings.remote_root == "/elsewhere"


def test_a_fault_of_our_own_ends_the_waiting(
    control: Control, watched: list[Watched], watch: FakeWatch
) -> None:
    poller, heard = make_poller(watch), Heard()
    watch.failures = [ZeroDivisionError("bug")]
    with poller.watching(watched[0], address_of(control), heard.append):
        watch.await_looks(2)
    assert isinstance(heard[0], Trouble)
    assert isinstance(heard[0].error, ZeroDivisionError)


def test_an_index_that_is_away_keeps_no_other_sensor_waiting(
    control: Control, watched: list[Watched], watch: FakeWatch, tmp_path: Path
) -> None:
    poller = make_poller(watch)
    gone = LedgerAddress(str(tmp_path / "gone.sqlite"), "x", "y", str(tmp_path))
    without, with_it = Heard(), Heard()
    with (
        poller.watching(watched[0], gone, without.append),
        poller.watching(watched[1], address_of(control), with_it.append),
    ):
        watch.await_looks(3)
    assert all(item == PENDING for item in with_it)
    troubles = {item.text for item in without if isinstance(item, Trouble)}
    assert len(troubles) == 1
    assert "gone.sqlite" in troubles.pop()
    assert PENDING in without
    assert not (tmp_path / "gone.sqlite").exists()


def test_cancellations_go_in_one_command_and_survive_an_outage(
    control: Control, watched: list[Watched], watch: FakeWatch
) -> None:
    settings = fake_settings(failures=[SlurmUnavailable("not now")])
    poller = make_poller(watch, settings)
    with poller.watching(watched[0], address_of(control), lambda _: None):
        watch.await_looks(1)
        with poller._changed:  # as when a person marks many at once
            poller.cancel("77_0")
            poller.cancel("77_3")
    deadline = time.monotonic() + 10
    while not settings.cancelled and time.monotonic() < deadline:
        time.sleep(0.02)
    assert settings.cancelled == [["77_0", "77_3"]]


def test_what_comes_during_a_slow_poll_does_not_wait_for_the_next(
    control: Control, watched: list[Watched], watch: FakeWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fake_settings(interval=30)
    poller = make_poller(watch, settings)
    look = watch.look

    def slow_look(*arguments: Any) -> Any:
        if len(watch.looks) == 0:
            poller.cancel("77_2")
        return look(*arguments)

    monkeypatch.setattr(watch, "look", slow_look)
    with poller.watching(watched[0], address_of(control), lambda _: None):
        poller.cancel("77_1")  # makes it poll at once
        watch.await_looks(2)
    assert settings.cancelled == [["77_1"], ["77_2"]]


def test_one_poller_for_each_connection() -> None:
    first = poller_of(fake_settings(conn_id="one"))
    assert poller_of(fake_settings(conn_id="one")) is first
    assert poller_of(fake_settings(conn_id="other")) is not first


def test_the_pace_slackens_while_nothing_changes_and_has_a_ceiling() -> None:
    pace = Pace(10)
    pauses = [pace.slacken() for _ in range(8)]
    assert 15 <= pauses[0] <= 18
    assert CEILING <= pauses[-1] <= CEILING * 1.2
    assert 10 <= pace.quicken() <= 12


def test_an_outage_is_asked_after_less_and_less_often() -> None:
    pace = Pace(10)
    pauses = [pace.back_off() for _ in range(8)]
    assert pauses[0] >= 20
    assert 120 <= pauses[-1] <= 144


def test_a_slow_floor_is_kept() -> None:
    pace = Pace(300)
    assert min(pace.quicken(), pace.slacken(), pace.back_off()) >= 300


def test_changes_quicken_the_poll(
    control: Control, watched: list[Watched], watch: FakeWatch
) -> None:
    poller = make_poller(watch)
    with poller.watching(watched[0], address_of(control), lambda _: None):
        watch.await_looks(4)
        slack = poller._pace._interval
        watch.says[watched[0].key] = News(View(Phase.RUNNING, "RUNNING"), 1, "running on n1")
        watch.await_looks(2)
    assert slack > poller._pace.floor
    assert poller._pace._interval < slack * 1.5
