"""What a worker's pod holds: every value is one that the API server takes, and holds no secret."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.kubernetes.pod import (
    SecretKey,
    label_value,
    labels,
    object_name,
    read_secret_key,
    selector,
    worker_arguments,
    worker_environment,
)

#: As validation of the API server has it.
QUALIFIED = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
texts = st.text(max_size=120) | st.from_regex(r"[A-Za-z0-9_.-]{0,80}", fullmatch=True)


@given(texts)
def test_any_text_becomes_the_value_of_a_label(text: str) -> None:
    value = label_value(text)
    assert len(value) <= 63
    assert QUALIFIED.fullmatch(value)
    assert label_value(value) == value


@given(texts, texts)
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (label_value(one) == label_value(other)) == (one == other)
    assert (object_name(one) == object_name(other)) == (one == other)


@given(texts, st.integers(16, 63))
def test_any_text_becomes_a_name(text: str, limit: int) -> None:
    name = object_name(text, limit)
    assert len(name) <= limit
    assert DNS_LABEL.fullmatch(name)
    assert object_name(name, limit) == name


@pytest.mark.parametrize("text", ["slc-footprints", "a", "0", "x" * 63])
def test_what_is_fit_already_stays_as_it_is(text: str) -> None:
    assert label_value(text) == text
    assert object_name(text) == text


def test_labels_say_whose_pod_it_is() -> None:
    found = labels("SLC footprints", "0a1b2c3d4e")
    assert found["batch"] == "0a1b2c3d4e"
    assert found["ensemble"] == label_value("SLC footprints")
    assert all(QUALIFIED.fullmatch(value) for value in found.values())
    assert "batch" not in labels("x", component="serve")
    assert selector({"b": "2", "a": "1"}) == "a=1,b=2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("index", SecretKey("index", "dsn")),
        ("index/url", SecretKey("index", "url")),
        ("my.index-1/the_dsn.v2", SecretKey("my.index-1", "the_dsn.v2")),
    ],
)
def test_a_secret_is_named_with_or_without_a_key(text: str, expected: SecretKey) -> None:
    assert read_secret_key(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "/dsn", "Index", "index/", "a/b/c", "-a", "a-", "a..b", "index/the key", "x" * 254],
)
def test_what_names_no_secret_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="NAME/KEY"):
        read_secret_key(text)


def test_an_address_in_place_of_a_secrets_name_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        read_secret_key("postgresql://me:hunter2@db/index")
    assert "hunter2" not in str(caught.value)


def test_the_container_is_told_all_but_the_address() -> None:
    arguments = worker_arguments("slc", "0a1b2c3d", cpus=4, failed_ok=True)
    assert arguments == [
        *("pull-worker", "--index", "env:ENSEMBLE_INDEX", "--name", "slc"),
        *("--settings", "0a1b2c3d", "--cpus", "4", "--failed-ok"),
    ]
    assert worker_arguments("slc", serve=True) == [
        *("serve", "--index", "env:ENSEMBLE_INDEX", "--name", "slc", "--cpus", "1"),
    ]


def test_the_address_comes_from_a_secret_and_the_workers_name_from_its_pod() -> None:
    index, worker = worker_environment(SecretKey("index", "url"))
    assert index["valueFrom"] == {"secretKeyRef": {"name": "index", "key": "url"}}
    assert worker["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert (index["name"], worker["name"]) == ("ENSEMBLE_INDEX", "ENSEMBLE_WORKER")
    assert '"value":' not in json.dumps([index, worker])
