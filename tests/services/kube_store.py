"""The objects of the fake Kubernetes API server, and everything that happened to them."""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.services.kube_objects import Object, Refused, already_exists, not_found, now


@dataclass(frozen=True)
class Change:
    """What happened to one object.

    :param kind: ``ADDED``, ``MODIFIED`` or ``DELETED``.
    :param thing: the object after it; of a removed one, its last state.
    :param before: the object before it; None for a new one.
    """

    version: int
    resource: str
    kind: str
    thing: Object
    before: Object | None


class Store:
    """Versioned objects by resource, namespace and name; safe to use from any thread."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._history: list[Change] = []
        self._version = 100
        self._oldest = 100
        self._changed = threading.Condition(threading.RLock())

    def create(self, resource: str, thing: Object) -> Object:
        """Add an object with a name, and return it as it was stored."""
        metadata = thing["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        with self._changed:
            if key in self._objects:
                raise already_exists(resource, metadata["name"])
            metadata.setdefault("creationTimestamp", now())
            metadata.setdefault("uid", str(uuid.uuid4()))
            return self._put(key, thing, None)

    def get(self, resource: str, namespace: str, name: str) -> Object:
        with self._changed:
            thing = self._objects.get((resource, namespace, name))
            if thing is None:
                raise not_found(resource, name)
            return copy.deepcopy(thing)

    def list(self, resource: str, namespace: str = "") -> tuple[int, list[Object]]:
        """Return the version, and what there is of a resource in one namespace or in all."""
        with self._changed:
            found = [
                copy.deepcopy(thing)
                for (kind, place, _), thing in sorted(self._objects.items())
                if kind == resource and namespace in ("", place)
            ]
            return self._version, found

    def update(
        self, resource: str, namespace: str, name: str, change: Callable[[Object], Object]
    ) -> Object:
        """Replace an object by what ``change`` makes of it.

        :raises Refused: 409 if ``change`` brings a version that is no longer the object's.
        """
        with self._changed:
            before = self.get(resource, namespace, name)
            after = change(copy.deepcopy(before))
            claimed = after["metadata"].get("resourceVersion")
            if claimed not in (None, "", before["metadata"]["resourceVersion"]):
                why = (
                    "the object has been modified; please apply your changes to the latest version"
                )
                message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
                raise Refused(409, "Conflict", message)
            if after == before:
                return before
            return self._put((resource, namespace, name), after, before)

    def remove(self, resource: str, namespace: str, name: str) -> Object:
        with self._changed:
            before = self.get(resource, namespace, name)
            del self._objects[resource, namespace, name]
            gone = copy.deepcopy(before)
            self._note(resource, "DELETED", gone, before)
            return gone

    def forget(self) -> None:
        """Drop the history, as a server does in time: older versions are then *too old*."""
        with self._changed:
            self._history.clear()
            self._oldest = self._version

    def changes(self, resource: str, since: int, timeout: float) -> Iterator[Change | None]:
        """Yield what happens to a resource after a version, until the time-out.

        :return: None now and then, when nothing happens.
        :raises Refused: 410 if the history does not go back that far.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                if since < self._oldest:
                    message = f"too old resource version: {since} ({self._oldest})"
                    raise Refused(410, "Expired", message)
                found = [c for c in self._history if c.version > since and c.resource == resource]
                if not found:
                    self._changed.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            yield from found
            since = found[-1].version if found else since
            if not found:
                if time.monotonic() >= deadline:
                    return
                yield None

    def _put(self, key: tuple[str, str, str], thing: Object, before: Object | None) -> Object:
        self._objects[key] = thing
        self._note(key[0], "MODIFIED" if before else "ADDED", thing, before)
        return copy.deepcopy(thing)

    def _note(self, resource: str, kind: str, thing: Object, before: Object | None) -> None:
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        self._history.append(Change(self._version, resource, kind, copy.deepcopy(thing), before))
        self._changed.notify_all()
