from __future__ import annotations

import io

from airflow_ensemble.cli.progress import (
    LINE_INTERVAL,
    Pace,
    PlainProgress,
    make_progress,
    progress_line,
)
from airflow_ensemble.engine.index.interface import Counts


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_pace_measures_what_ended_over_the_window():
    pace = Pace(window=10)
    for time in range(0, 101):
        pace.look(time, 0 if time <= 50 else 4 * (time - 50))

    assert pace.rate == 4
    assert pace.seconds_left(40) == 10


def test_pace_knows_nothing_before_anything_has_ended():
    pace = Pace()
    assert pace.rate is None
    pace.look(0, 0)
    pace.look(9, 0)
    assert pace.rate is None
    assert pace.seconds_left(3) is None


def test_pace_does_not_count_what_was_complete_at_the_first_look():
    pace = Pace()
    pace.look(0, 1000)
    pace.look(10, 1010)
    assert pace.rate == 1


def test_line_tells_all_that_a_person_asks():
    counts = Counts(pending=5, running=2, complete=12, empty=3, failed=1)

    line = progress_line(counts, 0.5, 14)

    assert line == "13/20 · complete 12 (empty 3) · failed 1 · running 2 · 30.0/min · ETA 14 s"


def test_plain_progress_prints_one_line_per_interval_and_only_news():
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock)
    for step in range(int(3 * LINE_INTERVAL)):
        progress.update(Counts(pending=100 - step, complete=step))
        clock.now += 1
    for _ in range(int(3 * LINE_INTERVAL)):
        progress.update(Counts(complete=100))
        clock.now += 1

    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("0/100")
    assert lines[-1].startswith("100/100")
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_no_bar_where_there_is_no_terminal():
    assert isinstance(make_progress(False, io.StringIO()), PlainProgress)


def test_quiet_shows_nothing():
    stream = io.StringIO()
    with make_progress(True, stream) as progress:
        progress.update(Counts(pending=1))
    assert stream.getvalue() == ""


def test_a_remark_stands_behind_the_counts_and_is_news():
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock)
    for remark in ("", "4 pending (Priority)", "4 pending (Priority)"):
        progress.remark = remark
        progress.update(Counts(dispatched=4))
        clock.now += LINE_INTERVAL

    first, second = stream.getvalue().splitlines()
    assert second == f"{first} · 4 pending (Priority)"
