"""Times of receptors: what everybody reads alike, and nothing else."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stilt.receptors.models import parse_time as pystilt_time

from airflow_ensemble.models.receptor_time import parse_time

THREE = datetime(2019, 5, 30, 3)
moments = st.datetimes(datetime(1900, 1, 2), datetime(2199, 12, 30))
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2019-05-30T03:00:00Z", THREE),
        ("2019-05-30T03:00", THREE),
        ("2019-05-30 03:00:00", THREE),
        ("2019-05-30T03", THREE),
        (" 2019-05-30T03:00 ", THREE),
        ("2019-05-30T05:00+02:00", THREE),
        ("2019-05-30T05:00+0200", THREE),
        ("2019-05-30T05:00+02", THREE),
        ("2019-05-29T22:30:00-04:30", THREE),
        ("20190530T0300Z", THREE),
        ("20190530T030000", THREE),
        ("201905300300", THREE),
        (201905300300, THREE),
        ("2019-05-30", datetime(2019, 5, 30)),
        ("2019-05-30T03:00:00.25", THREE + timedelta(seconds=0.25)),
        ("2019-05-30T03:00:00,123456789", THREE + timedelta(microseconds=123456)),
        ("2020-02-29T00:00", datetime(2020, 2, 29)),
        (THREE, THREE),
        (THREE.replace(tzinfo=timezone(timedelta(hours=2))), datetime(2019, 5, 30, 1)),
        (date(2019, 5, 30), datetime(2019, 5, 30)),
        (pd.Timestamp("2019-05-30T05:00", tz="Europe/Berlin"), THREE),
        (np.datetime64("2019-05-30T03:00", "ns"), THREE),
    ],
)
def test_a_time_is_iso_or_compact_or_a_moment(value: Any, time: datetime) -> None:
    parsed = parse_time(value)

    assert parsed == time
    assert parsed.tzinfo is None


@pytest.mark.parametrize(
    "value",
    [
        *("03/04/2019 02:00", "13/04/2019 02:00", "2019/05/30 03:00", "30.05.2019", "30-05-2019"),
        *("190530", 190530, "1905300300", "20190530", 20190530, "2019053003", "20190530030000"),
        *("02:00", "now", "today", "tomorrow", "NaT", "nan", "", " ", "-", "2019", 2019, "2019-05"),
        *("2019.5", 2019.5, 43558.5, 43558, 201905300300.0, "2.019053003e11", 0, -201905300300),
        *("2019-W22-4", "2019-W22", "2019-150", "2019-5-30", "2019-05-30T3:00", "2019-05-30T03:0"),
        *("30 May 2019", "May 30, 2019 3am", "2019-05-30 3 PM", "2019-05-30T03:00 UTC"),
        *("2019-05-30T03:00 CET", "2019-05-30T03:00z", "2019-05-30T03:00+2", "2019-05-30x03:00"),
        *("2019-05-30T03:00:00.", "2019-05-30T03:00;", "2019-05-30T03:00\n2019", "+2019-05-30"),
        *("٢٠١٩-05-30T03:00", "２０１９０５３００３００", "2019‐05‐30", "2019-05-30T03:00\0"),
        *(True, False, None, [], {}, b"201905300300", pd.NaT, np.datetime64("NaT")),
        *(float("nan"), np.float64(201905300300), np.int64(5), object),
        *(np.datetime64(2**62, "s"), np.datetime64(-(2**62), "h"), np.array(["2019"], "M8[s]")),
    ],
)  # fmt: skip
def test_all_else_is_no_time(value: Any) -> None:
    with pytest.raises(ValueError, match=r"(?s)^time .* can be read in more than one way or in"):
        parse_time(value)


@pytest.mark.parametrize(
    "value",
    [
        *("201902300200", "201913010000", "201900010000", "201905302400", "201905300060"),
        *("2019-02-30T02:00", "2019-05-30T24:00", "2019-05-30T03:00:60", "2019-05-30T03:60"),
        *("2019-05-30T03:00+24:00", "2019-05-30T03:00+02:60", "0000-01-01", 201902300200),
    ],
)
def test_a_day_that_is_in_no_calendar_is_no_time(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^time .* does not exist: "):
        parse_time(value)


@pytest.mark.parametrize(
    "value", ["0019-05-30T03:00", "9999-12-31T23:59-01:00", "0001-01-01T00:00+01:00", "2200-01-01"]
)
def test_a_year_without_meteorology_is_no_time(value: str) -> None:
    with pytest.raises(ValueError, match=r"^time "):
        parse_time(value)


@given(moments, zones, st.sampled_from(["T", " "]))
def test_every_moment_reads_back_whatever_its_zone(
    moment: datetime, zone: timezone, between: str
) -> None:
    aware = moment.replace(tzinfo=timezone.utc).astimezone(zone)

    assert parse_time(aware) == moment
    assert parse_time(aware.isoformat(between)) == moment
    assert parse_time(pd.Timestamp(moment)) == moment
    minute = moment.replace(second=0, microsecond=0)
    assert parse_time(f"{minute:%Y%m%d%H%M}") == minute
    assert parse_time(int(f"{minute:%Y%m%d%H%M}")) == minute


@given(st.one_of(st.text(max_size=30), st.from_regex(r"[0-9TZ:+. /-]{1,26}", fullmatch=True)))
@example("2019-05-30T05:00+0200")
@example("201905300300")
def test_what_is_a_time_is_the_same_time_to_pystilt(text: str) -> None:
    try:
        time = parse_time(text)
    except ValueError:
        return  # refused, and never handed on
    assert pystilt_time(text.strip().replace(",", ".")) == time


def test_a_zone_that_is_none_is_said_in_plain_words() -> None:
    with pytest.raises(ValueError, match=r"'\+24:00' is more than 23 hours and 59 minutes"):
        parse_time("2019-05-30T03:00+24:00")
