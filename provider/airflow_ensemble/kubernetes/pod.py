"""What the pod of a worker is made of: command, environment, labels, names.

Everything is plain text and plain dicts as the API server's JSON has them, so that a manifest and
an operator are made from the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_ensemble.engine.errors import UsageError

#: Name of the container that runs the worker.
CONTAINER = "worker"
#: What every worker image has on its PATH.
COMMAND: Sequence[str] = ("ensemble",)
#: Environment variables of the container: where the index is, and what the worker calls itself.
INDEX_VARIABLE = "ENSEMBLE_INDEX"
WORKER_VARIABLE = "ENSEMBLE_WORKER"
#: Key of the index's address in a Secret that is named without one.
DEFAULT_KEY = "dsn"
#: Longest value of a label, and longest name that a pod's hostname can hold.
MAX_LABEL = 63

_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_SECRET_KEY = re.compile(r"[A-Za-z0-9_.-]{1,253}")


@dataclass(frozen=True)
class SecretKey:
    """One value in a Kubernetes Secret, by reference.

    :param name: of the Secret.
    :param key: of the value in it.
    """

    name: str
    key: str = DEFAULT_KEY


def read_secret_key(text: str) -> SecretKey:
    """Return what ``name`` or ``name/key`` refers to.

    :raises UsageError: when the text is neither.
    """
    name, slash, key = text.partition("/")
    is_name = len(name) <= 253 and _OBJECT_NAME.fullmatch(name)
    if not is_name or not _SECRET_KEY.fullmatch(key if slash else DEFAULT_KEY):
        # What was given may be the secret itself, in the wrong place.
        raise UsageError(
            "the Secret that holds the index's address must be named as NAME or NAME/KEY, in lower "
            "case letters, digits, '-' and '.'; the address itself belongs into that Secret"
        )
    return SecretKey(name, key or DEFAULT_KEY)


def worker_arguments(
    ensemble: str,
    settings: str | None = None,
    *,
    cpus: int = 1,
    serve: bool = False,
    failed_ok: bool = False,
) -> list[str]:
    """Return the arguments that follow :data:`COMMAND` in the container.

    :param ensemble: its name.
    :param settings: settings hash, or its beginning; None takes the newest.
    :param cpus: simulations to run at one time.
    :param serve: wait for more work when there is none, for ever.
    :param failed_ok: end well although simulations failed: somebody else judges them.
    """
    arguments = ["serve" if serve else "pull-worker", "--index", f"env:{INDEX_VARIABLE}"]
    arguments += ["--name", ensemble]
    if settings is not None:
        arguments += ["--settings", settings]
    arguments += ["--cpus", str(cpus)]
    return [*arguments, "--failed-ok"] if failed_ok else arguments


def worker_environment(index: SecretKey) -> list[dict[str, Any]]:
    """Return the entries of the container's ``env``.

    The address of the index stays in its Secret. A worker bears the name of its pod, so that what
    becomes of a pod can be said of its worker.

    :param index: where the address of the index is.
    """
    secret = {"name": index.name, "key": index.key}
    return [
        {"name": INDEX_VARIABLE, "valueFrom": {"secretKeyRef": secret}},
        {"name": WORKER_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]


def labels(
    ensemble: str, batch: str | None = None, *, component: str = "pull-worker"
) -> dict[str, str]:
    """Return the labels of a worker's pod.

    :param ensemble: its name.
    :param batch: id of the batch that the pod was started for; None when it serves any.
    :param component: what part of an ensemble it is.
    """
    found = {
        "ensemble": label_value(ensemble),
        "app.kubernetes.io/name": "ensemble-worker",
        "app.kubernetes.io/component": label_value(component),
        "app.kubernetes.io/part-of": label_value(ensemble),
        "app.kubernetes.io/managed-by": "airflow-provider-ensemble",
    }
    return found if batch is None else {**found, "batch": label_value(batch)}


def selector(labels: Mapping[str, str]) -> str:
    """Return the text that selects what bears all of these labels."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def label_value(text: str) -> str:
    """Return a text as the value of a label; one that is none gets a digest, to stay unique."""
    if _LABEL_VALUE.fullmatch(text):
        return text
    return _shorten(re.sub(r"[^A-Za-z0-9_.-]+", "-", text), text, MAX_LABEL)


def object_name(text: str, limit: int = MAX_LABEL) -> str:
    """Return a text as the name of an object: lower case letters, digits and ``-``.

    One that is none gets a digest, to stay unique.

    :param limit: characters, 16 or more.
    """
    if _OBJECT_NAME.fullmatch(text) and "." not in text and len(text) <= limit:
        return text
    return _shorten(re.sub(r"[^a-z0-9]+", "-", text.lower()), text, limit)


def _shorten(plain: str, text: str, limit: int) -> str:
    """Return as much of ``plain`` as there is room for, and a digest of ``text``."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    kept = plain[: limit - len(digest) - 1].strip("-_.")
    return f"{kept}-{digest}" if kept else digest
