"""What the fake Kubernetes does with one request: the API's verbs on objects, logs and watches."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from tests.services.kube_containers import Container
from tests.services.kube_objects import (
    Object,
    Refused,
    check_name,
    fields_match,
    invalid,
    labels_match,
    merged,
    name_of,
    not_faked,
    now,
)
from tests.services.kube_pods import Node
from tests.services.kube_store import Change, Store

#: What an identity may do, as in a Role.
Rules = Sequence[Mapping[str, Sequence[str]]]

KINDS = {
    "configmaps": "ConfigMap",
    "events": "Event",
    "namespaces": "Namespace",
    "pods": "Pod",
    "secrets": "Secret",
    "serviceaccounts": "ServiceAccount",
}
ADMIN, AIRFLOW = "token-of-the-admin", "token-of-airflow"
_PATHS = re.compile(
    r"/api/v1(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<part>[a-z]+))?)?"
)
_LABEL = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")
_GRACE = 30
_HALF_AN_HOUR = 1800.0


@dataclass(frozen=True)
class Call:
    """One request.

    :param part: what of the object is meant, such as its log; mostly empty.
    :param body: parsed.
    """

    method: str
    path: str
    namespace: str
    resource: str
    name: str
    part: str
    query: Mapping[str, str]
    body: Any

    @property
    def verb(self) -> str:
        """Return the word for it in a Role."""
        if self.method == "GET":
            if self.asks("watch"):
                return "watch"
            return "get" if self.name else "list"
        if self.method == "DELETE":
            return "delete" if self.name else "deletecollection"
        return {"POST": "create", "PUT": "update", "PATCH": "patch"}[self.method]

    def asks(self, option: str) -> bool:
        return self.query.get(option, "").lower() in ("true", "1")

    def selects(self, thing: Object) -> bool:
        """Return whether the selectors and the namespace fit an object."""
        metadata = thing["metadata"]
        return (
            self.namespace in ("", metadata.get("namespace", ""))
            and labels_match(self.query.get("labelSelector", ""), metadata.get("labels") or {})
            and fields_match(self.resource, self.query.get("fieldSelector", ""), thing)
        )


def parse_call(method: str, path: str, query: Mapping[str, str], body: Any) -> Call:
    """Return a request, understood.

    :raises Refused: if it is none that this server knows.
    """
    found = _PATHS.fullmatch(path)
    if found is None or found["resource"] not in KINDS:
        raise not_faked(path)
    namespace, resource, name, part = (found[n] or "" for n in found.groupdict())
    return Call(method, path, namespace, resource, name, part, query, body)


def authorize(call: Call, header: str, rules: Rules) -> None:
    """Refuse a caller who is unknown, or may not do this."""
    token = header.removeprefix("Bearer ")
    if token not in (ADMIN, AIRFLOW):
        raise Refused(401, "Unauthorized", "Unauthorized")
    what = f"{call.resource}/{call.part}" if call.part else call.resource
    allowed = (what in rule["resources"] and call.verb in rule["verbs"] for rule in rules)
    if token == ADMIN or any(allowed):
        return
    who = f'User "system:serviceaccount:{call.namespace}:airflow" cannot {call.verb}'
    where = f'resource "{what}" in API group "" in the namespace "{call.namespace}"'
    raise Refused(403, "Forbidden", f"{what} is forbidden: {who} {where}")


class Api:
    """Answers requests.

    :param store: the objects.
    :param node: runs the pods.
    """

    def __init__(self, store: Store, node: Node) -> None:
        self._store = store
        self._node = node

    def answer(self, call: Call) -> Object | Iterator[bytes]:
        """Return the object, or the stream, that was asked for."""
        if call.namespace:
            self._store.get("namespaces", "", call.namespace)
        if call.part:
            return self._part(call)
        answers: Mapping[str, Callable[[Call], Object | Iterator[bytes]]] = {
            "create": self._create,
            "delete": self._delete,
            "deletecollection": self._delete_all,
            "get": self._get,
            "list": self._list,
            "patch": self._patch,
            "update": self._update,
            "watch": self._watch,
        }
        return answers[call.verb](call)

    def _create(self, call: Call) -> Object:
        thing = dict(call.body)
        kind = KINDS[call.resource]
        thing.update(apiVersion="v1", kind=kind)
        metadata = dict(thing.get("metadata") or {})
        metadata["name"] = name_of(metadata)
        check_name(kind, metadata["name"])
        check_labels(kind, metadata)
        if call.resource == "namespaces":
            return new_namespace(self._store, metadata["name"], metadata)
        thing["metadata"] = {**metadata, "namespace": call.namespace}
        if call.resource == "secrets":
            return self._store.create("secrets", encoded(thing))
        if call.resource != "pods":
            return self._store.create(call.resource, thing)
        pod = completed_pod(thing)
        self._check_account(call, pod)
        made = self._store.create("pods", pod)
        self._node.run(made)
        return made

    def _check_account(self, call: Call, pod: Object) -> None:
        account = pod["spec"]["serviceAccountName"]
        try:
            self._store.get("serviceaccounts", call.namespace, account)
        except Refused:
            why = f'serviceaccount "{account}" not found'
            looked = f"error looking up service account {call.namespace}/{account}: {why}"
            message = f'pods "{pod["metadata"]["name"]}" is forbidden: {looked}'
            raise Refused(403, "Forbidden", message) from None

    def _get(self, call: Call) -> Object:
        return self._store.get(call.resource, call.namespace, call.name)

    def _list(self, call: Call) -> Object:
        version, things = self._store.list(call.resource, call.namespace)
        return {
            "apiVersion": "v1",
            "kind": f"{KINDS[call.resource]}List",
            "metadata": {"resourceVersion": str(version)},
            "items": [thing for thing in things if call.selects(thing)],
        }

    def _patch(self, call: Call) -> Object:
        check_labels(KINDS[call.resource], call.body.get("metadata") or {})

        def change(thing: Object) -> Object:
            return merged(thing, call.body)

        return self._store.update(call.resource, call.namespace, call.name, change)

    def _update(self, call: Call) -> Object:
        def change(thing: Object) -> Object:
            new = encoded(dict(call.body)) if call.resource == "secrets" else dict(call.body)
            return {**thing, **new, "metadata": {**thing["metadata"], **new["metadata"]}}

        return self._store.update(call.resource, call.namespace, call.name, change)

    def _delete(self, call: Call) -> Object:
        if call.resource == "namespaces":
            return self._delete_namespace(call.name)
        if call.resource != "pods":
            self._store.remove(call.resource, call.namespace, call.name)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return self._delete_pod(call, call.namespace, call.name)

    def _delete_all(self, call: Call) -> Object:
        _, things = self._store.list(call.resource, call.namespace)
        for thing in filter(call.selects, things):
            name = thing["metadata"]["name"]
            if call.resource == "pods":
                self._delete_pod(call, call.namespace, name)
            else:
                self._store.remove(call.resource, call.namespace, name)
        return self._list(call)

    def _delete_namespace(self, namespace: str) -> Object:
        for thing in self._store.list("pods", namespace)[1]:
            self._node.pod(namespace, thing["metadata"]["name"]).delete(1)
        for resource in sorted(KINDS.keys() - {"namespaces", "pods"}):
            for thing in self._store.list(resource, namespace)[1]:
                self._store.remove(resource, namespace, thing["metadata"]["name"])
        return self._store.remove("namespaces", "", namespace)

    def _delete_pod(self, call: Call, namespace: str, name: str) -> Object:
        options = call.body if isinstance(call.body, dict) else {}
        asked = options.get("gracePeriodSeconds", call.query.get("gracePeriodSeconds"))

        def change(pod: Object) -> Object:
            over = pod["status"]["phase"] in ("Succeeded", "Failed")
            unborn = not pod["spec"].get("nodeName")
            default = pod["spec"]["terminationGracePeriodSeconds"]
            grace = 0 if over or unborn else int(default if asked is None else asked)
            pod["metadata"].update(deletionTimestamp=now(), deletionGracePeriodSeconds=grace)
            return pod

        running = self._node.pod(namespace, name)
        pod = self._store.update("pods", namespace, name, change)
        running.delete(pod["metadata"]["deletionGracePeriodSeconds"])
        return pod

    def _part(self, call: Call) -> Object | Iterator[bytes]:
        if call.resource == "pods" and call.part == "log" and call.verb == "get":
            return self._log(call)
        if call.resource == "pods" and call.part == "eviction" and call.verb == "create":
            self._delete_pod(call, call.namespace, call.name)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}
        raise not_faked(f"{call.method} {call.path}")

    def _log(self, call: Call) -> Iterator[bytes]:
        pod = self._store.get("pods", call.namespace, call.name)
        container = self._container(call, pod)
        tail = call.query.get("tailLines")
        lines = container.lines(follow=call.asks("follow"))
        since = log_start(call.query)
        if tail is not None and not call.asks("follow"):
            lines = iter(list(lines)[-int(tail) :] if int(tail) else [])
        for line in lines:
            if line is None:
                yield b""
            elif line[0] >= since:
                stamp = line[0].strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode()
                yield (stamp if call.asks("timestamps") else b"") + line[1]

    def _container(self, call: Call, pod: Object) -> Container:
        names = [container["name"] for container in pod["spec"]["containers"]]
        name = call.query.get("container") or names[0]
        if name not in names:
            message = f"container {name} is not valid for pod {call.name}"
            raise Refused(400, "BadRequest", message)
        for container in self._node.pod(call.namespace, call.name).containers:
            if container.name == name:
                return container
        waits = [
            s["state"]["waiting"]["reason"] for s in pod["status"].get("containerStatuses", ())
        ]
        why = f"is waiting to start: {waits[0]}" if waits else "does not have a host assigned"
        raise Refused(400, "BadRequest", f'container "{name}" in pod "{call.name}" {why}')

    def _watch(self, call: Call) -> Iterator[bytes]:
        version, things = self._store.list(call.resource, call.namespace)
        since = int(call.query.get("resourceVersion") or 0)
        timeout = float(call.query.get("timeoutSeconds") or _HALF_AN_HOUR)
        if not since:
            for thing in filter(call.selects, things):
                yield watch_line("ADDED", thing)
        try:
            for change in self._store.changes(call.resource, since or version, timeout):
                yield news(change, call) if change else b""
        except Refused as error:
            yield watch_line("ERROR", error.status())


def news(change: Change, call: Call) -> bytes:
    """Return what a watcher is told: a thing that no longer fits its selector is gone for it."""
    fits = call.selects(change.thing)
    fitted = change.before is not None and call.selects(change.before)
    if change.kind == "DELETED":
        return watch_line("DELETED", change.thing) if fitted else b""
    if fits:
        return watch_line("MODIFIED" if fitted else "ADDED", change.thing)
    return watch_line("DELETED", change.thing) if fitted else b""


def watch_line(kind: str, thing: Object) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def log_start(query: Mapping[str, str]) -> datetime:
    """Return the time from which on lines of a log are wanted."""
    if "sinceSeconds" in query:
        return datetime.now(timezone.utc) - timedelta(seconds=int(query["sinceSeconds"]))
    if "sinceTime" in query:
        return datetime.fromisoformat(query["sinceTime"].replace("Z", "+00:00"))
    return datetime.min.replace(tzinfo=timezone.utc)


def new_namespace(store: Store, name: str, metadata: Mapping[str, Any] | None = None) -> Object:
    """Add a namespace with its service account ``default``."""
    thing = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {**(metadata or {}), "name": name},
    }
    made = store.create("namespaces", {**thing, "status": {"phase": "Active"}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    store.create("serviceaccounts", {**account, "metadata": {"name": "default", "namespace": name}})
    return made


def encoded(secret: Object) -> Object:
    """Return a secret with its plain strings among its data."""
    plain = secret.pop("stringData", None) or {}
    coded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
    return {"type": "Opaque", **secret, "data": {**(secret.get("data") or {}), **coded}}


def check_labels(kind: str, metadata: Mapping[str, Any]) -> None:
    """Refuse values that cannot be a label's."""
    for value in (metadata.get("labels") or {}).values():
        if value is not None and not _LABEL.fullmatch(value):
            rule = "a valid label has at most 63 of alphanumeric characters, '-', '_' and '.'"
            why = f'metadata.labels: Invalid value: "{value}": {rule}'
            raise invalid(kind, metadata.get("name", ""), why)


def completed_pod(pod: Object) -> Object:
    """Return a new pod with what the server adds.

    :raises Refused: if it is no pod, or one that this server cannot run as it should.
    """
    name = pod["metadata"]["name"]
    spec = dict(pod.get("spec") or {})
    if not spec.get("containers"):
        raise invalid("Pod", name, "spec.containers: Required value")
    for container in spec["containers"]:
        if not container.get("image"):
            raise invalid("Pod", name, "spec.containers[0].image: Required value")
        if not container.get("command"):
            raise not_faked("images: a container needs a command")
    check_faked(spec)
    spec.setdefault("serviceAccountName", spec.get("serviceAccount") or "default")
    if spec.get("terminationGracePeriodSeconds") is None:
        spec["terminationGracePeriodSeconds"] = _GRACE
    return {**pod, "spec": spec, "status": {"phase": "Pending", "qosClass": "BestEffort"}}


def check_faked(spec: Object) -> None:
    """Refuse what a real node does for a pod and this one cannot."""
    if spec.get("initContainers"):
        raise not_faked("init containers")
    if spec.get("restartPolicy") != "Never":
        raise not_faked("restarts: restartPolicy must be Never")
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or ()}
    for container in spec["containers"]:
        for mount in container.get("volumeMounts") or ():
            check_mount(volumes[mount["name"]], mount["mountPath"])


def check_mount(volume: Object, path: str) -> None:
    """Refuse a volume that the pod's process would not see where it expects it."""
    if (volume.get("hostPath") or {}).get("path") == path:
        return
    if "emptyDir" not in volume or path != "/tmp":
        raise not_faked(f"a volume at {path}: a hostPath of that same path, or /tmp")
