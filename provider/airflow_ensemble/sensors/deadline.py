"""The end of a task's time, which Airflow does not keep while the task is deferred."""

from __future__ import annotations

import time
from datetime import timedelta

from airflow.sdk import Context
from airflow.sdk.execution_time.context import NEVER_EXPIRE

#: Where a task keeps the end of its time for the try that it is in.
DEADLINE = "ensemble_deadline"
#: Seconds for which Airflow waits for the trigger after the deadline that the trigger itself keeps.
BACKSTOP = 60.0


def begin_time(context: Context, limit: timedelta | None) -> None:
    """Let the time of this try begin, unless it already has.

    :param limit: the task's ``execution_timeout``.
    """
    if limit is None:
        return
    store, tries = context["task_state_store"], context["ti"].try_number
    known = store.get(DEADLINE)
    if not isinstance(known, dict) or known.get("try") != tries:
        at = time.time() + limit.total_seconds()
        store.set(DEADLINE, {"try": tries, "at": at}, retention=NEVER_EXPIRE)


def deadline_of(context: Context, limit: timedelta | None) -> float | None:
    """Return the Unix time at which the time of this try ends; None when it never does."""
    if limit is None:
        return None
    known = context["task_state_store"].get(DEADLINE)
    return float(str(known["at"])) if isinstance(known, dict) else None


def deferral_timeout(deadline: float | None) -> float | None:
    """Return the seconds after which Airflow is to resume the task without its trigger."""
    return None if deadline is None else max(0.0, deadline - time.time()) + BACKSTOP
