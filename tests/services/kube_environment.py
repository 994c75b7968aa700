"""The environment of a container of the fake Kubernetes, as its pod describes it."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping

from tests.services.kube_objects import Object, Refused, expanded, invalid, quantity

#: Returns an object of the pod's namespace, by resource and name.
Lookup = Callable[[str, str], Object]


class Cannot(Exception):
    """A container cannot be started yet.

    :param reason: what its state says meanwhile.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def environment_of(container: Object, pod: Object, lookup: Lookup) -> dict[str, str]:
    """Return the variables that a container's description names.

    :raises Cannot: while a secret or a config map that it names is not there.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        result.update(_all_of(source, lookup))
    for entry in container.get("env") or ():
        if entry.get("valueFrom"):
            value = _value(entry["valueFrom"], container, pod, lookup)
        else:
            value = expanded(entry.get("value") or "", result)
        if value is not None:
            result[entry["name"]] = value
    return result


def _all_of(source: Object, lookup: Lookup) -> Mapping[str, str]:
    if "secretRef" in source:
        found = _data("secrets", source["secretRef"], lookup)
    else:
        found = _data("configmaps", source["configMapRef"], lookup)
    return {source.get("prefix", "") + key: value for key, value in (found or {}).items()}


def _value(source: Object, container: Object, pod: Object, lookup: Lookup) -> str | None:
    if "secretKeyRef" in source:
        return _key_of("secrets", "Secret", source["secretKeyRef"], pod, lookup)
    if "configMapKeyRef" in source:
        return _key_of("configmaps", "ConfigMap", source["configMapKeyRef"], pod, lookup)
    if "resourceFieldRef" in source:
        kind, _, name = source["resourceFieldRef"]["resource"].partition(".")
        return str(math.ceil(quantity(container["resources"][kind][name])))
    return field_of(pod, source["fieldRef"]["fieldPath"])


def field_of(pod: Object, path: str) -> str:
    """Return what the downward API says of a pod."""
    found = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path)
    if found:
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    fields = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"].get("nodeName"),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName"),
        "status.hostIP": pod["status"].get("hostIP"),
        "status.podIP": pod["status"].get("podIP") or pod["status"].get("hostIP"),
    }
    if path not in fields:
        raise invalid("Pod", pod["metadata"]["name"], f'fieldPath: Unsupported value: "{path}"')
    return fields[path] or ""


def _key_of(resource: str, kind: str, wanted: Object, pod: Object, lookup: Lookup) -> str | None:
    data = _data(resource, wanted, lookup)
    key = wanted["key"]
    if data is not None and key in data:
        return data[key]
    if wanted.get("optional"):
        return None
    place = f"{pod['metadata']['namespace']}/{wanted['name']}"
    raise Cannot("CreateContainerConfigError", f"couldn't find key {key} in {kind} {place}")


def _data(resource: str, wanted: Object, lookup: Lookup) -> dict[str, str] | None:
    try:
        data = lookup(resource, wanted["name"]).get("data") or {}
    except Refused as error:
        if wanted.get("optional"):
            return None
        message = str(error).replace(resource, resource.rstrip("s"), 1)
        raise Cannot("CreateContainerConfigError", message) from None
    if resource != "secrets":
        return dict(data)
    return {key: base64.b64decode(value).decode() for key, value in data.items()}
