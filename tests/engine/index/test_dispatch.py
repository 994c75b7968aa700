from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex
from airflow_ensemble.engine.index.ownership import share_chunks
from airflow_ensemble.engine.simulation import Reason, Resources, Status
from tests.engine.index.cases import (
    at_once,
    dispatched,
    finished,
    ids_of,
    limited,
    recipe,
    sims,
    started,
)


def test_round_robin_in_table_order(index: OutputIndex, key: EnsembleKey) -> None:
    chunks = dispatched(index, key, *range(7), n_chunks=3)
    assert [ids_of(index.assignments(c.id)) for c in chunks] == [
        ["0", "3", "6"],
        ["1", "4"],
        ["2", "5"],
    ]
    assert [(c.number, c.size, c.unfinished, c.submission, c.state) for c in chunks] == [
        (0, 3, 3, 1, "open"),
        (1, 2, 2, 1, "open"),
        (2, 2, 2, 1, "open"),
    ]
    assert chunks[0].id == f"{chunks[0].batch}-0000"
    assert {one.attempt for one in index.assignments(chunks[0].id)} == {1}


def test_larger_priority_first(index: OutputIndex, key: EnsembleKey) -> None:
    table = [*sims("a", "b"), *sims("c", priority=5)]
    batch = index.register(key, table, batch_key="b").batch
    chunks = index.dispatch(key, batch, backend="local", n_chunks=2)
    assert [ids_of(index.assignments(c.id)) for c in chunks] == [["c", "b"], ["a"]]


def test_each_resource_class_has_chunks_of_its_own(index: OutputIndex, key: EnsembleKey) -> None:
    table = [*sims(*range(9)), *sims("big", resources=Resources(gpus_per_task=1))]
    batch = index.register(key, table, batch_key="b").batch
    chunks = index.dispatch(key, batch, backend="local", n_chunks=4)
    assert sorted((c.resource_class, c.size) for c in chunks) == [
        ("", 3),
        ("", 3),
        ("", 3),
        ("gpus_per_task=1", 1),
    ]
    for chunk in chunks:
        found = {a.simulation.resources.resource_class for a in index.assignments(chunk.id)}
        assert found == {chunk.resource_class}


def test_a_bound_on_size_makes_more_chunks(index: OutputIndex, key: EnsembleKey) -> None:
    batch = index.register(key, sims(*range(10)), batch_key="b").batch
    chunks = index.dispatch(key, batch, backend="local", n_chunks=1, max_chunk_size=3)
    assert [c.size for c in chunks] == [3, 3, 2, 2]


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 1000), max_size=6),
    st.integers(1, 50),
    st.none() | st.integers(1, 100),
)
def test_shares_are_fair(classes: dict[str, int], n_chunks: int, bound: int | None) -> None:
    shares = share_chunks(classes, n_chunks, bound)
    assert shares.keys() == classes.keys()
    for name, size in classes.items():
        assert 1 <= shares[name] <= size
        if bound is not None:
            assert -(-size // shares[name]) <= bound
    if bound is None:
        assert sum(shares.values()) <= max(n_chunks, len(classes))
        assert sum(shares.values()) >= min(n_chunks, sum(classes.values()))


def test_a_retry_dispatches_nothing_twice(index: OutputIndex, key: EnsembleKey) -> None:
    chunks = dispatched(index, key, *range(4), n_chunks=2)
    batch = chunks[0].batch
    assert index.dispatch(key, batch, backend="local", n_chunks=2) == chunks
    index.register(key, sims("late"), batch_key="b")
    more = index.dispatch(key, batch, backend="local", n_chunks=2)
    assert more[:2] == chunks
    assert [(c.number, c.size) for c in more[2:]] == [(2, 1)]


def test_bad_arguments_are_refused(index: OutputIndex, key: EnsembleKey) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        index.dispatch(key, "x", backend="local", n_chunks=0)
    with pytest.raises(UsageError, match="register it first"):
        index.dispatch(key, "unknown", backend="local", n_chunks=1)
    with pytest.raises(UsageError, match="'nothing' is not in this output index"):
        index.chunk("nothing")
    with pytest.raises(UsageError, match="'nothing' is not in this output index"):
        index.resubmit("nothing")


def test_two_dispatches_at_once_share_no_row(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    batch = index.register(key, sims(*range(500)), batch_key="b").batch
    found = at_once(
        location, 4, lambda one, _: one.dispatch(key, batch, backend="local", n_chunks=3)
    )
    assert all(chunks == found[0] for chunks in found)
    assert [c.size for c in found[0]] == [167, 167, 166]
    assert [c.unfinished for c in index.chunks(batch)] == [167, 167, 166]


def test_dispatch_and_claims_at_once_share_no_row(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    batch = index.register(key, sims(*range(600)), batch_key="b").batch

    def work(one: OutputIndex, number: int) -> list[str]:
        if number == 0:
            chunks = one.dispatch(key, batch, backend="local", n_chunks=2)
            return [id for c in chunks for id in ids_of(one.assignments(c.id))]
        one.enlist(key, f"w{number}", "host")
        mine: list[str] = []
        while claimed := one.claim(f"w{number}", 7):
            mine += ids_of(claimed)
        return mine

    everything = [id for part in at_once(location, 4, work) for id in part]
    assert sorted(everything, key=int) == [str(i) for i in range(600)]


def test_resubmit_charges_what_ran_and_renumbers_the_rest(index: OutputIndex) -> None:
    key = index.define(limited(2))
    chunk = dispatched(index, key, "ran", "waits", "done")[0]
    ran, waits, done = index.assignments(chunk.id)
    index.record(key, [started(ran), started(done), finished(done)])
    again = index.resubmit(chunk.id)
    assert (again.submission, again.unfinished, again.state) == (2, 2, "open")
    assert [(a.simulation.id, a.attempt) for a in index.assignments(chunk.id)] == [
        ("ran", 2),
        ("waits", 2),
    ]
    info = {i.simulation.id: i for i in index.simulations(key)}
    assert (info["ran"].tries, info["waits"].tries) == (1, 0)
    assert [a.reason for a in index.attempts(key, "ran")] == [Reason.LOST]
    # A late outcome of the first attempt cannot touch the second.
    assert index.record(key, [finished(ran), finished(waits)]) == 0
    ran2, _ = index.assignments(chunk.id)
    index.record(key, [started(ran2)])
    last = index.resubmit(chunk.id)
    assert last.unfinished == 1
    lost = index.simulation(key, "ran")
    assert lost is not None
    assert (lost.status, lost.reason, lost.tries) == (Status.FAILED, Reason.LOST, 2)


def test_resubmitting_a_finished_chunk_opens_nothing(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, 1)[0]
    index.record(key, [finished(one) for one in index.assignments(chunk.id)])
    after = index.resubmit(chunk.id)
    assert (after.submission, after.unfinished, after.state) == (1, 0, "settled")


def test_settle_gives_back_what_is_unfinished(index: OutputIndex) -> None:
    key = index.define(limited(3))
    chunk = dispatched(index, key, "ran", "waits", "done")[0]
    ran, _, done = index.assignments(chunk.id)
    index.record(key, [started(ran), finished(done)])
    assert [b.id for b in index.open_batches(key)] == [chunk.batch]
    assert not index.chunk_owner(chunk.id)[1].settled
    assert index.settle(chunk.id) == 2
    assert index.open_batches(key) == []
    owner, batch = index.chunk_owner(chunk.id)
    assert (owner, batch.key, batch.backend, batch.settled) == (key, "b", "local", True)
    assert index.settle(chunk.id) == 0
    counts = index.counts(key)
    assert (counts.pending, counts.complete) == (2, 1)
    info = index.simulation(key, "ran")
    assert info is not None
    assert (info.tries, info.chunk, info.batch, info.reason) == (1, None, None, Reason.LOST)


def test_failed_ones_stay_with_their_chunk(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, 1, 2)[0]
    one, _ = index.assignments(chunk.id)
    assert index.record(key, [started(one), finished(one, Reason.ERROR)]) == 1
    info = index.simulation(key, "1")
    assert info is not None
    assert (info.status, info.tries, info.reason) == (Status.DISPATCHED, 1, Reason.ERROR)
    other = index.register(key, sims(1, 2), batch_key="other")
    assert other.elsewhere == 2
    index.enlist(key, "w", "host")
    assert index.claim("w", 10) == []


def test_reopen_gives_a_cleared_task_its_failures_back(index: OutputIndex) -> None:
    key = index.define(limited(1))
    chunk = dispatched(index, key, "mine", "theirs", "fine")[0]
    mine, theirs, fine = index.assignments(chunk.id)
    index.record(
        key, [finished(mine, Reason.ERROR), finished(theirs, Reason.ERROR), finished(fine)]
    )
    index.settle(chunk.id)
    index.register(key, sims("theirs"), batch_key="other")
    assert index.reopen_chunk(chunk.id) == 1
    assert index.chunk(chunk.id).state == "open"
    again = index.resubmit(chunk.id)
    assert (again.submission, again.unfinished) == (2, 1)
    (one,) = index.assignments(chunk.id)
    assert one.simulation.id == "mine"
    assert one.attempt > mine.attempt
    assert index.record(key, [finished(mine)]) == 0
    assert index.record(key, [finished(one)]) == 1
    assert index.reopen_chunk(chunk.id) == 0
