"""The simulations that no process has yet, in the order in which they shall begin.

Standard library only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence

from airflow_ensemble.engine.pool.task import Task

_LOOK_AHEAD = 1000


class Waiting:
    """A queue from which the first that fits is taken."""

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def add(self, task: Task) -> None:
        """Put a task at the end."""
        self._tasks.append(task)

    def put_back(self, tasks: Sequence[Task]) -> None:
        """Put tasks that a process had before all others, in their order."""
        self._tasks.extendleft(reversed(tasks))

    def first_fit(self, free: int) -> Task | None:
        """Return the first task, not too far back, for which ``free`` cores are enough."""
        if free <= 0:
            return None
        for position, task in enumerate(self._tasks):
            if task.cores <= free:
                return task
            if position >= _LOOK_AHEAD:
                break
        return None

    def remove(self, task: Task) -> None:
        """Take one task out."""
        self._tasks.remove(task)

    def take_next(self, cores: int) -> Task | None:
        """Take the very next task out if it occupies just so many cores."""
        if self._tasks and self._tasks[0].cores == cores:
            return self._tasks.popleft()
        return None

    def take_numbered(self, numbers: Container[int]) -> list[Task]:
        """Take all tasks with these numbers out."""
        taken = [task for task in self._tasks if task.number in numbers]
        if taken:
            self._tasks = deque(task for task in self._tasks if task.number not in numbers)
        return taken

    def take_all(self) -> list[Task]:
        """Take all tasks out, in their order."""
        taken = list(self._tasks)
        self._tasks.clear()
        return taken

    def clear(self) -> None:
        """Forget all."""
        self._tasks.clear()
