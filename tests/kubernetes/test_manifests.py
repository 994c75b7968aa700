"""Manifests: what the API's own schema says of them, and what they ask for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import kubernetes_validate
import pytest

from airflow_ensemble.cli.commands.manifests import render
from airflow_ensemble.engine.ensemble.kubernetes import read_kubernetes
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.kubernetes.manifests import (
    Workers,
    autoscaling,
    deployment,
    job,
    job_name,
    rbac,
    secrets,
)
from tests.engine.ensemble.test_kubernetes import EVERYTHING

SETTINGS = "0123456789abcdef" * 4
BATCH = "0a1b2c3d4e"
#: The releases that the validator knows, and one that is older than all of them.
RELEASES = [(1, minor) for minor in range(25, 38)]
OLD = (1, 20)


def workers(**given: Any) -> Workers:
    """Return workers with the given options of ``execution.kubernetes``."""
    options = read_kubernetes(given, Place("e.yaml", "execution.kubernetes"))
    return Workers(
        ensemble="footprints", settings=SETTINGS, image="worker:1", n_workers=20, cpus=2,
        namespace="air", options=options,
    )  # fmt: skip


PLAIN, FULL = workers(), workers(**EVERYTHING)  # type: ignore[arg-type]


def built_in(asked: Workers, release: tuple[int, int]) -> list[dict[str, Any]]:
    return [
        job(asked, BATCH, release), deployment(asked), *secrets(asked), *rbac(asked),
    ]  # fmt: skip


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: f"{release[0]}.{release[1]}")
@pytest.mark.parametrize("asked", [PLAIN, FULL], ids=["plain", "full"])
def test_schema_of_every_release(asked: Workers, release: tuple[int, int]) -> None:
    text = f"{release[0]}.{release[1]}"
    for document in built_in(asked, release):
        assert kubernetes_validate.validate(document, text, strict=True).startswith(text)


def test_schema_finds_what_is_wrong() -> None:
    """The validator must refuse a wrong field, or it holds nothing."""
    document = job(PLAIN, BATCH)
    document["spec"]["template"]["spec"]["containers"][0]["mounts"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.31", strict=True)


# --- the Job --------------------------------------------------------------------------------------


def test_job_drains_with_as_many_pods_as_asked_for() -> None:
    document = job(PLAIN, BATCH)
    spec, pod = document["spec"], document["spec"]["template"]["spec"]
    assert document["metadata"]["name"] == "footprints-0a1b2c3d4e"
    assert document["metadata"]["namespace"] == "air"
    assert (spec["completions"], spec["parallelism"]) == (20, 20)
    assert spec["completionMode"] == "Indexed"
    assert spec["ttlSecondsAfterFinished"] == 86400
    assert pod["restartPolicy"] == "Never"
    assert pod["containers"][0]["command"] == ["ensemble"]
    assert pod["containers"][0]["args"] == [
        "pull-worker", "--index", "env:ENSEMBLE_INDEX", "--name", "footprints",
        "--settings", "01234567", "--cpus", "2", "--failed-ok",
    ]  # fmt: skip


def test_each_batch_has_a_job_of_its_own() -> None:
    """PYSTILT's constant name: a second run silently started nothing."""
    assert job_name("footprints", "0a1b2c3d4e") != job_name("footprints", "0a1b2c3d4f")
    assert job_name("footprints", BATCH) == job_name("footprints", BATCH)


@pytest.mark.parametrize("name", ["a", "Footprints_2024.v1", "x" * 100, "a" * 99 + "b", "UPPER"])
def test_names_are_names_of_hosts(name: str) -> None:
    found = job_name(name, BATCH)
    assert found.endswith(BATCH)
    # Index and random letters of a pod must fit, too.
    assert len(found) <= 63 - len("-9999-abcde")
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert found[0] != "-"


def test_long_names_stay_apart() -> None:
    assert job_name("x" * 99 + "a", BATCH) != job_name("x" * 99 + "b", BATCH)


def test_pods_that_die_are_replaced_and_the_disrupted_do_not_count() -> None:
    spec = job(PLAIN, BATCH, (1, 31))["spec"]
    assert spec["backoffLimitPerIndex"] == 6
    assert "backoffLimit" not in spec
    disrupted, refused = spec["podFailurePolicy"]["rules"]
    assert disrupted["action"] == "Ignore"
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert refused["action"] == "FailIndex"
    assert refused["onExitCodes"]["values"] == [2]
    assert refused["onExitCodes"]["containerName"] == "worker"


def test_older_releases_get_what_they_know() -> None:
    older, oldest = (job(PLAIN, BATCH, release)["spec"] for release in ((1, 24), OLD))
    assert older["completionMode"] == "Indexed"
    assert older["backoffLimit"] == oldest["backoffLimit"] == 120
    assert {"podFailurePolicy", "backoffLimitPerIndex"}.isdisjoint(older)
    assert {"completionMode", "podFailurePolicy", "backoffLimitPerIndex"}.isdisjoint(oldest)
    assert (oldest["completions"], oldest["parallelism"]) == (20, 20)


def test_run_deadline_ends_the_job() -> None:
    limited = Workers("e", SETTINGS, "worker:1", run_limit=3600)
    assert job(limited, BATCH)["spec"]["activeDeadlineSeconds"] == 3600
    assert "activeDeadlineSeconds" not in job(PLAIN, BATCH)["spec"]


# --- pods -----------------------------------------------------------------------------------------


def pods(asked: Workers) -> Iterator[dict[str, Any]]:
    yield job(asked, BATCH)["spec"]["template"]
    yield deployment(asked)["spec"]["template"]


def test_pods_keep_the_restricted_standard() -> None:
    for template, asked in itertools.product(pods(PLAIN), [PLAIN]):
        spec, (container,) = template["spec"], template["spec"]["containers"]
        assert asked.options == {}
        assert spec["securityContext"] == {
            "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert spec["automountServiceAccountToken"] is False
        assert spec["terminationGracePeriodSeconds"] == 30
        assert spec["volumes"] == [{"name": "scratch", "emptyDir": {}}]
        assert container["volumeMounts"] == [{"name": "scratch", "mountPath": "/tmp"}]


def test_secrets_are_named_and_nothing_more() -> None:
    for template in pods(FULL):
        (container,) = template["spec"]["containers"]
        assert container["env"][0] == {
            "name": "ENSEMBLE_INDEX",
            "valueFrom": {"secretKeyRef": {"name": "ensemble-index", "key": "dsn"}},
        }
        assert container["env"][1]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
        assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
        assert {"name": "FAST", "value": "true"} in container["env"]


def test_every_option_reaches_the_pod() -> None:
    template = next(pods(FULL))
    spec, (container,) = template["spec"], template["spec"]["containers"]
    assert container["image"] == "worker:1"
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["resources"]["limits"] == {
        "cpu": "500m", "memory": "4096Mi", "ephemeral-storage": "512Mi", "nvidia.com/gpu": "1",
    }  # fmt: skip
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["serviceAccountName"] == "ensemble-worker"
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64", "pool": ""}
    assert [one["operator"] for one in spec["tolerations"]] == ["Exists", "Exists"]
    assert spec["priorityClassName"] == "batch-low"
    assert spec["terminationGracePeriodSeconds"] == 60
    assert [volume["name"] for volume in spec["volumes"]] == ["scratch", "claim-0", "claim-1"]
    assert spec["volumes"][0]["emptyDir"] == {"sizeLimit": "512Mi"}
    assert container["volumeMounts"][2] == {
        "name": "claim-1", "mountPath": "/data/ref", "readOnly": True,
    }  # fmt: skip
    assert template["metadata"]["annotations"] == {"a.b/c": "any text"}
    assert template["metadata"]["labels"]["team"] == "air"


def test_without_sizes_a_pod_asks_for_the_cores_that_it_uses() -> None:
    (container,) = next(pods(PLAIN))["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "2"}}


def test_labels_say_ensemble_batch_and_settings() -> None:
    document = job(PLAIN, BATCH)
    for found in (document["metadata"], document["spec"]["template"]["metadata"]):
        labels = found["labels"]
        assert (labels["ensemble"], labels["batch"]) == ("footprints", BATCH)
        assert labels["settings"] == "01234567"
        assert labels["app.kubernetes.io/managed-by"] == "airflow-provider-ensemble"


# --- Deployment and autoscaling -------------------------------------------------------------------


def test_deployment_serves_and_finds_its_own_pods_alone() -> None:
    spec = deployment(PLAIN)["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["args"][0] == "serve"
    assert "--failed-ok" not in container["args"]
    selected = spec["selector"]["matchLabels"]
    assert selected.items() <= spec["template"]["metadata"]["labels"].items()
    drains = job(PLAIN, BATCH)["spec"]["template"]["metadata"]["labels"]
    assert not selected.items() <= drains.items()
    # Whoever scales it would be undone by the next apply.
    assert "replicas" not in spec


def test_keda_scales_the_deployment_by_what_is_left() -> None:
    authentication, scaled = autoscaling(PLAIN, per_pod=5)
    spec = scaled["spec"]
    assert spec["scaleTargetRef"] == {"name": deployment(PLAIN)["metadata"]["name"]}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 20)
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "postgresql"
    assert trigger["metadata"]["targetQueryValue"] == "5"
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["authenticationRef"] == {"name": authentication["metadata"]["name"]}
    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "connection", "name": "ensemble-index", "key": "dsn"}
    ]


#: What KEDA's own definitions of its two kinds say: the type of each field that may stand there.
KEDA_FIELDS: Mapping[str, Mapping[str, type]] = {
    "ScaledObject": {
        "scaleTargetRef": dict, "pollingInterval": int, "initialCooldownPeriod": int,
        "cooldownPeriod": int, "idleReplicaCount": int, "minReplicaCount": int,
        "maxReplicaCount": int, "advanced": dict, "fallback": dict, "triggers": list,
    },
    "TriggerAuthentication": {"secretTargetRef": list, "env": list, "podIdentity": dict},
}  # fmt: skip


def test_fields_of_keda() -> None:
    for document in autoscaling(FULL):
        fields = KEDA_FIELDS[document["kind"]]
        assert document["apiVersion"] == "keda.sh/v1alpha1"
        assert {key: type(value) for key, value in document["spec"].items()}.items() <= (
            fields.items()
        )


# --- examples, and all together -------------------------------------------------------------------


def test_workers_may_do_nothing_and_airflow_what_it_needs() -> None:
    worker, airflow, role, binding, people = rbac(PLAIN)
    assert worker["automountServiceAccountToken"] is False
    assert worker["metadata"]["name"] == "ensemble-worker"
    verbs = {(rule["resources"][0]): set(rule["verbs"]) for rule in role["rules"]}
    assert verbs["pods"] == {"create", "get", "list", "watch", "patch", "delete"}
    assert verbs["pods/log"] == {"get", "list"}
    assert verbs["events"] == {"list", "watch"}
    assert "secrets" not in verbs
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": airflow["metadata"]["name"], "namespace": "air"}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert people["rules"][0]["resources"] == ["jobs"]


def test_examples_of_secrets_hold_none() -> None:
    index, store = secrets(FULL)
    assert index["metadata"]["name"] == "ensemble-index"
    assert index["stringData"] == {"dsn": "postgresql://USER:PASSWORD@HOST:5432/DATABASE"}
    assert store["metadata"]["name"] == "s3"


@pytest.mark.parametrize("make", [lambda w: built_in(w, (1, 31)), autoscaling])
def test_text_is_what_was_meant(make: Callable[[Workers], list[dict[str, Any]]]) -> None:
    import yaml

    documents = make(FULL)
    assert list(yaml.safe_load_all(render(documents))) == documents
    assert "&id" not in render(documents)


@pytest.mark.parametrize(
    "text",
    ["1e5", "12345e67", "-1E+3", ".5e3", "1.e5", "1_0e5", "0o17", "0X1F", "y", "N", "1.10", "007"],
)
def test_texts_are_written_so_that_kubectl_reads_texts(text: str) -> None:
    """It is written in Go, whose YAML has other numbers and truth values than Python's."""
    assert render([{"labels": {text: text}}]) == f"---\nlabels:\n  '{text}': '{text}'\n"


def test_other_texts_have_no_quotes() -> None:
    texts = ["64Mi", "500m", "e1", "bd4f34b1", "yarn", "worker:1", "a.b/c", "1e5x", "v1"]
    assert render([texts]) == "---\n" + "".join(f"- {text}\n" for text in texts)
