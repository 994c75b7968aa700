"""What Slurm says of an array element, and what that means: one closed table.

The words are those of Slurm 26.05's ``squeue`` and ``sacct``, which print one word for a base state
and its flags. A word that is not in the table is treated as alive but unknown: Slurm adds states.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(str, Enum):
    """How far an array element is, in order; ``unknown`` says nothing."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    BLOCKED = "blocked"
    RUNNING = "running"
    ENDED = "ended"


class End(str, Enum):
    """How an array element ended: the closed list that policies and messages use."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIME_LIMIT = "time-limit"
    OUT_OF_MEMORY = "out-of-memory"
    NODE_FAILURE = "node-failure"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"
    VANISHED = "vanished"
    QUEUE_DEADLINE = "queue-deadline"
    RUN_DEADLINE = "run-deadline"
    #: The worker itself refused: the model, the chunk or the output root cannot be used.
    UNUSABLE = "unusable"


@dataclass(frozen=True)
class View:
    """One array element, as far as Slurm's answers allow to say.

    :param phase: how far it is.
    :param word: Slurm's own word, such as ``PENDING`` or ``NODE_FAIL``; empty when it said nothing.
    :param end: how it ended; None unless ``phase`` is ``ended``.
    :param reason: Slurm's reason, such as ``Priority``; empty when there is none.
    :param exit_code: of its script; None when unknown.
    :param signal: that ended its script; None when none did.
    :param restarts: how often Slurm has requeued it.
    :param submitted: Unix time by the cluster's clock; None when unknown.
    :param started: likewise.
    :param ended: likewise.
    :param nodes: where it runs or ran, as Slurm writes it.
    """

    phase: Phase
    word: str = ""
    end: End | None = None
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    restarts: int = 0
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    nodes: str = ""
