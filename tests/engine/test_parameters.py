"""Parameters as they are stored, and as a model or a command sees them."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_ensemble.engine.command import fill_template
from airflow_ensemble.engine.parameters import as_argument, describe_change, take_apart


def test_what_is_no_parameter_is_taken_off() -> None:
    record = {"release": 3.1, "n": 2, "$written": {"release": "3.10"}, "$later": 1}
    assert take_apart(record) == ({"release": 3.1, "n": 2}, {"release": "3.10"}, None)
    assert take_apart({}) == ({}, {}, None)


def test_a_seed_is_the_simulations_own_where_its_record_says_so() -> None:
    assert take_apart({}, {"seed": 7, "$seed": True}) == ({"seed": 7}, {}, 7)
    assert take_apart({}, {"seed": 7}) == ({"seed": 7}, {}, None)


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


@pytest.mark.parametrize(
    ("value", "text", "filled"),
    [
        (1.1, "1.10", "    1.10|1.10****|001.10"), (True, None, "    true|true****|00true"),
        (-3, None, "      -3|-3******|0000-3"), ("1.10", None, "    1.10|1.10****|001.10"),
        ([1.5], None, "   [1.5]|[1.5]***|0[1.5]"), (True, "True", "    True|True****|00True"),
    ],
)  # fmt: skip
def test_a_format_that_only_pads_changes_no_value(
    value: Any, text: str | None, filled: str
) -> None:
    written = {"x": text} if text else {}
    assert fill_template("{x:>8}|{x:*<8}|{x:0>6}", {"x": value}, written) == filled


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"x": 1}, {"x": 2}, "column 'x' was 1 and is now 2"),
        ({"x": 1}, {"x": 1.0}, "column 'x' was 1 and is now 1.0"),
        ({"x": 1.1}, {"x": "1.1"}, "column 'x' was 1.1 and is now \"1.1\""),
        ({"x": True}, {"x": 1}, "column 'x' was true and is now 1"),
        (
            {"x": 1.1, "$written": {"x": "1.10"}},
            {"x": 1.1, "$written": {"x": "1.100"}},
            "column 'x' was written 1.10 and is now written 1.100",
        ),
        ({"x": [1.1]}, {"x": [1.1], "$written": {"x": "[1.10]"}},
         "column 'x' was written [1.1] and is now written [1.10]"),
        ({}, {"x": 1.1, "$written": {"x": "1.10"}}, "column 'x' is new (1.10)"),
        ({"x": None}, {}, "column 'x' (null) is gone"),
        ({"x": 1, "y": 2, "z": 3}, {"x": 2, "y": 3, "z": 3},
         "column 'x' was 1 and is now 2, and 1 more column"),
        ({"a": "x" * 80}, {"a": "x" * 80 + "y"},
         f"column 'a' was \"{'x' * 59}… and is now \"{'x' * 59}…"),
        ({"seed": 7}, {"seed": 7, "$seed": True},
         "its seed was derived from its id and is now 7 (column 'seed'), so that its result is "
         "of another seed"),
        ({"x": 1}, {"x": 2, "seed": 0, "$seed": True},
         "its seed was derived from its id and is now 0 (column 'seed'), so that its result is "
         "of another seed, and 1 more column"),
        ({"seed": 7, "$seed": True}, {"seed": 8, "$seed": True},
         "its seed was 7 and is now 8 (column 'seed'), so that its result is of another seed"),
        ({"seed": 7, "$seed": True}, {},
         "its seed was 7 and is now derived from its id (column 'seed'), so that its result is "
         "of another seed"),
        ({"$later": 1}, {}, "it has other parameters"),
    ],
)  # fmt: skip
def test_a_change_is_said_with_its_column_and_both_values(
    old: dict[str, Any], new: dict[str, Any], words: str
) -> None:
    assert describe_change(old, new) == words
