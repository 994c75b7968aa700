"""Whether an array element is over: decided from Slurm's answers and the index, nothing else.

Nothing here asks anybody anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from airflow_ensemble.engine.words import one_line
from airflow_ensemble.slurm.states import MEANINGS, End, Phase, View

#: How much longer absence must last when the queue alone has answered: it forgets what has ended.
_HALF_ANSWERED = 4
#: What a worker says last when the time limit's signal ended it.
_NEAR_LIMIT = re.compile(r"time limit is near|SIGUSR1")
_STOPPED, _UNUSABLE, _USER_SIGNAL = 3, 2, 10
_LOG_LINE = re.compile(r"^[\d-]{10} [\d:,]{8,12} (?:ERROR|CRITICAL) (?=.)")


@dataclass(frozen=True)
class Deadlines:
    """How long to wait for what, in seconds.

    :param queue: an element may wait in the queue; None for ever.
    :param run: an element may run; None for as long as Slurm lets it.
    :param lag: Slurm may know nothing of an element before it counts as vanished.
    :param late_results: results may come after an element's good end, or a requeue after a bad one.
    :param late_failure: results may come after any other end.
    :param blocked: an element may have a reason for waiting that does not go away by itself.
    """

    queue: float | None = None
    run: float | None = None
    lag: float = 300.0
    late_results: float = 60.0
    late_failure: float = 10.0
    blocked: float = 60.0


@dataclass(frozen=True)
class Over:
    """An element of which nothing more is to be waited for.

    :param end: how it ended.
    :param detail: one line for people, with Slurm's reason.
    :param view: what Slurm said last.
    :param submission: the chunk's submission that it ran; None when nobody compares it.
    """

    end: End
    detail: str
    view: View
    submission: int | None = None

    @property
    def worker_ended(self) -> bool:
        """Whether its worker itself came to its end, having tried what it was given."""
        good = self.end is End.COMPLETED
        return good or (self.end is End.FAILED and self.view.exit_code == 1)

    @property
    def may_live(self) -> bool:
        """Whether Slurm may still have it, so that it must be cancelled."""
        return self.view.phase is not Phase.ENDED and self.end is not End.COMPLETED

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        view = self.view
        end = view.end.value if view.end else None
        return {
            "end": self.end.value,
            "detail": self.detail,
            "view": {**asdict(view), "phase": view.phase.value, "end": end},
            "submission": self.submission,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Over:
        """Read what :meth:`as_dict` gave."""
        view = dict(record["view"])
        end = End(view["end"]) if view["end"] else None
        return cls(
            End(record["end"]),
            record["detail"],
            View(**{**view, "phase": Phase(view["phase"]), "end": end}),
            record["submission"],
        )


@dataclass(frozen=True)
class Sight:
    """What is known of an element at one moment.

    :param view: what Slurm says.
    :param now: Unix time by the cluster's clock; None when it did not answer.
    :param unfinished: simulations of its chunk that are not finished; None when it has no chunk.
    :param is_read: whether the results that there are have been read.
    :param answered: whether an absent element is really absent; see ``Snapshot.answered``.
    :param absent: seconds for which it has been absent from the queue; None when it is not.
    :param blocked: seconds for which it has been blocked; None when it is not.
    :param ended: seconds for which it has been known to have ended; None when it has not.
    """

    view: View
    now: float | None = None
    unfinished: int | None = None
    is_read: bool = True
    answered: bool = True
    absent: float | None = None
    blocked: float | None = None
    ended: float | None = None


def decide(sight: Sight, deadlines: Deadlines) -> Over | None:
    """Return how an element ended; None as long as it is to be waited for.

    :param sight: what is known of it.
    :param deadlines: how long to wait for what.
    """
    view = sight.view
    if sight.unfinished == 0:
        return Over(End.COMPLETED, "all of its simulations are finished", view)
    if view.phase is Phase.ENDED:
        return _judge_ended(sight, deadlines)
    if view.phase is Phase.UNKNOWN:
        return _judge_absent(sight, deadlines)
    if view.phase is Phase.BLOCKED and _reached(sight.blocked, deadlines.blocked):
        return Over(End.BLOCKED, f"it can never start: {view.reason or view.word}", view)
    if view.phase is Phase.RUNNING and _reached(_age(sight.now, view.started), deadlines.run):
        return Over(End.RUN_DEADLINE, f"it ran longer than {deadlines.run:g} s", view)
    waits = view.phase in (Phase.PENDING, Phase.BLOCKED)
    if waits and _reached(_age(sight.now, view.submitted), deadlines.queue):
        reason = f" ({view.reason})" if view.reason else ""
        return Over(
            End.QUEUE_DEADLINE, f"it waited longer than {deadlines.queue:g} s{reason}", view
        )
    return None


def consult_log(over: Over, tail: str) -> Over:
    """Return what a log adds to an end: why a worker refused, or that its time was running out.

    :param tail: the end of the element's log.
    """
    view = over.view
    if over.end is End.UNUSABLE:
        words = last_error(tail)
        return replace(over, detail=words) if words else over
    # Before the worker runs, the signal ends the shell; after that, the worker says so itself.
    shell = view.signal == _USER_SIGNAL or view.exit_code == 128 + _USER_SIGNAL
    worker = view.exit_code == _STOPPED and _NEAR_LIMIT.search(tail)
    if over.end is End.FAILED and (shell or worker):
        return replace(over, end=End.TIME_LIMIT, detail="stopped before its time limit")
    return over


def last_error(tail: str) -> str:
    """Return the last line of a worker's log that says what is wrong; empty without any."""
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    for line in reversed(lines):
        plain = _LOG_LINE.sub("error: ", line)
        if plain.startswith("error: "):
            return one_line(plain[len("error: ") :])
    return one_line(lines[-1]) if lines else ""


def is_absent(view: View) -> bool:
    """Say whether the queue lacks an element; one in a state that we do not know is there."""
    return view.phase is Phase.UNKNOWN and (not view.word or view.word in MEANINGS)


def describe_view(view: View) -> str:
    """Return in a few words what Slurm says of an element, without times."""
    where = f" on {view.nodes}" if view.nodes and view.phase is not Phase.PENDING else ""
    reason = f" ({view.reason})" if view.reason else ""
    code = ""
    if view.phase is Phase.ENDED and view.exit_code:
        code = f", exit code {view.exit_code}"
    if view.phase is Phase.ENDED and view.signal:
        code += f", signal {view.signal}"
    again = f", requeued {view.restarts} times" if view.restarts else ""
    return f"{view.word or 'unknown to Slurm'}{where}{reason}{code}{again}"


def _judge_ended(sight: Sight, deadlines: Deadlines) -> Over | None:
    view = sight.view
    end = view.end or End.FAILED
    has_chunk = sight.unfinished is not None or not sight.is_read
    if has_chunk and not _results_had_time(sight, end, deadlines):
        return None
    if end is End.FAILED and view.exit_code == _UNUSABLE:
        end = End.UNUSABLE
    return Over(end, describe_view(view), view)


def _results_had_time(sight: Sight, end: End, deadlines: Deadlines) -> bool:
    """Say whether results, or a requeue by Slurm itself, would have been seen by now."""
    is_patient = end in (End.COMPLETED, End.PREEMPTED, End.NODE_FAILURE)
    wait = deadlines.late_results if is_patient else deadlines.late_failure
    age = max(sight.ended or 0.0, _age(sight.now, sight.view.ended) or 0.0)
    return sight.is_read and age >= wait


def _judge_absent(sight: Sight, deadlines: Deadlines) -> Over | None:
    if not is_absent(sight.view):
        return None
    lag = deadlines.lag if sight.answered else deadlines.lag * _HALF_ANSWERED
    if not _reached(sight.absent, lag):
        return None
    asked = "queue and accounting" if sight.answered else "the queue (accounting does not answer)"
    reason = f" ({sight.view.reason})" if sight.view.reason else ""
    return Over(End.VANISHED, f"{asked} have known nothing of it for {lag:g} s{reason}", sight.view)


def _reached(age: float | None, limit: float | None) -> bool:
    return age is not None and limit is not None and age >= limit


def _age(now: float | None, since: float | None) -> float | None:
    return None if now is None or since is None else now - since
