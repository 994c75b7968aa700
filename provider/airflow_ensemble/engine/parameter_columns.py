"""Parameters of many simulations as one column whose type holds each of them exactly.

Standard library only at import time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from airflow_ensemble.engine.simulation import canonical_json


def parameter_column(values: Sequence[Any]) -> Any:
    """Return parameters as an array: truth values, numbers, or else text.

    Numbers that no single type holds exactly are text, and so is a column of several kinds; see
    :func:`texts`.

    :param values: of one parameter; None where a simulation does not have it.
    """
    import numpy as np

    present = [value for value in values if value is not None]
    is_complete = len(present) == len(values)
    if is_complete and all(isinstance(value, bool) for value in values):
        return np.array(values, dtype=bool)
    if all(_is_number(value) for value in present):
        numbers = _numbers(present, is_complete)
        if numbers is not None:
            return np.array([math.nan if v is None else v for v in values], dtype=numbers)
    return np.array(texts(values), dtype=object)


def texts(values: Sequence[Any]) -> list[str]:
    """Return values as texts: a text as it is, a missing value as an empty one, all else as JSON.

    Where two different values would be the same text then, as ``1`` and ``"1"`` are, all stand as
    JSON.
    """
    plain = [_as_text(value) for value in values]
    exact = [canonical_json(value) for value in values]
    meanings: dict[str, str] = {}
    is_clear = all(meanings.setdefault(text, json) == json for text, json in zip(plain, exact))
    return plain if is_clear else exact


def _numbers(present: Sequence[float], is_complete: bool) -> str | None:
    """Return the type that holds numbers exactly, and NaN where some are missing; or None."""
    if is_complete and all(isinstance(value, int) for value in present):
        for dtype, low, high in (("int64", -(2**63), 2**63), ("uint64", 0, 2**64)):
            if all(low <= value < high for value in present):
                return dtype
        return None
    return "float64" if all(_is_float64(value) for value in present) else None


def _is_float64(value: float) -> bool:
    try:
        return isinstance(value, float) or float(value) == value
    except OverflowError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else canonical_json(value)
