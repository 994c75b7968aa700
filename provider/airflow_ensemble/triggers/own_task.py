"""What a trigger must mind about the task that it waits for: its first event, and its death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from asgiref.sync import sync_to_async

#: Seconds from deferring to the first event: an earlier one may fail the task, for the scheduler
#: can read the end of the deferring process after the trigger has queued the task again.
FIRST_EVENT = 10.0
#: States in which a task needs no more what was started for it.
TERMINAL = frozenset({"success", "failed", "skipped", "removed", "upstream_failed"})
#: The event loop keeps only weak references to tasks; these must end what they have begun.
_BACKGROUND: set[asyncio.Task[None]] = set()


async def await_first_event(deferred_at: float, started: float) -> None:
    """Wait until the task that deferred may be resumed.

    :param deferred_at: Unix time of the deferral, by the worker's clock.
    :param started: Unix time at which the trigger began, by this machine's clock: a clock that
        differs must not keep the task waiting.
    """
    await asyncio.sleep(FIRST_EVENT + min(deferred_at, started) - time.time())


def state_of(task: Any) -> str | None:
    """Return the state of a task instance as Airflow has it now; None when it has none.

    :param task: the task instance of a context, or of a trigger.
    """
    states = RuntimeTaskInstance.get_task_states(
        dag_id=task.dag_id,
        task_ids=[task.task_id],
        run_ids=[task.run_id],
        map_index=task.map_index,
    )
    key = f"{task.task_id}_{task.map_index}" if task.map_index >= 0 else task.task_id
    return (states.get(task.run_id) or {}).get(key)


def states_of(task: Any, others: Sequence[str]) -> list[str | None]:
    """Return the states of other tasks of the same run, mapped ones with one for each instance.

    :param task: the task instance of a context, or of a trigger.
    :param others: their ids.
    """
    states = RuntimeTaskInstance.get_task_states(
        dag_id=task.dag_id, task_ids=list(others), run_ids=[task.run_id]
    )
    return list((states.get(task.run_id) or {}).values())


async def act_if_ended(task: Any, act: Callable[[str], Awaitable[None]]) -> None:
    """Do something if a person has ended the task: for ``on_kill`` of a trigger.

    Airflow calls that also when another triggerer has taken over, and when the task was cleared;
    and it cancels the call itself after a second, which must not stop what it has begun.

    :param task: the trigger's task instance; None when it has none.
    :param act: what to do; it is given the task's state.
    """
    work = asyncio.create_task(_act_if_ended(task, act))
    _BACKGROUND.add(work)
    work.add_done_callback(_BACKGROUND.discard)
    await asyncio.shield(work)


async def _act_if_ended(task: Any, act: Callable[[str], Awaitable[None]]) -> None:
    state = None if task is None else await sync_to_async(state_of)(task)
    if state is not None and state in TERMINAL:
        await act(state)
