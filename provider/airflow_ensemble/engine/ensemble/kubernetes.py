"""The ``execution.kubernetes`` section: what pods of workers are made of.

A closed list of keys, each judged as the API server would, so that a mistake is found while it can
still be named by file and key. Values come back as Kubernetes spells them: sizes as ``4096Mi``,
cores as ``500m``, tolerations with its own keys. Secrets are only ever named, because a pod's spec
has many readers: whatever looks like a secret is refused, and not repeated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from airflow_ensemble.engine.ensemble.credentials import holds_secret, names_secret
from airflow_ensemble.engine.ensemble.paths import CONTAINER, expand
from airflow_ensemble.engine.ensemble.schema import (
    Place,
    check_known,
    read_choice,
    read_flag,
    read_mapping,
    read_mebibytes,
    read_seconds,
    read_text,
    read_texts,
    read_whole,
    refuse,
    suggest,
)
from airflow_ensemble.engine.ensemble.written import WrittenTruth, as_text, plain
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.parameters import as_argument

#: The key of a Secret that holds the index's DSN, where ``index_secret`` names none.
INDEX_KEY = "dsn"
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

#: What a worker's pod sets itself: variables, and labels by which pods are found again.
_OWN_VARIABLES = ("ENSEMBLE_INDEX", "ENSEMBLE_WORKER")
_OWN_LABELS = ("ensemble", "batch", "dag", "run", "task", "map-index")
_OWN_LABEL_PREFIX = "app.kubernetes.io/"

# Names by RFC 1123, as the API server reads them.
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"(?!.{{254}}){_LABEL}(?:\.{_LABEL})*"
_QUALIFIED = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = rf"(?:{_SUBDOMAIN}/)?{_QUALIFIED}"
_LABEL_VALUE = rf"(?:{_QUALIFIED})?"
_DEVICE = rf"{_SUBDOMAIN}/{_QUALIFIED}"
_SECRET_KEY = r"[-._A-Za-z0-9]{1,253}"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"

# An image as container engines read it: [host[:port]/]path[:tag][@digest].
_HOST = r"[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_IMAGE = (
    rf"(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*(?::[A-Za-z0-9_][-A-Za-z0-9_.]{{0,127}})?"
    r"(?:@[a-z0-9]+:[0-9a-f]{32,})?"
)
_CORES = re.compile(r"([0-9]+)m|([0-9]+(?:\.[0-9]+)?)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def read_kubernetes(value: Any, place: Place) -> dict[str, Any]:
    """Return the options of the backend ``kubernetes``, as Kubernetes spells them.

    In keys, ``-`` and ``_`` are equal; they come back with ``_``.

    :param value: of the key ``execution.kubernetes``.
    :raises UsageError: on an unknown key, naming the nearest one, on a value that the API server
        would refuse, and on a secret.
    """
    options: dict[str, Any] = {}
    for key, item in read_mapping(value, place).items():
        name = key.replace("-", "_")
        if name not in _READERS:
            raise UsageError(f"{place.below(key)} is not a known key{suggest(name, KEYS)}")
        if name in options:
            raise UsageError(f"{place.below(key)} is given twice: '-' and '_' are equal in keys")
        if item is not None:
            options[name] = _READERS[name](item, place.below(key))
    return options


# --- names ----------------------------------------------------------------------------------------


def read_namespace(value: Any, place: Place) -> str:
    """Return the name of a namespace: one label of RFC 1123."""
    expected = "a name of small letters, digits and '-' (not at its ends), at most 63"
    return read_text(value, place, _LABEL, expected)


def read_object_name(value: Any, place: Place) -> str:
    """Return the name of an object, such as a Secret: a subdomain of RFC 1123."""
    expected = "a name of small letters, digits, '-' and '.' (not at its ends), at most 253"
    return read_text(value, place, _SUBDOMAIN, expected)


def read_image(value: Any, place: Place) -> str:
    """Return the name of a container image."""
    expected = "an image such as registry.example.org/group/worker:1.0"
    return read_text(value, place, _IMAGE, expected)


def _read_object_names(value: Any, place: Place) -> tuple[str, ...]:
    names = read_texts(value, place)
    return tuple(read_object_name(name, place.below(str(i))) for i, name in enumerate(names))


def _read_index_secret(value: Any, place: Place) -> str:
    """Return ``name/key``: the Secret, and the key in it, that hold the DSN of the index."""
    if isinstance(value, str) and holds_secret(value):
        raise UsageError(f"{place} holds a password: put the DSN into a Secret, and name it here")
    expected = f"the name of a Secret, or name/key (the key is {INDEX_KEY!r} by default)"
    text = read_text(value, place, rf"{_SUBDOMAIN}(?:/{_SECRET_KEY})?", expected)
    return text if "/" in text else f"{text}/{INDEX_KEY}"


def _read_context(value: Any, place: Place) -> str:
    return read_text(value, place, r"[^\s-]\S*", "the name of a context of kubectl")


# --- sizes ----------------------------------------------------------------------------------------


def _read_size(value: Any, place: Place) -> str:
    return f"{read_mebibytes(value, place)}Mi"


def _read_cpu(value: Any, place: Place) -> str:
    """Return cores as whole ones, else as thousandths rounded up."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match = _CORES.fullmatch(str(plain(value))) if is_number or isinstance(value, str) else None
    milli = 0 if match is None else math.ceil(float(match[1] or 1000 * float(match[2] or 0)))
    if milli < 1:
        refuse(place, "a positive number of cores such as 2 or 0.5, or a text such as 500m", value)
    return f"{milli}m" if milli % 1000 else str(milli // 1000)


def _read_devices(value: Any, place: Place) -> dict[str, int]:
    devices = {}
    for key, count in read_mapping(value, place).items():
        name = read_text(key, place, _DEVICE, "a mapping such as {nvidia.com/gpu: 1}")
        devices[name] = read_whole(count, place.below(key), 1)
    return devices


# --- mappings -------------------------------------------------------------------------------------


def _read_env(value: Any, place: Place) -> dict[str, str]:
    """Return variables with plain values; no message repeats a value."""
    return {
        _read_variable(key, place): _read_value(key, item, place.below(key))
        for key, item in read_mapping(value, place).items()
    }


def _read_variable(name: str, place: Place) -> str:
    expected = "a mapping whose keys are letters, digits and '_', not beginning with a digit"
    read_text(name, place, _VARIABLE, expected)
    if name in _OWN_VARIABLES:
        raise UsageError(f"{place.below(name)} is set by the worker's pod itself")
    return name


def _read_value(name: str, value: Any, place: Place) -> str:
    is_truth = isinstance(value, (bool, WrittenTruth))
    text = as_argument(value) if is_truth else as_text(value)
    if not isinstance(text, str) or _CONTROL.search(text):
        raise UsageError(f"{place} must be a text, a number, true or false")
    if names_secret(name) or holds_secret(text):
        raise UsageError(
            f"{place} looks like a secret, and what is written here stands in the spec of every "
            "pod: put it into a Secret of the cluster, and name that in env_from"
        )
    return str(text)


def _read_labels(value: Any, place: Place) -> dict[str, str]:
    labels = _read_selector(value, place)
    for key in labels:
        if key in _OWN_LABELS or key.startswith(_OWN_LABEL_PREFIX):
            raise UsageError(f"{place.below(key)} is set by the worker's pod itself")
    return labels


def _read_selector(value: Any, place: Place) -> dict[str, str]:
    """Return labels: keys with an optional prefix, values of at most 63 letters."""
    expected = "a text of letters, digits, '-', '_' and '.', at most 63 (quote true)"
    return {
        _read_label_key(key, place): read_text(
            as_text(item), place.below(key), _LABEL_VALUE, expected
        )
        for key, item in read_mapping(value, place).items()
    }


def _read_annotations(value: Any, place: Place) -> dict[str, str]:
    annotations = {}
    for key, item in read_mapping(value, place).items():
        text = read_text(as_text(item), place.below(key), r"(?s).*", "a text (quote true)")
        if holds_secret(text):
            raise UsageError(f"{place.below(key)} looks like a secret: many can read annotations")
        annotations[_read_label_key(key, place)] = text
    return annotations


def _read_label_key(key: Any, place: Place) -> str:
    expected = "a mapping whose keys are labels such as pool or example.org/pool"
    return read_text(key, place, _LABEL_KEY, expected)


def _read_tolerations(value: Any, place: Place) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, (list, tuple)):
        refuse(place, "a list of mappings such as {key: spot, operator: Exists}", value)
    return tuple(_read_toleration(item, place.below(str(i))) for i, item in enumerate(value))


def _read_toleration(value: Any, place: Place) -> dict[str, Any]:
    given = read_mapping(value, place)
    check_known(given, tuple(_TOLERATION), place)
    read = {key: _TOLERATION[key](item, place.below(key)) for key, item in given.items()}
    if read.get("operator") == "Exists" and "value" in read:
        raise UsageError(f"{place}: the operator Exists takes no value")
    if "key" not in read and read.get("operator") != "Exists":
        raise UsageError(f"{place}: without a key the operator must be Exists")
    if "tolerationSeconds" in read and read.get("effect") != "NoExecute":
        raise UsageError(f"{place}: tolerationSeconds needs the effect NoExecute")
    return read


_TOLERATION: dict[str, Callable[[Any, Place], Any]] = {
    "key": _read_label_key,
    "operator": lambda value, place: read_choice(value, place, ("Exists", "Equal")),
    "value": lambda value, place: read_text(
        as_text(value), place, _LABEL_VALUE, "a text of at most 63 letters (quote true)"
    ),
    "effect": lambda value, place: read_choice(value, place, EFFECTS),
    "tolerationSeconds": read_whole,
}


def _read_volumes(value: Any, place: Place) -> dict[str, dict[str, Any]]:
    """Return what is mounted where: a claim's name alone, or {claim, read_only}."""
    return {
        _read_mount(path, place): _read_volume(item, place.below(path))
        for path, item in read_mapping(value, place).items()
    }


def _read_mount(path: str, place: Place) -> str:
    expected = "a mapping from absolute paths in the container to claims"
    path = expand(path, place, CONTAINER)
    read_text(path, place, r"/[^\s:]+", expected)
    if ".." in path.split("/"):
        refuse(place, expected, path)
    return path


def _read_volume(value: Any, place: Place) -> dict[str, Any]:
    given = {"claim": value} if isinstance(value, str) else read_mapping(value, place)
    check_known(given, ("claim", "read_only"), place)
    if "claim" not in given:
        refuse(place, "the name of a PersistentVolumeClaim, or {claim, read_only}", value)
    return {
        "claim": read_object_name(given["claim"], place.below("claim")),
        "read_only": read_flag(given.get("read_only", False), place.below("read_only")),
    }


_READERS: dict[str, Callable[[Any, Place], Any]] = {
    "image": read_image,
    "image_pull_policy": lambda value, place: read_choice(value, place, PULL_POLICIES),
    "image_pull_secrets": _read_object_names,
    "context": _read_context,
    "namespace": read_namespace,
    "service_account": read_object_name,
    "index_secret": _read_index_secret,
    "env_from": _read_object_names,
    "env": _read_env,
    "cpu": _read_cpu,
    "memory": _read_size,
    "disk": _read_size,
    "devices": _read_devices,
    "node_selector": _read_selector,
    "tolerations": _read_tolerations,
    "priority_class": read_object_name,
    "volumes": _read_volumes,
    "labels": _read_labels,
    "annotations": _read_annotations,
    "grace_period": lambda value, place: math.ceil(read_seconds(value, place)),
    "keep_finished": lambda value, place: math.ceil(read_seconds(value, place)),
}
KEYS = tuple(_READERS)
