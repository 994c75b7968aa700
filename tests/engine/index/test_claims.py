from __future__ import annotations

import time
from pathlib import Path

import pytest

from airflow_ensemble.engine.errors import Fenced
from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex
from airflow_ensemble.engine.index.output_index import DatabaseIndex
from airflow_ensemble.engine.simulation import Reason, Status
from tests.engine.index.cases import at_once, finished, ids_of, limited, recipe, sims, started


def test_a_claim_takes_in_table_order_and_by_priority(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, [*sims("a", "b", "c"), *sims("first", priority=9)], batch_key="b")
    index.enlist(key, "w", "host")
    claimed = index.claim("w", 2)
    assert ids_of(claimed) == ["first", "a"]
    assert [(one.attempt, one.generation) for one in claimed] == [(1, 1), (1, 1)]
    assert index.claim("w", 0) == []
    info = index.simulation(key, "a")
    assert info is not None
    assert (info.status, info.worker) == (Status.DISPATCHED, "w")
    assert index.renew("w") == {("first", 1), ("a", 1)}


def test_a_poison_simulation_waits_behind_the_others(index: OutputIndex) -> None:
    key = index.define(limited(3))
    index.register(key, sims("poison", "good"), batch_key="b")
    index.enlist(key, "w", "host")
    (poison,) = index.claim("w", 1)
    index.record(key, [started(poison), finished(poison, Reason.CRASHED)], worker="w")
    info = index.simulation(key, "poison")
    assert info is not None
    assert (info.status, info.worker, info.tries) == (Status.PENDING, None, 1)
    assert ids_of(index.claim("w", 1)) == ["good"]
    assert ids_of(index.claim("w", 1)) == ["poison"]


def test_many_workers_share_no_row(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    index.register(key, sims(*range(1000)), batch_key="b")

    def work(one: OutputIndex, number: int) -> list[str]:
        one.enlist(key, f"w{number}", "host")
        mine: list[str] = []
        while claimed := one.claim(f"w{number}", 13):
            mine += ids_of(claimed)
        return mine

    everything = [id for part in at_once(location, 6, work) for id in part]
    assert sorted(everything, key=int) == [str(i) for i in range(1000)]


def test_an_expired_worker_loses_what_it_holds(index: OutputIndex) -> None:
    key = index.define(limited(3))
    index.register(key, sims("runs", "claimed", "done", "other"), batch_key="b")
    index.enlist(key, "w", "host", lease=0.2)
    index.enlist(key, "alive", "host")
    runs, claimed, done = index.claim("w", 3)
    (other,) = index.claim("alive", 1)
    index.record(key, [started(runs), started(done), finished(done)], worker="w")
    time.sleep(0.3)
    for call in (
        lambda: index.renew("w"),
        lambda: index.claim("w", 1),
        lambda: index.record(key, [finished(runs)], worker="w"),
    ):
        with pytest.raises(Fenced, match="w"):
            call()
    assert index.expire() == 2
    assert index.expire() == 0
    info = {i.simulation.id: i for i in index.simulations(key)}
    assert {id: (i.status, i.tries) for id, i in info.items()} == {
        "runs": (Status.PENDING, 1),
        "claimed": (Status.PENDING, 0),
        "done": (Status.COMPLETE, 0),
        "other": (Status.DISPATCHED, 0),
    }
    assert info["runs"].reason is Reason.LOST
    # The silent worker's outcomes come late, through its segment: they no longer count.
    assert index.record(key, [finished(runs), finished(claimed)]) == 0
    assert index.record(key, [finished(other)], worker="alive") == 1


def test_a_claim_expires_other_workers(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims("a"), batch_key="b")
    index.enlist(key, "silent", "host", lease=0.05)
    index.claim("silent", 1)
    index.enlist(key, "w", "host")
    assert index.claim("w", 1) == []
    time.sleep(0.1)
    (one,) = index.claim("w", 1)
    assert one.attempt == 2
    with pytest.raises(Fenced):
        index.renew("silent")


def test_any_traffic_renews_the_lease(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims(*range(9)), batch_key="b")
    index.enlist(key, "w", "host", lease=0.6)
    for _ in range(3):
        time.sleep(0.25)
        (one,) = index.claim("w", 1)
        time.sleep(0.25)
        index.record(key, [finished(one)], worker="w")
    time.sleep(0.25)
    index.record(key, [], worker="w")
    time.sleep(0.4)
    assert index.renew("w") == frozenset()


def test_discharge_charges_nothing(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims("runs", "claimed"), batch_key="b")
    index.enlist(key, "w", "host")
    runs, _ = index.claim("w", 2)
    index.record(key, [started(runs)], worker="w")
    assert index.discharge("w") == 2
    assert index.discharge("w") == 0
    assert [(i.status, i.tries, i.worker) for i in index.simulations(key)] == [
        (Status.PENDING, 0, None)
    ] * 2
    with pytest.raises(Fenced):
        index.renew("w")


def test_what_has_not_begun_can_be_handed_back(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims("runs", "waits", "stays"), batch_key="b")
    index.enlist(key, "w", "host")
    runs, *_ = index.claim("w", 3)
    index.record(key, [started(runs)], worker="w")
    assert index.hand_back("w", ["runs", "waits", "never heard of"]) == 1
    assert index.hand_back("w", ["waits"]) == 0
    assert [(i.status, i.tries, i.worker) for i in index.simulations(key)] == [
        (Status.RUNNING, 0, "w"),
        (Status.PENDING, 0, None),
        (Status.DISPATCHED, 0, "w"),
    ]
    index.enlist(key, "other", "host")
    assert [a.simulation.id for a in index.claim("other", 3)] == ["waits"]
    with pytest.raises(Fenced):
        index.hand_back("nobody", ["stays"])


@pytest.mark.parametrize("reason", [Reason.OUT_OF_MEMORY, Reason.LOST, Reason.PREEMPTED])
def test_dismissing_a_host_charges_what_its_workers_ran(index: OutputIndex, reason: Reason) -> None:
    key = index.define(limited(3))
    index.register(key, sims("runs", "claimed", "also", "done", "other"), batch_key="b")
    index.enlist(key, "pod.1", "pod")
    index.enlist(key, "pod.2", "pod")
    index.enlist(key, "pod-of-another", "pod-of-another")
    runs, claimed = index.claim("pod.1", 2)
    also, done = index.claim("pod.2", 2)
    (other,) = index.claim("pod-of-another", 1)
    index.record(key, [started(runs)], worker="pod.1")
    index.record(key, [started(also), started(done), finished(done)], worker="pod.2")
    assert index.dismiss("pod", reason, "the pod has ended") == 3
    assert index.dismiss("pod", reason, "the pod has ended") == 0
    assert index.dismiss("nobody", reason, "") == 0
    was_interrupted = reason is Reason.PREEMPTED
    charged = (Status.PENDING, int(not was_interrupted), int(was_interrupted), reason)
    info = {i.simulation.id: i for i in index.simulations(key)}
    assert {id: (i.status, i.tries, i.interruptions, i.reason) for id, i in info.items()} == {
        "runs": charged,
        "claimed": (Status.PENDING, 0, 0, None),
        "also": charged,
        "done": (Status.COMPLETE, 0, 0, None),
        "other": (Status.DISPATCHED, 0, 0, None),
    }
    assert [(a.reason, a.detail) for a in index.attempts(key, "runs")] == [
        (reason, "the pod has ended")
    ]
    assert index.attempts(key, "claimed") == []
    # They may live on, unheard: nothing that they say counts any more.
    for worker, one in (("pod.1", runs), ("pod.2", also)):
        with pytest.raises(Fenced, match=worker):
            index.record(key, [finished(one)], worker=worker)
    assert index.record(key, [finished(runs), finished(claimed), finished(also)]) == 0
    assert index.record(key, [finished(other)], worker="pod-of-another") == 1


def test_dismissing_fails_for_good_what_has_no_try_left(index: OutputIndex) -> None:
    key = index.define(limited(2))
    index.register(key, sims("poison"), batch_key="b")
    for number in range(2):
        index.enlist(key, f"pod-{number}.x", f"pod-{number}")
        (one,) = index.claim(f"pod-{number}.x", 1)
        index.record(key, [started(one, token=f"t{number}")], worker=f"pod-{number}.x")
        assert index.dismiss(f"pod-{number}", Reason.OUT_OF_MEMORY, "killed") == 1
    info = index.simulation(key, "poison")
    assert info is not None
    assert (info.status, info.reason, info.tries) == (Status.FAILED, Reason.OUT_OF_MEMORY, 2)


@pytest.mark.parametrize("is_told", [False, True])
def test_of_a_worker_that_ran_nothing_the_first_is_suspect(
    index: OutputIndex, is_told: bool
) -> None:
    """It may have killed the worker before that could say so, and would do it for ever."""
    key = index.define(limited(2))
    table = [*sims("a", "b"), *sims("poison", priority=5)]
    index.register(key, table, batch_key="b")
    for number in range(2):
        index.enlist(key, f"w{number}", "pod")
        claimed = index.claim(f"w{number}", 3)
        assert ids_of(claimed)[0 if not number else -1] == "poison"
        if number:  # others come first now, and are done before it is begun
            index.record(key, [finished(one) for one in claimed[:-1]], worker="w1")
        assert isinstance(index, DatabaseIndex)
        index._database.transact(lambda s: s.execute("UPDATE workers SET expires = 0", {}))
        taken = index.dismiss("pod", Reason.LOST, "killed") if is_told else index.expire()
        assert taken == 3 - 2 * number
    info = {i.simulation.id: (i.status, i.tries) for i in index.simulations(key)}
    assert info == {
        "a": (Status.COMPLETE, 0),
        "b": (Status.COMPLETE, 0),
        "poison": (Status.FAILED, 2),
    }
    assert [a.reason for a in index.attempts(key, "poison")] == [Reason.LOST] * 2


def test_dismissals_and_claims_at_once_lose_nothing(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    index.register(key, sims(*range(300)), batch_key="b")

    def work(one: OutputIndex, number: int) -> list[str]:
        if number == 0:
            for _ in range(20):
                one.dismiss("host", Reason.LOST, "gone")
            return []
        done: list[str] = []
        while True:
            one.enlist(key, f"w{number}", "host")
            try:
                claimed = one.claim(f"w{number}", 5)
                if not claimed:
                    return done
                one.record(key, [started(item) for item in claimed], worker=f"w{number}")
                one.record(key, [finished(item) for item in claimed], worker=f"w{number}")
            except Fenced:
                continue
            done += ids_of(claimed)

    everything = [id for part in at_once(location, 4, work) for id in part]
    counts = index.counts(key)
    assert sorted(everything, key=int) == [str(i) for i in range(300)]
    assert (counts.complete, counts.unfinished) == (300, 0)


def test_workers_are_those_whose_lease_holds(index: OutputIndex) -> None:
    one, other = index.define(recipe("one")), index.define(recipe("other"))
    assert index.workers(one) == []
    index.enlist(one, "b.1", "b", lease=50)
    index.enlist(one, "a.1", "a", lease=0.05)
    index.enlist(other, "c.1", "c")
    time.sleep(0.1)
    (found,) = index.workers(one)
    assert (found.id, found.host) == ("b.1", "b")
    assert 40 < found.expires - index.now() <= 50
    assert [worker.id for worker in index.workers(other)] == ["c.1"]
    index.discharge("b.1")
    assert index.workers(one) == []


def test_a_worker_sees_only_its_ensemble(index: OutputIndex) -> None:
    one, other = index.define(recipe("one")), index.define(recipe("other"))
    index.register(one, sims("a"), batch_key="b")
    index.enlist(other, "w", "host")
    assert index.claim("w", 5) == []


def test_unknown_workers_are_fenced(index: OutputIndex) -> None:
    with pytest.raises(Fenced, match="nobody"):
        index.claim("nobody", 1)
    with pytest.raises(Fenced, match="nobody"):
        index.renew("nobody")


def test_an_empty_claim_is_not_mistaken_for_a_drained_ensemble(
    location: str, index: OutputIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    # While a registration holds all pending rows, a claim waits for it.
    key = index.define(recipe())
    index.register(key, sims(*range(50)), batch_key="b")
    assert isinstance(index, DatabaseIndex)
    monkeypatch.setattr("airflow_ensemble.engine.index.output_index._LOCKED", 20.0)

    def work(one: OutputIndex, number: int) -> int:
        assert isinstance(one, DatabaseIndex)
        if number == 0:
            with_lock = {"ensemble": key.number, "scope_batch": "none"}

            def hold(session: object) -> int:
                found = session.rows("cancel_lock", [], **with_lock)  # type: ignore[attr-defined]
                time.sleep(0.5)
                return len(found)

            return one._database.transact(hold)
        time.sleep(0.2)
        one.enlist(key, "w", "host")
        return len(one.claim("w", 50))

    assert at_once(location, 2, work) == [50, 50]


def test_times_are_the_databases(index: OutputIndex, key: EnsembleKey, tmp_path: Path) -> None:
    assert abs(index.now() - time.time()) < 60
    index.register(key, sims("a"), batch_key="b")
    info = index.simulation(key, "a")
    assert info is not None
    assert abs(info.updated - index.now()) < 60
