"""Waits in the triggerer until a batch is drained, or nobody is left to drain it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_ensemble.cli.progress import Progress
from airflow_ensemble.hooks.ensemble import alocate_index
from airflow_ensemble.triggers.index_poller import BatchAddress, BatchNews, index_poller_of
from airflow_ensemble.triggers.own_task import TERMINAL, await_first_event, states_of
from airflow_ensemble.triggers.poll_thread import Trouble, passer

#: Seconds between two lines about progress in a task's log.
PROGRESS_INTERVAL = 30.0


@dataclass(frozen=True)
class Patience:
    """How long unfinished work may lie with nobody to do it.

    :param worker_tasks: ids of the tasks whose pods are the workers; none: others are.
    :param grace: seconds for which nobody may be there when those tasks have all ended.
    :param no_workers: seconds for which nobody may be there, whatever any task does; None waits.
    """

    worker_tasks: tuple[str, ...] = ()
    grace: float = 60.0
    no_workers: float | None = None

    def is_worn(self, alone: float) -> bool:
        """Return whether nobody has been there for too long, whatever any task does.

        :param alone: seconds for which work has been left and no worker alive.
        """
        return self.no_workers is not None and alone >= self.no_workers

    def asks_for_tasks(self, alone: float) -> bool:
        """Return whether it is now of interest what the worker tasks do."""
        return bool(self.worker_tasks) and alone >= self.grace


def are_over(states: Sequence[str | None]) -> bool:
    """Return whether tasks in these states will start no worker any more."""
    return bool(states) and all(state in TERMINAL for state in states)


@dataclass
class Solitude:
    """Measures for how long work has been left and no worker alive."""

    _since: float | None = None

    def look(self, news: BatchNews, now: float) -> float:
        """Return the seconds until ``now``; 0 while somebody works or nothing is left."""
        if news.workers or not news.counts.unfinished:
            self._since = None
            return 0.0
        if self._since is None:
            self._since = now
        return now - self._since


@dataclass
class ProgressLines:
    """Says how far a batch is, now and then, as far as anything has changed."""

    _progress: Progress = field(default_factory=Progress)
    _said: tuple[float, BatchNews | None] = (float("-inf"), None)

    def look(self, news: BatchNews, now: float) -> str | None:
        """Return a line about progress when it is time for one.

        :param now: a monotonic clock's seconds.
        """
        self._progress.update(news.counts)
        last, said = self._said
        if now - last < PROGRESS_INTERVAL or said == news:
            return None
        self._said = (now, news)
        self._progress.remark = f"{news.workers} worker{'' if news.workers == 1 else 's'} alive"
        return self._progress.line(news.counts)


class DrainedTrigger(BaseTrigger):
    """Fires once no simulation of a batch is unfinished, or nobody is left to run the rest.

    All triggers of one index in a triggerer share one poller. The event is ``{"status": s}``, with
    ``drained``, ``abandoned`` or ``timeout``.

    :param index: where the output index is: a path, ``env:NAME``, ``conn:ID`` or a DSN without
        password; a password never stands in a trigger.
    :param ensemble: the ensemble's name.
    :param settings_hash: which of its settings.
    :param batch: the batch's id.
    :param worker_tasks: see :class:`Patience`.
    :param grace: likewise.
    :param no_workers_timeout: likewise.
    :param poll_interval: seconds between two looks into the index, at least.
    :param deferred_at: Unix time of the deferral.
    :param deadline: Unix time after which waiting ends; None waits without end.
    """

    def __init__(
        self,
        *,
        index: str,
        ensemble: str,
        settings_hash: str,
        batch: str,
        worker_tasks: Sequence[str],
        grace: float,
        no_workers_timeout: float | None,
        poll_interval: float,
        deferred_at: float,
        deadline: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index = index
        self.address = BatchAddress(ensemble, settings_hash, batch)
        self.patience = Patience(tuple(worker_tasks), grace, no_workers_timeout)
        self.poll_interval = poll_interval
        self.deferred_at = deferred_at
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how another triggerer makes this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "index": self.index,
            "ensemble": self.address.ensemble,
            "settings_hash": self.address.settings_hash,
            "batch": self.address.batch,
            "worker_tasks": list(self.patience.worker_tasks),
            "grace": self.patience.grace,
            "no_workers_timeout": self.patience.no_workers,
            "poll_interval": self.poll_interval,
            "deferred_at": self.deferred_at,
            "deadline": self.deadline,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and log how far the batch is."""
        started = time.time()
        poller = index_poller_of(await alocate_index(self.index), self.poll_interval)
        heard: asyncio.Queue[BatchNews | Trouble] = asyncio.Queue()
        with poller.watching(self.address, passer(asyncio.get_running_loop(), heard)):
            status = await self._await_end(heard)
        await await_first_event(self.deferred_at, started)
        yield TriggerEvent({"status": status})  # type: ignore[no-untyped-call]

    async def _await_end(self, heard: asyncio.Queue[BatchNews | Trouble]) -> str:
        solitude, lines, trouble = Solitude(), ProgressLines(), ""
        while True:
            left = None if self.deadline is None else self.deadline - time.time()
            try:
                news = await asyncio.wait_for(heard.get(), left)
            except asyncio.TimeoutError:
                return "timeout"
            if isinstance(news, Trouble):
                trouble = self._face(news, trouble)
                continue
            now = time.monotonic()
            line = lines.look(news, now)
            if line is not None:
                self.log.info("%s", line)
            if not news.counts.unfinished:
                return "drained"
            if await self._is_abandoned(solitude.look(news, now)):
                return "abandoned"

    async def _is_abandoned(self, alone: float) -> bool:
        if self.patience.is_worn(alone):
            return True
        if self.task_instance is None or not self.patience.asks_for_tasks(alone):
            return False
        tasks = self.patience.worker_tasks
        return are_over(await sync_to_async(states_of)(self.task_instance, tasks))

    def _face(self, trouble: Trouble, before: str) -> str:
        """Log a trouble that is new, and return what it says."""
        if trouble.error is not None:
            raise trouble.error
        if trouble.text != before:
            self.log.warning("%s", trouble.text)
        return trouble.text
