"""Array expressions and ids, as Slurm really writes them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.slurm.arrays import (
    Elements,
    JobId,
    format_elements,
    parse_elements,
    parse_job_id,
)

indices = st.integers(0, 4_000_000)


@given(st.sets(indices, min_size=1, max_size=60), st.none() | st.integers(1, 5000))
def test_what_is_written_is_read_again(wanted: set[int], limit: int | None) -> None:
    text = format_elements(wanted, limit)
    for shown in (text, f"[{text}]"):
        read = parse_elements(shown)
        assert sorted(read) == sorted(wanted)
        assert (read.limit, read.truncated, len(read)) == (limit, False, len(wanted))


@given(st.sets(indices, min_size=1, max_size=60), st.data())
def test_what_is_left_of_a_cut_expression_is_true(wanted: set[int], data: st.DataObject) -> None:
    text = f"[{format_elements(wanted)}]"
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    for shown in (cut, f"{cut}...]", f"{cut}...%3]"):
        read = parse_elements(shown)
        assert read.truncated
        assert set(read) <= wanted


@given(st.text(max_size=40) | st.from_regex(r"[\d_\[\],%:+.;-]{0,20}", fullmatch=True))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_elements, parse_job_id):
        with contextlib.suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-5%2", Elements((range(6),), 2)),
        ("[0-198:2]", Elements((range(0, 199, 2),))),
        ("[2,4%1]", Elements((range(2, 3), range(4, 5)), 1)),
        ("[9201-10000%500]", Elements((range(9201, 10001),), 500)),
        ("[0-2,6-9]", Elements((range(3), range(6, 10)))),
        ("[0-1,4,9,10", Elements((range(2), range(4, 5), range(9, 10)), None, True)),
        ("[0,7,14,2...]", Elements((range(1), range(7, 8), range(14, 15)), None, True)),
    ],
)
def test_seff_array_15_what_slurm_prints_of_arrays(text: str, expected: Elements) -> None:
    assert parse_elements(text) == expected


def test_a_huge_range_costs_nothing() -> None:
    huge = parse_elements("0-4000000")
    assert 4_000_000 in huge
    assert 4_000_001 not in huge
    assert len(huge) == 4_000_001


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("11", JobId("11")),
        ("11_3", JobId("11", Elements((range(3, 4),)))),
        ("11_[2-5%2]", JobId("11", Elements((range(2, 6),), 2))),
        ("11_[2-5,1", JobId("11", Elements((range(2, 6),), None, True))),
        ("123+1", JobId("123", None, 1)),
        ("67108865;hpc-2", JobId("67108865")),
    ],
)
def test_ids(text: str, expected: JobId) -> None:
    assert parse_job_id(text) == expected


@pytest.mark.parametrize("text", ["", "JOBID", "11.batch", "11_3.0", "CLUSTER: x", "11_[x]", "-1"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_job_id(text)


def test_an_array_needs_indices() -> None:
    for wrong in ([], [-1, 2]):
        with pytest.raises(ValueError, match="needs indices"):
            format_elements(wrong)
