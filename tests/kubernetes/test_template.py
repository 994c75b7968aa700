"""The pod that an ensemble file describes, held to the Kubernetes client's own model of a pod."""

from __future__ import annotations

import json
from typing import Any

from airflow_ensemble.engine.ensemble.kubernetes import KEYS, read_kubernetes
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.kubernetes.pod import SecretKey, labels, worker_arguments
from airflow_ensemble.kubernetes.template import pod_template

EVERYTHING: dict[str, Any] = {
    "image": "registry.example.org/worker:1",
    "image_pull_policy": "IfNotPresent",
    "image_pull_secrets": ["registry"],
    "context": "prod",
    "namespace": "footprints",
    "service_account": "worker",
    "index_secret": "index/url",
    "env_from": ["object-store"],
    "env": {"AWS_ENDPOINT_URL": "http://s3:9000"},
    "cpu": 2,
    "memory": "4G",
    "disk": "10G",
    "devices": {"nvidia.com/gpu": 1},
    "node_selector": {"pool": "spot"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "priority_class": "low",
    "volumes": {"/met": {"claim": "met", "read_only": True}, "/cache": "cache"},
    "labels": {"team": "slc"},
    "annotations": {"example.org/owner": "slc"},
    "grace_period": 45,
    "keep_finished": 60,
}


def made(options: dict[str, Any]) -> dict[str, Any]:
    return pod_template(
        read_kubernetes(options, Place("ensemble.yaml", "execution.kubernetes")),
        index=SecretKey("index", "url"),
        arguments=worker_arguments("slc", "0a1b2c3d"),
        labels=labels("slc", "b1"),
    )


def test_every_option_reaches_the_pod() -> None:
    assert set(EVERYTHING) == set(KEYS)
    pod = made(EVERYTHING)
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert pod["metadata"]["namespace"] == "footprints"
    assert pod["metadata"]["labels"]["team"] == "slc"
    assert pod["metadata"]["labels"]["batch"] == "b1"
    assert pod["metadata"]["annotations"] == {"example.org/owner": "slc"}
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("worker", "low")
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"]) == ("Never", 45)
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["nodeSelector"] == {"pool": "spot"}
    assert spec["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    needs = {"cpu": "2", "memory": "4096Mi", "ephemeral-storage": "10240Mi", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"requests": needs, "limits": needs}
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert (container["name"], container["command"]) == ("worker", ["ensemble"])
    assert container["envFrom"] == [{"secretRef": {"name": "object-store"}}]
    assert container["env"][-1] == {"name": "AWS_ENDPOINT_URL", "value": "http://s3:9000"}
    claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"][1:]}
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    assert {path: claims.get(m["name"]) for path, m in mounts.items()} == {
        "/tmp": None,
        "/met": "met",
        "/cache": "cache",
    }
    assert (mounts["/met"]["readOnly"], mounts["/cache"]["readOnly"]) == (True, False)


def test_what_is_not_given_is_left_to_the_cluster() -> None:
    pod = made({"image": "worker:1"})
    assert "namespace" not in pod["metadata"]
    assert set(pod["spec"]) == {
        *("restartPolicy", "automountServiceAccountToken", "containers", "volumes"),
    }
    assert "resources" not in pod["spec"]["containers"][0]


def test_the_client_knows_every_key() -> None:
    """A misspelt key would be dropped, and nobody would hear of it."""
    from kubernetes.client import ApiClient

    pod = made(EVERYTHING)
    client = ApiClient()

    class Answer:
        data = json.dumps(pod)

    read = client.deserialize(Answer(), "V1Pod")
    assert client.sanitize_for_serialization(read) == pod
