"""Opens one NetCDF product as one flat dataset whose values are what the file says.

Groups are laid flat: the variable ``v`` of the group ``g`` is ``g_v``, and so are its dimensions.
Dates that NumPy's nanoseconds cannot hold are decoded in a coarser unit. Standard library only at
import time.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.value_types import MAX_WHOLE, is_cftime

if TYPE_CHECKING:
    import xarray as xr

STEP_SUFFIX = "_step"
#: Calendars whose dates NumPy has a type for.
NUMPY_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
#: What netCDF and xarray raise at a damaged file, and at attributes of another type than theirs.
DAMAGED = (OSError, ValueError, RuntimeError, TypeError, AttributeError)
_OWN_LOCK = threading.Lock()


class Unusable(Exception):
    """One file cannot be part of a dataset, whatever the others are."""


def netcdf_lock() -> Any:
    """Return the lock that xarray itself holds around the netCDF library, which has no threads."""
    try:
        from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK
    except ImportError:
        return _OWN_LOCK
    return NETCDF4_PYTHON_LOCK


@contextlib.contextmanager
def opened(path: Path) -> Iterator[xr.Dataset]:
    """Open a file for a block of code, flat, and close it for sure.

    netCDF cannot bear two threads: opening, reading and closing are all inside the lock.

    :raises Unusable: when it cannot be read, or holds what no dataset can.
    """
    import xarray as xr

    with netcdf_lock(), warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)
        try:
            store = _store_type().open(path, lock=False)
        except DAMAGED as error:
            raise Unusable(f"cannot be read: {error}") from error
        try:
            yield stacked_by(_flat(store.ds))
        except DAMAGED as error:
            raise Unusable(f"cannot be read: {error}") from error
        finally:
            store.close()


def _store_type() -> Any:
    """Return what reads netCDF for xarray, and has no types."""
    from xarray.backends import NetCDF4DataStore

    return NetCDF4DataStore


def _flat(file: Any) -> xr.Dataset:
    """Return the variables of a file and of all its groups as one dataset."""
    import xarray as xr

    groups = dict(_groups(file))
    for group in groups.values():
        _check_types(group)
    if len(groups) == 1:
        return _decoded(file)
    _check_names(groups)
    variables: dict[str, xr.Variable] = {}
    coords: list[str] = []
    for prefix, group in groups.items():
        part = _decoded(group)
        names = {str(name): f"{prefix}{name}" for name in part.variables}
        dims = {str(dim): _dimension(group, str(dim), groups) for dim in part.dims}
        for name, flat in names.items():
            variables[flat] = _renamed(part.variables[name], names, dims)
        coords += [names[str(name)] for name in part.coords]
    return xr.Dataset(variables, attrs=_attributes(file)).set_coords(coords)


def _groups(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is put before the names of a group, and the group; then all below it."""
    yield prefix, group
    for name, below in group.groups.items():
        yield from _groups(below, f"{prefix}{name}_")


def _check_names(groups: Mapping[str, Any]) -> None:
    """Raise when two variables, or two dimensions, would lie flat under one name."""
    for what in ("variables", "dimensions"):
        owners: dict[str, str] = {}
        for prefix, group in groups.items():
            for name in getattr(group, what):
                owner = f"{group.path.rstrip('/')}/{name}"
                other = owners.setdefault(f"{prefix}{name}", owner)
                if other != owner:
                    raise Unusable(
                        f"has two {what} for the name {prefix + name!r}, {other!r} and {owner!r}"
                    )


def _check_types(group: Any) -> None:
    """Raise on a variable whose values are records or lists."""
    import netCDF4

    for name, variable in group.variables.items():
        kind = variable.datatype
        if isinstance(kind, (netCDF4.VLType, netCDF4.CompoundType)) and variable.dtype is not str:
            raise Unusable(f"has records or lists as the values of {name!r}: they cannot be joined")


def _decoded(group: Any) -> xr.Dataset:
    """Return the variables of one group, decoded, their dates by NumPy where it can hold them."""
    dataset = _dated(group)
    dates = [name for name, variable in dataset.variables.items() if is_cftime(variable)]
    if dates:
        _check_dates(_open_group(group, decode_times=False), dates)
    return dataset


def _dated(group: Any) -> xr.Dataset:
    with contextlib.suppress(ValueError):  # xarray fails at far dates beside missing ones
        dataset = _open_group(group)
        if not any(_is_far_date(variable) for variable in dataset.variables.values()):
            return dataset
    try:
        from xarray.coders import CFDatetimeCoder
    except ImportError:  # an older xarray: such dates stay cftime's
        return _open_group(group)
    return _open_group(group, decode_times=CFDatetimeCoder(time_unit="s"))


def _check_dates(numbers: xr.Dataset, names: Iterable[Hashable]) -> None:
    """Raise on missing dates of a calendar: xarray would decode them as the day it counts from."""
    for name in names:
        if numbers[name].isnull().any():
            raise Unusable(
                f"has missing dates in {name!r}, and its calendar knows none: leave out what is "
                "missing, or give dates of the standard calendar after 1582"
            )


def _open_group(group: Any, **options: Any) -> xr.Dataset:
    import xarray as xr

    store = _store_type()(group, lock=False)
    dataset = xr.open_dataset(store, decode_coords="all", cache=False, **options)
    for variable in dataset.variables.values():
        _name_flags(variable)
    return dataset


def _name_flags(variable: xr.Variable) -> None:
    """Say what the numbers of an enumeration mean as the CF conventions do."""
    import numpy as np

    stored = variable.encoding.get("dtype")
    enum = (getattr(stored, "metadata", None) or {}).get("enum")
    if enum:
        variable.attrs.setdefault("flag_values", np.array(list(enum.values()), variable.dtype))
        variable.attrs.setdefault("flag_meanings", " ".join(enum))


def _is_far_date(variable: xr.Variable) -> bool:
    return is_cftime(variable) and variable.encoding.get("calendar", "standard") in NUMPY_CALENDARS


def _dimension(group: Any, name: str, groups: Mapping[str, Any]) -> str:
    """Return what a dimension is called that a group has, or inherits."""
    while name not in group.dimensions and group.parent is not None:
        group = group.parent
    return next(f"{prefix}{name}" for prefix, g in groups.items() if g.path == group.path)


def _renamed(
    variable: xr.Variable, names: Mapping[str, str], dims: Mapping[str, str]
) -> xr.Variable:
    """Return a variable with other dimensions, and with what it refers to renamed like it."""
    renamed = variable.to_base_variable().copy(deep=False)
    renamed.dims = tuple(dims[str(dim)] for dim in variable.dims)
    for holder in (renamed.attrs, renamed.encoding):
        for key in ("grid_mapping", "stack_by"):
            if key in holder:
                holder[key] = names.get(str(holder[key]), holder[key])
    return renamed


def _attributes(file: Any) -> dict[str, Any]:
    """Return a file's own attributes, and those of its groups under the names of these."""
    return {
        f"{prefix}{name}": group.getncattr(name)
        for prefix, group in _groups(file)
        for name in group.ncattrs()
    }


# --- dimensions and values ------------------------------------------------------------------------


def stacked_by(dataset: xr.Dataset) -> xr.Dataset:
    """Count every dimension by the coordinate that its ``stack_by`` attribute names."""
    named = {
        dim: dataset[dim].attrs.get("stack_by") for dim in dataset.dims if dim in dataset.coords
    }
    swaps = {
        dim: name for dim, name in named.items() if isinstance(name, str) and name in dataset.coords
    }
    return dataset.swap_dims(swaps) if swaps else dataset


def positional(dataset: xr.Dataset, moving: Iterable[Hashable]) -> xr.Dataset:
    """Turn dimensions into plain positions; their coordinates become ordinary ones."""
    names = {dim: f"{dim}{STEP_SUFFIX}" for dim in moving if dim in dataset.dims}
    return dataset.swap_dims(names) if names else dataset


def grid_mappings(variable: xr.Variable) -> list[str]:
    """Return the names of the variables that a variable names as its grid mappings."""
    text = str(variable.attrs.get("grid_mapping") or variable.encoding.get("grid_mapping") or "")
    words = text.split()
    return [word[:-1] for word in words if word.endswith(":")] or words


def values_of(variable: xr.Variable) -> Any:
    """Read a variable; text of any kind comes as an object array of ``str``.

    :raises Unusable: when its values cannot be had as they are in the file.
    """
    import numpy as np

    values = np.asarray(variable.values)
    if is_cftime(variable):
        return values
    if values.dtype.kind in "USTO":
        return _texts(values)
    if _is_masked_whole(variable) and (np.abs(values) >= MAX_WHOLE).any():
        largest = values[np.abs(values) >= MAX_WHOLE][0]
        raise Unusable(
            f"has missing values beside whole numbers beyond 2**53 (about {largest:.0f}), which "
            "float64 does not hold"
        )
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _is_masked_whole(variable: xr.Variable) -> bool:
    """Return whether xarray reads large whole numbers as float64, for the sake of missing ones."""
    import numpy as np

    stored = variable.encoding.get("dtype")
    return (
        variable.dtype.kind == "f"
        and isinstance(stored, np.dtype)
        and stored.kind in "iu"
        and stored.itemsize == 8
        and not {"scale_factor", "add_offset"} & set(variable.encoding)
    )


def _texts(values: Any) -> Any:
    """Return texts as an object array of ``str``."""
    import numpy as np

    result = np.empty(values.shape, dtype=object)
    for place, value in np.ndenumerate(values):
        result[place] = _text(value)
    return result


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Unusable(f"has bytes that are no UTF-8 text: {value[:40]!r}") from None
    if not isinstance(value, str):
        raise Unusable(f"has a {type(value).__name__} as a value among texts or dates")
    return str(value)
