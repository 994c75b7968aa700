"""The pod of a worker, as ``execution.kubernetes`` of an ensemble file describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ensemble.kubernetes.pod import COMMAND, CONTAINER, SecretKey, worker_environment

#: Where every worker may write, also when the root of its image is read-only.
SCRATCH = "/tmp"


def pod_template(
    options: Mapping[str, Any],
    *,
    index: SecretKey,
    arguments: Sequence[str],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """Return metadata and spec of a worker's pod.

    :param options: as :func:`airflow_ensemble.engine.ensemble.kubernetes.read_kubernetes` returns
        them; what is absent is left to the cluster.
    :param index: where the address of the index is.
    :param arguments: of the worker.
    :param labels: of the pod, beside those of the options.
    """
    metadata = {
        "namespace": options.get("namespace"),
        "labels": {**options.get("labels", {}), **labels},
        "annotations": options.get("annotations"),
    }
    mounts = options.get("volumes", {})
    spec = {
        "restartPolicy": "Never",
        "serviceAccountName": options.get("service_account"),
        # A worker asks nothing of the API server.
        "automountServiceAccountToken": False,
        "imagePullSecrets": [{"name": name} for name in options.get("image_pull_secrets", ())],
        "nodeSelector": options.get("node_selector"),
        "tolerations": [dict(one) for one in options.get("tolerations", ())],
        "priorityClassName": options.get("priority_class"),
        "terminationGracePeriodSeconds": options.get("grace_period"),
        "containers": [_container(options, index, arguments)],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            *(_volume(number, mount) for number, mount in enumerate(mounts.values())),
        ],
    }
    return {"metadata": _without_absent(metadata), "spec": _without_absent(spec)}


def _container(
    options: Mapping[str, Any], index: SecretKey, arguments: Sequence[str]
) -> dict[str, Any]:
    plain = [{"name": name, "value": value} for name, value in options.get("env", {}).items()]
    mounts = options.get("volumes", {})
    return _without_absent(
        {
            "name": CONTAINER,
            "image": options.get("image"),
            "imagePullPolicy": options.get("image_pull_policy"),
            "command": list(COMMAND),
            "args": list(arguments),
            "env": [*worker_environment(index), *plain],
            "envFrom": [{"secretRef": {"name": name}} for name in options.get("env_from", ())],
            "resources": _resources(options),
            "volumeMounts": [
                {"name": "scratch", "mountPath": SCRATCH},
                *(_mount(number, path, mounts[path]) for number, path in enumerate(mounts)),
            ],
        }
    )


def _resources(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a worker needs, as request and limit alike: only its own greed kills it."""
    needs = {
        "cpu": options.get("cpu"),
        "memory": options.get("memory"),
        "ephemeral-storage": options.get("disk"),
        **{name: str(count) for name, count in options.get("devices", {}).items()},
    }
    given = _without_absent(needs)
    return {"requests": given, "limits": dict(given)} if given else None


def _volume(number: int, mount: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": mount["claim"]}}


def _mount(number: int, path: str, mount: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": f"claim-{number}", "mountPath": path, "readOnly": mount["read_only"]}


def _without_absent(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what there is; no, 0 and the empty text are values."""
    absent: tuple[object, ...] = (None, [], {})
    return {key: value for key, value in values.items() if value not in absent}
