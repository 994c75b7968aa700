"""Manifests of workers without Airflow: a Job that drains, a Deployment that serves.

Plain dicts, as the API server's JSON has them, with what both need beside them.

Pods are made to the restricted standard of pod security: no root, no privileges to be gained, a
root file system that is only read, and ``/tmp`` as scratch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_ensemble.kubernetes.pod import (
    CONTAINER,
    SecretKey,
    label_value,
    labels,
    object_name,
    read_secret_key,
    worker_arguments,
)
from airflow_ensemble.kubernetes.template import pod_template

#: The Secret with the index's DSN, where the ensemble file names none.
INDEX_SECRET = "ensemble-index"
#: The service accounts of the examples: of workers, and of Airflow.
WORKER_ACCOUNT = "ensemble-worker"
AIRFLOW_ACCOUNT = "ensemble-airflow"
#: Seconds between SIGTERM and SIGKILL.
GRACE_PERIOD = 30
#: Seconds that a finished Job is kept, with its pods and their logs.
KEEP_FINISHED = 86400
#: How often a pod of a Job is replaced that died: for each of its indexes.
BACKOFF_LIMIT = 6
#: Unfinished simulations for each pod that KEDA aims at.
PER_POD = 10

#: Since which release of Kubernetes a field may be relied on.
INDEXED_JOBS = (1, 22)
FAILURE_POLICY = (1, 29)
#: What manifests are made for when nobody has asked the server: all of the above.
CURRENT = FAILURE_POLICY

#: Exit code of a worker that cannot work at all: another pod would refuse, too.
_REFUSED = 2
#: Room for ``-``, an index and the five letters of a pod, within the 63 of a host name.
_MAX_JOB_NAME = 48
_SCHEMA = "airflow_ensemble"


@dataclass(frozen=True)
class Workers:
    """What pods of workers are asked to be.

    :param ensemble: its name.
    :param settings: its full settings hash.
    :param image: what they run.
    :param n_workers: how many there are, at most.
    :param cpus: simulations that one runs at once.
    :param namespace: where they run; None leaves it to the context of ``kubectl``.
    :param options: of ``execution.kubernetes``, as
        :func:`~airflow_ensemble.engine.ensemble.kubernetes.read_kubernetes` returns them.
    :param run_limit: seconds after which a Job is ended, done or not; None is unlimited.
    """

    ensemble: str
    settings: str
    image: str
    n_workers: int = 1
    cpus: int = 1
    namespace: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    run_limit: int | None = None

    @property
    def hash8(self) -> str:
        """Return the beginning of the settings hash, as workers are given it."""
        return self.settings[:8]

    @property
    def serve_name(self) -> str:
        """Return the name of the Deployment, and of what scales it."""
        return f"{object_name(self.ensemble, _MAX_JOB_NAME - len('-serve'))}-serve"


def job_name(ensemble: str, batch: str) -> str:
    """Return the name of a batch's Job: another for each batch, the same for each retry of one."""
    return f"{object_name(ensemble, _MAX_JOB_NAME - len(batch) - 1)}-{batch}"


# --- what drains ----------------------------------------------------------------------------------


def job(workers: Workers, batch: str, release: tuple[int, int] = CURRENT) -> dict[str, Any]:
    """Return the Job whose pods drain the ensemble.

    A pod that dies is replaced: by the limit of its own index where the release has that, else of
    the Job. One that made room for others does not count.

    :param batch: id of the batch that it is started for.
    :param release: of the cluster's Kubernetes, such as (1, 31).
    """
    marks = _labels(workers, batch)
    arguments = worker_arguments(workers.ensemble, workers.hash8, cpus=workers.cpus, failed_ok=True)
    spec: dict[str, Any] = {
        "completions": workers.n_workers,
        "parallelism": workers.n_workers,
        **_backoff(workers.n_workers, release),
        "ttlSecondsAfterFinished": workers.options.get("keep_finished", KEEP_FINISHED),
        "template": _template(workers, arguments, marks),
    }
    if workers.run_limit is not None:
        spec["activeDeadlineSeconds"] = workers.run_limit
    metadata = _metadata(job_name(workers.ensemble, batch), workers.namespace, marks)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _backoff(n_workers: int, release: tuple[int, int]) -> dict[str, Any]:
    """Return what a Job does about pods that fail, as far as the release knows of it."""
    found: dict[str, Any] = {}
    if release >= INDEXED_JOBS:
        found["completionMode"] = "Indexed"
    if release < FAILURE_POLICY:
        return {**found, "backoffLimit": BACKOFF_LIMIT * n_workers}
    codes = {"containerName": CONTAINER, "operator": "In", "values": [_REFUSED]}
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    rules = [
        {"action": "Ignore", "onPodConditions": [disrupted]},
        {"action": "FailIndex", "onExitCodes": codes},
    ]
    found["backoffLimitPerIndex"] = BACKOFF_LIMIT
    return {**found, "podFailurePolicy": {"rules": rules}}


# --- what serves ----------------------------------------------------------------------------------


def deployment(workers: Workers) -> dict[str, Any]:
    """Return the Deployment of workers that never end.

    How many there are is left out, so that applying it again does not undo what scales it.
    """
    marks = _labels(workers, None, component="serve")
    found = {key: marks[key] for key in ("app.kubernetes.io/name", "app.kubernetes.io/component")}
    arguments = worker_arguments(workers.ensemble, workers.hash8, cpus=workers.cpus, serve=True)
    template = _template(workers, arguments, marks)
    template["spec"]["restartPolicy"] = "Always"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(workers.serve_name, workers.namespace, marks),
        "spec": {
            "selector": {"matchLabels": {**found, "ensemble": marks["ensemble"]}},
            "template": template,
        },
    }


def autoscaling(workers: Workers, per_pod: int = PER_POD) -> list[dict[str, Any]]:
    """Return what lets KEDA scale the Deployment: down to none when nothing is left.

    :param per_pod: unfinished simulations for each pod to aim at.
    """
    secret = _index_secret(workers)
    marks = _labels(workers, None, component="serve")
    reference = {"parameter": "connection", "name": secret.name, "key": secret.key}
    name = f"{workers.serve_name}-index"
    authentication = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "TriggerAuthentication",
        "metadata": _metadata(name, workers.namespace, marks),
        "spec": {"secretTargetRef": [reference]},
    }
    trigger = {
        "type": "postgresql",
        "metadata": {
            "query": backlog_query(workers.ensemble, workers.settings),
            "targetQueryValue": str(per_pod),
            "activationTargetQueryValue": "0",
        },
        "authenticationRef": {"name": name},
    }
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": _metadata(workers.serve_name, workers.namespace, marks),
        "spec": {
            "scaleTargetRef": {"name": workers.serve_name},
            "pollingInterval": 15,
            "cooldownPeriod": 120,
            "minReplicaCount": 0,
            "maxReplicaCount": workers.n_workers,
            "triggers": [trigger],
        },
    }
    return [authentication, scaled]


def backlog_query(ensemble: str, settings: str) -> str:
    """Return the SQL that counts what pull workers have to do, and what they are at.

    What they hold counts, too: else the last long simulations would be scaled down with the pods
    that run them. Two partial indexes answer it, so that it costs the same for a million rows.
    """
    number = (
        f"(SELECT number FROM {_SCHEMA}.ensembles WHERE name = {_quote(ensemble)} "
        f"AND settings_hash = {_quote(settings)})"
    )
    rows = f"SELECT count(*) FROM {_SCHEMA}.simulations WHERE ensemble = {number}"
    return (
        f"SELECT ({rows} AND status = 'pending') + ({rows} "
        "AND status IN ('dispatched', 'running') AND worker IS NOT NULL)"
    )


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- examples -------------------------------------------------------------------------------------


def secrets(workers: Workers) -> list[dict[str, Any]]:
    """Return examples of the Secrets that the pods read, with words in place of what is secret."""
    index = _index_secret(workers)
    values = {index.name: {index.key: "postgresql://USER:PASSWORD@HOST:5432/DATABASE"}}
    for name in workers.options.get("env_from", ()):
        values.setdefault(name, {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "SECRET"})
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": _metadata(name, workers.namespace, _shared_labels()),
            "type": "Opaque",
            "stringData": texts,
        }
        for name, texts in values.items()
    ]


def rbac(workers: Workers) -> list[dict[str, Any]]:
    """Return who may do what: workers nothing at all, Airflow what it does to pods of tasks.

    A second role holds what ``ensemble run`` on a person's machine needs; who gets it is left open.
    """
    account = workers.options.get("service_account", WORKER_ACCOUNT)
    role, subject = "Role", {"kind": "ServiceAccount", "name": AIRFLOW_ACCOUNT}
    if workers.namespace is not None:
        subject["namespace"] = workers.namespace
    return [
        {
            **_object(workers, "v1", "ServiceAccount", account),
            "automountServiceAccountToken": False,
        },
        _object(workers, "v1", "ServiceAccount", AIRFLOW_ACCOUNT),
        {
            **_object(workers, _RBAC, role, AIRFLOW_ACCOUNT),
            "rules": [
                _rule("", ["pods"], ["create", "get", "list", "watch", "patch", "delete"]),
                _rule("", ["pods/log"], ["get", "list"]),
                _rule("", ["events"], ["list", "watch"]),
            ],
        },
        {
            **_object(workers, _RBAC, "RoleBinding", AIRFLOW_ACCOUNT),
            "roleRef": {"apiGroup": _RBAC_GROUP, "kind": role, "name": AIRFLOW_ACCOUNT},
            "subjects": [subject],
        },
        {
            **_object(workers, _RBAC, role, "ensemble-run"),
            "rules": [
                _rule("batch", ["jobs"], ["create", "get", "list", "delete"]),
                _rule("", ["pods"], ["get", "list"]),
                _rule("", ["pods/log"], ["get"]),
            ],
        },
    ]


_RBAC_GROUP = "rbac.authorization.k8s.io"
_RBAC = f"{_RBAC_GROUP}/v1"


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": [*resources], "verbs": [*verbs]}


def _object(workers: Workers, version: str, kind: str, name: str) -> dict[str, Any]:
    metadata = _metadata(name, workers.namespace, _shared_labels())
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


# --- pods -----------------------------------------------------------------------------------------


def _template(
    workers: Workers, arguments: Sequence[str], marks: Mapping[str, str]
) -> dict[str, Any]:
    """Return a pod by the restricted standard, that asks at least for the cores it uses."""
    template = pod_template(
        {"grace_period": GRACE_PERIOD, **workers.options, "image": workers.image, "labels": {}},
        index=_index_secret(workers),
        arguments=arguments,
        labels=marks,
    )
    template["metadata"].pop("namespace", None)
    spec = template["spec"]
    # A Service of the namespace must not become variables of the worker.
    spec["enableServiceLinks"] = False
    spec["securityContext"] = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if "disk" in workers.options:
        spec["volumes"][0]["emptyDir"] = {"sizeLimit": workers.options["disk"]}
    (container,) = spec["containers"]
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container.setdefault("resources", {})
    resources["requests"] = {"cpu": str(workers.cpus), **resources.get("requests", {})}
    return template


def _index_secret(workers: Workers) -> SecretKey:
    return read_secret_key(workers.options.get("index_secret", INDEX_SECRET))


def _labels(workers: Workers, batch: str | None, component: str = "pull-worker") -> dict[str, str]:
    own = {
        **labels(workers.ensemble, batch, component=component),
        "settings": label_value(workers.hash8),
    }
    return {**workers.options.get("labels", {}), **own}


def _shared_labels() -> dict[str, str]:
    """Return the labels of what serves any ensemble of a namespace."""
    return {
        "app.kubernetes.io/name": "ensemble-worker",
        "app.kubernetes.io/managed-by": "airflow-provider-ensemble",
    }


def _metadata(name: str, namespace: str | None, marks: Mapping[str, str]) -> dict[str, Any]:
    found = {"name": name, "namespace": namespace, "labels": dict(marks)}
    return {key: value for key, value in found.items() if value}
