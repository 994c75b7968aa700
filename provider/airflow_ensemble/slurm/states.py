"""What Slurm says of an array element, and what that means: one closed table.

The words are those of Slurm 26.05's ``squeue`` and ``sacct``, which print one word for a base state
and its flags. A word that is not in the table is treated as alive but unknown: Slurm adds states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Meaning:
    """What one of Slurm's words says.

    :param word: its long form.
    :param phase: how far an element with this word is.
    :param end: how it ended; None unless it has.
    """

    word: str
    phase: Phase
    end: End | None = None


#: Long form, compact form (empty: there is none), phase, end.
_TABLE: tuple[tuple[str, str, Phase, End | None], ...] = (
    ("PENDING", "PD", Phase.PENDING, None),
    ("CONFIGURING", "CF", Phase.PENDING, None),
    ("POWER_UP_NODE", "", Phase.PENDING, None),
    ("REQUEUED", "RQ", Phase.PENDING, None),
    ("REQUEUE_FED", "RF", Phase.PENDING, None),
    ("EXPEDITING", "", Phase.PENDING, None),
    ("REQUEUE_HOLD", "RH", Phase.BLOCKED, None),
    ("SPECIAL_EXIT", "SE", Phase.BLOCKED, None),
    ("RESV_DEL_HOLD", "RD", Phase.BLOCKED, None),
    ("RECONFIG_FAIL", "", Phase.BLOCKED, None),
    ("RUNNING", "R", Phase.RUNNING, None),
    # It hides how the element ended, so it is no end.
    ("COMPLETING", "CG", Phase.RUNNING, None),
    ("STAGE_OUT", "SO", Phase.RUNNING, None),
    ("SIGNALING", "SI", Phase.RUNNING, None),
    ("RESIZING", "RS", Phase.RUNNING, None),
    ("STOPPED", "ST", Phase.RUNNING, None),
    ("SUSPENDED", "S", Phase.RUNNING, None),
    ("COMPLETED", "CD", Phase.ENDED, End.COMPLETED),
    ("FAILED", "F", Phase.ENDED, End.FAILED),
    ("TIMEOUT", "TO", Phase.ENDED, End.TIME_LIMIT),
    # The deadline that its owner gave it (--deadline) has passed: no more time would help.
    ("DEADLINE", "DL", Phase.ENDED, End.CANCELLED),
    ("OUT_OF_MEMORY", "OOM", Phase.ENDED, End.OUT_OF_MEMORY),
    ("CANCELLED", "CA", Phase.ENDED, End.CANCELLED),
    ("NODE_FAIL", "NF", Phase.ENDED, End.NODE_FAILURE),
    ("BOOT_FAIL", "BF", Phase.ENDED, End.NODE_FAILURE),
    ("LAUNCH_FAILED", "", Phase.ENDED, End.NODE_FAILURE),
    ("GETENV_FAILED", "", Phase.ENDED, End.NODE_FAILURE),
    ("PREEMPTED", "PR", Phase.ENDED, End.PREEMPTED),
    ("REVOKED", "RV", Phase.ENDED, End.CANCELLED),
    # Says nothing of the element; gone since 24.11.
    ("UPDATE_DB", "", Phase.UNKNOWN, None),
)

#: Every word of Slurm 26.05, in its long form.
MEANINGS: Mapping[str, Meaning] = {
    word: Meaning(word, phase, end) for word, _compact, phase, end in _TABLE
}
#: The long form of every compact form that ``squeue -o %t`` prints.
COMPACT: Mapping[str, str] = {compact: word for word, compact, _phase, _end in _TABLE if compact}

#: Reasons for which a pending element never starts unless a person does something, as
#: :func:`is_blocking` compares them: lower case, the beginning of what Slurm prints.
BLOCKING_REASONS: tuple[str, ...] = (
    "dependencyneversatisfied",
    "badconstraints",
    "partitionnodelimit",
    "partitiontimelimit",
    "invalidaccount",
    "invalidqos",
    "jobheldadmin",
    "jobhelduser",
    "launch failed requeued held",
    "job requeued in held state",
    "assocmaxcpuperjoblimit",
    "assocmaxcpuminutesperjoblimit",
    "assocmaxnodeperjoblimit",
    "assocmaxwalldurationperjoblimit",
    "assocmaxmemperjob",
    "assocmaxgresperjob",
    "qosmaxcpuperjoblimit",
    "qosmaxcpuminutesperjoblimit",
    "qosmaxnodeperjoblimit",
    "qosmaxwalldurationperjoblimit",
    "qosmaxmemoryperjob",
    "qosmaxgresperjob",
    "reqnodenotavail, unavailablenodes",
)


def find_meaning(text: str) -> Meaning:
    """Return what a state says, as any of Slurm's commands prints it.

    Long and compact forms, ``CANCELLED by 1000`` and the truncated ``CANCELLED+`` are understood. A
    word that is not in the table stays as it is, with an unknown phase.
    """
    first = text.split(None, 1)[0] if text.strip() else ""
    word = COMPACT.get(first, first)
    if word in MEANINGS:
        return MEANINGS[word]
    if first.endswith("+") and len(first) > 4:
        begun = [one for name, one in MEANINGS.items() if name.startswith(first[:-1])]
        if len(begun) == 1:
            return begun[0]
    return Meaning(first, Phase.UNKNOWN)


def is_blocking(reason: str, blocking: Sequence[str] = BLOCKING_REASONS) -> bool:
    """Return whether a pending element with this reason waits for a person.

    :param reason: as ``squeue -o %r`` prints it; its underscores count as spaces.
    :param blocking: beginnings of such reasons.
    """
    plain = reason.strip("()").replace("_", " ").lower()
    return any(plain.startswith(one.replace("_", " ").lower()) for one in blocking)


def advance(before: View | None, after: View) -> View:
    """Return which of two views of one element to believe: what a late answer says cannot undo.

    An element goes from pending (or blocked) over running to ended, and back only when Slurm has
    requeued it: then ``after`` has a newer submit time or more restarts. Of two ends the first
    stays, except where Slurm itself may go on: after preemption and node failure.

    :param before: what was believed so far; None for nothing.
    :param after: what was read now.
    """
    if before is None or is_newer_run(before, after):
        return after
    if after.phase is Phase.UNKNOWN:
        return before if before.end else after
    if is_newer_run(after, before) or _ORDER[after.phase] < _ORDER[before.phase]:
        return before
    if before.end and before.end not in (End.PREEMPTED, End.NODE_FAILURE):
        return before if before.exit_code is not None or before.end is not after.end else after
    return after


def is_newer_run(before: View, after: View) -> bool:
    """Return whether ``after`` speaks of a later run of the element, after a requeue.

    Each run has a submit time of its own. Restarts tell only where it is missing: ``sacct`` does
    not count them.
    """
    if Phase.UNKNOWN in (before.phase, after.phase):
        return False
    if before.submitted is not None and after.submitted is not None:
        return after.submitted > before.submitted
    return after.restarts > before.restarts


_ORDER: Mapping[Phase, int] = {
    Phase.UNKNOWN: 0,
    Phase.PENDING: 1,
    Phase.BLOCKED: 1,
    Phase.RUNNING: 2,
    Phase.ENDED: 3,
}
