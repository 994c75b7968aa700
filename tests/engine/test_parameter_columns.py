"""Parameters as a column: each value exactly, whatever stands beside it."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.parameter_columns import parameter_column

BIG = 9007199254740993


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1, 2], "int64", [1, 2]),
        ([BIG, -(2**63)], "int64", [BIG, -(2**63)]),
        ([0, 2**64 - 1], "uint64", [0, 2**64 - 1]),
        ([-1, 2**64 - 1], "object", ["-1", "18446744073709551615"]),
        ([2**70, 1], "object", ["1180591620717411303424", "1"]),
        ([1, 0.5], "float64", [1.0, 0.5]),
        ([BIG, 0.5], "object", ["9007199254740993", "0.5"]),
        ([10**400, 0.5], "object", [str(10**400), "0.5"]),
        ([BIG - 1, 0.5], "float64", [float(BIG - 1), 0.5]),
        ([BIG, None], "object", ["9007199254740993", ""]),
        ([True, False], "bool", [True, False]),
        ([True, None], "object", ["true", ""]),
        ([True, 1], "object", ["true", "1"]),
        (["a", None], "object", ["a", ""]),
        (["", "a"], "object", ["", "a"]),
        (["", None], "object", ['""', "null"]),
        (["1", "x"], "object", ["1", "x"]),
        ([1, "x"], "object", ["1", "x"]),
        ([1, "1"], "object", ["1", '"1"']),
        ([1.0, "1"], "object", ["1.0", "1"]),
        ([[1, 2], None], "object", ["[1,2]", ""]),
        ([[1], "[1]"], "object", ["[1]", '"[1]"']),
    ],
)
def test_one_type_holds_every_value(values: list[Any], dtype: str, expected: list[Any]) -> None:
    for order in (1, -1):
        column = parameter_column(values[::order])
        assert column.dtype == dtype
        assert column.tolist() == expected[::order]


def test_a_missing_number_is_nan() -> None:
    column = parameter_column([1, None, 2.5])
    assert column.dtype == "float64"
    assert np.isnan(column[1])
    assert column[[0, 2]].tolist() == [1, 2.5]


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([BIG, -BIG, 2**53, 2**63, 2**64])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("01.aü", max_size=3)
    | st.lists(st.integers(0, 3), max_size=2)
)


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(0, 99))
def test_no_two_values_become_one_and_the_order_changes_nothing(
    values: list[Any], seed: int
) -> None:
    column = parameter_column(values).tolist()
    order = list(range(len(values)))
    random.Random(seed).shuffle(order)
    again = parameter_column([values[place] for place in order]).tolist()
    for value, found in zip(values, column):
        assert _is(value, found), (value, found)
    assert list(map(repr, again)) == [repr(column[place]) for place in order]
    for (one, first), (other, second) in itertools.combinations(zip(values, column), 2):
        if repr(first) == repr(second):
            assert one == other
            assert isinstance(one, bool) == isinstance(other, bool)


def _is(value: Any, found: Any) -> bool:
    """Return whether what was found says the value, the whole value and nothing else."""
    if not isinstance(found, str):
        return found == value or (value is None and found != found)
    if isinstance(value, str):
        return found in (value, json.dumps(value, ensure_ascii=False), json.dumps(value))
    return json.loads(found) == value if found else value is None
