"""A batch from registration to verdict, on real workers, a real index and real files."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine import batch, segment, upkeep
from airflow_ensemble.engine.batch import (
    Reconciled,
    allowed_failures,
    cancel,
    dispatch,
    driving,
    parse_worker_line,
    reconcile,
    register,
    reopen_chunk,
    run_chunk,
    verdict,
)
from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.errors import EnsembleError, Interrupted, ModelError, UsageError
from airflow_ensemble.engine.evidence import Evidence, find_evidence
from airflow_ensemble.engine.index.interface import BatchInfo, Counts, Scope
from airflow_ensemble.engine.segment import Header
from airflow_ensemble.engine.simulation import Reason, Status
from airflow_ensemble.engine.storage import segment_name
from tests.engine.index.cases import finished, started
from tests.ensembles import executions, write_ensemble


def rows(*whats: str, **common: object) -> list[dict[str, object]]:
    return [{"id": f"s{n}", "x": n, "what": what, **common} for n, what in enumerate(whats)]


@contextmanager
def opened(path: Path, overrides: dict[str, object] | None = None) -> Iterator[Control]:
    with open_control(load(path, overrides), create=True) as control:
        yield control


def start(control: Control, key: str = "test", n_chunks: int = 1, **options: object) -> list[str]:
    """Register and dispatch; return the chunks' ids."""
    registration = register(control, key, **options)
    return [chunk.id for chunk in dispatch(control, registration.batch, n_chunks=n_chunks)]


def run_all(control: Control, key: str = "test", **options: object) -> Counts:
    for chunk in start(control, key, **options):
        run_chunk(control, chunk)
    return control.index.counts(control.key)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    result: list[object] = []

    def run() -> None:
        try:
            result.append(function())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, result


def test_every_simulation_runs_once_and_products_are_recorded(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "ok", "empty", "ok"))
    with opened(path) as control:
        chunks = start(control, n_chunks=2)
        assert len(chunks) == 2
        reports = [run_chunk(control, chunk) for chunk in chunks]
        assert [report.ran for report in reports] == [2, 2]
        counts = control.index.counts(control.key)
        assert (counts.complete, counts.empty, counts.unfinished) == (4, 1, 0)
        results = {result.id: result for result in control.index.results(control.key)}
        [product] = results["s3"].products
        stored = json.loads((tmp_path / "output" / product.path).read_text())
        assert (stored["id"], stored["x"]) == ("s3", 3)
        assert results["s2"].products[0].path is None
    assert sorted(executions(tmp_path)) == ["s0", "s1", "s2", "s3"]


def test_a_second_run_has_nothing_to_do(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "empty", "raise"), max_attempts=1)
    with opened(path) as control:
        run_all(control, "first")
        assert start(control, "second") == []
    assert sorted(executions(tmp_path)) == ["s0", "s1", "s2"]


def test_max_attempts_is_spent_on_what_fails_and_on_nothing_else(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "raise", "raise once", "die"), max_attempts=3)
    with opened(path) as control:
        [chunk] = start(control)
        report = run_chunk(control, chunk)
        assert (report.counts.complete, report.counts.failed) == (2, 2)
        reasons = {info.simulation.id: info.reason for info in report.failures}
        assert reasons == {"s1": Reason.ERROR, "s3": Reason.CRASHED}
        assert "no luck with s1" in upkeep.read_log(control, "s1")
        assert len(control.index.attempts(control.key, "s2")) == 1
    ran = executions(tmp_path)
    assert {id: ran.count(id) for id in ("s0", "s1", "s2", "s3")} == {
        "s0": 1,
        "s1": 3,
        "s2": 2,
        "s3": 3,
    }


def test_an_unusable_model_gives_up_and_charges_no_attempt(tmp_path):
    path = write_ensemble(tmp_path, rows("ok"), model="import no_such_package\n")
    with opened(path) as control:
        [chunk] = start(control)
        with pytest.raises(ModelError, match="no_such_package"):
            run_chunk(control, chunk)
        info = control.index.simulation(control.key, "s0")
        assert (info.status, info.tries) == (Status.DISPATCHED, 0)


def test_a_killed_worker_costs_only_what_it_was_running(tmp_path):
    path = write_ensemble(tmp_path, rows(*["ok"] * 6, sleep=0.4))
    with opened(path) as control:
        [chunk] = start(control)
        killed = threading.Event()

        def kill_worker_once(counts: Counts) -> None:
            if counts.complete >= 1 and not killed.is_set():
                killed.set()
                lock = next((tmp_path / "output/.ensemble/chunks").rglob("*.jsonl.lock"))
                os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)

        report = run_chunk(control, chunk, on_progress=kill_worker_once)
        assert killed.is_set()
        assert report.counts.complete == 6
        lost = [info.tries for info in control.index.simulations(control.key)]
        assert sum(lost) <= 1
    ran = executions(tmp_path)
    assert len(ran) <= 7
    assert ran.count("s0") == 1


def test_stopping_records_interruptions_and_a_later_try_goes_on(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "ok", "ok", sleep=1.0))
    with opened(path) as control:
        [chunk] = start(control)
        stop = threading.Event()

        def stop_after_one(counts: Counts) -> None:
            if counts.complete:
                stop.set()

        with pytest.raises(Interrupted):
            run_chunk(control, chunk, on_progress=stop_after_one, stop=stop)
        assert control.index.counts(control.key).failed == 0
        assert control.index.chunk(chunk).unfinished >= 1
        report = run_chunk(control, chunk)
        assert report.counts.complete == 3
        assert all(not info.tries for info in control.index.simulations(control.key))
    assert executions(tmp_path).count("s0") == 1


def test_two_tries_of_one_chunk_at_once_run_nothing_twice(tmp_path):
    path = write_ensemble(tmp_path, rows(*["ok"] * 4, sleep=0.3))
    with opened(path) as control:
        [chunk] = start(control)

    def run() -> int:
        with opened(path) as own:
            return run_chunk(own, chunk).counts.complete

    tries = [in_thread(run) for _ in range(2)]
    for thread, _ in tries:
        thread.join()
    assert [result for _, [result] in tries] == [4, 4]
    assert sorted(executions(tmp_path)) == ["s0", "s1", "s2", "s3"]


def test_two_batches_at_once_never_run_one_simulation_twice(tmp_path):
    path = write_ensemble(tmp_path, rows(*["ok"] * 4, sleep=0.2))

    def run(key: str) -> None:
        with opened(path) as control:
            registration = register(control, key)
            with driving(control, registration.batch):
                for chunk in dispatch(control, registration.batch, n_chunks=1):
                    run_chunk(control, chunk.id)

    threads = [in_thread(lambda key=key: run(key)) for key in ("one", "two", "three")]
    for thread, _ in threads:
        thread.join()
    assert [result for _, [result] in threads] == [None] * 3
    assert sorted(executions(tmp_path)) == ["s0", "s1", "s2", "s3"]


def test_each_batch_is_judged_by_what_is_its_own(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "ok"))
    with opened(path) as control:
        first = register(control, "first")
        with driving(control, first.batch):
            [chunk] = dispatch(control, first.batch, n_chunks=1)
            second = register(control, "second")
            assert second.elsewhere == 2
            assert control.index.counts(control.key, Scope(batch=second.batch)) == Counts()
            assert verdict(control.index.counts(control.key, Scope(batch=second.batch))).ok
            run_chunk(control, chunk.id)
            assert control.index.counts(control.key, Scope(batch=first.batch)).complete == 2


def test_what_a_dead_driver_left_is_given_to_the_next_batch(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "ok"))
    with opened(path) as control:
        dead = register(control, "dead")
        with driving(control, dead.batch):
            dispatch(control, dead.batch, n_chunks=1)
            alive = register(control, "meanwhile")
            assert (alive.elsewhere, alive.pending) == (2, 0)
        after = register(control, "after")
        assert (after.elsewhere, after.pending) == (0, 2)


def test_an_unknown_driver_keeps_its_batch_until_the_deadline(tmp_path, monkeypatch):
    path = write_ensemble(tmp_path, rows("ok"))
    with opened(path) as control:
        start(control, "of some scheduler")
        assert reconcile(control).settled == []
        assert reconcile(control, driver_alive=lambda info: True).settled == []
        monkeypatch.setattr(batch, "DRIVER_DEADLINE", 0.0)
        assert [given for _, given in reconcile(control).settled] == [1]


def test_a_driver_known_to_be_dead_is_settled_at_once(tmp_path):
    path = write_ensemble(tmp_path, rows("ok"))
    with opened(path) as control:
        start(control, "of some scheduler")
        asked = []
        found = reconcile(control, driver_alive=lambda info: asked.append(info.key))
        assert found.settled == []
        assert asked == ["of some scheduler"]
        assert len(reconcile(control, driver_alive=lambda info: False).settled) == 1
        assert len(reconcile(control, force=True).settled) == 0


def write_outcome(control: Control, claim: Assignment) -> None:
    """Write what a worker that completes a claim, and cannot say so, leaves behind."""
    header = Header(
        ensemble="tests",
        settings_hash=control.recipe.settings.hash,
        index=control.index.uuid,
        writer="w",
        token="t",
        host="host",
        pid=1,
    )
    name = segment_name(control.hash8, "w", 1, "t")
    with closing(control.root.append(name)) as appender:
        records = (header, started(claim), finished(claim))
        appender.write("".join(map(segment.render, records)).encode())


def test_reconcile_does_its_work_also_when_no_batch_is_open(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "ok", "ok"))
    with opened(path) as control:
        register(control, "pulled")
        assert reconcile(control) == Reconciled(0, 0, [])
        control.index.enlist(control.key, "w", "host", lease=0.05)
        told, lost = control.index.claim("w", 2)
        assert control.index.open_batches(control.key) == []
        write_outcome(control, told)
        time.sleep(0.1)
        assert reconcile(control) == Reconciled(1, 1, [])
        statuses = {i.simulation.id: i.status for i in control.index.simulations(control.key)}
        assert statuses[told.simulation.id] is Status.COMPLETE
        assert statuses[lost.simulation.id] is Status.PENDING
        assert reconcile(control) == Reconciled(0, 0, [])
        # The next registration says what is left as it is, with nobody's help.
        assert (again := register(control, "next")).complete == 1
        assert (again.pending, again.elsewhere) == (2, 0)


def start_on_slurm(control: Control, key: str, **options: object) -> str:
    registration = register(control, key, **options)
    dispatch(control, registration.batch, backend="slurm", n_chunks=2)
    return registration.batch


def test_a_backend_without_a_settler_is_left_alone(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "ok"))
    with opened(path) as control:
        start_on_slurm(control, "elsewhere")
        assert not (tmp_path / "output/.ensemble/chunks").exists()
        assert reconcile(control, driver_alive=lambda info: False, force=True).settled == []
        assert control.index.counts(control.key).dispatched == 2


@pytest.mark.parametrize(
    ("alive", "force", "is_abandoned"),
    [(True, False, False), (None, False, False), (False, False, True), (None, True, True)],
)
def test_a_backend_settles_its_own_batches(tmp_path, alive, force, is_abandoned):
    path = write_ensemble(tmp_path, rows("ok", "ok"))
    asked = []

    def settle(control: Control, info: BatchInfo, abandoned: bool) -> list[tuple[str, int]]:
        asked.append((info.key, info.backend, abandoned))
        chunk = next(chunk.id for chunk in control.index.chunks(info.id) if chunk.state == "open")
        return [(chunk, control.index.settle(chunk))]

    with opened(path) as control:
        batch_id = start_on_slurm(control, "far")
        settled = reconcile(
            control, driver_alive=lambda _: alive, force=force, settlers={"slurm": settle}
        )
        assert asked == [("far", "slurm", is_abandoned)]
        assert settled.settled == [(f"{batch_id}-0000", 1)]
        # Registration settles in the same way: what was given back is this batch's now.
        again = register(control, "next", settlers={"slurm": settle})
        assert (again.pending, again.elsewhere) == (2, 0)


def test_the_lock_of_a_driver_counts_on_every_backend(tmp_path):
    path = write_ensemble(tmp_path, rows("ok"))
    seen = []

    def settle(control: Control, info: BatchInfo, is_abandoned: bool) -> list[tuple[str, int]]:
        seen.append(is_abandoned)
        return []

    with opened(path) as control:
        batch_id = start_on_slurm(control, "far")
        with driving(control, batch_id):
            reconcile(control, force=True, settlers={"slurm": settle})
        reconcile(control, settlers={"slurm": settle})
    assert seen == [False, True]


def test_cancel_is_passed_on_to_where_the_chunks_run(tmp_path, caplog):
    path = write_ensemble(tmp_path, rows(*["ok"] * 6))
    with opened(path) as control:
        [near] = start(control, "near", first=2)
        batch_id = start_on_slurm(control, "far")
        told = []
        assert cancel(control, Scope(ids=("s1", "s2", "s4", "s5")), told.append) == 4
        assert told == [{f"{batch_id}-0000": ["s2", "s4"], f"{batch_id}-0001": ["s5"]}]
        folder = tmp_path / "output/.ensemble/chunks"
        [file] = folder.rglob("*.cancel")
        assert (file.name, file.read_text()) == (f"{near}.cancel", "s1\n")
        assert cancel(control, Scope(ids=("s0",)), told.append) == 1
        assert len(told) == 1
        assert not caplog.records
        assert cancel(control, Scope()) == 1
        assert "1 chunks run elsewhere" in caplog.text


def test_cancel_reaches_the_running_simulation(tmp_path):
    path = write_ensemble(tmp_path, [*rows("ok", sleep=60), {"id": "quick", "x": 1}])
    with opened(path) as control:
        [chunk] = start(control)

        def run() -> Counts:
            with opened(path) as own:
                return run_chunk(own, chunk, cpus=2).counts

        thread, result = in_thread(run)
        wait_for(lambda: "s0" in executions(tmp_path))
        wait_for(lambda: control.index.counts(control.key).complete == 1)
        assert cancel(control, Scope(ids=("s0",))) == 1
        thread.join(20)
        assert not thread.is_alive()
        [counts] = result
        assert (counts.complete, counts.failed, dict(counts.reasons)) == (1, 1, {"cancelled": 1})


def test_a_cleared_chunk_runs_its_failed_simulations_again(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "raise"), max_attempts=2)
    with opened(path) as control:
        [chunk] = start(control)
        assert run_chunk(control, chunk).counts.failed == 1
        assert reopen_chunk(control, chunk) == 1
        assert run_chunk(control, chunk).counts.failed == 1
    assert sorted(executions(tmp_path)) == ["s0", "s1", "s1", "s1", "s1"]


def test_no_skip_is_a_real_rerun_and_keeps_the_old_results_until_then(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "ok"))
    with opened(path) as control:
        run_all(control, "first")
        first = {r.id: r.products[0].path for r in control.index.results(control.key)}
        chunks = start(control, "again", skip_existing=False)
        waiting = {r.id: r.products[0].path for r in control.index.results(control.key)}
        assert waiting == first
        assert start(control, "again", skip_existing=False) == chunks
        for chunk in chunks:
            run_chunk(control, chunk)
        second = {r.id: r.products[0].path for r in control.index.results(control.key)}
        assert set(second) == set(first)
        assert not set(second.values()) & set(first.values())
        assert upkeep.collect_garbage(control, dry_run=True).files == 2
        assert upkeep.collect_garbage(control).files == 2
        assert upkeep.collect_garbage(control).files == 0
        assert all((tmp_path / "output" / name).exists() for name in second.values())
    assert sorted(executions(tmp_path)) == ["s0", "s0", "s1", "s1"]


def test_gc_waits_while_simulations_are_owned(tmp_path):
    path = write_ensemble(tmp_path, rows("ok"))
    with opened(path) as control:
        start(control)
        with pytest.raises(UsageError, match="1 simulations are dispatched or running"):
            upkeep.collect_garbage(control)


def test_rebuild_keeps_empty_results_failures_and_earlier_tables(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "empty", "raise"), max_attempts=2)
    with opened(path) as control:
        run_all(control)
        before = [
            (info.simulation, info.status, info.tries, info.reason, info.products)
            for info in control.index.simulations(control.key)
        ]
    (tmp_path / "output/.ensemble/index.sqlite").unlink()
    (tmp_path / "table.jsonl").write_text('{"id": "s0", "x": 0, "what": "ok"}\n')
    with opened(path) as control:
        assert upkeep.rebuild(control) == 3
        after = [
            (info.simulation, info.status, info.tries, info.reason, info.products)
            for info in control.index.simulations(control.key)
        ]
        key = lambda row: row[0].id  # noqa: E731
        assert sorted(after, key=key) == sorted(before, key=key)
        assert control.index.counts(control.key).empty == 1
        assert start(control, "next") == []


def test_changed_settings_compute_anew_beside_the_old_results(tmp_path, caplog):
    path = write_ensemble(tmp_path, rows("ok"))
    with opened(path) as control:
        run_all(control)
        old = control.recipe.hash8
    with opened(path, {"seed": 7}) as control:
        assert run_all(control).complete == 1
        assert control.recipe.hash8 != old
    assert old in caplog.text
    assert len(executions(tmp_path)) == 2
    assert len(list((tmp_path / "output" / old).rglob("*.json"))) == 1


def test_workers_that_cannot_start_end_in_an_error_worth_a_retry(tmp_path):
    path = write_ensemble(tmp_path, rows("ok"))
    with opened(path) as control:
        [chunk] = start(control)
        with pytest.raises(EnsembleError, match="3 workers in a row") as caught:
            run_chunk(control, chunk, python="/bin/false")
        assert not isinstance(caught.value, UsageError)
        assert run_chunk(control, chunk).counts.complete == 1


def test_an_output_root_that_takes_no_products_costs_no_attempt(tmp_path):
    path = write_ensemble(tmp_path, rows("ok", "ok", "ok"), max_attempts=1)
    with opened(path) as control:
        [chunk] = start(control)
        hindrance = tmp_path / "output" / control.recipe.hash8 / "values"
        hindrance.parent.mkdir(parents=True)
        hindrance.touch()
        with pytest.raises(Interrupted, match="could not be published"):
            run_chunk(control, chunk)
        assert control.index.counts(control.key).failed == 0
        assert "s2" not in executions(tmp_path)
        hindrance.unlink()
        assert run_chunk(control, chunk).counts.complete == 3


def test_the_lock_of_a_finished_chunk_proves_its_end(tmp_path):
    path = write_ensemble(tmp_path, rows("ok"))
    with opened(path) as control:
        run_all(control)
    [lock] = (tmp_path / "output/.ensemble/chunks").rglob("*.jsonl.lock")
    assert find_evidence(lock) is Evidence.ENDED


@pytest.mark.parametrize(
    ("line", "level", "message"),
    [
        ("2026-11-21 07:36:05,311 WARNING s1 failed: error", logging.WARNING, "s1 failed: error"),
        ("2026-11-21 07:36:05,311 INFO s0 complete", logging.INFO, "s0 complete"),
        (
            "error: model 'm:f' is not importable",
            logging.INFO,
            "error: model 'm:f' is not importable",
        ),
        ("2026-11-21 07:36:05,311 LOUD x", logging.INFO, "2026-11-21 07:36:05,311 LOUD x"),
    ],
)
def test_worker_lines_keep_their_level_and_are_stamped_once(line, level, message):
    assert parse_worker_line(line) == (level, message)


def test_a_failure_is_a_warning_in_the_log(tmp_path, caplog):
    path = write_ensemble(tmp_path, rows("raise"), max_attempts=1)
    with opened(path) as control:
        run_all(control)
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING and "s0" in r.message]
    assert "error" in record.message


@pytest.mark.parametrize(
    ("counts", "max_failed", "ok"),
    [
        (Counts(complete=5), 0, True),
        (Counts(), 0, True),
        (Counts(complete=5, failed=1), 0, False),
        (Counts(complete=5, failed=1), 1, True),
        (Counts(complete=95, failed=5), "5%", True),
        (Counts(complete=94, failed=6), "5%", False),
        (Counts(complete=5, pending=1), 9, False),
        (Counts(complete=5, running=1), 9, False),
    ],
)
def test_verdict(counts, max_failed, ok):
    judged = verdict(counts, max_failed)
    assert judged.ok is ok
    assert f"{counts.failed} failed" in judged.message


@given(st.integers(0, 10**6), st.integers(0, 100))
def test_a_percentage_never_allows_more_than_it_says(total, percent):
    assert allowed_failures(total, f"{percent}%") * 100 <= total * percent


def test_what_a_worker_says_last_is_said_once(tmp_path):
    path = write_ensemble(tmp_path, rows("ok"))
    with opened(path) as control:
        [chunk] = start(control)
        (tmp_path / "model.py").write_text("simulate = 3")
        with pytest.raises(ModelError, match=r"^model 'model:simulate' is a int"):
            run_chunk(control, chunk)
