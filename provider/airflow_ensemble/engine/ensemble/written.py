"""Numbers and truth values that remember how a person wrote them.

While a file or a table is read, what Python prints otherwise than it was written is kept with its
text: ``1.10``, ``1e5``, ``+3``, ``True``. Where a text is meant, the text is taken; where a number
is meant, it is a number like any other. None of these values leaves ``engine.ensemble``: a record
of parameters says the same as JSON (see :mod:`~airflow_ensemble.engine.parameters`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from airflow_ensemble.engine.parameters import WRITTEN
from airflow_ensemble.engine.simulation import canonical_json

#: Numbers as JSON writes them, with a sign and an open end allowed. A leading zero makes a text:
#: ``007`` is a name.
WHOLE_NUMBER = r"[-+]?(?:0|[1-9][0-9]*)"
DECIMAL_NUMBER = (
    r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?[eE][-+]?[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*"
    r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?)"
)
#: Whole numbers beyond these are texts.
LEAST, LARGEST = -(2**63), 2**63 - 1

_WHOLE = re.compile(WHOLE_NUMBER)
_DECIMAL = re.compile(DECIMAL_NUMBER)
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NOT_ZERO = re.compile(r"[-+]?[0.]*[1-9]")


class WrittenInt(int):
    """A whole number that was written otherwise than Python prints it."""

    text: str

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


class WrittenFloat(float):
    """A number that was written otherwise than Python prints it."""

    text: str

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__

    @property
    def vanishes(self) -> bool:
        """Return whether it is too small for a number, and has become zero."""
        return not self and bool(_NOT_ZERO.match(self.text))


class WrittenTruth:
    """True or false that was written otherwise than JSON writes it; no kind of number."""

    def __init__(self, value: bool, text: str) -> None:
        self.value = value
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        return self.value

    def __eq__(self, other: object) -> bool:
        return self.value == (other.value if isinstance(other, WrittenTruth) else other)

    def __hash__(self) -> int:
        return hash(self.value)


class LongNumber(str):
    """The text of a whole number that 64 bits do not hold; nobody has quoted it."""


def read_number(text: str) -> int | float | LongNumber | None:
    """Return the number that a text is, which may be infinite; None where it is none."""
    if _WHOLE.fullmatch(text):
        if len(text) > len(str(LEAST)) or not LEAST <= (whole := int(text)) <= LARGEST:
            return LongNumber(text)
        return whole if str(whole) == text else _keep(WrittenInt(whole), text)
    if _DECIMAL.fullmatch(text):
        number = float(text)
        return written_float(number, text)
    return None


def written_float(number: float, text: str) -> float:
    """Return a number that remembers its text, where it would print otherwise."""
    return number if repr(number) == text else _keep(WrittenFloat(number), text)


def is_long(value: Any) -> bool:
    """Return whether a value is a whole number that 64 bits do not hold."""
    if isinstance(value, int):
        return not LEAST <= value <= LARGEST
    return isinstance(value, LongNumber)


def find_long(value: Any) -> Any:
    """Return the first such number in a value, at any depth; None where there is none."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((long for item in value if (long := find_long(item)) is not None), None)
    return value if is_long(value) else None


def plain(value: Any) -> Any:
    """Return a scalar as JSON knows it, without how it was written."""
    if isinstance(value, WrittenInt):
        return int(value)
    if isinstance(value, WrittenFloat):
        return float(value)
    if isinstance(value, WrittenTruth):
        return value.value
    return str(value) if isinstance(value, LongNumber) else value


def as_text(value: Any) -> Any:
    """Return a number as it was written, where a text is meant; anything else as it is."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if is_number else value


def as_record(values: Mapping[str, Any], judged: dict[str, Any]) -> dict[str, Any]:
    """Return the record of parameters that says how they were written.

    :param values: as they were read.
    :param judged: the same as plain JSON values.
    """
    written = {
        name: text
        for name, value in values.items()
        if (text := written_argument(value)) is not None
    }
    return {**judged, WRITTEN: written} if written else judged


def written_argument(value: Any) -> str | None:
    """Return a value as a command gets it; None where it prints as it was written.

    In a list or a mapping only what JSON can say is kept: ``[1.10]``, and not ``[+1]``.
    """
    if isinstance(value, (WrittenInt, WrittenFloat, WrittenTruth)):
        return value.text
    if isinstance(value, (Mapping, list, tuple)) and _has_written(value):
        text = _json_text(value)
        return None if text == canonical_json(_plain_tree(value)) else text
    return None


_N = TypeVar("_N", WrittenInt, WrittenFloat)


def _keep(number: _N, text: str) -> _N:
    number.text = text
    return number


def _has_written(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_written, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_written, value))
    return isinstance(value, (WrittenInt, WrittenFloat, WrittenTruth))


def _plain_tree(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_tree(item) for item in value]
    return plain(value)


def _json_text(value: Any) -> str:
    if isinstance(value, Mapping):
        items = (f"{json.dumps(key)}:{_json_text(value[key])}" for key in sorted(value))
        return f"{{{','.join(items)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_json_text, value))}]"
    text = getattr(value, "text", "")
    return text if _JSON_NUMBER.fullmatch(text) else json.dumps(plain(value))
