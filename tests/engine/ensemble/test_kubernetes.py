"""The ``execution.kubernetes`` section: what the API server takes, and no secret in plain sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.ensemble.execution import read_execution
from airflow_ensemble.engine.ensemble.file import merge
from airflow_ensemble.engine.ensemble.kubernetes import KEYS, read_kubernetes
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.engine.ensemble.yaml_text import parse_value
from airflow_ensemble.engine.errors import UsageError

PLACE = Place("e.yaml", "execution.kubernetes")

EVERYTHING = {
    "image": "registry.example.org:5000/group/worker:1.0", "image-pull-policy": "IfNotPresent",
    "image_pull_secrets": ["registry"], "context": "kind-kind", "namespace": "footprints",
    "service_account": "ensemble-worker", "index_secret": "ensemble-index", "env_from": "s3",
    "env": {"OMP_NUM_THREADS": 2, "FAST": True, "AWS_SHARED_CREDENTIALS_FILE": "/etc/s3"},
    "cpu": 0.5, "memory": "4Gi", "disk": 512, "devices": {"nvidia.com/gpu": 1},
    "node_selector": {"kubernetes.io/arch": "amd64", "pool": ""},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoExecute",
                     "tolerationSeconds": 60}, {"operator": "Exists"}],
    "priority_class": "batch-low", "labels": {"team": "air"}, "annotations": {"a.b/c": "any text"},
    "volumes": {"/met": "hrrr", "/data/ref": {"claim": "ref", "read_only": True}},
    "grace_period": 60, "keep_finished": "1-00:00:00",
}  # fmt: skip


def read(**given: Any) -> dict[str, Any]:
    return read_kubernetes(given, PLACE)


def test_every_key_as_kubernetes_spells_it() -> None:
    found = read_kubernetes(EVERYTHING, PLACE)
    assert found == {
        **{key.replace("-", "_"): value for key, value in EVERYTHING.items()},
        "image_pull_secrets": ("registry",), "index_secret": "ensemble-index/dsn",
        "env_from": ("s3",), "cpu": "500m", "memory": "4096Mi", "disk": "512Mi",
        "env": {"OMP_NUM_THREADS": "2", "FAST": "true", "AWS_SHARED_CREDENTIALS_FILE": "/etc/s3"},
        "tolerations": tuple(EVERYTHING["tolerations"]),  # type: ignore[arg-type]
        "volumes": {"/met": {"claim": "hrrr", "read_only": False},
                    "/data/ref": {"claim": "ref", "read_only": True}},
        "keep_finished": 86400,
    }  # fmt: skip
    assert set(found) == set(KEYS)


def test_long_numbers_are_plain_texts() -> None:
    written = parse_value(
        "{labels: {a: 20240101123456789012, b: 1.10}, annotations: {a: 20240101123456789012}, "
        "node_selector: {a: 1e5}, tolerations: [{key: a, value: 20240101123456789012}]}",
        "given",
    )
    long = "20240101123456789012"
    found = read(**written)
    assert yaml.safe_load(yaml.safe_dump({**found, "tolerations": [*found["tolerations"]]})) == {
        "labels": {"a": long, "b": "1.10"}, "annotations": {"a": long},
        "node_selector": {"a": "1e5"}, "tolerations": [{"key": "a", "value": long}],
    }  # fmt: skip


def test_absent_values_are_left_out() -> None:
    assert read(image="worker", memory=None) == {"image": "worker"}


def test_single_keys_are_overridden() -> None:
    file = {"execution": {"backend": "kubernetes", "kubernetes": {"image": "a", "env-from": "s"}}}
    merged = merge(
        file, {"execution.kubernetes.image": "b:2", "execution.kubernetes.env_from": "t"}
    )
    assert read_execution(merged["execution"], Path(), Place("e.yaml", "execution")) == {
        "backend": "kubernetes",
        "kubernetes": {"image": "b:2", "env_from": ("t",)},
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"imagePullPolicy": "Always"}, "imagePullPolicy is not a known key. Did you mean 'image_"),
        ({"mem": "4G"}, "e.yaml: execution.kubernetes.mem is not a known key. Did you mean 'mem"),
        ({"replicas": 3}, "replicas is not a known key. Known are: image, image_pull_policy"),
        ({"env_from": "a", "env-from": "b"}, "env-from is given twice"),
        ({"image": "Worker Image"}, "image must be an image such as registry"),
        ({"image": "worker:"}, "image must be an image"),
        ({"image": ""}, "image must be an image"),
        ({"image_pull_policy": "always"}, "must be one of Always, IfNotPresent, Never, found"),
        ({"namespace": "My_Space"}, "namespace must be a name of small letters"),
        ({"namespace": "a" * 64}, "namespace must be a name of small letters"),
        ({"namespace": "a.b"}, "namespace must be a name of small letters"),
        ({"service_account": "-a"}, "service_account must be a name of small letters"),
        ({"context": "--kubeconfig=x"}, "context must be the name of a context"),
        ({"index_secret": "a/b/c"}, "index_secret must be the name of a Secret, or name/key"),
        ({"index_secret": "Index"}, "index_secret must be the name of a Secret, or name/key"),
        ({"env_from": ["a", "B"]}, "env_from.1 must be a name of small letters"),
        ({"env": {"1A": "x"}}, "env must be a mapping whose keys are letters, digits and '_'"),
        ({"env": {"A": ["x"]}}, "env.A must be a text, a number, true or false"),
        ({"env": {"ENSEMBLE_INDEX": "x"}}, "env.ENSEMBLE_INDEX is set by the worker's pod itself"),
        ({"cpu": 0}, "cpu must be a positive number of cores"),
        ({"cpu": True}, "cpu must be a positive number of cores"),
        ({"cpu": "two"}, "cpu must be a positive number of cores such as 2 or 0.5"),
        ({"memory": "4 apples"}, "memory must be a positive number of MiB or a text such as"),
        ({"memory": "0M"}, "memory must be a positive number of MiB"),
        ({"devices": {"gpu": 1}}, "devices must be a mapping such as {nvidia.com/gpu: 1}"),
        ({"devices": {"nvidia.com/gpu": 0.5}}, "nvidia.com/gpu must be a whole number"),
        ({"node_selector": {"spot": True}}, "node_selector.spot must be a text of letters"),
        ({"node_selector": {"a b": "c"}}, "node_selector must be a mapping whose keys are labels"),
        ({"labels": {"a": "b/c"}}, "labels.a must be a text of letters, digits"),
        ({"labels": {"batch": "x"}}, "labels.batch is set by the worker's pod itself"),
        ({"labels": {"app.kubernetes.io/name": "x"}}, "is set by the worker's pod itself"),
        ({"tolerations": {"key": "a"}}, "tolerations must be a list of mappings such as"),
        ({"tolerations": [{"keys": "a"}]}, "tolerations.0.keys is not a known key. Did you mean"),
        ({"tolerations": [{"value": "a"}]}, "0: without a key the operator must be Exists"),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "takes no value"),
        ({"tolerations": [{"key": "a", "tolerationSeconds": 5}]}, "needs the effect NoExecute"),
        ({"volumes": {"met": "a"}}, "volumes must be a mapping from absolute paths"),
        ({"volumes": {"/../met": "a"}}, "volumes must be a mapping from absolute paths"),
        ({"volumes": {"/met": {"read_only": True}}}, "volumes./met must be the name of a Persis"),
        ({"volumes": {"/met": {"claims": "a"}}}, "volumes./met.claims is not a known key. Did"),
        ({"grace_period": -1}, "grace_period must be a positive number of seconds"),
        ("image", "execution.kubernetes must be a mapping, found the text 'image'"),
    ],
)  # fmt: skip
def test_wrong_values(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        read_kubernetes(given, PLACE)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGPASSWORD", "hunter2"), ("DB_PASSWD", "hunter2"), ("AWS_ACCESS_KEY_ID", "hunter2"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_SESSION_TOKEN", "hunter2"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "hunter2"), ("api_key", "hunter2"), ("DSN", "hunter2"),
        ("DB", "postgresql://me:hunter2@db/x"), ("DB", "postgresql://db/x?password=hunter2"),
        ("DB", "host=db user=me password=hunter2"), ("DB", "Password: hunter2"),
        ("OPTS", "--url s3://key:hunter2@bucket/x --fast"), ("K", "AKIA0123456789HUNTER2"[:20]),
        ("PEM", "-----BEGIN RSA PRIVATE KEY-----\nhunter2"),
        ("DB", "postgresql://me:hunter2@[::1/x"),
    ],
)  # fmt: skip
def test_secret_in_plain_sight_is_refused_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"env.{name} looks like a secret") as error:
        read(env={name: value})
    assert "hunter2" not in str(error.value).lower()
    assert "env_from" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB", "postgresql://me@db/x"), ("TOKENIZERS_PARALLELISM", "false"), ("KEYS", "a"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"), ("S3_ENDPOINT", "http://s3:9000"),
        ("PATH", "/usr/bin:/bin"), ("MONKEY", "x"),
    ],
)  # fmt: skip
def test_plain_value_is_taken(name: str, value: str) -> None:
    assert read(env={name: value}) == {"env": {name: value}}


@pytest.mark.parametrize("dsn", ["postgresql://me:hunter2@db/x", "host=db password=hunter2"])
def test_dsn_in_place_of_a_secrets_name(dsn: str) -> None:
    with pytest.raises(UsageError, match="index_secret holds a password") as error:
        read(index_secret=dsn)
    assert "hunter2" not in str(error.value)


def test_secret_in_an_annotation() -> None:
    with pytest.raises(UsageError, match=r"annotations\.note looks like a secret") as error:
        read(annotations={"note": "password=hunter2"})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "image",
    ["worker", "localhost/worker:1", "ghcr.io/a/b__c/d-e:v1.2_3", "a.b:5000/c",
     "Host.org/c@sha256:" + "0" * 64, "worker:1@sha256:" + "f" * 64],
)  # fmt: skip
def test_names_of_images(image: str) -> None:
    assert read(image=image) == {"image": image}


@given(st.integers(1, 10**6))
def test_cores_are_never_fewer_than_asked_for(milli: int) -> None:
    text = read(cpu=f"{milli}m")["cpu"]
    assert (int(text[:-1]) if text.endswith("m") else 1000 * int(text)) == milli
    assert read(cpu=milli / 1000)["cpu"] in (text, read(cpu=f"{milli + 1}m")["cpu"])


@given(st.text(max_size=300))
def test_names_that_are_taken_are_names_of_kubernetes(text: str) -> None:
    try:
        name = read(service_account=text)["service_account"]
    except UsageError:
        return
    assert 0 < len(name) <= 253
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert all(part and part[0] != "-" != part[-1] for part in name.split("."))


def test_keys_of_pods_beside_the_section() -> None:
    given = {"backend": "kubernetes", "image": "worker"}
    with pytest.raises(UsageError, match=r"execution\.image belongs below execution\.kubernetes"):
        read_execution(given, Path(), Place("e.yaml", "execution"))
    slurm = {"backend": "slurm", "image": "shifter:1"}
    assert read_execution(slurm, Path(), Place("e.yaml", "execution")) == slurm
