"""Airflow's components under attack: killed, frozen, taken over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from local_airflow import wait_until

from tests.airflow.live import Live, Run


def pid_of(airflow: Live, component: str) -> int:
    return airflow.local._processes[component].pid


def end_component(airflow: Live, component: str) -> None:
    """Kill a component and what it has started, as a crash of its machine would."""
    leader = psutil.Process(pid_of(airflow, component))
    family = [leader, *leader.children(recursive=True)]
    for process in family:
        process.kill()
    airflow.local._processes[component].wait()
    psutil.wait_procs(family, timeout=10)


@contextmanager
def second_triggerer(airflow: Live) -> Iterator[psutil.Process]:
    """Run another triggerer beside the first."""
    process = airflow.local._spawn("triggerer-2", ["triggerer", "--skip-serve-logs"])
    try:
        yield psutil.Process(process.pid)
    finally:
        leader = psutil.Process(process.pid)
        for one in [*leader.children(recursive=True), leader]:
            one.kill()
        process.wait()


def freeze(leader: psutil.Process) -> list[psutil.Process]:
    family = [leader, *leader.children(recursive=True)]
    for process in family:
        process.suspend()
    return family


def triggerer_of(run: Run, task: str, map_index: int) -> int | None:
    """Return the number of the triggerer that holds a task's trigger."""
    path = f"/dags/{run.dag}/dagRuns/{run.id}/taskInstances/{task}/{map_index}"
    job = run.client.call("GET", path)["triggerer_job"]
    return int(job["id"]) if job else None


def await_trigger(airflow: Live, run: Run, task: str, map_index: int) -> None:
    """Wait until a triggerer runs a task's trigger: a task may be deferred some time before.

    Whoever ends the task in between is heard by nobody: Airflow removes the trigger unseen.
    """
    folder = log_folder(airflow, run, task, map_index)
    wait_until(
        lambda: any(folder.glob("attempt=1.log.trigger.*.log")), 120, f"the trigger of {folder}"
    )


def log_folder(airflow: Live, run: Run, task: str, map_index: int = -1) -> Path:
    """Return where a task's logs lie, also those that its trigger still writes."""
    logs = airflow.local.home / "logs" / f"dag_id={run.dag}" / f"run_id={run.id}"
    folder = logs / f"task_id={task}"
    return folder if map_index < 0 else folder / f"map_index={map_index}"


def was_told_to_kill(
    airflow: Live, run: Run, task: str, map_index: int, triggerer: int | None
) -> bool:
    """Say whether a triggerer was made to kill the trigger of a task."""
    folder = log_folder(airflow, run, task, map_index)
    text = (folder / f"attempt=1.log.trigger.{triggerer}.log").read_text()
    return "invoking on_kill" in text
