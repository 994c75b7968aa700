"""Random histories of one ensemble, on both databases, against what must always hold."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.errors import Fenced
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import Scope, SimulationInfo
from airflow_ensemble.engine.simulation import (
    INTERRUPTIONS,
    OWNED,
    TERMINAL,
    Limits,
    Reason,
    Status,
    has_failed_for_good,
)
from tests.engine.index.cases import EMPTY, FILE, finished, recipe, sims, started
from tests.services.postgres import PostgresServer

LIMITS = Limits(max_attempts=2, max_interruptions=2)
WORKERS = ("w0", "w1")
IDS = [str(i) for i in range(6)]

id_sets = st.sets(st.sampled_from(IDS), min_size=1).map(sorted)
workers = st.sampled_from(WORKERS)
outcomes = st.sampled_from([None, None, Reason.ERROR, Reason.PREEMPTED, Reason.INVALID])
ends = st.sampled_from([Reason.LOST, Reason.TIME_LIMIT, Reason.OUT_OF_MEMORY, Reason.CANCELLED])


class Ensemble(RuleBasedStateMachine):
    """Batches, chunks and workers do what they may; some of them late, twice or never."""

    new_location: ClassVar[Callable[[], str]]

    def __init__(self) -> None:
        super().__init__()
        self.index = open_index(type(self).new_location(), create=True)
        self.key = self.index.define(recipe(limits=LIMITS))
        self.batches: list[str] = []
        self.handed_out: list[tuple[Assignment, str]] = []
        self.seen: dict[str, SimulationInfo] = {}
        self.completions: dict[tuple[str, int], int] = {}
        self.may_reopen: set[str] = set()

    def teardown(self) -> None:
        self.index.close()

    def info(self, id: str) -> SimulationInfo:
        found = self.index.simulation(self.key, id)
        assert found is not None
        return found

    def chunk_ids(self) -> list[str]:
        return [c.id for batch in self.batches for c in self.index.chunks(batch)]

    def hand_out(self, assignments: list[Assignment], holder: str) -> None:
        for one in assignments:
            known = [other for other, _ in self.handed_out]
            same = [o for o in known if o.simulation.id == one.simulation.id]
            # Nobody is ever handed an attempt that was handed to somebody else.
            assert all(o.attempt < one.attempt for o in same)
            self.handed_out.append((one, holder))

    @rule(ids=id_sets, key=st.integers(0, 3), skip=st.sampled_from([True, True, False]))
    def register(self, ids: list[str], key: int, skip: bool) -> None:
        if not skip:
            self.may_reopen |= set(ids)
        done = self.index.register(self.key, sims(*ids), batch_key=str(key), skip_existing=skip)
        assert done.total == len(ids)
        if done.batch not in self.batches:
            self.batches.append(done.batch)

    @rule(data=st.data(), n_chunks=st.integers(1, 3))
    def dispatch(self, data: st.DataObject, n_chunks: int) -> None:
        if not self.batches:
            return
        batch = data.draw(st.sampled_from(self.batches))
        known = {c.id for c in self.index.chunks(batch)}
        pending = self.index.counts(self.key, Scope(batch=batch, statuses=[Status.PENDING])).pending
        chunks = self.index.dispatch(self.key, batch, backend="local", n_chunks=n_chunks)
        new = [c for c in chunks if c.id not in known]
        assert sum(c.size for c in new) == pending
        for chunk in new:
            self.hand_out(self.index.assignments(chunk.id), chunk.id)

    @rule(worker=workers, limit=st.integers(1, 4))
    def claim(self, worker: str, limit: int) -> None:
        self.index.enlist(self.key, worker, f"host of {worker}")
        pending = self.index.counts(self.key).pending
        claimed = self.index.claim(worker, limit)
        assert len(claimed) == min(limit, pending)
        self.hand_out(claimed, worker)

    @rule(data=st.data(), with_start=st.booleans(), with_end=st.booleans(), reason=outcomes)
    def record(
        self, data: st.DataObject, with_start: bool, with_end: bool, reason: Reason | None
    ) -> None:
        """Report on any attempt ever handed out: a late one, a repeated one, a living one."""
        if not self.handed_out:
            return
        one, holder = data.draw(st.sampled_from(self.handed_out))
        token = f"{holder}-{one.attempt}"
        before = self.info(one.simulation.id)
        attempts = len(self.index.attempts(self.key, one.simulation.id))
        records = [started(one, token)] if with_start else []
        if with_end:
            product = (EMPTY,) if one.attempt % 2 else (FILE,)
            records.append(finished(one, reason, token, product))  # type: ignore[arg-type]
        counted = self.index.record(self.key, records)
        holds = before.status in OWNED and before.attempt == one.attempt
        after = self.info(one.simulation.id)
        if not holds:
            assert counted == 0
            assert after == before
        if counted and reason is None:
            again = self.completions.get((one.simulation.id, before.generation), 0)
            self.completions[one.simulation.id, before.generation] = again + 1
            assert after.status is Status.COMPLETE
        if counted and reason is not None:
            self.check_charge(before, after, reason)
            assert len(self.index.attempts(self.key, one.simulation.id)) == attempts + 1
        if with_end:
            # The same record once more says nothing.
            assert self.index.record(self.key, records) == 0
            assert self.info(one.simulation.id) == after

    def check_charge(
        self,
        before: SimulationInfo,
        after: SimulationInfo,
        reason: Reason,
        *,
        given_back: bool = False,
    ) -> None:
        is_interruption = reason in INTERRUPTIONS
        tries = before.tries + (not is_interruption)
        interruptions = before.interruptions + is_interruption
        assert (after.tries, after.interruptions) == (tries, interruptions)
        if has_failed_for_good(reason, tries, interruptions, LIMITS):
            assert after.status is Status.FAILED
        else:
            stays = before.chunk and not given_back
            assert after.status is (Status.DISPATCHED if stays else Status.PENDING)

    @rule(worker=workers, is_expired=st.booleans())
    def worker_ends(self, worker: str, is_expired: bool) -> None:
        try:
            held = len(self.index.renew(worker))
        except Fenced:
            return
        if is_expired:
            database = self.index._database  # type: ignore[attr-defined]
            database.transact(lambda session: session.execute("UPDATE workers SET expires = 0", {}))
            assert self.index.expire() >= held
        else:
            assert self.index.discharge(worker) == held
        with pytest.raises(Fenced):
            self.index.renew(worker)

    @rule(worker=workers, reason=ends)
    def dismiss(self, worker: str, reason: Reason) -> None:
        held = [
            info for info in self.seen.values() if info.worker == worker and info.status in OWNED
        ]
        running = [info for info in held if info.status is Status.RUNNING]
        assert self.index.dismiss(f"host of {worker}", reason, "it has ended") == len(held)
        self.check_charges(running, reason, given_back=True)
        after = [self.info(info.simulation.id) for info in held if not running]
        charged = [info for info in after if info.reason is reason]
        assert len(charged) == (1 if after else 0), "of what never ran the first is suspect"
        with pytest.raises(Fenced):
            self.index.renew(worker)

    @rule(data=st.data(), reason=ends)
    def charge(self, data: st.DataObject, reason: Reason) -> None:
        if chunks := self.chunk_ids():
            chunk = data.draw(st.sampled_from(chunks))
            before, running = self.index.chunk(chunk), self.running_of(chunk)
            assert self.index.charge(chunk, reason=reason) == len(running)
            self.check_charges(running, reason)
            after = self.index.chunk(chunk)
            assert (after.submission, after.state) == (before.submission, before.state)
            # The execution has ended once, however often that is told.
            rows = list(self.index.simulations(self.key))
            assert self.index.charge(chunk, reason=reason) == 0
            assert list(self.index.simulations(self.key)) == rows

    @rule(data=st.data(), reason=ends)
    def resubmit(self, data: st.DataObject, reason: Reason) -> None:
        if chunks := self.chunk_ids():
            chunk = data.draw(st.sampled_from(chunks))
            before, running = self.index.chunk(chunk), self.running_of(chunk)
            after = self.index.resubmit(chunk, reason=reason)
            self.check_charges(running, reason)
            assert after.unfinished <= before.unfinished
            assert after.submission == before.submission + (after.unfinished > 0)
            self.hand_out(self.index.assignments(chunk), chunk)

    @rule(data=st.data(), reason=ends)
    def settle(self, data: st.DataObject, reason: Reason) -> None:
        if chunks := self.chunk_ids():
            chunk = data.draw(st.sampled_from(chunks))
            unfinished, running = self.index.chunk(chunk).unfinished, self.running_of(chunk)
            assert self.index.settle(chunk, reason=reason) <= unfinished
            self.check_charges(running, reason, given_back=True)
            after = self.index.chunk(chunk)
            assert (after.unfinished, after.state) == (0, "settled")

    def running_of(self, chunk: str) -> list[SimulationInfo]:
        scope = Scope(chunk=chunk, statuses=[Status.RUNNING])
        return list(self.index.simulations(self.key, scope))

    def check_charges(
        self, before: list[SimulationInfo], reason: Reason, *, given_back: bool = False
    ) -> None:
        for one in before:
            after = self.info(one.simulation.id)
            self.check_charge(one, after, reason, given_back=given_back)
            assert after.reason is reason
            last = self.index.attempts(self.key, one.simulation.id)[-1]
            assert (last.attempt, last.reason) == (one.attempt, reason)

    @rule(data=st.data())
    def reopen_chunk(self, data: st.DataObject) -> None:
        if chunks := self.chunk_ids():
            chunk = data.draw(st.sampled_from(chunks))
            failed = Scope(chunk=chunk, statuses=[Status.FAILED])
            ids = [i.simulation.id for i in self.index.simulations(self.key, failed)]
            self.may_reopen |= set(ids)
            assert self.index.reopen_chunk(chunk) <= len(ids)
            self.index.resubmit(chunk)

    @rule(ids=id_sets)
    def cancel(self, ids: list[str]) -> None:
        unfinished = self.index.counts(self.key, Scope(ids=ids)).unfinished
        assert len(self.index.cancel(self.key, Scope(ids=ids))) == unfinished

    @rule(ids=id_sets)
    def retry(self, ids: list[str]) -> None:
        failed = self.index.counts(self.key, Scope(ids=ids)).failed
        self.may_reopen |= set(ids)
        assert self.index.retry(self.key, Scope(ids=ids)) == failed

    @invariant()
    def everything_holds(self) -> None:
        self.histories_only_move_forward()
        self.every_owned_one_has_one_owner()
        self.one_outcome_completes_a_generation()
        self.counts_agree_with_the_rows()

    def histories_only_move_forward(self) -> None:
        now = {i.simulation.id: i for i in self.index.simulations(self.key)}
        for id, before in self.seen.items():
            after = now[id]
            assert after.attempt >= before.attempt
            assert after.generation >= before.generation
            assert (after.result_generation or 0) >= (before.result_generation or 0)
            if before.status in TERMINAL and id not in self.may_reopen:
                assert after.status is before.status
            if before.status is Status.COMPLETE and after.generation == before.generation:
                assert after == before
        self.seen = now
        self.may_reopen.clear()

    def every_owned_one_has_one_owner(self) -> None:
        for info in self.seen.values():
            owners = (info.chunk is not None) + (info.worker is not None)
            if info.status in OWNED:
                assert owners == 1
            if info.status is Status.PENDING:
                assert owners == 0
            assert (info.status is Status.COMPLETE) <= (info.result_generation == info.generation)

    def one_outcome_completes_a_generation(self) -> None:
        assert all(times == 1 for times in self.completions.values())

    def counts_agree_with_the_rows(self) -> None:
        counts = self.index.counts(self.key)
        for status in Status:
            rows = sum(info.status is status for info in self.seen.values())
            assert getattr(counts, status.value) == rows
        assert counts.results == len(list(self.index.results(self.key)))


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_random_histories(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if database == "sqlite":

        def new_location() -> str:
            return str(Path(tempfile.mkdtemp(dir=tmp_path)) / "index.sqlite")

    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        new_location = server.new_database
    machine = type("Machine", (Ensemble,), {"new_location": staticmethod(new_location)})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=40 if database == "sqlite" else 15,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
    shutil.rmtree(tmp_path, ignore_errors=True)
