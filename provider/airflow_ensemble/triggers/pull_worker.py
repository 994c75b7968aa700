"""Waits in the triggerer until the pod of a pull worker has ended."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import OnKillAction
from airflow.triggers.base import TriggerEvent

from airflow_ensemble.triggers.own_task import act_if_ended, await_first_event

#: What of a pod's status says how it is, or how it ended.
_TELLING = (
    *("phase", "reason", "message", "conditions"),
    *("init_container_statuses", "container_statuses"),
)


class PullWorkerTrigger(KubernetesPodTrigger):
    """Watches a pod as Airflow's own trigger does, and is safer in three ways.

    The first event comes no earlier than the scheduler can bear. The pod is deleted when a person
    has ended the task, within the time that this takes, and never because another triggerer has
    taken over. And the event's ``last_seen`` is what was seen last of the pod, should it be gone:
    whoever deletes a pod, a scheduler that preempts or a node that drains, says so before.

    The connection is looked up by the triggerer: no credentials stand in a trigger.
    """

    _last_pod: Any = None

    @classmethod
    def of(cls, trigger: KubernetesPodTrigger) -> PullWorkerTrigger:
        """Return this kind of trigger for the same pod."""
        return cls(**{**trigger.serialize()[1], "connection_extras": None})

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how another triggerer makes this trigger again."""
        _, values = super().serialize()
        return f"{type(self).__module__}.{type(self).__qualname__}", values

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the pod's end, or for one of its time limits."""
        started = time.time()
        async for event in super().run():
            await await_first_event(self.trigger_start_time.timestamp(), started)
            last_seen = None if self._last_pod is None else as_plain(self._last_pod)
            payload = {**event.payload, "last_seen": last_seen}
            yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Delete the pod, if a person has ended this task."""
        if self.on_kill_action is not OnKillAction.KEEP_POD:
            await act_if_ended(self.task_instance, self._delete)

    async def _delete(self, state: str) -> None:
        self.log.info("the task is %s: deleting pod %s", state, self.pod_name)
        await self.hook.delete_pod(
            self.pod_name, self.pod_namespace, grace_period_seconds=self.termination_grace_period
        )

    async def _get_pod(self) -> Any:  # type: ignore[override]
        self._last_pod = await super()._get_pod()
        return self._last_pod


def as_plain(pod: Any) -> dict[str, Any]:
    """Return what tells of a pod's state, as the API server's JSON has it.

    :param pod: of either of the two clients.
    """
    said = pod.to_dict()
    status = said.get("status") or {}
    return {
        "metadata": {"name": said["metadata"]["name"]},
        "spec": {"nodeName": (said.get("spec") or {}).get("node_name")},
        "status": _camel({key: status.get(key) for key in _TELLING}),
    }


def _camel(value: Any) -> Any:
    """Return a value of a client with the API's own keys, without times and what is absent."""
    if isinstance(value, Mapping):
        return {
            _camel_key(key): _camel(item)
            for key, item in value.items()
            if item is not None and not isinstance(item, datetime)
        }
    return [_camel(item) for item in value] if isinstance(value, list) else value


def _camel_key(key: str) -> str:
    first, *others = key.split("_")
    return first + "".join(other.capitalize() for other in others)
