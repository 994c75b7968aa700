"""The node of the fake Kubernetes: takes pods from their creation to their removal."""

from __future__ import annotations

import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.services.kube_containers import MARK, Container, send
from tests.services.kube_environment import Cannot, environment_of
from tests.services.kube_objects import Object, now, quantity
from tests.services.kube_store import Store

NAME = "fake"
ADDRESS = "127.0.0.1"
LABELS = {"kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux"}
#: What the node has, in bytes and CPUs; no pod may ask for more.
CAPACITY = {"memory": 64 * 2**30, "cpu": 64.0}
#: Seconds between two looks at what a pod waits for, and at its memory.
PERIOD = 0.2
#: Where a pod finds its programs, whatever its image: this interpreter's folder comes first.
PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
_DEADLINE = {
    "reason": "DeadlineExceeded",
    "message": "Pod was active on the node longer than the specified deadline",
}


class Node:
    """Runs pods, each in a thread that follows it.

    :param store: where pods, secrets and events are.
    :param folder: takes a folder for each pod, which is its ``/tmp``.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._pods: dict[str, Pod] = {}

    def run(self, thing: Object) -> None:
        """Take a pod that has been created."""
        place = self._folder / thing["metadata"]["uid"]
        place.mkdir()
        pod = Pod(self._store, thing, place)
        self._pods[thing["metadata"]["uid"]] = pod
        pod.start()

    def pod(self, namespace: str, name: str) -> Pod:
        """Return what runs a pod.

        :raises Refused: 404 if there is no such pod.
        """
        return self._pods[self._store.get("pods", namespace, name)["metadata"]["uid"]]

    def close(self) -> None:
        """Kill every pod, and wait until all are gone."""
        for pod in self._pods.values():
            pod.delete(0)
        for pod in self._pods.values():
            pod.join(30)
            assert not pod.is_alive(), f"{pod.name} did not end"


class Pod(threading.Thread):
    """One pod: waits to be scheduled, starts its containers, reports their ends, is removed."""

    def __init__(self, store: Store, thing: Object, folder: Path) -> None:
        metadata = thing["metadata"]
        super().__init__(name=f"pod-{metadata['name']}", daemon=True)
        self.containers: list[Container] = []
        self._store = store
        self._key: tuple[str, str] = (metadata["namespace"], metadata["name"])
        self._uid: str = metadata["uid"]
        self._spec: Object = thing["spec"]
        self._folder = folder
        self._wake = threading.Event()
        self._deleted = False
        self._kill_at: float | None = None
        self._failure: dict[str, str] = {}

    def run(self) -> None:
        """Live, until removed."""
        if self._schedule() and self._start_containers():
            self._await_end()
        if self.containers or self._failure:
            self._report_end()
        while not self._deleted:
            self._wait()
        self._store.remove("pods", *self._key)

    def delete(self, grace: float) -> None:
        """Be removed; its processes have so many seconds to end by themselves."""
        self._stop_within(grace)
        self._deleted = True
        self._wake.set()

    def fail(self, reason: str, message: str) -> None:
        """End as a pod does that its node gives up: killed, with the reason in its status."""
        self._failure = {"reason": reason, "message": message}
        self.kill()
        self._wake.set()

    def kill(self, reason: str = "") -> None:
        """Kill every process of it, as the kernel does."""
        for container in self.containers:
            container.kill(reason)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every process of it."""
        for container in self.containers:
            send(number, container.processes())

    def event(self, reason: str, message: str, kind: str = "Normal") -> None:
        """Note an event about it."""
        namespace, name = self._key
        stamp = now()
        metadata = {"name": f"{name}.{uuid.uuid4().hex[:16]}", "namespace": namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", "name": name, "namespace": namespace}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": metadata,
            "involvedObject": {**pod, "uid": self._uid},
            "reason": reason,
            "message": message,
            "type": kind,
            "count": 1,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "source": {"component": NAME},
        }
        self._store.create("events", event)

    def _schedule(self) -> bool:
        why = unschedulable(self._spec)
        if why:
            self._patch(conditions=[condition("PodScheduled", False, "Unschedulable", why)])
            self.event("FailedScheduling", why, "Warning")
            while not self._over():
                self._wait()
            return False
        self.event("Scheduled", f"Successfully assigned {'/'.join(self._key)} to {NAME}")
        self._patch(
            node=NAME,
            hostIP=ADDRESS,
            startTime=now(),
            conditions=conditions(ready=False, reason="ContainersNotReady"),
            containerStatuses=self._waiting("ContainerCreating"),
        )
        return True

    def _start_containers(self) -> bool:
        said: list[str] = []
        while not self._over():
            try:
                self._check_images(tried="ErrImagePull" in said)
                pod = self._store.get("pods", *self._key)
                environments = [self._environment(c, pod) for c in self._spec["containers"]]
            except Cannot as error:
                if error.reason not in said:
                    said.append(error.reason)
                    self.event("Failed", str(error), "Warning")
                    self._patch(containerStatuses=self._waiting(error.reason, str(error)))
                self._wait(PERIOD)
            else:
                self._start(environments)
                return True
        return False

    def _start(self, environments: list[dict[str, str]]) -> None:
        for spec, environment in zip(self._spec["containers"], environments):
            self.event("Pulled", f'Container image "{spec["image"]}" already present on machine')
            self.event("Created", f"Created container {spec['name']}")
            self.containers.append(Container(spec, environment, self._wake))
            self.event("Started", f"Started container {spec['name']}")
        self._patch(
            phase="Running",
            podIP=ADDRESS,
            podIPs=[{"ip": ADDRESS}],
            conditions=conditions(ready=True),
            containerStatuses=self._statuses(),
        )

    def _await_end(self) -> None:
        deadline = time.monotonic() + (self._spec.get("activeDeadlineSeconds") or 10**9)
        ended = 0
        while self._alive() and self._kill_at is None:
            self._wait(self._pause(deadline))
            self._check_memory()
            if time.monotonic() > deadline and not self._failure:
                self._failure = _DEADLINE
                self._stop_within(self._spec["terminationGracePeriodSeconds"])
            count = sum(container.code is not None for container in self.containers)
            if count != ended and self._alive():
                self._patch(containerStatuses=self._statuses())
            ended = count
        if self._alive():
            self._end_containers()

    def _end_containers(self) -> None:
        for container in self.containers:
            self.event("Killing", f"Stopping container {container.name}")
            container.terminate()
        while self._alive():
            assert self._kill_at is not None
            self._wait(max(0.0, self._kill_at - time.monotonic()))
            if time.monotonic() >= self._kill_at:
                self.kill()
                self._wait(PERIOD)

    def _report_end(self) -> None:
        well = not self._failure and all(container.code == 0 for container in self.containers)
        self._patch(
            **self._failure,
            phase="Succeeded" if well else "Failed",
            conditions=conditions(ready=False, reason="PodCompleted"),
            containerStatuses=self._statuses(),
        )

    def _environment(self, container: Object, pod: Object) -> dict[str, str]:
        namespace, name = self._key
        own = environment_of(
            container, pod, lambda kind, name: self._store.get(kind, namespace, name)
        )
        return {
            "PATH": PATH,
            "HOME": str(self._folder),
            "HOSTNAME": name,
            "KUBERNETES_SERVICE_HOST": ADDRESS,
            "TMPDIR": str(self._folder),
            **own,
            MARK: f"{self._uid}/{container['name']}",
        }

    def _check_images(self, *, tried: bool) -> None:
        for container in self._spec["containers"]:
            image = container["image"]
            if "missing" in image and tried:
                raise Cannot("ImagePullBackOff", f'Back-off pulling image "{image}"')
            if "missing" in image:
                raise Cannot("ErrImagePull", f'failed to pull image "{image}": not found')

    def _check_memory(self) -> None:
        for container, spec in zip(self.containers, self._spec["containers"]):
            limit = memory_limit(spec)
            if limit and container.memory() > limit:
                container.kill("OOMKilled")

    def _pause(self, deadline: float) -> float | None:
        if any(memory_limit(spec) for spec in self._spec["containers"]):
            return PERIOD
        return max(0.0, deadline - time.monotonic()) if deadline < 10**9 else None

    def _stop_within(self, grace: float) -> None:
        by = time.monotonic() + grace
        self._kill_at = by if self._kill_at is None else min(by, self._kill_at)

    def _alive(self) -> bool:
        return any(container.code is None for container in self.containers)

    def _over(self) -> bool:
        return self._deleted or bool(self._failure)

    def _wait(self, seconds: float | None = None) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _patch(self, *, node: str = "", **status: Any) -> None:
        def change(pod: Object) -> Object:
            pod["status"].update(status)
            if node:
                pod["spec"]["nodeName"] = node
            return pod

        self._store.update("pods", *self._key, change)

    def _waiting(self, reason: str, message: str = "") -> list[Object]:
        said = {"reason": reason, **({"message": message} if message else {})}
        return [container_status(c, {"waiting": said}) for c in self._spec["containers"]]

    def _statuses(self) -> list[Object]:
        states = [container.state() for container in self.containers]
        return [container_status(c, state) for c, state in zip(self._spec["containers"], states)]


def container_status(container: Object, state: Object) -> Object:
    """Return what a pod's status says of one container."""
    running = "running" in state
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "" if "waiting" in state else f"fake://{container['image']}",
        "restartCount": 0,
        "ready": running,
        "started": running,
        "state": state,
        "lastState": {},
    }


def condition(kind: str, holds: bool, reason: str = "", message: str = "") -> Object:
    """Return one condition of a pod."""
    result = {"type": kind, "status": str(holds), "lastTransitionTime": now()}
    if reason:
        result["reason"] = reason
    if message:
        result["message"] = message
    return result


def conditions(*, ready: bool, reason: str = "") -> list[Object]:
    """Return the conditions of a pod that a node has taken."""
    return [
        condition("Initialized", True),
        condition("Ready", ready, reason),
        condition("ContainersReady", ready, reason),
        condition("PodScheduled", True),
    ]


def memory_limit(container: Object) -> float:
    """Return the bytes that a container may hold; 0 means that nobody counts."""
    limits: Mapping[str, str] = (container.get("resources") or {}).get("limits") or {}
    return quantity(limits.get("memory", 0))


def unschedulable(spec: Object) -> str:
    """Return why no node takes a pod; empty if the node does."""
    for key, value in (spec.get("nodeSelector") or {}).items():
        if LABELS.get(key) != value:
            return "0/1 nodes are available: 1 node(s) didn't match node selector."
    for resource, there_is in CAPACITY.items():
        if sum(_asked(container, resource) for container in spec["containers"]) > there_is:
            return f"0/1 nodes are available: 1 Insufficient {resource}."
    return ""


def _asked(container: Object, resource: str) -> float:
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    return quantity(requests.get(resource, limits.get(resource, 0)))
