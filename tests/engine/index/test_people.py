"""What people and collect ask: counts, cancel, retry, reading, offsets."""

from __future__ import annotations

import pytest

from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, OutputIndex, Scope
from airflow_ensemble.engine.simulation import Reason, Status
from tests.engine.index.cases import (
    EMPTY,
    dispatched,
    finished,
    ids_of,
    limited,
    recipe,
    sims,
    started,
)


def test_counts_by_scope(index: OutputIndex) -> None:
    key = index.define(limited(1))
    first, second = dispatched(index, key, *range(6), n_chunks=2)
    a, b, c = index.assignments(first.id)
    index.record(key, [finished(a), finished(b, products=(EMPTY,)), finished(c, Reason.TIMEOUT)])
    (d, *_) = index.assignments(second.id)
    index.record(key, [started(d)])
    index.register(key, sims("new"), batch_key="other")
    everything = Counts(
        pending=1, dispatched=2, running=1, complete=2, failed=1, empty=1, results=2,
        reasons={"timeout": 1},
    )  # fmt: skip
    assert index.counts(key) == everything
    assert (everything.total, everything.unfinished) == (7, 4)
    of_first = Counts(complete=2, failed=1, empty=1, results=2, reasons={"timeout": 1})
    assert index.counts(key, Scope(chunk=first.id)) == of_first
    assert index.counts(key, Scope(batch=first.batch)).total == 6
    assert index.counts(key, Scope(batch=first.batch, statuses=[Status.FAILED])).total == 1
    assert index.counts(key, Scope(ids=["0", "new", "none"])).total == 2
    assert index.counts(key, Scope(ids=[])).total == 0
    assert index.counts(key, Scope(statuses=[])).total == 0


def test_a_batch_counts_what_it_registered_last_or_owns(
    index: OutputIndex, key: EnsembleKey
) -> None:
    mine = dispatched(index, key, 1, 2)[0].batch
    other = index.register(key, sims(2, 3), batch_key="other").batch
    # What another batch owns stays in its scope: that batch gives the verdict on it.
    assert index.counts(key, Scope(batch=mine)).total == 2
    assert index.counts(key, Scope(batch=other)).total == 1
    known = {i.simulation.id for i in index.simulations(key, Scope(batch=mine))}
    assert known == {"1", "2"}
    for one in index.assignments(index.chunks(mine)[0].id):
        index.record(key, [finished(one)])
    index.register(key, sims(2, 3), batch_key="other")
    assert index.counts(key, Scope(batch=mine)).total == 2
    assert index.counts(key, Scope(batch=other)).total == 2


def test_counts_without_anything(index: OutputIndex, key: EnsembleKey) -> None:
    assert index.counts(key) == Counts()


def test_cancel_fences_what_runs(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, "runs", "waits", "done")[0]
    runs, _, done = index.assignments(chunk.id)
    index.record(key, [started(runs), finished(done)])
    index.register(key, sims("pending"), batch_key="other")
    assert index.cancel(key, Scope()) == [
        ("runs", chunk.id),
        ("waits", chunk.id),
        ("pending", None),
    ]
    assert index.cancel(key, Scope()) == []
    counts = index.counts(key)
    assert (counts.failed, counts.complete, counts.reasons) == (3, 1, {"cancelled": 3})
    assert index.record(key, [finished(runs)]) == 0
    assert index.assignments(chunk.id) == []
    assert [a.reason for a in index.attempts(key, "runs")] == [Reason.CANCELLED]
    assert index.attempts(key, "waits") == []


def test_cancel_takes_a_workers_claim_away(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims("a", "b"), batch_key="b")
    index.enlist(key, "w", "host")
    index.claim("w", 2)
    assert index.cancel(key, Scope(ids=["a"])) == [("a", None)]
    assert index.renew("w") == {("b", 1)}


def test_retry_starts_from_zero(index: OutputIndex) -> None:
    key = index.define(limited(1))
    chunk = dispatched(index, key, "a", "b", "c")[0]
    a, b, c = index.assignments(chunk.id)
    index.record(key, [finished(a, Reason.ERROR), finished(b, Reason.ERROR), finished(c)])
    assert index.retry(key, Scope(ids=["a", "c"])) == 1
    info = index.simulation(key, "a")
    assert info is not None
    assert (info.status, info.tries, info.reason, info.chunk) == (Status.PENDING, 0, None, None)
    assert len(index.attempts(key, "a")) == 1
    assert index.record(key, [finished(a)]) == 0
    again = dispatched(index, key, "a", "b", "c", batch_key="next")[0]
    (one,) = index.assignments(again.id)
    assert (one.simulation.id, one.attempt) == ("a", 2)
    assert index.retry(key, Scope(statuses=[Status.FAILED])) == 1


def test_reading_keeps_table_order_over_pages(
    index: OutputIndex, key: EnsembleKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_ensemble.engine.index.output_index._PAGE", 7)
    order = [str(i * 7919 % 100) for i in range(100)]
    chunk = dispatched(index, key, *order)[0]
    assignments = index.assignments(chunk.id)
    assert ids_of(assignments) == order
    assert [i.simulation.id for i in index.simulations(key)] == order
    assert [i.simulation.id for i in index.simulations(key, limit=14)] == order[:14]
    assert [i.simulation.id for i in index.simulations(key, limit=10)] == order[:10]
    index.record(key, [finished(one) for one in assignments[::2]])
    assert [r.id for r in index.results(key)] == order[::2]
    left = Scope(chunk=chunk.id, statuses=[Status.DISPATCHED])
    assert [i.simulation.id for i in index.simulations(key, left)] == order[1::2]
    assert [r.id for r in index.results(key, Scope(ids=order[:3]))] == [order[0], order[2]]


def test_reading_may_stop_half_way_and_write_between(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims(*range(10)), batch_key="b")
    for info in index.simulations(key):
        index.cancel(key, Scope(ids=[info.simulation.id]))
    assert index.counts(key).failed == 10


def test_unknown_ids_are_none(index: OutputIndex, key: EnsembleKey) -> None:
    assert index.simulation(key, "none") is None
    assert index.attempts(key, "none") == []


def test_offsets_only_grow(index: OutputIndex) -> None:
    one, other = index.define(recipe("one")), index.define(recipe("other"))
    index.record(one, [], offsets={"a.jsonl": 100})
    index.record(one, [], offsets={"a.jsonl": 50, "b.jsonl": 2**40})
    assert index.offsets(one) == {"a.jsonl": 100, "b.jsonl": 2**40}
    assert index.offsets(other) == {}
