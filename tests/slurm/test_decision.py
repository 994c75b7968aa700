"""Over, or not yet: every kind of evidence, and no wrong end."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_ensemble.slurm.decision import (
    Deadlines,
    Over,
    Sight,
    consult_log,
    decide,
    last_error,
)
from airflow_ensemble.slurm.states import End, Phase, View

NOW = 1000.0
DEADLINES = Deadlines(queue=100.0, run=200.0)
ENDED = View(Phase.ENDED, "FAILED", End.FAILED, exit_code=1)


def sight(view: View, **known: object) -> Sight:
    return replace(Sight(view, now=NOW, unfinished=3), **known)  # type: ignore[arg-type]


def end(found: Over | None) -> End | None:
    return found.end if found else None


@pytest.mark.parametrize("phase", list(Phase))
def test_nothing_unfinished_is_success_whatever_slurm_says(phase: Phase) -> None:
    view = View(phase, "X", End.OUT_OF_MEMORY if phase is Phase.ENDED else None)
    assert end(decide(sight(view, unfinished=0), DEADLINES)) is End.COMPLETED


@pytest.mark.parametrize(
    ("word", "how", "seconds", "over"),
    [
        ("COMPLETED", End.COMPLETED, 59, False), ("COMPLETED", End.COMPLETED, 60, True),
        ("FAILED", End.FAILED, 9, False), ("FAILED", End.FAILED, 10, True),
        ("NODE_FAIL", End.NODE_FAILURE, 59, False), ("NODE_FAIL", End.NODE_FAILURE, 60, True),
        ("PREEMPTED", End.PREEMPTED, 59, False), ("TIMEOUT", End.TIME_LIMIT, 10, True),
    ],
)  # fmt: skip
def test_late_results_are_waited_for(word: str, how: End, seconds: float, over: bool) -> None:
    view = View(Phase.ENDED, word, how)
    assert end(decide(sight(view, ended=float(seconds)), DEADLINES)) is (how if over else None)
    long_ago = replace(view, ended=NOW - seconds)  # seen for the first time now
    assert end(decide(sight(long_ago, ended=0.0), DEADLINES)) is (how if over else None)


def test_unread_results_decide_nothing() -> None:
    unread = sight(ENDED, ended=999.0, is_read=False)
    assert decide(unread, DEADLINES) is None
    assert decide(replace(unread, unfinished=None), DEADLINES) is None


def test_a_job_without_a_chunk_is_over_when_it_ends() -> None:
    assert end(decide(Sight(ENDED, NOW, None, ended=0.0), DEADLINES)) is End.FAILED


def test_a_worker_that_refused_is_unusable() -> None:
    over = decide(sight(replace(ENDED, exit_code=2), ended=10.0), DEADLINES)
    assert end(over) is End.UNUSABLE
    assert over is not None
    tail = "starting\n2026-11-21 10:00:00,123 ERROR model.py has no simulate\nerror: no simulate\n"
    assert consult_log(over, tail).detail == "no simulate"
    assert not over.worker_ended


@pytest.mark.parametrize(
    ("view", "tail", "expected"),
    [
        (replace(ENDED, exit_code=3), "stopped: its job's time limit is near", End.TIME_LIMIT),
        (replace(ENDED, exit_code=0, signal=10), "", End.TIME_LIMIT),
        (replace(ENDED, exit_code=138), "", End.TIME_LIMIT),
        (replace(ENDED, exit_code=3), "stopped before its end: the worker got SIGTERM", End.FAILED),
        (replace(ENDED, exit_code=1), "its job's time limit is near", End.FAILED),
    ],
)
def test_a_stop_before_the_time_limit_is_the_time_limit(
    view: View, tail: str, expected: End
) -> None:
    over = decide(sight(view, ended=10.0), DEADLINES)
    assert over is not None
    assert consult_log(over, tail).end is expected


def test_pystilt_fault_absence_is_not_the_end_until_it_has_lasted() -> None:
    unseen = View(Phase.UNKNOWN)
    assert decide(sight(unseen), DEADLINES) is None
    assert decide(sight(unseen, absent=299.0), DEADLINES) is None
    assert end(decide(sight(unseen, absent=300.0), DEADLINES)) is End.VANISHED
    half = sight(unseen, absent=300.0, answered=False)
    assert decide(half, DEADLINES) is None
    assert end(decide(replace(half, absent=1200.0), DEADLINES)) is End.VANISHED


def test_a_state_that_slurm_has_added_is_alive() -> None:
    assert decide(sight(View(Phase.UNKNOWN, "TELEPORTING"), absent=9e9), DEADLINES) is None
    runaway = View(Phase.UNKNOWN, "RUNNING")  # accounting alone says so
    assert end(decide(sight(runaway, absent=300.0), DEADLINES)) is End.VANISHED


def test_blocked_reasons_need_to_last() -> None:
    view = View(Phase.BLOCKED, "PENDING", reason="BadConstraints")
    assert decide(sight(view, blocked=59.0), DEADLINES) is None
    over = decide(sight(view, blocked=60.0), DEADLINES)
    assert over is not None
    assert (over.end, over.detail) == (End.BLOCKED, "it can never start: BadConstraints")
    assert over.may_live


def test_own_deadlines_by_the_clock_of_the_cluster() -> None:
    waits = View(Phase.PENDING, "PENDING", reason="Priority", submitted=NOW - 101)
    runs = View(Phase.RUNNING, "RUNNING", submitted=0.0, started=NOW - 201)
    assert end(decide(sight(waits), DEADLINES)) is End.QUEUE_DEADLINE
    assert end(decide(sight(runs), DEADLINES)) is End.RUN_DEADLINE
    assert decide(sight(replace(runs, started=NOW - 199)), DEADLINES) is None
    assert decide(sight(waits), Deadlines()) is None
    assert decide(sight(waits, now=None), DEADLINES) is None
    requeued = replace(waits, submitted=NOW - 1, restarts=1)
    assert decide(sight(requeued), DEADLINES) is None


def test_an_end_travels_as_json() -> None:
    over = Over(End.FAILED, "exit code 1", replace(ENDED, ended=5.0), submission=2)
    assert Over.from_dict(json.loads(json.dumps(over.as_dict()))) == over
    alive = Over(End.RUN_DEADLINE, "long", View(Phase.RUNNING, "RUNNING"))
    assert Over.from_dict(json.loads(json.dumps(alive.as_dict()))) == alive


def test_the_last_error_of_a_log() -> None:
    assert last_error("a\nerror: this\nlater\n") == "this"
    assert last_error("only words\n\n") == "only words"
    assert last_error("") == ""
