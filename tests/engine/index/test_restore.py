from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, OutputIndex
from airflow_ensemble.engine.segment import Finished
from airflow_ensemble.engine.simulation import Reason, Simulation, Status
from tests.engine.index.cases import (
    EMPTY,
    FILE,
    dispatched,
    finished,
    limited,
    sims,
    started,
)


def test_a_lost_index_is_rebuilt_from_records(
    index: OutputIndex, new_location: Callable[[], str]
) -> None:
    key = index.define(limited(2))
    log: list[Finished] = []

    def run(chunk: str, *outcomes: tuple[Reason | None, tuple[object, ...]]) -> None:
        for one, (reason, products) in zip(index.assignments(chunk), outcomes):
            log.append(finished(one, reason, products=products))  # type: ignore[arg-type]
        index.record(key, log)

    ok, empty, bad = (None, (FILE,)), (None, (EMPTY,)), (Reason.ERROR, ())
    chunk = dispatched(index, key, "ok", "empty", "fails", "second", "interrupted")[0].id
    run(chunk, ok, empty, bad, bad, (Reason.PREEMPTED, ()))
    index.resubmit(chunk)
    run(chunk, bad, ok)
    again = open_index(new_location(), create=True)
    assert again.define(limited(2)) is not None
    (new_key,) = again.ensembles()
    assert again.restore(new_key, iter(log)) == 4
    want = index.counts(key)
    assert want == Counts(
        dispatched=1, complete=3, failed=1, empty=1, results=3, reasons={"error": 1}
    )
    have = again.counts(new_key)
    assert (have.complete, have.failed, have.empty, have.pending) == (3, 1, 1, 1)
    for info in index.simulations(key):
        restored = again.simulation(new_key, info.simulation.id)
        assert restored is not None
        assert restored.products == info.products
        assert restored.simulation.params == info.simulation.params
        assert (restored.tries, restored.interruptions) == (info.tries, info.interruptions)
        assert restored.attempt == info.attempt or info.status is Status.DISPATCHED
        assert again.attempts(new_key, info.simulation.id) == index.attempts(
            key, info.simulation.id
        )
    # Rebuilding again, and registering the table afterwards, find everything as it is.
    assert again.restore(new_key, iter(log)) == 0
    table = sims("ok", "empty", "fails", "second", "interrupted", "new")
    registration = again.register(new_key, table, batch_key="b")
    assert (registration.complete, registration.failed, registration.pending) == (3, 1, 2)
    again.close()


def test_an_intact_index_is_left_as_it_is(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, "done", "failed", "runs")[0]
    done, failed, runs = index.assignments(chunk.id)
    log = [finished(done), finished(failed, Reason.ERROR)]
    index.record(key, [started(runs), *log])
    before = list(index.simulations(key))
    assert index.restore(key, log) == 0
    assert list(index.simulations(key)) == before


def test_retried_failures_stay_retried(index: OutputIndex) -> None:
    from airflow_ensemble.engine.index.interface import Scope

    key = index.define(limited(1))
    (one,) = index.assignments(dispatched(index, key, "a")[0].id)
    log = [finished(one, Reason.ERROR)]
    index.record(key, log)
    index.retry(key, Scope())
    assert index.restore(key, log) == 0
    assert index.counts(key).pending == 1


def test_what_runs_now_is_left_alone(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, "a")[0].id
    (one,) = index.assignments(chunk)
    index.resubmit(chunk)
    (two,) = index.assignments(chunk)
    assert index.restore(key, [finished(one), finished(two, Reason.ERROR)]) == 0
    assert index.attempts(key, "a") == []
    assert index.record(key, [started(two), finished(two)]) == 1


def test_an_older_generation_never_replaces_a_newer_one(
    index: OutputIndex, key: EnsembleKey
) -> None:
    (one,) = index.assignments(dispatched(index, key, "a")[0].id)
    index.record(key, [finished(one)])
    batch = index.register(key, sims("a"), batch_key="n", skip_existing=False).batch
    (two,) = index.assignments(index.dispatch(key, batch, backend="x", n_chunks=1)[0].id)
    index.record(key, [finished(two, products=(EMPTY,))])
    before = list(index.simulations(key))
    assert index.restore(key, [finished(two, products=(EMPTY,)), finished(one)]) == 0
    assert list(index.simulations(key)) == before


def test_a_newer_generation_lifts_an_older_row(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims("a"), batch_key="b")
    record = finished(_assignment("a", attempt=4, generation=3))
    assert index.restore(key, [record]) == 1
    info = index.simulation(key, "a")
    assert info is not None
    assert (info.status, info.generation, info.attempt) == (Status.COMPLETE, 3, 4)
    assert index.register(key, sims("a"), batch_key="n", skip_existing=False).generation == 4


def test_results_of_other_parameters_are_not_taken(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, [Simulation("a", {"x": "new"})], batch_key="b")
    assert index.restore(key, [finished(_assignment("a"))]) == 0
    assert index.counts(key).pending == 1


@pytest.mark.parametrize("copies", [1, 3])
def test_copied_segments_count_once(index: OutputIndex, copies: int) -> None:
    key = index.define(limited(2))
    record = finished(_assignment("a"), Reason.ERROR)
    assert index.restore(key, [record] * copies) == 0
    info = index.simulation(key, "a")
    assert info is not None
    assert (info.status, info.tries, info.reason) == (Status.PENDING, 1, Reason.ERROR)


def _assignment(id: str, attempt: int = 1, generation: int = 1):  # type: ignore[no-untyped-def]
    from airflow_ensemble.engine.chunk import Assignment

    return Assignment(sims(id)[0], attempt, generation)
