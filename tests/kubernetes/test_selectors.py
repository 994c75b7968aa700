"""The fake's reading of selectors, patches, quantities and arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.services.kube_objects import (
    Refused,
    expanded,
    fields_match,
    labels_match,
    merged,
    name_of,
    quantity,
)

LABELS = {"app": "ensemble", "example.org/tier": "back", "empty": ""}
WORDS = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ("", True),
        ("app=ensemble", True),
        ("app == ensemble", True),
        ("app!=ensemble", False),
        ("app!=other", True),
        ("absent!=other", True),
        ("app", True),
        ("absent", False),
        ("!absent", True),
        ("! app", False),
        ("app in (a, ensemble)", True),
        ("app notin (a,b)", True),
        ("absent notin (a)", True),
        ("absent in (a)", False),
        ("example.org/tier=back,app=ensemble", True),
        ("example.org/tier=back,app=other", False),
        ("empty=", True),
        ("app=ensemble,already_checked!=True,!airflow-worker", True),
    ],
)
def test_labels(selector: str, fits: bool) -> None:
    assert labels_match(selector, LABELS) is fits


@pytest.mark.parametrize("selector", ["a=b c", "a in b", "=", "a=b,,c", "a=(b)"])
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(Refused) as caught:
        labels_match(selector, {"a": "b"})
    assert caught.value.code == 400


@given(st.dictionaries(WORDS, WORDS, max_size=5))
def test_labels_select_themselves(labels: dict[str, str]) -> None:
    assert labels_match(",".join(f"{key}={value}" for key, value in labels.items()), labels)
    for key, value in labels.items():
        assert not labels_match(f"{key}!={value}", labels)
        assert not labels_match(f"!{key}", labels)
        assert not labels_match(f"{key} notin ({value}, other)", labels)


def test_fields() -> None:
    pod = {"metadata": {"name": "a"}, "status": {"phase": "Running"}, "spec": {}}
    assert fields_match("pods", "metadata.name=a,status.phase!=Failed", pod)
    assert not fields_match("pods", "spec.nodeName=somewhere", pod)
    with pytest.raises(Refused):
        fields_match("pods", "reason=x", pod)


def test_a_merge_patch() -> None:
    target = {"a": {"b": "1", "c": "2"}, "d": [1]}
    assert merged(target, {"a": {"b": None, "e": "3"}, "d": [2]}) == {
        "a": {"c": "2", "e": "3"},
        "d": [2],
    }
    assert target == {"a": {"b": "1", "c": "2"}, "d": [1]}


JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(st.text(max_size=2), JSON, max_size=3)


@given(MAPPINGS, MAPPINGS)
def test_a_patch_twice_is_a_patch_once(target: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merged(target, patch)
    assert merged(once, patch) == once


@pytest.mark.parametrize(
    ("text", "number"),
    [("64Mi", 64 * 2**20), ("1Gi", 2**30), ("500m", 0.5), ("2", 2), (3, 3), ("1k", 1000)],
)
def test_quantities(text: str, number: float) -> None:
    assert quantity(text) == number


def test_arguments() -> None:
    assert expanded("$(A)-$(B) $$(A) $A", {"A": "1"}) == "1-$(B) $(A) $A"


def test_names() -> None:
    assert name_of({"name": "given", "generateName": "made-"}) == "given"
    made = {name_of({"generateName": "made-"}) for _ in range(20)}
    assert len(made) > 1
    assert all(name.startswith("made-") and len(name) == 10 for name in made)
