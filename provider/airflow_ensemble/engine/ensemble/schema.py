"""Readers for the values that people write into ensemble files and tables.

Each takes a value and the place where it stands, and returns what the engine works with, or refuses
it with one sentence: where it stands, what is expected, what was found. They are shared by the
ensemble file, its overrides and the tables of simulations, so that a number, a duration or a size
means the same wherever it is written. Standard library only, no input or output.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from airflow_ensemble.engine.ensemble.written import (
    DECIMAL_NUMBER,
    WHOLE_NUMBER,
    WrittenFloat,
    WrittenTruth,
    is_long,
    plain,
)
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.parameters import MARK
from airflow_ensemble.engine.simulation import Resources

_FLAGS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
_CLOCK = re.compile(r"(?:([0-9]+)-)?([0-9]+):([0-5]?[0-9]):([0-5]?[0-9](?:\.[0-9]+)?)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT])i?B?", re.IGNORECASE)
_MEBIBYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_NUMBER = re.compile(f"{WHOLE_NUMBER}|{DECIMAL_NUMBER}")


@dataclass(frozen=True)
class Place:
    """Where a value stands.

    :param file: the file's path as the user would write it.
    :param key: the dotted key in the file, or row and column of a table.
    """

    file: str
    key: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}"

    def below(self, key: str) -> Place:
        """Return the place of a value inside this one."""
        return Place(self.file, f"{self.key}.{key}" if self.key else key)


def refuse(place: Place, expected: str, found: Any) -> NoReturn:
    """Refuse a value.

    :raises UsageError: naming place, what is expected and what was found.
    """
    raise UsageError(f"{place} must be {expected}, found {describe(found)}")


def refuse_marked(name: str, where: str) -> None:
    """Refuse a name that no parameter can have.

    :raises UsageError: when it begins with the mark of what is no parameter.
    """
    if name.startswith(MARK):
        raise UsageError(
            f"{where}: the name {name!r} begins with {MARK!r}, which is kept: rename it"
        )


def describe(value: Any) -> str:
    """Return a value and its kind in words, short."""
    if value is None:
        return "nothing"
    if isinstance(value, (bool, WrittenTruth)):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value!r}"
    if isinstance(value, str):
        return f"the text {value[:60]!r}{'…' if len(value) > 60 else ''}"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, value))}"[:100]
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}"


def read_text(
    value: Any, place: Place, pattern: str = r"(?s).*\S.*", expected: str = "a text"
) -> str:
    """Return a text that matches a pattern as a whole; by default, any that is not blank."""
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        refuse(place, expected, value)
    return str(value)


def read_choice(value: Any, place: Place, choices: Sequence[str]) -> str:
    """Return one of a few texts."""
    if value not in choices:
        refuse(place, f"one of {', '.join(choices)}", value)
    return str(value)


def read_whole(value: Any, place: Place, least: int = 0) -> int:
    """Return a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        refuse(place, f"a whole number of at least {least}", value)
    return int(value)


def read_flag(value: Any, place: Place) -> bool:
    """Return true or false; yes, no, on and off are understood."""
    if isinstance(value, (bool, WrittenTruth)):
        return bool(value)
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    refuse(place, "true or false", value)


def read_seconds(value: Any, place: Place) -> float:
    """Return a duration in seconds, from a number of seconds or a text ``[days-]HH:MM:SS``."""
    seconds = _parse_seconds(value)
    if seconds is None or not 0 < seconds < math.inf:
        refuse(place, "a positive number of seconds or a text HH:MM:SS", value)
    return seconds


def read_mebibytes(value: Any, place: Place) -> int:
    """Return a size in MiB, rounded up, from a number of MiB or a text such as ``4G``."""
    size = _parse_mebibytes(value)
    if size is None or not 0 < size < math.inf:
        refuse(place, "a positive number of MiB or a text such as 512M or 4G", value)
    return math.ceil(size)


def read_max_failed(value: Any, place: Place) -> int | str:
    """Return how many may fail: a number, or a percentage such as ``5%`` as it was written."""
    if isinstance(value, str):
        number = value.strip()[:-1].strip()
        if value.strip().endswith("%") and _NUMBER.fullmatch(number) and 0 <= float(number) <= 100:
            return f"{number}%"
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return int(value)
    refuse(place, 'a number of simulations or a percentage such as "5%"', value)


def read_texts(value: Any, place: Place) -> tuple[str, ...]:
    """Return a list of texts; one text is a list of one."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        refuse(place, "a list of texts", value)
    return tuple(read_text(item, place.below(str(i))) for i, item in enumerate(value))


def read_mapping(value: Any, place: Place) -> dict[str, Any]:
    """Return a mapping whose keys are texts."""
    if not isinstance(value, Mapping):
        refuse(place, "a mapping", value)
    for key in value:
        if not isinstance(key, str) or not key.strip():
            refuse(place, f"a mapping with texts as keys (quote {key!r})", key)
    return dict(value)


def read_json(value: Any, place: Place) -> Any:
    """Return a value that JSON can hold, unchanged, and without how it was written.

    :raises UsageError: naming the place of a NaN, an infinity, a number that is too small to be
        told from zero, or a value of another type.
    """
    if value is None or isinstance(value, (str, bool, int, WrittenTruth)):
        return str(value) if is_long(value) else plain(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            refuse(place, "a finite number", value)
        if isinstance(value, WrittenFloat) and value.vanishes:
            refuse(place, "a number that can be told from zero", value)
        return float(value)
    if isinstance(value, Mapping):
        items = read_mapping(value, place).items()
        return {key: read_json(item, place.below(key)) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [read_json(item, place.below(str(i))) for i, item in enumerate(value)]
    refuse(place, "text, number, true, false, a list or a mapping", value)


_RESOURCES: dict[str, Callable[[Any, Place], int]] = {
    "nodes": lambda value, place: read_whole(value, place, 1),
    "tasks": lambda value, place: read_whole(value, place, 1),
    "cores_per_task": lambda value, place: read_whole(value, place, 1),
    "gpus_per_task": lambda value, place: read_whole(value, place, 0),
    "memory": read_mebibytes,
    "disk": read_mebibytes,
    "walltime": lambda value, place: math.ceil(read_seconds(value, place)),
}
RESOURCES = tuple(_RESOURCES)
#: Columns of a table that are no parameters: what a simulation needs, and how it is run.
RESERVED = ("time_limit", "priority", *RESOURCES)


def read_resources(values: Mapping[str, Any], place: Place, default: Resources) -> Resources:
    """Return resources: the given ones over the default ones.

    :param values: by the names of :class:`~airflow_ensemble.engine.simulation.Resources`.
    """
    check_known(values, RESOURCES, place)
    given = {name: _RESOURCES[name](value, place.below(name)) for name, value in values.items()}
    return Resources(**{**default.__dict__, **given}) if given else default


def check_known(keys: Iterable[str], known: Sequence[str], place: Place) -> None:
    """Refuse a key that is not known, naming the nearest one that is."""
    for key in keys:
        if key not in known:
            raise UsageError(
                f"{place.below(str(key))} is not a known key{suggest(str(key), known)}"
            )


def suggest(word: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown word: the nearest known one, or all."""
    near = nearest(word, known)
    return f". Did you mean {near!r}?" if near else f". Known are: {', '.join(known)}"


def nearest(word: str, known: Sequence[str], likeness: float = 0.6) -> str | None:
    """Return the known word that is most like this one, if any is at all.

    :param likeness: 1 is equal, 0 has nothing in common.
    """
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=likeness)
    return near[0] if near else None


def _parse_seconds(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    match = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    days, hours, minutes, seconds = match.groups(default="0")
    return ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60 + float(seconds)


def _parse_mebibytes(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(match.group(1)) * _MEBIBYTES[match.group(2).upper()] if match else None
