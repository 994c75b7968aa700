from __future__ import annotations

import pytest

from airflow_ensemble.cli.text import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    paint,
    render_fields,
    render_table,
    shorten,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (3 * 3600 + 300, "3 h 05 min"),
        (3 * 86400 + 7200, "3 d 02 h"),
    ],
)
def test_duration_has_the_two_units_that_matter(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(3100, "3,100.0/s"), (0.5, "30.0/min"), (1 / 600, "6.0/h")]
)
def test_rate_has_a_unit_in_which_it_can_be_read(rate, text):
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_533_194, "2.5 MB")]
)
def test_bytes(size, text):
    assert format_bytes(size) == text


def test_counts_agree_with_their_noun():
    assert format_count(1, "simulation") == "1 simulation"
    assert format_count(12345, "simulation") == "12,345 simulations"
    assert format_count(1000) == "1,000"


def test_table_is_aligned_and_keeps_every_row_on_one_line():
    table = render_table(("id", "n"), [("a", 1), ("long one", 100), ("x\ny", "")], right=("n",))

    assert table.splitlines() == ["id          n", "a           1", "long one  100", "x y"]


def test_table_without_rows_is_its_header():
    assert render_table(("id", "n"), []) == "id  n"


def test_fields_leave_out_what_is_not_there():
    assert render_fields([("status", "failed"), ("host", ""), ("log", None)]) == "status  failed"


def test_shorten_keeps_to_the_width():
    assert shorten("one two", 20) == "one two"
    assert shorten("one two three", 8) == "one two…"


def test_colours_only_where_they_are_wanted():
    assert paint("ok", "good", False) == "ok"
    assert paint("ok", "good", True) == "\x1b[32mok\x1b[0m"
