"""What a pool is given and what it gives back. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.pool.spool import Spool
from airflow_ensemble.engine.simulation import Product, Reason


def execution_token(token: str, attempt: int) -> str:
    """Return the token of one execution by the worker with this token.

    A pull worker may hold several attempts of one simulation in turn.
    """
    return f"{token}-{attempt}"


@dataclass(frozen=True)
class Began:
    """A simulation has begun.

    :param time: Unix seconds.
    """

    assignment: Assignment
    time: float


@dataclass(frozen=True)
class Ended:
    """A simulation has ended.

    :param started: Unix seconds.
    :param duration: seconds.
    :param reason: None when it completed.
    :param detail: for people; may have several lines.
    :param products: one record per declared product, as far as it got.
    :param log: what it printed; the receiver closes it.
    """

    assignment: Assignment
    started: float
    duration: float
    reason: Reason | None = None
    detail: str = ""
    products: tuple[Product, ...] = ()
    log: Spool | None = None


Event = Union[Began, Ended]

#: Why a simulation did not complete, with one line for people.
Verdict = tuple[Reason, str]


@dataclass(eq=False)
class Task:
    """One execution of an assignment in a pool, equal to no other.

    :param number: never used twice.
    :param sending: of this sending to a process; never used twice. One that was taken back and is
        sent again is not mistaken for the first sending.
    :param clock: when it began, monotonic seconds; 0 while it waits.
    :param deadline: when it must have ended, monotonic seconds.
    :param is_cut_off: whether its process cannot tell any more what came of it.
    :param verdict: why the pool killed it, with the detail, if it did.
    """

    number: int
    assignment: Assignment
    time_limit: float | None
    sending: int = 0
    started: float = 0.0
    clock: float = 0.0
    deadline: float = float("inf")
    is_cut_off: bool = False
    verdict: Verdict | None = None

    @property
    def id(self) -> str:
        """Return the simulation's id."""
        return self.assignment.simulation.id

    @property
    def cores(self) -> int:
        """Return the cores that it occupies."""
        return self.assignment.simulation.resources.cores

    def begin(self) -> None:
        """Start the clock."""
        self.started, self.clock = time.time(), time.monotonic()
        if self.time_limit is not None:
            self.deadline = self.clock + self.time_limit

    def message(self) -> Mapping[str, Any]:
        """Return what the process that runs it must know."""
        simulation = self.assignment.simulation
        return {
            "task": self.sending,
            "id": simulation.id,
            "attempt": self.assignment.attempt,
            "params": dict(simulation.params),
            "cpus": simulation.resources.cores,
        }
