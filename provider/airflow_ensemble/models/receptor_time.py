"""Times of receptors: only what everybody reads alike is one. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import MAXYEAR, MINYEAR, date, datetime, timedelta, timezone
from typing import Any

#: Years outside these are a slip of the pen: no meteorology has them.
FIRST_YEAR, LAST_YEAR = 1900, 2199

_ZONE = r"(?P<zone>Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
_EXTENDED = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[T ](?P<hour>[0-9]{2})(?::(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?)?" + _ZONE + ")?"
)
_BASIC = re.compile(
    r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"
    r"T(?P<hour>[0-9]{2})(?:(?P<minute>[0-9]{2})"
    r"(?:(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?)?" + _ZONE
)
_COMPACT = re.compile(
    r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})(?P<hour>[0-9]{2})(?P<minute>[0-9]{2})"
)
_FORMS = (_EXTENDED, _BASIC, _COMPACT)


def parse_time(value: Any) -> datetime:
    """Return a receptor's time, UTC, without a zone of its own.

    :param value: ISO 8601, UTC unless it ends in a zone, a date alone being midnight;
        ``YYYYMMDDHHMM``, also as a whole number; or a moment of ``datetime``, pandas or NumPy.
    :raises ValueError: naming the value, when it is anything else, or no day of the calendar.
    """
    try:
        time = _in_utc(_read(value))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"time {value!r} {error}") from None
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        raise ValueError(f"time {value!r} is not in the years {FIRST_YEAR} to {LAST_YEAR}")
    return time


def _read(value: Any) -> datetime:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a table may hold 201905300300 as a number
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = _moment_of_numpy(value)
    if isinstance(value, datetime) and value == value:  # pandas' NaT is a datetime, too
        return value
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)
    text = value.strip() if isinstance(value, str) else ""
    found = next(filter(None, (form.fullmatch(text) for form in _FORMS)), None)
    if found is None:
        raise ValueError(
            "can be read in more than one way or in none: write ISO 8601, such as "
            "2019-05-30T03:00 (UTC, unless a zone such as +02:00 follows), or YYYYMMDDHHMM, such "
            "as 201905300300"
        )
    return _from_fields(found.groupdict())


def _moment_of_numpy(value: Any) -> Any:
    """Return a moment of NumPy as one of ``datetime``; None when it is none."""
    if value.dtype.kind != "M" or value.ndim:
        return None
    # NumPy wraps around in silence where microseconds cannot hold a moment; years hold each.
    if not MINYEAR <= 1970 + int(value.astype("datetime64[Y]").astype(int)) <= MAXYEAR:
        return None
    return value.astype("datetime64[us]").tolist()


def _from_fields(fields: Mapping[str, str | None]) -> datetime:
    names = ("year", "month", "day", "hour", "minute", "second")
    year, month, day, hour, minute, second = (int(fields.get(name) or 0) for name in names)
    microsecond = int((fields.get("fraction") or "")[:6].ljust(6, "0"))
    try:
        zone = _zone(fields.get("zone"))
        return datetime(year, month, day, hour, minute, second, microsecond, zone)
    except ValueError as error:
        raise ValueError(f"does not exist: {error}") from None


def _zone(text: str | None) -> timezone | None:
    if text is None or text == "Z":
        return None
    digits = text[1:].replace(":", "").ljust(4, "0")
    if int(digits[:2]) > 23 or int(digits[2:]) > 59:
        raise ValueError(f"zone {text!r} is more than 23 hours and 59 minutes")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def _in_utc(time: datetime) -> datetime:
    if time.tzinfo is None:
        return time
    return time.astimezone(timezone.utc).replace(tzinfo=None)
