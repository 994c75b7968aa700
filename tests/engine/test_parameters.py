"""Parameters as they are stored, and as a model or a command sees them."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_ensemble.engine.command import fill_template
from airflow_ensemble.engine.parameters import as_argument, take_apart


def test_what_is_no_parameter_is_taken_off() -> None:
    record = {"release": 3.1, "n": 2, "$written": {"release": "3.10"}, "$later": 1}
    assert take_apart(record) == ({"release": 3.1, "n": 2}, {"release": "3.10"})
    assert take_apart({}) == ({}, {})


def test_an_own_value_takes_the_place_of_how_the_common_one_was_written() -> None:
    common = {"release": 3.1, "x": 1.0, "$written": {"release": "3.10", "x": "1.00"}}
    assert take_apart(common, {"release": 3.1}).written == {"x": "1.00"}
    own = {"release": 3.1, "$written": {"release": "3.100"}}
    assert take_apart(common, own).written == {"release": "3.100", "x": "1.00"}


@pytest.mark.parametrize(
    ("value", "argument"),
    [
        (1.1, "1.1"), (1e5, "100000.0"), (3, "3"), ("1.10", "1.10"), (True, "true"),
        (False, "false"), ([1, True, "a"], '[1,true,"a"]'), ({"x": 1.5}, '{"x":1.5}'),
    ],
)  # fmt: skip
def test_arguments_of_what_was_written_as_it_prints(value: Any, argument: str) -> None:
    assert as_argument(value) == argument
    assert fill_template("--x={x}", {"x": value}) == f"--x={argument}"


def test_an_argument_is_as_it_was_written_unless_a_format_is_asked_for() -> None:
    values, written = {"x": 1.1, "y": 2}, {"x": "1.10"}
    assert fill_template("{x}/{y}/{{x}}", values, written) == "1.10/2/{x}"
    assert fill_template("{x:.4f}", values, written) == "1.1000"
