"""Submit a batch and die by SIGKILL on the way: run as ``python -m tests.slurm.dying``.

Standard input is JSON: ``file``, ``shared``, ``login``, ``operation`` (1 for the first use of the
runner, 0 for never) and ``moment`` (``before`` it, ``after`` it). Prints what each use was.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from airflow_ensemble.slurm.login import Login
from tests.slurm.driving import opened, submit_batch
from tests.slurm.meddling import MeddledRunner


class Dying:
    """Counts the uses of a runner, and ends this process at one of them.

    :param operation: which one, from 1.
    :param moment: ``before`` it or ``after`` it.
    """

    def __init__(self, operation: int, moment: str) -> None:
        self.count = 0
        self._operation = operation
        self._moment = moment

    def __call__(self, name: str, argument: str, work: Callable[[], object]) -> object:
        self.count += 1
        what = "sbatch" if "--parsable" in argument else argument.rpartition("/")[2]
        print(name, " ".join(what[:60].split()), flush=True)
        self._die_at("before")
        try:
            return work()
        finally:
            self._die_at("after")

    def _die_at(self, moment: str) -> None:
        if (self.count, moment) == (self._operation, self._moment):
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    task = json.load(sys.stdin)
    dying = Dying(task["operation"], task["moment"])
    with opened(
        Path(task["file"]),
        Login(**task["login"]),
        Path(task["shared"]),
        lambda inner: MeddledRunner(inner, dying),
    ) as (control, cluster):
        submit_batch(control, cluster)


if __name__ == "__main__":
    main()
