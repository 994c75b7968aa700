"""Which one type holds the values of many files exactly, and the casts that prove it.

A type is a text: ``float64``, ``text``, ``datetime64[ms]``, ``cftime:noleap``. Standard library
only at import time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

TEXT = "text"
CFTIME = "cftime:"
#: Units of dates and durations, coarse to fine.
TIME_UNITS = ("s", "ms", "us", "ns")
#: What the kinds of NumPy's types are called in errors. Truth values are the numbers 0 and 1 when
#: they stand beside others.
KINDS = {
    "b": "numbers",
    "i": "numbers",
    "u": "numbers",
    "f": "numbers",
    "M": "dates",
    "m": "durations",
}
#: Whole numbers up to here are float64 exactly, each of them.
MAX_WHOLE = 2**53


class Inexact(Exception):
    """A value that the common type cannot hold exactly.

    :param value: the first such value.
    """

    def __init__(self, value: Any, dtype: np.dtype[Any]) -> None:
        super().__init__(f"{value} is not exactly a value of {dtype}")


def kind_of(type_name: str) -> str:
    """Return what values of a type are called; types of different kinds are never joined."""
    import numpy as np

    if type_name == TEXT:
        return "text"
    if type_name.startswith(CFTIME):
        return f"dates of the calendar {type_name[len(CFTIME) :]!r}"
    return KINDS[np.dtype(type_name).kind]


def type_of(variable: xr.Variable) -> str | None:
    """Return the type of a variable's decoded values; None for one that cannot be joined."""
    import numpy as np

    kind = variable.dtype.kind
    if kind in "USTO" and is_cftime(variable):
        return CFTIME + str(variable.encoding.get("calendar", "standard"))
    if kind in "USTO":
        return TEXT
    return np.dtype(variable.dtype).newbyteorder("=").name if kind in KINDS else None


def is_cftime(variable: xr.Variable) -> bool:
    """Return whether a variable holds dates that NumPy has no type for."""
    return variable.dtype.kind == "O" and " since " in str(variable.encoding.get("units", ""))


def common_type(types: Collection[str], *, has_gaps: bool, needed_unit: str | None) -> Any:
    """Return the type that holds values of all types, all of one kind.

    Whole numbers that it may not hold are found by :func:`cast`, value by value.

    :param has_gaps: whether it must also hold a missing value.
    :param needed_unit: of dates and durations that do not all fit into nanoseconds.
    """
    import numpy as np

    first = min(types)
    if first == TEXT or first.startswith(CFTIME):
        return np.dtype(object)
    dtypes = [np.dtype(name) for name in sorted(types)]
    if dtypes[0].kind in "mM":
        unit = needed_unit or finest(np.datetime_data(dtype)[0] for dtype in dtypes)
        return np.dtype(f"{dtypes[0].kind}8[{unit}]")
    common = np.result_type(*dtypes)
    if common.kind == "f" and all(dtype.kind in "biu" for dtype in dtypes):
        common = np.dtype("int64")  # int64 beside uint64: NumPy gives up on exactness
    return np.dtype("float64") if has_gaps and common.kind in "biu" else common


def finest(units: Iterable[str]) -> str:
    """Return the finest of some units of time, all of :data:`TIME_UNITS` or coarser."""
    return max(units, key=lambda unit: TIME_UNITS.index(unit) if unit in TIME_UNITS else -1)


def cast(values: Any, dtype: np.dtype[Any]) -> Any:
    """Return values as another type.

    :raises Inexact: when one of them would change.
    """
    if values.dtype == dtype or values.dtype.kind == "O":
        return values if values.dtype == dtype else _from_objects(values, dtype)
    with _ignoring_overflow():
        result = values.astype(dtype)
        kept = _is_kept(values, result)
    if not kept.all():
        raise Inexact(values[~kept].ravel()[0], dtype)
    return result


def _ignoring_overflow() -> Any:
    import numpy as np

    return np.errstate(all="ignore")


def _is_kept(values: Any, result: Any) -> Any:
    """Return, for each value, whether the cast kept it: checked by casting back, within range."""
    import numpy as np

    back = result.astype(values.dtype)
    if values.dtype.kind in "mM":
        return back.view("int64") == values.view("int64")
    kept = back == values
    if values.dtype.kind == result.dtype.kind == "f":
        kept |= np.isnan(values)
    for whole, number in ((values, result), (result, values)):
        if whole.dtype.kind in "iu" and number.dtype.kind == "f":
            # At the very end of the range the way back overflows, and may seem to lead home.
            kept &= number < float(np.iinfo(whole.dtype).max) + 1.0
    if {values.dtype.kind, result.dtype.kind} == {"i", "u"}:
        kept &= (values < 0) == (result < 0)
    return kept


def _from_objects(values: Any, dtype: np.dtype[Any]) -> Any:
    """Return Python numbers as a type of NumPy, exactly."""
    import numpy as np

    result = np.empty(values.shape, dtype)
    for place, value in np.ndenumerate(values):
        try:
            result[place] = value
        except (OverflowError, ValueError, TypeError):
            raise Inexact(value, dtype) from None
        if result[place].item() != value:
            raise Inexact(value, dtype)
    return result


def coarsest(values: Any) -> Any:
    """Return dates or durations in the coarsest unit, seconds or finer, that holds them all."""
    import numpy as np

    for unit in TIME_UNITS:
        try:
            return cast(values, np.dtype(f"{values.dtype.kind}8[{unit}]"))
        except Inexact:
            continue
    return values


def fits_nanoseconds(values: Any) -> bool:
    """Return whether all dates or durations lie in the range of NumPy's nanoseconds."""
    import numpy as np

    try:
        cast(values, np.dtype(f"{values.dtype.kind}8[ns]"))
    except Inexact:
        return False
    return True


def canonical(values: Any) -> Any:
    """Return values such that equal ones are equal arrays, whatever type each file gave them."""
    import numpy as np

    if values.dtype.kind in "mM":
        return coarsest(values)
    if values.dtype.kind not in "biuf":
        return values
    try:
        return cast(values, np.dtype("float64")) + 0.0  # of two zeros, the positive one
    except Inexact:
        return np.array([value.item() for value in values.ravel()], dtype=object).reshape(
            values.shape
        )
