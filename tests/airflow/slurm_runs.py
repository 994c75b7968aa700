"""Runs of ensembles through the real Airflow on the real Slurm, and what the tests ask of both."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_airflow import wait_until

from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from tests.airflow.live import Live, Run
from tests.ensembles import write_ensemble
from tests.services.slurm import SlurmCluster

WAIT = "group.wait_for_chunk"
SUBMIT = "group.submit"

#: Runs until the file ``go`` (or ``go-<id>``) lies beside the trace; "bad" ones fail at once.
GATED_MODEL = """
    import time
    from pathlib import Path

    def simulate(run):
        trace = Path(run.params["trace"])
        with trace.open("a") as file:
            file.write(f"{run.id} {run.attempt}\\n")
        if run.id.startswith("bad"):
            raise ValueError(f"no luck with {run.id}")
        gates = (trace.parent / "go", trace.parent / f"go-{run.id}")
        while not any(gate.exists() for gate in gates):
            time.sleep(0.2)
        path = run.workdir / "values.json"
        path.write_text(run.id)
        return {"values": path}
"""


@dataclass
class Place:
    """An ensemble whose control side lies here and whose output lies on the cluster.

    :param file: the ensemble file.
    :param shared: the folder on the cluster that holds output and trace.
    """

    file: Path
    shared: Path

    def executions(self) -> list[str]:
        """Return the ids that the model has run, in order, one per execution."""
        trace = self.shared / "trace"
        if not trace.exists():
            return []
        return [line.split()[0] for line in trace.read_text().splitlines()]

    def open_gate(self, *ids: str) -> None:
        """Let these simulations end, or all."""
        for name in [f"go-{id}" for id in ids] or ["go"]:
            (self.shared / name).touch()

    @contextmanager
    def control(self) -> Iterator[Control]:
        """Open the control side."""
        with open_control(load(self.file)) as control:
            yield control

    def job_ids(self) -> list[str]:
        """Return the ids of the array jobs that the index knows, oldest first."""
        with self.control() as control:
            return [job.job_id for job in control.index.jobs(control.key) if job.job_id]


def make_place(
    slurm: SlurmCluster,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    execution: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Place:
    """Write an ensemble that runs on the cluster."""
    name = f"e{uuid.uuid4().hex[:8]}"
    shared = slurm.shared / f"site-{name}"
    slurm.answer(f"mkdir {shared}")
    file = write_ensemble(
        folder,
        rows,
        name=name,
        parameters={"trace": str(shared / "trace")},
        output=str(shared / "output"),
        control=str(folder / "control"),
        execution={"python": slurm.python_with_models, "time": "00:10:00", **(execution or {})},
        **keys,
    )
    return Place(file, shared)


def start(airflow: Live, place: Place, dag: str = "on_slurm", **conf: Any) -> Run:
    """Start a run of a DAG of the tests."""
    id = airflow.client.trigger(dag, {"ensemble": str(place.file), **conf})
    return Run(airflow.client, dag, id)


def queue(slurm: SlurmCluster, word: str = "RUNNING") -> set[str]:
    """Return the elements, such as ``12_3``, that Slurm says are in a state."""
    listed = slurm.answer("squeue -h -r -t all -o '%i %T'").splitlines()
    return {line.split()[0] for line in listed if line.split()[1] == word}


def await_state(
    run: Run, map_index: int, state: str, timeout: float = 90, task: str = WAIT
) -> None:
    """Wait until a mapped task instance is in a state."""
    wait_until(
        lambda: run.states().get((task, map_index)) == state,
        timeout,
        f"{task}[{map_index}] to be {state}",
    )


def submissions(slurm: SlurmCluster) -> int:
    """Return how many batch jobs have been submitted since slurmctld started."""
    return slurm.rpcs().get("REQUEST_SUBMIT_BATCH_JOB", 0)


def queries(slurm: SlurmCluster) -> int:
    """Return how often the queue has been asked for since slurmctld started."""
    asked = slurm.rpcs()
    return asked.get("REQUEST_JOB_INFO", 0) + asked.get("REQUEST_JOB_USER_INFO", 0)
