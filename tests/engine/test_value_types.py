"""Casts that keep every value, or say which one they would change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from airflow_ensemble.engine.value_types import (
    Inexact,
    canonical,
    cast,
    coarsest,
    common_type,
    fits_nanoseconds,
)

NUMBERS = ("bool", "int8", "uint8", "int32", "int64", "uint64", "float32", "float64")
EDGES = [0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.5, float("inf")]


def _plain(values: np.ndarray) -> list[object]:
    return ["nan" if value != value else value for value in values.tolist()]


@given(st.data())
def test_a_cast_keeps_every_value_or_names_one(data: st.DataObject) -> None:
    source = np.dtype(data.draw(st.sampled_from(NUMBERS)))
    edges = [edge for edge in EDGES if _holds(source, edge)]
    values = data.draw(
        npst.arrays(source, 3, elements=st.sampled_from(edges) | npst.from_dtype(source))
    )
    target = np.dtype(data.draw(st.sampled_from(NUMBERS)))
    try:
        result = cast(values, target)
    except Inexact:
        return
    assert result.dtype == target
    assert _plain(result) == _plain(values)


def _holds(dtype: np.dtype, value: float) -> bool:
    try:
        return bool(np.array(value, dtype).item() == value)
    except (OverflowError, ValueError):
        return False


@given(st.lists(st.sampled_from(NUMBERS), min_size=1), st.booleans(), st.randoms())
def test_the_common_type_does_not_depend_on_the_order(
    types: list[str], has_gaps: bool, random: object
) -> None:
    common = common_type(types, has_gaps=has_gaps, needed_unit=None)
    random.shuffle(types)  # type: ignore[attr-defined]
    assert common_type(types, has_gaps=has_gaps, needed_unit=None) == common
    assert not has_gaps or common.kind == "f"


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (np.array(["2026-01-01", "NaT"], "M8[ns]"), "s"),
        (np.array(["2026-01-01T00:00:00.25"], "M8[ns]"), "ms"),
        (np.array(["2026-01-01T00:00:00.000000001"], "M8[ns]"), "ns"),
        (np.array([1500], "m8[ms]"), "ms"),
    ],
)
def test_dates_and_durations_in_the_coarsest_unit_that_holds_them(
    values: np.ndarray, unit: str
) -> None:
    assert np.datetime_data(coarsest(values).dtype)[0] == unit
    assert fits_nanoseconds(values)
    assert not fits_nanoseconds(np.array([10**12], f"{values.dtype.kind}8[s]"))


def test_equal_values_are_one_canonical_array_whatever_their_type() -> None:
    for one, other in [
        (np.array([0, 1]), np.array([-0.0, 1.0], "f4")),
        (np.array([2**63 - 1]), np.array([2**63 - 1], "u8")),
        (np.array(["2026-01-01"], "M8[s]"), np.array(["2026-01-01"], "M8[ns]")),
    ]:
        assert canonical(one).dtype == canonical(other).dtype
        assert canonical(one).tolist() == canonical(other).tolist()
    assert canonical(np.array([2**53 + 1])).tolist() != canonical(np.array([2.0**53])).tolist()
