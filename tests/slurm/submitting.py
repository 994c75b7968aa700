"""A process that submits one job and waits, at a phase that it is told, to be killed.

``python -m tests.slurm.submitting <index> <job name> <patience> <phase> <signal file>``
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import JobInfo
from airflow_ensemble.slurm.answers import Answer
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.submission import submit_once

#: Where a process can be killed around ``sbatch``: before and after it, here; the phases in
#: between are scripted in the fake.
PHASES = ("before", "after", "never")


class StoppingClient(SlurmClient):
    """Says that it has reached a phase, and stays there.

    :param phase: one of :data:`PHASES`.
    :param reached: the file that says so.
    """

    def __init__(self, phase: str, reached: Path) -> None:
        super().__init__(LocalRunner())
        self._phase, self._reached = phase, reached

    def submit(self, folder: str, attempt: int, *, limit: float = 150.0) -> Answer:
        """See :meth:`SlurmClient.submit`."""
        self._stop_at("before")
        answer = super().submit(folder, attempt, limit=limit)
        self._stop_at("after")
        return answer

    def _stop_at(self, phase: str) -> None:
        if phase == self._phase:
            self._reached.touch()
            time.sleep(300)


def main(location: str, name: str, patience: str, phase: str, reached: str) -> None:
    """Submit the job and print its id."""
    index = open_index(location)
    job = JobInfo(name, "", "", "")
    client = StoppingClient(phase, Path(reached))
    print(submit_once(index, client, job, patience=float(patience), pause=0.1).job_id, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
