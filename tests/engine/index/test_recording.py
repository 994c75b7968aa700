from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.index import recording
from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex
from airflow_ensemble.engine.segment import Finished, Started
from airflow_ensemble.engine.simulation import (
    INTERRUPTIONS,
    Limits,
    Outcome,
    Reason,
    Simulation,
    Status,
    has_failed_for_good,
)
from tests.engine.index.cases import (
    EMPTY,
    FILE,
    at_once,
    dispatched,
    finished,
    limited,
    recipe,
    sims,
    started,
)


def only(index: OutputIndex, key: EnsembleKey) -> Assignment:
    (one,) = index.assignments(dispatched(index, key, "a")[0].id)
    return one


def test_running_is_visible_at_once(index: OutputIndex, key: EnsembleKey) -> None:
    one = only(index, key)
    assert index.record(key, [started(one)]) == 0
    info = index.simulation(key, "a")
    assert info is not None
    assert (info.status, info.host, info.started) == (Status.RUNNING, "host", 100.0)


@pytest.mark.parametrize("with_start", [True, False])
def test_a_complete_outcome_brings_its_products(
    index: OutputIndex, key: EnsembleKey, with_start: bool
) -> None:
    one = only(index, key)
    records = [started(one)] if with_start else []
    assert index.record(key, [*records, finished(one)]) == 1
    info = index.simulation(key, "a")
    assert info is not None
    assert (info.status, info.products, info.result_generation) == (Status.COMPLETE, (FILE,), 1)
    assert (info.reason, info.detail, info.duration, info.tries) == (None, "", 2.5, 0)
    (result,) = index.results(key)
    assert (result.id, result.params, result.generation) == ("a", {"x": "a"}, 1)


def test_recording_again_changes_nothing(index: OutputIndex, key: EnsembleKey) -> None:
    one, two = index.assignments(dispatched(index, key, "a", "b")[0].id)
    records = [started(one), started(two), finished(one), finished(two, Reason.ERROR)]
    assert index.record(key, records) == 2
    before = list(index.simulations(key))
    for again in (records, records[:2], records[2:], records[::-1]):
        assert index.record(key, again) == 0
        assert list(index.simulations(key)) == before
    assert len(index.attempts(key, "b")) == 1


def test_one_call_with_repeats_counts_once(index: OutputIndex, key: EnsembleKey) -> None:
    one = only(index, key)
    failed = finished(one, Reason.ERROR)
    assert index.record(key, [started(one), failed, started(one), failed]) == 1
    info = index.simulation(key, "a")
    assert info is not None
    assert (info.tries, info.status) == (1, Status.DISPATCHED)


def test_a_late_outcome_cannot_touch_a_later_attempt(index: OutputIndex, key: EnsembleKey) -> None:
    one = only(index, key)
    chunk = index.chunks(index.open_batches(key)[0].id)[0]
    index.record(key, [started(one)])
    index.resubmit(chunk.id)
    (second,) = index.assignments(chunk.id)
    before = list(index.simulations(key))
    for late in (finished(one), finished(one, Reason.ERROR), started(one, "other")):
        assert index.record(key, [late]) == 0
    assert list(index.simulations(key)) == before
    assert index.record(key, [finished(second, products=(EMPTY,))]) == 1
    assert index.counts(key).empty == 1


def test_an_attempt_that_the_index_never_gave_is_ignored(
    index: OutputIndex, key: EnsembleKey
) -> None:
    one = only(index, key)
    stranger = Assignment(Simulation("unknown"), 1)
    early = Assignment(one.simulation, one.attempt + 1)
    assert index.record(key, [finished(stranger), finished(early), started(stranger)]) == 0
    assert index.counts(key).dispatched == 1


def test_a_requeued_execution_of_one_attempt(index: OutputIndex, key: EnsembleKey) -> None:
    # Slurm kills the first execution and starts the same job again, under another token.
    one = only(index, key)
    index.record(key, [started(one, "first", 100.0)])
    assert index.record(key, [finished(one, Reason.PREEMPTED, "first")]) == 1
    info = index.simulation(key, "a")
    assert info is not None
    assert (info.status, info.interruptions, info.tries) == (Status.DISPATCHED, 1, 0)
    index.record(key, [started(one, "second", 200.0)])
    # What the first wrote, read again, cannot disturb the second.
    assert index.record(key, [started(one, "first", 100.0)]) == 0
    assert index.record(key, [finished(one, Reason.PREEMPTED, "first")]) == 0
    running = index.simulation(key, "a")
    assert running is not None
    assert running.status is Status.RUNNING
    assert index.record(key, [finished(one, None, "second")]) == 1
    assert len(index.attempts(key, "a")) == 1


def test_a_failure_of_another_execution_does_not_count(
    index: OutputIndex, key: EnsembleKey
) -> None:
    one = only(index, key)
    index.record(key, [started(one, "first", 100.0), started(one, "second", 200.0)])
    assert index.record(key, [finished(one, Reason.ERROR, "first")]) == 0
    assert index.record(key, [finished(one, Reason.ERROR, "second")]) == 1


def test_a_complete_outcome_of_any_execution_counts_once(
    index: OutputIndex, key: EnsembleKey
) -> None:
    one = only(index, key)
    index.record(key, [started(one, "first"), started(one, "second", 200.0)])
    assert index.record(key, [finished(one, None, "first")]) == 1
    assert index.record(key, [finished(one, None, "second", (EMPTY,))]) == 0
    assert [r.products for r in index.results(key)] == [(FILE,)]


def test_failed_attempts_are_kept(index: OutputIndex) -> None:
    key = index.define(limited(2))
    one = only(index, key)
    chunk = index.chunks(index.open_batches(key)[0].id)[0].id
    index.record(key, [started(one), finished(one, Reason.OUT_OF_MEMORY)])
    index.resubmit(chunk)
    (two,) = index.assignments(chunk)
    index.record(key, [started(two), finished(two, Reason.TIMEOUT)])
    info = index.simulation(key, "a")
    assert info is not None
    assert (info.status, info.reason, info.detail) == (
        Status.FAILED,
        Reason.TIMEOUT,
        "it was timeout",
    )
    assert [(a.attempt, a.reason, a.host, a.log) for a in index.attempts(key, "a")] == [
        (1, Reason.OUT_OF_MEMORY, "host", "logs/x.log"),
        (2, Reason.TIMEOUT, "host", "logs/x.log"),
    ]
    assert index.counts(key).reasons == {"timeout": 1}


@pytest.mark.parametrize(
    "text", ["nul \0 here", "lone \ud800 surrogate", "quotes ' \" \\ % :id @x"]
)
def test_any_detail_can_be_recorded(index: OutputIndex, key: EnsembleKey, text: str) -> None:
    one = only(index, key)
    outcome = Outcome("a", one.attempt, "t", Reason.ERROR, detail=text, host="h")
    assert index.record(key, [Finished(outcome)]) == 1
    (attempt,) = index.attempts(key, "a")
    assert attempt.detail == text.replace("\0", "\ufffd").replace("\ud800", "?")


def test_the_same_records_from_many_sides_count_once(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    given = index.assignments(dispatched(index, key, *range(200))[0].id)
    records: list[Started | Finished] = [started(one) for one in given]
    records += [finished(one, Reason.ERROR if i % 3 else None) for i, one in enumerate(given)]

    def work(one: OutputIndex, number: int) -> int:
        mine = records if number % 2 else [*records[:200][::-1], *records[200:][::-1]]
        return one.record(key, mine)

    assert sum(at_once(location, 6, work)) == 200
    assert all(info.tries <= 1 for info in index.simulations(key))


reasons = st.sampled_from(sorted(Reason, key=lambda reason: reason.value))


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    reason_list=st.lists(reasons, min_size=1, max_size=8),
    limits=st.builds(Limits, st.integers(1, 4), st.integers(1, 4)),
    pull=st.booleans(),
)
def test_the_decision_equals_has_failed_for_good(
    index: OutputIndex, reason_list: list[Reason], limits: Limits, pull: bool
) -> None:
    key = index.define(recipe(limits=limits, seed=index_number(index)))
    batch = index.register(key, sims("a"), batch_key="b").batch
    worker = f"w{key.number}"
    index.enlist(key, worker, "host")
    tries = interruptions = 0
    for i, reason in enumerate(reason_list):
        if pull:
            (one,) = index.claim(worker, 1)
        else:
            chunk = index.dispatch(key, batch, backend="x", n_chunks=1)[0].id
            if i:
                index.resubmit(chunk)
            (one,) = index.assignments(chunk)
        assert index.record(key, [started(one), finished(one, reason)]) == 1
        if reason in INTERRUPTIONS:
            interruptions += 1
        else:
            tries += 1
        is_over = has_failed_for_good(reason, tries, interruptions, limits)
        info = index.simulation(key, "a")
        assert info is not None
        waits = Status.PENDING if pull else Status.DISPATCHED
        assert info.status is (Status.FAILED if is_over else waits)
        assert (info.tries, info.interruptions) == (tries, interruptions)
        if is_over:
            return


def index_number(index: OutputIndex) -> int:
    return len(index.ensembles()) + 1


records = st.lists(
    st.builds(
        Started,
        st.sampled_from("ab"),
        st.integers(1, 2),
        st.sampled_from("xy"),
        st.just(1.0),
        st.just("h"),
    )
    | st.builds(
        Finished,
        st.builds(
            Outcome,
            st.sampled_from("ab"),
            st.integers(1, 2),
            st.sampled_from("xy"),
            st.none() | st.just(Reason.ERROR),
        ),
    ),
    max_size=12,
)


@given(records)
def test_waves_keep_each_simulations_order(given_records: list[Started | Finished]) -> None:
    def id_of(record: Started | Finished) -> str:
        return record.id if isinstance(record, Started) else record.outcome.id

    found: list[Started | Finished] = []
    for wave in recording.waves(given_records):
        members = [*wave.started, *wave.complete, *wave.failed]
        assert len({id_of(member) for member in members}) == len(members)
        found += members
    for id in "ab":
        mine = [record for record in given_records if id_of(record) == id]
        kept = [record for record in found if id_of(record) == id]
        left = iter(mine)
        assert all(any(record is other for other in left) for record in kept)
        dropped = len(mine) - len(kept)
        assert dropped <= sum(isinstance(record, Started) for record in mine)
