"""What the tests do with the one real Airflow, and look for among its processes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from local_airflow import Client, LocalAirflow, wait_until

RUN_CHUNK = "group.run_chunk"


@dataclass
class Live:
    """A running Airflow.

    :param local: its processes.
    :param client: logged in.
    :param results: where the DAG ``footprints`` puts what it makes.
    :param shared: a folder that pods see at the same path.
    """

    local: LocalAirflow
    client: Client
    results: Path
    shared: Path

    @property
    def index_dsn(self) -> str:
        """Return the address behind the connection ``ensemble_index``."""
        return self.local.environment["AIRFLOW_CONN_ENSEMBLE_INDEX"]

    def run(self, ensemble: Path, timeout: float = 120, **conf: Any) -> Run:
        """Run a test ensemble through the DAG ``cheap`` to its end."""
        run = self.start(ensemble, **conf)
        run.finish(timeout)
        return run

    def start(self, ensemble: Path, **conf: Any) -> Run:
        """Start a run of the DAG ``cheap``."""
        id = self.client.trigger("cheap", {"ensemble": str(ensemble), **conf})
        return Run(self.client, "cheap", id)


@dataclass
class Run:
    """One run of a DAG."""

    client: Client
    dag: str
    id: str

    def finish(self, timeout: float = 120) -> str:
        """Wait for the end and return the state."""
        return self.client.await_run(self.dag, self.id, timeout)

    @property
    def state(self) -> str:
        return self.client.run_state(self.dag, self.id)

    def tasks(self, task: str) -> list[dict[str, Any]]:
        return self.client.tasks(self.dag, self.id, task)

    def states(self) -> dict[tuple[str, int], str]:
        return {
            (task["task_id"], task["map_index"]): task["state"]
            for task in self.client.tasks(self.dag, self.id)
        }

    def log(self, task: str, map_index: int = -1, attempt: int = 1) -> str:
        return self.client.log(self.dag, self.id, task, map_index, attempt)

    def event(self) -> Mapping[str, Any]:
        """Return the extra of the run's one asset event."""
        (event,) = self.client.asset_events(self.dag, self.id)
        extra: Mapping[str, Any] = event["extra"]
        return extra

    def registration(self) -> dict[str, Any]:
        return dict(self.client.xcom(self.dag, self.id, "group.register"))


def workers(folder: Path) -> list[psutil.Process]:
    """Return the push workers that run chunks of an ensemble below ``folder``."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "push-worker" in line and any(part.startswith(str(folder)) for part in line):
                found.append(process)
    return found


def await_executions(folder: Path, count: int, timeout: float = 60) -> None:
    """Wait until the counting model of an ensemble has been started so many times."""
    from tests.ensembles import executions

    wait_until(lambda: len(executions(folder)) >= count, timeout, f"{count} executions in {folder}")


def await_no_process(processes: list[psutil.Process], timeout: float = 40) -> None:
    """Wait until all of these have ended."""
    _, alive = psutil.wait_procs(processes, timeout)
    assert not alive, f"still there: {[process.cmdline() for process in alive]}"
