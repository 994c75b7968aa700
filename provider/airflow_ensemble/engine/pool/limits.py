"""Watches over the time and the memory of what runs. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from airflow_ensemble.engine.pool import process_tree
from airflow_ensemble.engine.pool.memory_kills import MemoryKills
from airflow_ensemble.engine.pool.process import Process
from airflow_ensemble.engine.pool.task import Task, Verdict
from airflow_ensemble.engine.simulation import Reason

#: Seconds between two looks at the memory of simulations that declare theirs.
MEMORY_INTERVAL = 0.25

_MEBIBYTE = 1 << 20


class Limits:
    """Finds simulations that went beyond what they declared, and remembers the kernel's kills."""

    def __init__(self) -> None:
        self._memory_kills = MemoryKills()
        self._next_memory = 0.0

    def broken(self, processes: Iterable[Process]) -> Iterator[tuple[Process, Verdict]]:
        """Yield processes whose simulation must be killed, each with the reason.

        Memory is looked at only now and then: it costs a walk through the process's tree.
        """
        self._memory_kills.look()
        now = time.monotonic()
        busy = [process for process in processes if process.tasks]
        for process in busy:
            task = process.tasks[0]
            if now >= task.deadline:
                yield process, _judge_time(task)
        if now >= self._next_memory:
            self._next_memory = now + MEMORY_INTERVAL
            for process in busy:
                verdict = _judge_memory(process)
                if verdict is not None:
                    yield process, verdict

    def ran_out_of_memory(self, task: Task) -> bool:
        """Tell whether the kernel killed something for memory since a simulation began."""
        return self._memory_kills.happened_since(task.clock)


def patience(task: Task, now: float) -> float:
    """Return after how many seconds at most a running simulation's limits are looked at again.

    :param now: monotonic seconds.
    """
    longest = task.deadline - now if task.verdict is None else float("inf")
    return longest if _memory_limit(task) is None else min(longest, MEMORY_INTERVAL)


def _judge_time(task: Task) -> Verdict:
    if task.is_cut_off:
        return Reason.CRASHED, "it closed its process's pipe to the worker and did not end"
    return Reason.TIMEOUT, f"it ran longer than its time limit of {task.time_limit:g} s"


def _judge_memory(process: Process) -> Verdict | None:
    limit = _memory_limit(process.tasks[0])
    # The exact size costs more: only the one that seems too large is looked at twice.
    if limit is None or process_tree.memory_of_tree(process.pid) <= limit * _MEBIBYTE:
        return None
    used = process_tree.exact_memory_of_tree(process.pid)
    if used <= limit * _MEBIBYTE:
        return None
    detail = f"it held {used // _MEBIBYTE} MiB and declared {limit} MiB of memory"
    return Reason.OUT_OF_MEMORY, detail


def _memory_limit(task: Task) -> int | None:
    return task.assignment.simulation.resources.memory
