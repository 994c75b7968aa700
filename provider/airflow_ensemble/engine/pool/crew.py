"""The processes of one pool: started and killed through the warden, and buried when they ended.

Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.pool import process_tree
from airflow_ensemble.engine.pool.process import Process
from airflow_ensemble.engine.pool.scratch import Scratch
from airflow_ensemble.engine.pool.warden_link import WardenLink
from airflow_ensemble.engine.pool.watch import Watch
from airflow_ensemble.engine.recipe import Recipe

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Crew:
    """All processes that live or whose death has not been told.

    :param recipe: what every process loads.
    :param token: the worker's token.
    :param cpus: cores that simulations may occupy at one time.
    :param watch: watches the processes' pipes and the warden.
    :param on_results: called when a process has something to say.
    :param on_death: called with a process that ended and the warden's report.
    """

    def __init__(
        self,
        recipe: Recipe,
        token: str,
        cpus: int,
        watch: Watch,
        on_results: Callable[[Process], None],
        on_death: Callable[[Process, Mapping[str, Any]], None],
    ) -> None:
        self._recipe = recipe
        self._token = token
        self._cpus = cpus
        self._watch = watch
        self._on_results = on_results
        self._on_death = on_death
        self._processes: dict[int, Process] = {}
        self._numbers = 0
        self._scratch = Scratch()
        self._warden = WardenLink(None if self._scratch.is_kept else self._scratch.path)
        watch.input(self._warden, self._on_warden)

    def __len__(self) -> int:
        return len(self._processes)

    def __iter__(self) -> Iterator[Process]:
        return iter(self._processes.values())

    def __contains__(self, process: Process) -> bool:
        return process.number in self._processes

    @property
    def free_cores(self) -> int:
        """Return how many cores are not occupied by simulations or by processes that load."""
        busy = (process.cores for process in self if process.tasks or not process.is_ready)
        return self._cpus - sum(busy)

    @property
    def n_loading(self) -> int:
        """Return how many processes are not ready yet."""
        return sum(not process.is_ready for process in self)

    def idle(self, cores: int) -> Process | None:
        """Return a process that waits for simulations of so many cores."""
        for process in self:
            if process.is_idle and process.cores == cores:
                return process
        return None

    def start(self, cores: int) -> None:
        """Start a process for simulations of so many cores; one that idles may have to leave."""
        idle = [process for process in self if process.is_idle]
        if idle and len(self) >= self._cpus:
            idle[0].leave()
        self._numbers += 1
        process = Process(self._numbers, cores, self._scratch.path)
        environment = {name: str(cores) for name in _THREAD_LIMITS if name not in os.environ}
        self._processes[process.number] = process
        process.hand_over(lambda ends: self._warden.start(process.number, ends, environment))
        self._watch.input(process.inbox.descriptor, lambda: self._hear(process))
        process.send(
            {
                "recipe": self._recipe.as_dict(),
                "token": self._token,
                "scratch": str(self._scratch.folder(process.number)),
                "log_end": process.log_end,
            }
        )
        self._watch.room(process)

    def kill(self, process: Process) -> None:
        """Have a process killed, with everything below it; its death is told later."""
        self._warden.kill(process.number)

    def remove(self, process: Process) -> None:
        """Count and watch a dead process no longer; :meth:`bury` it when all is known."""
        del self._processes[process.number]
        self._watch.forget(process.inbox.descriptor, process.log, process.descriptor_for_tasks)

    def keep_workdir(self, process: Process, name: str) -> Path | None:
        """Keep what a dead process's simulation left, if people want that; return the place."""
        return self._scratch.keep(process.number, name) if self._scratch.is_kept else None

    def bury(self, process: Process) -> None:
        """Close a dead process's pipes and discard its folder."""
        process.close()
        self._scratch.discard(process.number)

    def reap(self) -> None:
        """Take leave of what a container's first process was handed, if this is it."""
        if os.getpid() == 1:
            process_tree.reap_strangers(self._warden.pid)

    def close(self) -> None:
        """Kill all, and remove the scratch directory."""
        self._warden.close()
        self._watch.close()
        for process in self:
            process.close()
        self._scratch.close(self._processes)
        self._processes.clear()

    def _hear(self, process: Process) -> None:
        if process in self:
            self._on_results(process)

    def _on_warden(self) -> None:
        for report in self._warden.reports():
            if "pid" in report:
                self._processes[report["started"]].pid = report["pid"]
            elif report["ended"] in self._processes:
                self._on_death(self._processes[report["ended"]], report)
