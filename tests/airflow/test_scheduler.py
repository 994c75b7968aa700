"""Faults and repairs under a real scheduler: retries, clears, kills, runs beside each other."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from local_airflow import wait_until

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from tests.airflow.live import RUN_CHUNK, Live, await_executions, await_no_process, workers
from tests.ensembles import executions, write_ensemble

#: Fails what is called "bad" for as long as the file ``broken`` lies beside the trace.
REPAIRABLE_MODEL = """
    from pathlib import Path

    def simulate(run):
        trace = Path(run.params["trace"])
        with trace.open("a") as file:
            file.write(f"{run.id} {run.attempt}\\n")
        if run.id.startswith("bad") and (trace.parent / "broken").exists():
            raise ValueError("the disk is broken")
        return {"values": None}
"""


def rows(count: int, **params: Any) -> list[dict[str, Any]]:
    return [{"id": f"s{n}", "x": n, **params} for n in range(count)]


def repairable(folder: Path, *ids: str) -> Path:
    """Write an ensemble whose bad simulations fail until :func:`repair`."""
    table = [{"id": id} for id in ids]
    path = write_ensemble(folder, table, model=REPAIRABLE_MODEL, max_attempts=1)
    (folder / "broken").touch()
    return path


def repair(folder: Path) -> None:
    (folder / "broken").unlink()


def test_airflow_finds_the_provider_and_reads_the_dags(airflow: Live) -> None:
    assert airflow.client.import_errors() == []
    listed = airflow.local.run("providers", "list", "-o", "plain")
    assert "airflow-provider-ensemble" in listed


def test_chunks_have_names_and_the_event_carries_the_counts(airflow: Live, tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, [*rows(3), {"id": "e", "what": "empty"}])
    run = airflow.run(path, n_workers=2)
    assert run.state == "success"
    names = [task["rendered_map_index"] for task in run.tasks(RUN_CHUNK)]
    assert names == ["chunk 0000 · 2 simulations", "chunk 0001 · 2 simulations"]
    event = run.event()
    assert {key: event[key] for key in ("total", "complete", "empty", "failed")} == {
        **{"total": 4, "complete": 4},
        **{"empty": 1, "failed": 0},
    }
    assert event["batch"] == run.registration()["batch"]


def test_a_night_with_nothing_to_do_is_green_and_emits_its_event(
    airflow: Live, tmp_path: Path
) -> None:
    path = write_ensemble(tmp_path, rows(2))
    airflow.run(path)
    second = airflow.run(path)
    assert second.state == "success"
    assert second.states()[RUN_CHUNK, -1] == "skipped"
    assert second.event()["complete"] == 2
    assert len(executions(tmp_path)) == 2


def test_permanent_failures_burn_no_retries_and_the_log_says_what_to_do(
    airflow: Live, tmp_path: Path
) -> None:
    path = repairable(tmp_path, "ok", "bad")
    run = airflow.run(path, n_workers=1)
    assert run.state == "failed"
    (task,) = run.tasks(RUN_CHUNK)
    assert (task["state"], task["try_number"], task["max_tries"]) == ("failed", 1, 2)
    log = run.log(RUN_CHUNK, 0)
    assert "bad: error in attempt 1" in log
    assert "the disk is broken" in log
    assert f"ensemble logs bad -f {path}" in log
    assert "bad: failed, error: " in run.log("group.collect")
    assert executions(tmp_path) == ["ok", "bad"]


def test_a_clear_runs_only_what_failed(airflow: Live, tmp_path: Path) -> None:
    path = repairable(tmp_path, "bad-1", "ok-1", "bad-2", "ok-2", "ok-3", "ok-4")
    run = airflow.run(path, n_workers=2)
    assert run.state == "failed"
    assert [task["state"] for task in run.tasks(RUN_CHUNK)] == ["failed", "success"]
    repair(tmp_path)
    airflow.client.clear("cheap", run.id, [(RUN_CHUNK, 0), "group.collect"])
    assert run.finish() == "success"
    assert sorted(executions(tmp_path)[6:]) == ["bad-1", "bad-2"]
    # The same again, with nothing missing: no worker is even started.
    airflow.client.clear("cheap", run.id, [(RUN_CHUNK, 0), "group.collect"])
    assert run.finish() == "success"
    assert len(executions(tmp_path)) == 8


def test_a_clear_of_the_whole_run_runs_only_what_failed(airflow: Live, tmp_path: Path) -> None:
    path = repairable(tmp_path, "ok-1", "bad", "ok-2")
    run = airflow.run(path, n_workers=2)
    assert run.state == "failed"
    repair(tmp_path)
    airflow.client.clear("cheap", run.id, sorted({task for task, _ in run.states()}))
    assert run.finish() == "success"
    assert executions(tmp_path)[3:] == ["bad"]


@pytest.mark.parametrize("index", ["sqlite", "conn:ensemble_index"])
def test_two_runs_at_once_compute_nothing_twice(airflow: Live, tmp_path: Path, index: str) -> None:
    name = f"beside-{index.partition(':')[0]}"
    path = write_ensemble(tmp_path, rows(12, sleep=0.4), index=index, name=name)
    runs = [airflow.start(path, n_workers=2) for _ in range(2)]
    assert [run.finish() for run in runs] == ["success", "success"]
    assert sorted(executions(tmp_path)) == sorted(row["id"] for row in rows(12))


def test_a_killed_task_process_costs_only_what_it_was_running(
    airflow: Live, tmp_path: Path
) -> None:
    path = write_ensemble(tmp_path, rows(6, sleep=1.5))
    run = airflow.start(path, n_workers=1)
    await_executions(tmp_path, 3)
    (worker,) = workers(tmp_path)
    os.kill(worker.ppid(), signal.SIGKILL)
    await_no_process([worker])
    before = executions(tmp_path)
    assert run.finish() == "success"
    (task,) = run.tasks(RUN_CHUNK)
    assert task["try_number"] == 2
    # The last one was interrupted, or had just been finished; the ones before it never run again.
    after = executions(tmp_path)
    assert after[: len(before)] == before
    assert not set(after[len(before) :]) & set(before[:-1])
    assert set(after) == {row["id"] for row in rows(6)}


def test_mark_failed_ends_the_workers_processes(airflow: Live, tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, rows(2, sleep=300))
    run = airflow.start(path, n_workers=1)
    await_executions(tmp_path, 1)
    (worker,) = workers(tmp_path)
    family = [worker, *worker.children(recursive=True)]
    assert len(family) > 1
    airflow.client.set_state("cheap", run.id, RUN_CHUNK, 0, "failed")
    await_no_process(family)
    assert run.finish() == "failed"
    assert "not everything has run" in run.log("group.collect")
    with open_control(load(path)) as control:
        assert control.index.counts(control.key).failed == 0


def test_a_clear_of_a_running_chunk_starts_it_again_and_keeps_what_is_done(
    airflow: Live, tmp_path: Path
) -> None:
    path = write_ensemble(tmp_path, rows(6, sleep=1.5))
    run = airflow.start(path, n_workers=1)
    await_executions(tmp_path, 3)
    (worker,) = workers(tmp_path)
    airflow.client.clear("cheap", run.id, [(RUN_CHUNK, 0)])
    await_no_process([worker])
    interrupted = executions(tmp_path)
    assert run.finish() == "success"
    again = executions(tmp_path)[len(interrupted) :]
    assert not set(again) & set(interrupted[:-1])


def test_what_a_failed_run_left_is_run_by_the_next(airflow: Live, tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, rows(4, sleep=1))
    first = airflow.start(path, n_workers=1)
    await_executions(tmp_path, 2)
    (worker,) = workers(tmp_path)
    airflow.client.set_state("cheap", first.id, RUN_CHUNK, 0, "failed")
    await_no_process([worker])
    assert first.finish() == "failed"
    done = executions(tmp_path)
    assert airflow.run(path).state == "success"
    assert not set(executions(tmp_path)[len(done) :]) & set(done[:-1])
    with open_control(load(path)) as control:
        assert control.index.counts(control.key).complete == 4


def test_wrong_input_fails_at_once_and_names_the_key(airflow: Live, tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, rows(1), max_atempts=3)
    run = airflow.run(path)
    assert run.state == "failed"
    (register,) = run.tasks("group.register")
    assert register["try_number"] == 1
    assert "max_attempts" in run.log("group.register")
    wait_until(lambda: run.states()["group.collect", -1] == "failed", 5, "the verdict")
