"""Waits in the triggerer until an element of an array job is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ensemble.engine.control import Control
from airflow_ensemble.hooks.ensemble import alocate_index, index_spec
from airflow_ensemble.hooks.slurm import SlurmHook
from airflow_ensemble.slurm.watch import News, Watched
from airflow_ensemble.triggers.cluster_poller import (
    ClusterPoller,
    LedgerAddress,
    poller_of,
)
from airflow_ensemble.triggers.own_task import act_if_ended, await_first_event
from airflow_ensemble.triggers.poll_thread import Trouble, passer


class SlurmChunkTrigger(BaseTrigger):
    """Fires once the watched element is over, or its deadline has passed.

    All triggers of one connection in a triggerer share one poller. Mark-failed and mark-success
    cancel exactly the watched element; a restart of the triggerer cancels nothing.

    The event is ``{"status": "over", "over": …, "log_tail": …}`` or ``{"status": "timeout"}``.

    :param watched: what is watched, as ``Watched.as_dict`` gives it.
    :param slurm_conn_id: connection that leads to the cluster.
    :param index: where the output index is: a path, ``env:NAME``, ``conn:ID`` or a DSN without
        password; a password never stands in a trigger.
    :param ensemble: the ensemble's name.
    :param settings_hash: which of its settings.
    :param output: path or URI of the output root, as the worker sees it.
    :param deferred_at: Unix time of the deferral.
    :param deadline: Unix time after which waiting ends; None waits without end.
    """

    def __init__(
        self,
        *,
        watched: Mapping[str, Any],
        slurm_conn_id: str,
        index: str,
        ensemble: str,
        settings_hash: str,
        output: str,
        deferred_at: float,
        deadline: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watched = dict(watched)
        self.slurm_conn_id = slurm_conn_id
        self.index = index
        self.ensemble = ensemble
        self.settings_hash = settings_hash
        self.output = output
        self.deferred_at = deferred_at
        self.deadline = deadline

    @classmethod
    def of(
        cls, watched: Watched, control: Control, *, conn_id: str, deadline: float | None
    ) -> SlurmChunkTrigger:
        """Return a trigger for a task that defers now.

        :param watched: what to watch.
        :param control: the opened ensemble that it belongs to.
        :param conn_id: connection that leads to the cluster.
        :param deadline: Unix time after which waiting ends.
        """
        return cls(
            watched=watched.as_dict(),
            slurm_conn_id=conn_id,
            index=index_spec(control.ensemble),
            ensemble=control.ensemble.name,
            settings_hash=control.recipe.settings.hash,
            output=control.ensemble.output,
            deferred_at=time.time(),
            deadline=deadline,
        )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how another triggerer makes this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "watched": self.watched,
            "slurm_conn_id": self.slurm_conn_id,
            "index": self.index,
            "ensemble": self.ensemble,
            "settings_hash": self.settings_hash,
            "output": self.output,
            "deferred_at": self.deferred_at,
            "deadline": self.deadline,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and log every change of state."""
        started = time.time()
        poller = await self._poller()
        address = LedgerAddress(
            await alocate_index(self.index), self.ensemble, self.settings_hash, self.output
        )
        heard: asyncio.Queue[News | Trouble] = asyncio.Queue()
        watched = Watched.from_dict(self.watched)
        with poller.watching(watched, address, passer(asyncio.get_running_loop(), heard)):
            event = await self._await_end(heard)
        await await_first_event(self.deferred_at, started)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Cancel the element, if a person has ended this task."""
        await act_if_ended(self.task_instance, self._cancel)

    async def _poller(self) -> ClusterPoller:
        return poller_of(await SlurmHook.aget_settings(self.slurm_conn_id))

    async def _await_end(self, heard: asyncio.Queue[News | Trouble]) -> dict[str, Any]:
        last: dict[type, str] = {}
        while True:
            left = None if self.deadline is None else self.deadline - time.time()
            try:
                news = await asyncio.wait_for(heard.get(), left)
            except asyncio.TimeoutError:
                return {"status": "timeout"}
            if news.text and news.text != last.get(type(news)):
                last[type(news)] = news.text
                self.log.info("%s", news.text)
            if isinstance(news, Trouble):
                await self._face(news)
            elif news.over is not None:
                return {
                    "status": "over",
                    "submission": self.watched["submission"],
                    "over": news.over.as_dict(),
                    "log_tail": news.log_tail,
                }

    async def _face(self, trouble: Trouble) -> None:
        if trouble.error is not None:
            raise trouble.error
        if trouble.refused:
            await self._poller()  # reads the connection anew and gives it to the poller

    async def _cancel(self, state: str) -> None:
        watched = Watched.from_dict(self.watched)
        if watched.job.job_id is not None:
            self.log.info("the task is %s: cancelling element %s", state, watched.id)
            (await self._poller()).cancel(watched.id)
