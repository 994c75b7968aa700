"""What is forgotten is gone, stays gone, and leaves the others as they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, Entry, OutputIndex, Scope
from airflow_ensemble.engine.segment import Finished
from airflow_ensemble.engine.simulation import Reason, Status
from tests.engine.index.cases import at_once, dispatched, finished, limited, recipe, sims, started


def entries_of(index: OutputIndex, key: EnsembleKey, *ids: str) -> list[Entry]:
    return list(index.entries(key, Scope(ids=ids)))


def finish(index: OutputIndex, key: EnsembleKey, chunk: str, *bad: str) -> list[Finished]:
    records = [
        finished(one, Reason.ERROR if one.simulation.id in bad else None)
        for one in index.assignments(chunk)
    ]
    index.record(key, records)
    index.settle(chunk)
    return records


def known(index: OutputIndex, key: EnsembleKey) -> Sequence[str]:
    return [info.simulation.id for info in index.simulations(key)]


def test_entries_say_what_a_table_is_compared_with(index: OutputIndex) -> None:
    key = index.define(limited(1))
    finish(index, key, dispatched(index, key, "a", "b", "007")[0].id, "b")
    batch = index.register(key, sims("c"), batch_key="later").batch

    found = {entry.id: entry for entry in index.entries(key)}

    assert [(e.position, e.status) for e in found.values()] == [
        (0, Status.COMPLETE),
        (1, Status.FAILED),
        (2, Status.COMPLETE),
        (3, Status.PENDING),
    ]
    assert [found[one.id].digest for one in sims("a", "b", "007", "c")] == [
        one.digest for one in sims("a", "b", "007", "c")
    ]
    assert (found["b"].reason, found["a"].reason) == (Reason.ERROR, None)
    assert (found["a"].result_generation, found["b"].result_generation) == (1, None)
    assert (found["a"].attempt, found["c"].attempt) == (1, 0)
    assert found["c"].registered_by == batch
    assert entries_of(index, key, "c", "nobody", "a") == [found["a"], found["c"]]
    assert index.extent(key) == 4


def test_entries_are_read_page_by_page(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims(*range(4500)), batch_key="b")

    assert [int(entry.id) for entry in index.entries(key)] == list(range(4500))


def test_what_is_forgotten_is_gone_with_all_that_came_of_it(index: OutputIndex) -> None:
    key = index.define(limited(1))
    finish(index, key, dispatched(index, key, "a", "good", "bad")[0].id, "bad")

    assert index.forget(key, entries_of(index, key, "good", "bad")) == 2

    assert known(index, key) == ["a"]
    assert [result.id for result in index.results(key)] == ["a"]
    assert index.counts(key) == Counts(complete=1, results=1)
    assert index.attempts(key, "bad") == []
    assert index.simulation(key, "bad") is None
    assert index.forget(key, []) == 0


def test_forgetting_twice_finds_nothing_the_second_time(
    index: OutputIndex, key: EnsembleKey
) -> None:
    index.register(key, sims("a", "b"), batch_key="b")
    going = entries_of(index, key, "b")

    assert [index.forget(key, going), index.forget(key, going)] == [1, 0]


def test_what_somebody_owns_stays(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, "runs", "waits")[0].id
    index.record(key, [started(one) for one in index.assignments(chunk)[:1]])
    index.register(key, sims("claimed", "free"), batch_key="pull")
    index.enlist(key, "worker", "host")
    assert [one.simulation.id for one in index.claim("worker", 1)] == ["claimed"]

    assert index.forget(key, list(index.entries(key))) == 1

    assert known(index, key) == ["runs", "waits", "claimed"]
    assert index.counts(key) == Counts(dispatched=2, running=1)


@pytest.mark.parametrize("change", ["register", "dispatch"])
def test_what_changed_hands_since_it_was_shown_stays(
    index: OutputIndex, key: EnsembleKey, change: str
) -> None:
    index.register(key, sims("a"), batch_key="first")
    seen = list(index.entries(key))
    batch = index.register(key, sims("a", "b"), batch_key="second").batch
    if change == "dispatch":
        chunk = index.dispatch(key, batch, backend="x", n_chunks=1)[0].id
        index.settle(chunk)

    assert index.forget(key, seen) == 0
    assert known(index, key) == ["a", "b"]


def test_other_settings_keep_theirs(index: OutputIndex, key: EnsembleKey) -> None:
    other = index.define(recipe(seed=7))
    for one in (key, other):
        index.register(one, sims("a"), batch_key="b")

    index.forget(key, entries_of(index, key, "a"))

    assert (known(index, key), known(index, other)) == ([], ["a"])


def test_an_id_that_comes_back_is_new_and_no_old_outcome_counts(
    index: OutputIndex, key: EnsembleKey
) -> None:
    [late] = index.assignments(dispatched(index, key, "a")[0].id)
    index.settle(index.chunks(late_batch(index, key))[0].id)
    index.forget(key, entries_of(index, key, "a"))
    assert index.record(key, [started(late), finished(late)]) == 0

    registration = index.register(key, sims("a"), batch_key="again")
    assert (registration.new, registration.pending) == (1, 1)
    chunk = index.dispatch(key, registration.batch, backend="x", n_chunks=1)[0].id
    [now] = index.assignments(chunk)

    assert now.attempt == late.attempt + 1
    assert index.record(key, [started(late), finished(late, Reason.ERROR), finished(late)]) == 0
    assert index.record(key, [finished(now)]) == 1


def late_batch(index: OutputIndex, key: EnsembleKey) -> str:
    return index.open_batches(key)[0].id


def test_batches_and_their_chunks_keep_what_is_left(index: OutputIndex) -> None:
    key = index.define(limited(1))
    chunks = dispatched(index, key, "a", "b", "bad", "c", n_chunks=2, batch_key="night 1")
    for chunk in chunks:
        finish(index, key, chunk.id, "bad")
    first = chunks[0].batch
    # Finds exactly these, all finished, and is judged by the first one's.
    second = index.register(key, sims("a", "b", "bad", "c"), batch_key="night 2").batch

    index.forget(key, entries_of(index, key, "bad"))

    left = Counts(complete=3, results=3)
    assert [index.counts(key, Scope(batch=batch)) for batch in (first, second)] == [left, left]
    assert [result.id for result in index.results(key, Scope(batch=first))] == ["a", "b", "c"]
    assert sum(index.counts(key, Scope(chunk=chunk.id)).total for chunk in chunks) == 3
    assert [chunk.unfinished for chunk in index.chunks(first)] == [0, 0]
    assert index.dispatch(key, first, backend="x", n_chunks=2) == index.chunks(first)
    assert sum(index.reopen_chunk(chunk.id) for chunk in chunks) == 0
    again = index.register(key, sims("a", "b", "c"), batch_key="night 3")
    assert (again.complete, again.new, again.total) == (3, 0, 3)
    assert index.counts(key, Scope(batch=again.batch)) == left


def test_a_rebuild_passes_over_what_was_forgotten(
    index: OutputIndex, new_location: Callable[[], str]
) -> None:
    key = index.define(limited(1))
    log = finish(index, key, dispatched(index, key, "a", "gone", "bad")[0].id, "bad")
    going = entries_of(index, key, "gone", "bad")
    index.forget(key, going)
    index.register(key, sims("gone"), batch_key="again")

    assert index.restore(key, log) == 0  # this index has not forgotten that it forgot

    another = open_index(new_location(), create=True)
    new_key = another.define(limited(1))
    another.note_forgotten(new_key, {entry.id: entry.attempt for entry in going})
    another.note_forgotten(new_key, {"gone": 0})  # an older record changes nothing
    another.register(new_key, sims("a", "gone"), batch_key="rebuild")
    assert another.restore(new_key, log) == 1
    assert known(another, new_key) == ["a", "gone"]
    [a, gone] = another.simulations(new_key)
    assert (a.status, gone.status, gone.attempt) == (Status.COMPLETE, Status.PENDING, 1)
    another.close()


def test_outcomes_of_an_id_that_came_back_are_restored(
    index: OutputIndex, new_location: Callable[[], str]
) -> None:
    key = index.define(recipe())
    log = finish(index, key, dispatched(index, key, "a")[0].id)
    going = entries_of(index, key, "a")
    index.forget(key, going)
    log += finish(index, key, dispatched(index, key, "a", batch_key="again")[0].id)

    another = open_index(new_location(), create=True)
    new_key = another.define(recipe())
    another.note_forgotten(new_key, {entry.id: entry.attempt for entry in going})
    assert another.restore(new_key, log) == 1
    info = another.simulation(new_key, "a")
    assert info is not None
    assert (info.status, info.attempt) == (Status.COMPLETE, 2)
    another.close()


def test_many_forget_the_same_at_once(location: str, index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims(*range(300)), batch_key="b")
    going = list(index.entries(key))[::2]

    def forget(other: OutputIndex, number: int) -> int:
        return other.forget(key, going if number % 2 else going[::-1])

    assert sum(at_once(location, 4, forget)) == 150
    assert index.counts(key) == Counts(pending=150)
