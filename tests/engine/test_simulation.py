from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.simulation import (
    FINAL,
    INTERRUPTIONS,
    Limits,
    Outcome,
    Product,
    Reason,
    Resources,
    canonical_json,
    check_id,
    derive_seed,
    digest,
    has_failed_for_good,
)
from tests.engine import strategies


@given(strategies.ids)
def test_good_ids_pass_unchanged(id):
    assert check_id(id) == id


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("", "empty"),
        ("a/b", "'a/b'"),
        ("..", "not allowed"),
        ("a..b", "no '..'"),
        (".hidden", "must start with"),
        ("-rf", "must start with"),
        ("a\0b", r"a\x00b"),
        ("a\nb", r"a\nb"),
        ("a b", "no spaces"),
        ("x" * 300, "300 characters"),
        ("größe", "ASCII"),
        ("a\\b", "not allowed"),
    ],
)
def test_bad_ids_are_refused_by_name(id, words):
    with pytest.raises(UsageError) as caught:
        check_id(id)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@given(st.text(max_size=300))
def test_an_accepted_id_is_one_safe_file_name(id):
    try:
        check_id(id)
    except UsageError:
        return
    assert "/" not in id
    assert id.isascii()
    assert id.isprintable()
    assert not id.startswith(("-", "."))
    assert len(id) <= 200


@given(strategies.params)
def test_digest_depends_on_values_not_on_order(params):
    turned = dict(reversed(list(params.items())))
    assert digest(params) == digest(turned)
    assert digest({**params, "one more": 1}) != digest(params)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_canonical_json_refuses_what_json_cannot_hold(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": value})


@given(st.integers(0, 2**31), strategies.ids)
def test_seed_fits_a_fortran_integer_and_is_stable(seed, id):
    own = derive_seed(seed, id)
    assert 1 <= own < 2**31
    assert own == derive_seed(seed, id)


def test_seeds_of_neighbours_differ():
    seeds = {derive_seed(seed, f"sim-{n}") for seed in range(3) for n in range(1000)}
    assert len(seeds) == 3000


def test_seed_of_one_simulation_is_fixed_for_ever():
    assert derive_seed(42, "a") == 1217223418


@given(strategies.resources)
def test_equal_needs_have_equal_classes(resources):
    assert Resources(**resources.as_dict()) == resources
    assert (resources.resource_class == "") == (resources == Resources())


@given(strategies.outcomes)
def test_outcome_survives_json(outcome):
    assert Outcome.from_dict(json.loads(json.dumps(outcome.as_dict()))) == outcome


@given(strategies.outcomes)
def test_a_reader_ignores_keys_of_later_versions(outcome):
    assert Outcome.from_dict({**outcome.as_dict(), "later": 1}) == outcome


@given(strategies.products)
def test_product_survives_json(product):
    assert Product.from_dict(product.as_dict()) == product


@pytest.mark.parametrize("reason", Reason)
def test_reasons_end_a_simulation_as_the_design_says(reason):
    limits = Limits(max_attempts=3, max_interruptions=5)
    assert has_failed_for_good(reason, 1, 1, limits) is (reason in FINAL)
    assert has_failed_for_good(reason, 3, 0, limits) is (reason not in INTERRUPTIONS)
    assert has_failed_for_good(reason, 0, 5, limits) is (reason in INTERRUPTIONS or reason in FINAL)
