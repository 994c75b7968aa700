"""Results travel as text: what comes back is what went out, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index.interface import Result
from airflow_ensemble.engine.result_lines import parse_results, read_results, render_results
from airflow_ensemble.engine.simulation import Product, ProductStatus

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
products = st.builds(
    Product,
    name=st.text(min_size=1),
    status=st.sampled_from(ProductStatus),
    path=st.none() | st.text(min_size=1),
    size=st.none() | st.integers(0),
    checksum=st.none() | st.just("sha256:" + "0" * 64),
)
results = st.builds(
    Result,
    id=st.text(min_size=1),
    params=st.dictionaries(st.text(), values, max_size=4),
    generation=st.integers(1),
    products=st.lists(products, max_size=3).map(tuple),
)


@given(st.lists(results, max_size=5))
def test_what_is_written_is_read(given_results: list[Result]) -> None:
    lines = list(render_results(given_results))
    assert all(line.count("\n") == 1 and line.endswith("\n") for line in lines)
    assert list(parse_results(lines)) == given_results


@given(st.text())
def test_no_other_text_is_a_result_or_another_error(text: str) -> None:
    with pytest.raises(UsageError, match="results, line 1 is no result of a simulation"):
        list(parse_results([text]))


def test_the_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    good = next(render_results([Result("a", {}, 1, ())]))
    for bad in ('{"id": "b"}\n', "[]\n", '{"id":"b","params":{},"generation":1,"products":[{}]}\n'):
        file.write_text(good + bad)
        with pytest.raises(UsageError, match=rf"{file}, line 2 is no result"):
            read_results(file)
    file.write_text(good)
    assert read_results(file) == [Result("a", {}, 1, ())]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    with pytest.raises(UsageError, match=rf"results {file} cannot be read"):
        read_results(file)
    file.write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match=rf"results {file} cannot be read"):
        read_results(file)
