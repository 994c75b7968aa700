"""The Slurm backend under a real scheduler and triggerer, over SSH, on a real cluster.

The traps of Airflow around deferral, kill, time-outs and shared polling stand here; what one run
can show together, it does.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from local_airflow import wait_until

from airflow_ensemble.engine.index.interface import Scope
from tests.airflow.components import (
    await_trigger,
    end_component,
    freeze,
    pid_of,
    second_triggerer,
    triggerer_of,
    was_told_to_kill,
)
from tests.airflow.live import Live, Run
from tests.airflow.slurm_runs import (
    GATED_MODEL,
    SUBMIT,
    WAIT,
    Place,
    await_state,
    make_place,
    queries,
    queue,
    start,
    submissions,
)
from tests.services.slurm import SlurmCluster


def gated(slurm: SlurmCluster, folder: Path, *ids: str, **keys: Any) -> Place:
    rows = [{"id": id} for id in ids]
    return make_place(slurm, folder, rows, model=GATED_MODEL, max_attempts=1, **keys)


# --- one whole run ------------------------------------------------------------------------------


class Whole:
    """A run of twelve chunks, one of which holds a simulation that fails, and what it cost."""

    def __init__(self, airflow: Live, slurm: SlurmCluster, folder: Path) -> None:
        ids = [f"s{n:02}" for n in range(23)]
        self.place = gated(slurm, folder, "bad", *ids, max_failed=1)
        connections, arrays, polls = slurm.ssh_connections, submissions(slurm), queries(slurm)
        self.run = start(airflow, self.place, n_workers=12)
        wait_until(lambda: len(self.place.executions()) >= 12, 90, "all elements to run")
        wait_until(self._counts_are_live, 60, "a running simulation to stand in the index")
        await_state(self.run, 3, "deferred")
        wait_until(self._is_told, 60, "chunk 3 to say in its log that its element runs")
        self.place.open_gate()
        self.state = self.run.finish(180)
        self.connections = slurm.ssh_connections - connections
        self.arrays = submissions(slurm) - arrays
        self.polls = queries(slurm) - polls

    def _is_told(self) -> bool:
        return "running" in self.run.log(WAIT, 3).lower()

    def _counts_are_live(self) -> bool:
        with self.place.control() as control:
            return control.index.counts(control.key).running > 0


@pytest.fixture(scope="module")
def whole(airflow: Live, hpc: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(airflow, hpc, tmp_path_factory.mktemp("whole"))


def test_a_whole_run_over_ssh(whole: Whole) -> None:
    assert whole.state == "success"
    states = whole.run.states()
    assert [states[WAIT, n] for n in range(12)] == ["failed", *["success"] * 11]
    assert sorted(whole.place.executions()) == ["bad", *(f"s{n:02}" for n in range(23))]
    event = whole.run.event()
    assert (event["complete"], event["failed"]) == (23, 1)
    assert event["output"] == str(whole.place.shared / "output")
    assert len(list((whole.place.shared / "output").rglob("*.json"))) >= 23


def test_one_array_is_submitted_and_one_connection_serves_all_sensors(whole: Whole) -> None:
    assert whole.arrays == 1
    # Register, submit and collect have a connection each, and the triggerer one for all sensors.
    assert whole.connections <= 4
    # At the connection's interval of 2 s, for all twelve together.
    assert whole.polls <= 25


def test_mapped_sensors_that_fire_soon_are_not_failed_by_the_scheduler(whole: Whole) -> None:
    """The race of Airflow's issue 72716: no event comes within its reach."""
    for task in whole.run.tasks(WAIT):
        assert task["try_number"] == 1
    assert {whole.run.states()[WAIT, n] for n in range(1, 12)} == {"success"}


def test_simulations_that_failed_for_good_are_named_and_burn_no_retries(whole: Whole) -> None:
    (task, *_) = whole.run.tasks(WAIT)
    assert (task["state"], task["try_number"]) == ("failed", 1)
    log = whole.run.log(WAIT, 0)
    assert "bad: error in attempt 1" in log
    assert "no luck with bad" in log


def test_all_task_instances_are_listed_however_few_a_page_holds(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local_airflow.PAGE", 5)
    assert [task["map_index"] for task in whole.run.tasks(WAIT)] == list(range(12))


def test_the_task_log_tells_every_change_of_state(whole: Whole) -> None:
    log = whole.run.log(WAIT, 3)
    assert "running" in log.lower()
    assert "2 complete" in log


def test_xcom_carries_chunk_label_and_count_alone(whole: Whole) -> None:
    chunks = whole.run.client.xcom("on_slurm", whole.run.id, SUBMIT)
    assert [set(chunk) for chunk in chunks] == [{"chunk", "label", "count"}] * 12
    names = [task["rendered_map_index"] for task in whole.run.tasks(WAIT)]
    assert names[3] == "chunk 0003 · 2 simulations"


def test_the_script_stands_in_rendered_template_and_in_full_as_xcom(whole: Whole) -> None:
    client, id = whole.run.client, whole.run.id
    full = client.xcom("on_slurm", id, SUBMIT, key="slurm_script")
    assert full.startswith("#!/bin/bash")
    assert "--array=0-11" in full
    (task,) = whole.run.tasks(SUBMIT)
    assert task["rendered_fields"]["script"].startswith("#!/bin/bash")
    (job,) = client.xcom("on_slurm", id, SUBMIT, key="slurm_jobs")
    assert full == Path(job["folder"], "job.sh").read_text()
    assert is_shown(full, task["rendered_fields"]["script"])
    assert f"--job-name={job['name']}\n" in task["rendered_fields"]["script"]


def is_shown(script: str, shown: str) -> bool:
    """Return whether Airflow shows a script, of which it may cut the end."""
    return shown == script or (len(shown) >= 4000 and script.startswith(shown[:3900]))


def test_a_submission_that_is_adopted_shows_the_script_that_it_finds(
    airflow: Live, hpc: SlurmCluster, tmp_path: Path
) -> None:
    place = gated(hpc, tmp_path, "a")
    run = start(airflow, place, n_workers=1)
    wait_until(lambda: place.executions() == ["a"], 90, "the element to run")
    client = airflow.client
    full = client.xcom("on_slurm", run.id, SUBMIT, key="slurm_script")
    (job,) = client.xcom("on_slurm", run.id, SUBMIT, key="slurm_jobs")
    # The next try would ask for another time, and finds what runs.
    place.file.write_text(place.file.read_text().replace("00:10:00", "00:11:00"))
    client.clear("on_slurm", run.id, [(SUBMIT, -1)])
    wait_until(
        lambda: [t["state"] for t in run.tasks(SUBMIT) if t["try_number"] == 2] == ["success"],
        90,
        "the second try",
    )
    assert client.xcom("on_slurm", run.id, SUBMIT, key="slurm_script") == full
    assert client.xcom("on_slurm", run.id, SUBMIT, key="slurm_jobs") == [job]
    (task,) = run.tasks(SUBMIT)
    assert is_shown(full, task["rendered_fields"]["script"])
    assert "#SBATCH --time=00:10:00" in full
    place.open_gate()
    assert run.finish(120) == "success"


def test_a_link_leads_to_job_id_and_log(whole: Whole, hpc: SlurmCluster) -> None:
    client = whole.run.client
    path = f"/dags/on_slurm/dagRuns/{whole.run.id}/taskInstances/{WAIT}"
    links = client.call("GET", f"{path}/links", params={"map_index": 3})["extra_links"]
    assert links["Slurm job"].endswith(f"/tasks/{WAIT}/mapped/3/xcom")
    entries = f"{path}/xcomEntries"
    (job,) = whole.place.job_ids()
    shown = client.call("GET", f"{entries}/slurm_job_id", params={"map_index": 3})["value"]
    assert shown.strip('"') == f"{job}_3"
    log = client.call("GET", f"{entries}/slurm_log", params={"map_index": 3})["value"]
    assert Path(log.strip('"')).exists()


def test_no_secret_reaches_log_xcom_or_the_cluster(whole: Whole, hpc: SlurmCluster) -> None:
    secret = hpc.private_key.splitlines()[2]
    logs = [whole.run.log(task) for task in ("group.register", SUBMIT, "group.collect")]
    logs += [whole.run.log(WAIT, n) for n in (0, 3)]
    script = whole.run.client.xcom("on_slurm", whole.run.id, SUBMIT, key="slurm_script")
    assert secret not in "".join(logs) + script
    files = [path for path in hpc.shared.rglob("*") if path.is_file() and path.suffix != ".pyz"]
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_a_zero_length_map_is_green_and_products_are_collected_on_the_cluster(
    whole: Whole, airflow: Live, hpc: SlurmCluster
) -> None:
    target = whole.place.shared / "all.nc"
    run = start(airflow, whole.place, n_workers=12, to=str(target))
    assert run.finish(120) == "success"
    assert run.states()[WAIT, -1] == "skipped"
    assert run.event()["dataset"] == str(target)
    assert target.stat().st_uid == (whole.place.shared / "trace").stat().st_uid
    assert len(whole.place.executions()) == 24


# --- ends ---------------------------------------------------------------------------------------


def test_kill_is_kill_and_nothing_else_is(airflow: Live, hpc: SlurmCluster, tmp_path: Path) -> None:
    """Mark-failed, clear, restart of the scheduler, stall and fail-over and death of triggerers."""
    place = gated(hpc, tmp_path, "a", "b", "c", "d")
    run = start(airflow, place, n_workers=4)
    for n in range(4):
        await_state(run, n, "deferred")
        await_trigger(airflow, run, WAIT, n)
    wait_until(lambda: len(place.executions()) == 4, 60, "all elements to run")
    (job,) = place.job_ids()
    assert queue(hpc) == {f"{job}_{n}" for n in range(4)}
    arrays = submissions(hpc)

    # Marked as failed: exactly this element is cancelled.
    airflow.client.set_state("on_slurm", run.id, WAIT, 0, "failed")
    wait_until(lambda: f"{job}_0" not in queue(hpc), 90, "element 0 to be cancelled")
    assert queue(hpc) == {f"{job}_{n}" for n in (1, 2, 3)}

    # Cleared: its element is cancelled, and what is unfinished is submitted again, once.
    airflow.client.clear("on_slurm", run.id, [(WAIT, 1)])
    wait_until(lambda: f"{job}_1" not in queue(hpc), 60, "element 1 to be cancelled")
    wait_until(lambda: len(place.job_ids()) == 2, 60, "a resubmission")
    again = place.job_ids()[1]
    wait_until(lambda: f"{again}_0" in queue(hpc), 30, "the resubmission to run")
    await_state(run, 1, "deferred")
    alive = {f"{job}_2", f"{job}_3", f"{again}_0"}

    # The scheduler dies and comes back. The triggerer stalls until another has taken over, and
    # wakes up: then Airflow calls ``on_kill`` of all of its triggers.
    first = triggerer_of(run, WAIT, 2)
    end_component(airflow, "scheduler")
    stalled = freeze(psutil.Process(pid_of(airflow, "triggerer")))
    airflow.local._start_component("scheduler")
    with second_triggerer(airflow):
        wait_until(lambda: triggerer_of(run, WAIT, 2) not in (None, first), 120, "a fail-over")
        for process in stalled:
            process.resume()
        wait_until(
            lambda: was_told_to_kill(airflow, run, WAIT, 2, first),
            30,
            "on_kill after the fail-over",
        )
        time.sleep(4)
        assert queue(hpc) == alive
    # The second triggerer was killed: the first takes over again.
    wait_until(
        lambda: triggerer_of(run, WAIT, 2) == first, 120, "the first triggerer to adopt again"
    )
    assert queue(hpc) == alive

    place.open_gate()
    assert run.finish(180) == "failed"  # element 0 was marked so
    states = run.states()
    assert [states[WAIT, n] for n in range(4)] == ["failed", "success", "success", "success"]
    assert submissions(hpc) == arrays + 1
    assert sorted(place.executions()) == ["a", "b", "b", "c", "d"]


def test_execution_timeout_counts_while_deferred_and_its_element_is_cancelled(
    airflow: Live, hpc: SlurmCluster, tmp_path: Path
) -> None:
    place = gated(hpc, tmp_path, "a")
    run = start(airflow, place, "in_a_hurry", n_workers=1)
    wait_until(lambda: place.executions() == ["a"], 60, "the element to run")
    (job,) = place.job_ids()
    wait_until(lambda: f"{job}_0" not in queue(hpc), 60, "the element to be cancelled")
    # The time-out may be retried: the next try submits what is unfinished.
    wait_until(lambda: len(place.executions()) == 2, 90, "the resubmission to run")
    place.open_gate()
    assert run.finish(90) == "success"
    (task,) = run.tasks(WAIT)
    assert task["try_number"] == 2
    assert "execution_timeout of 0:00:25" in run.log(WAIT, 0, attempt=1)
    assert len(place.job_ids()) == 2


def test_the_array_of_a_deleted_run_is_settled_by_the_next_run(
    airflow: Live, hpc: SlurmCluster, tmp_path: Path
) -> None:
    """Deletion cancels nothing; what ended well counts, and what did not is run again."""
    place = gated(hpc, tmp_path, "a", "b")
    arrays = submissions(hpc)
    deleted = start(airflow, place, n_workers=2)
    wait_until(lambda: len(place.executions()) == 2, 60, "both elements to run")
    for n in range(2):
        await_state(deleted, n, "deferred")
    (job,) = place.job_ids()
    # Airflow deletes no run that goes on. The triggerer sees mark and deletion in one.
    stalled = freeze(psutil.Process(pid_of(airflow, "triggerer")))
    path = f"/dags/on_slurm/dagRuns/{deleted.id}"
    airflow.client.call("PATCH", path, json={"state": "failed"})
    airflow.client.call("DELETE", path)
    for process in stalled:
        process.resume()
    time.sleep(4)  # two polls
    assert queue(hpc) == {f"{job}_0", f"{job}_1"}

    hpc.answer(f"scancel {job}_1")
    place.open_gate("a")
    wait_until(lambda: not queue(hpc) and not queue(hpc, "COMPLETING"), 30, "the array to end")
    time.sleep(12)  # longer than results are waited for
    run = start(airflow, place, n_workers=2)
    place.open_gate()
    assert run.finish(120) == "success"
    registration = run.registration()
    assert (registration["complete"], registration["pending"]) == (1, 1)
    assert sorted(place.executions()) == ["a", "b", "b"]
    assert submissions(hpc) == arrays + 2


# --- killed workers -----------------------------------------------------------------------------


def task_pid(run: Run, task: str, map_index: int = -1) -> int | None:
    """Return the process of a task that runs now."""
    for found in run.tasks(task):
        if found["map_index"] == map_index and found["state"] == "running" and found["pid"]:
            return int(found["pid"])
    return None


def kill_task(run: Run, task: str, map_index: int = -1) -> None:
    """Kill a task's process with SIGKILL, as soon as it runs."""
    deadline = time.monotonic() + 60
    while (pid := task_pid(run, task, map_index)) is None:
        assert time.monotonic() < deadline, f"{task} has not run: {run.states()}"
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


def test_a_worker_killed_around_sbatch_and_a_sensor_killed_leave_one_array(
    airflow: Live, hpc: SlurmCluster, tmp_path: Path
) -> None:
    """The retry of the submit adopts the job; the retry of the sensor re-attaches to it."""
    place = gated(hpc, tmp_path, "a")
    arrays = submissions(hpc)
    run = start(airflow, place, n_workers=1)
    await_staging(hpc, place)
    hpc.pause("slurmctld")
    try:
        wait_until(lambda: _began(hpc), 90, "sbatch to begin")
        kill_task(run, SUBMIT)
    finally:
        hpc.resume("slurmctld")
    kill_task(run, WAIT, 0)
    wait_until(lambda: place.executions() == ["a"], 60, "the element to run")
    place.open_gate()
    assert run.finish(120) == "success"
    assert submissions(hpc) == arrays + 1
    assert len(place.job_ids()) == 1
    assert [run.tasks(task)[0]["try_number"] for task in (SUBMIT, WAIT)] == [2, 2]
    assert place.executions() == ["a"]
    with place.control() as control:
        counts = control.index.counts(control.key, Scope())
    assert (counts.complete, counts.total) == (1, 1)


def await_staging(slurm: SlurmCluster, place: Place) -> None:
    """Wait until the submit has asked the site what it needs, and begins to put files there."""
    folder = slurm.shared / json.loads(place.file.read_text())["name"]
    deadline = time.monotonic() + 90
    while not (folder.exists() and any(folder.glob("*/*"))):
        assert time.monotonic() < deadline, f"nothing was staged in {folder}"
        time.sleep(0.005)


def _began(slurm: SlurmCluster) -> bool:
    """Say whether an ``sbatch`` of the account is waiting for the frozen slurmctld."""
    for process in psutil.process_iter(["name", "environ"]):
        environment = process.info["environ"] or {}
        if process.info["name"] == "sbatch" and environment.get("SLURM_CONF") == str(
            slurm.slurm_conf
        ):
            return True
    return False


def test_airflow_lists_what_the_provider_offers(airflow: Live) -> None:
    listed = json.loads(airflow.local.run("providers", "hooks", "-o", "json"))
    (hook,) = [item for item in listed if item["connection_type"] == "slurm"]
    assert hook["class"] == "airflow_ensemble.hooks.slurm.SlurmHook"
