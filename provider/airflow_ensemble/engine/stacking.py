"""Stacks one product's NetCDF files along a new dimension ``simulation``, lazily.

Only the first file, and the last one for comparison, are opened before values are asked for; every
other file is opened, checked against the first, and closed again when dask reads its block. With
``align="outer"`` the coordinates of all files are read first and joined.

How dimensions are treated:

* a dimension whose coordinate is the same in all files stays as it is;
* one whose coordinate has the attribute ``stack_by``, naming another coordinate along it, is
  counted by that other one: footprints at different times share ``hour``, counted from their
  release, and keep their times as a coordinate over (simulation, hour);
* one whose coordinate differs between the files, at equal size, becomes a plain position
  (``<name>_step``) and its coordinate a variable over (simulation, position);
* files of different sizes need ``align="outer"``: the union of the coordinates, gaps filled.

A simulation whose product is complete-empty is filled with the variable's attribute ``empty_value``
where it has one, else with NaN (NaT, empty text); integers become floats then.

Standard library only at import time.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.errors import EnsembleError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from airflow_ensemble.engine.storage import OutputRoot

#: Bytes of one variable that dask reads and holds at once.
BLOCK_BYTES = 16 << 20
#: Files in one block at most, so that a small variable is not one block of 100,000 files.
MAX_BLOCK_FILES = 1024
#: Bytes of a variable of one simulation up to which it is read along with others.
SMALL_BYTES = 4096
#: Values that were read along and are kept at once.
MAX_KEPT = 50_000
SCAN_THREADS = 8
#: Attributes that must be equal in all files, or the numbers could not stand in one array.
CHECKED_ATTRIBUTES = ("units",)
SIMULATION = "simulation"
STEP_SUFFIX = "_step"


_OWN_LOCK = threading.Lock()


class CollectError(EnsembleError):
    """The products of an ensemble do not fit into one dataset as they were asked to."""


@dataclass(frozen=True)
class Variable:
    """One variable as it is in the first file.

    :param dims: without ``simulation``.
    :param dtype: of its values in the stack.
    :param fill: for simulations without it and for gaps.
    """

    dims: tuple[str, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any]
    fill: Any


@dataclass(frozen=True)
class Layout:
    """What all files of a product share.

    :param axes: coordinate values by dimension; a dimension without coordinate is missing.
    :param axis_attrs: their attributes.
    :param sizes: by dimension.
    :param moving: dimensions whose own coordinate differs from file to file.
    :param stacked: the variables with a value per simulation.
    :param data: of those, the ones that are data, not coordinates.
    :param fixed: variables that say how to read others (grid mappings), once for all.
    :param attrs: the attributes on which the first and the last file agree.
    """

    axes: Mapping[str, np.ndarray]
    axis_attrs: Mapping[str, Mapping[str, Any]]
    sizes: Mapping[str, int]
    moving: frozenset[str]
    stacked: Mapping[str, Variable]
    data: tuple[str, ...]
    fixed: Mapping[str, xr.Variable]
    attrs: Mapping[str, Any]


class Stack:
    """The files of one product, one or none for each simulation.

    :param product: the product's name.
    :param ids: the simulations.
    :param files: names below the output root, None where there is no file.
    :param root: where they are.
    :param align: ``exact`` or ``outer``.
    """

    def __init__(
        self,
        product: str,
        ids: Sequence[str],
        files: Sequence[str | None],
        root: OutputRoot,
        align: str = "exact",
    ) -> None:
        self.product = product
        self._ids = ids
        self._files = files
        self._root = root
        self._outer = align == "outer"
        self._named = [index for index, name in enumerate(files) if name is not None]
        self._kept: dict[tuple[int, str], Any] = {}
        self.layout = self._survey()
        self._small = frozenset(n for n in self.layout.stacked if self._bytes(n) <= SMALL_BYTES)

    def array(self, name: str) -> Any:
        """Return a variable of all simulations as a lazy dask array, simulation first."""
        import dask.array
        import numpy as np
        from dask.base import tokenize

        map_blocks: Any = dask.array.map_blocks
        variable = self.layout.stacked[name]
        shape = tuple(self.layout.sizes[dim] for dim in variable.dims)
        step = max(1, min(len(self._ids), BLOCK_BYTES // self._bytes(name), MAX_BLOCK_FILES))
        count = len(self._ids)
        rows = tuple(min(step, count - start) for start in range(0, count, step))
        token = tokenize(self._files, self._root.uri, name, self._outer)
        return map_blocks(
            self._read_block,
            name=f"{self.product}-{name}-{token}",
            chunks=(rows, *((length,) for length in shape)),
            dtype=variable.dtype,
            meta=np.empty((0,) * (len(shape) + 1), dtype=variable.dtype),
            variable=name,
            step=step,
        )

    def _bytes(self, name: str) -> int:
        """Return the bytes of one variable of one simulation, at least 1."""
        variable = self.layout.stacked[name]
        count = math.prod(self.layout.sizes[dim] for dim in variable.dims)
        return max(1, count * variable.dtype.itemsize)

    def _read_block(
        self, *, variable: str, step: int, block_id: tuple[int, ...] = (0,)
    ) -> np.ndarray:
        """Read one variable of up to ``step`` simulations; dask calls this."""
        import numpy as np

        what = self.layout.stacked[variable]
        start = block_id[0] * step
        indices = range(start, min(start + step, len(self._ids)))
        shape = tuple(self.layout.sizes[dim] for dim in what.dims)
        block = np.full((len(indices), *shape), what.fill, dtype=what.dtype)
        for row, index in enumerate(indices):
            if self._files[index] is not None:
                block[row, ...] = self._read(index, variable)
        return block

    def _read(self, index: int, name: str) -> Any:
        """Read one variable of one simulation, checked against the layout."""
        kept = self._kept.pop((index, name), None)
        if kept is not None:
            return kept
        with self._open(index, self.layout.moving) as dataset:
            self._check(dataset, index)
            if name in self._small:
                # Opening costs more than reading: what is small comes along for its own block.
                self._keep(dataset, index, self._small - {name})
            return self._values(dataset, index, name)

    def _values(self, dataset: xr.Dataset, index: int, name: str) -> Any:
        what = self.layout.stacked[name]
        if name not in dataset.variables:
            raise self._misfit(index, f"has no variable {name!r}")
        found = dataset[name]
        for key in CHECKED_ATTRIBUTES:
            if found.attrs.get(key) != what.attrs.get(key):
                raise self._misfit(index, f"has other {key} of {name!r}: {found.attrs}")
        return self._aligned(found, what).transpose(*what.dims).values

    def _keep(self, dataset: xr.Dataset, index: int, names: frozenset[str]) -> None:
        """Keep a file's small values until they are asked for, up to a limit."""
        if len(self._kept) < MAX_KEPT:
            self._kept.update(
                {(index, n): self._values(dataset, index, n) for n in names if n in dataset}
            )

    def _aligned(self, found: xr.DataArray, what: Variable) -> xr.DataArray:
        """Spread a variable over the joined axes, when they were joined."""
        if not self._outer:
            return found
        axes = {dim: self.layout.axes[dim] for dim in what.dims if dim in self.layout.axes}
        plain = found.astype(what.dtype).reset_coords(drop=True)
        return plain.reindex(axes, fill_value=what.fill)

    def _check(self, dataset: xr.Dataset, index: int) -> None:
        """Raise when a file's axes are not those of the layout."""
        if self._outer:
            return
        import numpy as np

        for dim, size in self.layout.sizes.items():
            if dataset.sizes.get(dim) != size:
                found = dataset.sizes.get(dim, "no")
                raise self._misfit(index, f"has {found} values along {dim!r}, not {size}")
        for dim, values in self.layout.axes.items():
            if dim not in dataset.coords or not np.array_equal(dataset[dim].values, values):
                raise self._misfit(index, f"has another coordinate {dim!r}")

    def _misfit(self, index: int, what: str) -> CollectError:
        first = self._ids[self._named[0]]
        return CollectError(
            f"product {self.product!r} of simulation {self._ids[index]!r} {what}, unlike that of "
            f"{first!r} ({self._files[index]} below {self._root.uri}): open the collection with "
            "align='outer' to join different axes, or collect fewer products or simulations"
        )

    @contextlib.contextmanager
    def _open(self, index: int, moving: frozenset[str] = frozenset()) -> Iterator[xr.Dataset]:
        """Open one file, its dimensions named as the stack names them, and close it for sure.

        netCDF cannot bear two threads: opening, reading and closing are all inside the lock.
        """
        import xarray as xr

        name = self._files[index]
        assert name is not None
        path = self._root.fetch(name)  # outside the lock: a download may take its time
        with netcdf_lock():
            try:
                opened = xr.open_dataset(
                    path, engine="netcdf4", lock=False, decode_coords="all", cache=False
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise CollectError(
                    f"product {self.product!r} of simulation {self._ids[index]!r} ({name} below "
                    f"{self._root.uri}) cannot be read: {error}"
                ) from error
            with opened:
                yield positional(stacked_by(opened), moving)

    def _survey(self) -> Layout:
        """Find the layout from the first and the last file, or from all of them."""
        with self._open(self._named[0]) as dataset:
            first = dataset.load()
        with self._open(self._named[-1]) as dataset:
            last = dataset.load()
        moving = frozenset() if self._outer else differing_axes(first, last)
        sample = positional(with_common_attributes(first, last), moving)
        axes = {str(d): sample[d].values for d in sample.dims if d in sample.coords}
        if self._outer:
            axes = self._joined(axes)
        has_gaps = self._outer or len(self._named) < len(self._files)
        return _layout(sample, axes, moving, has_gaps)

    def _joined(self, axes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the sorted union of the coordinates of all files, by dimension."""
        import numpy as np

        def read(index: int) -> dict[str, np.ndarray]:
            with self._open(index) as dataset:
                return {str(d): dataset[d].values for d in dataset.dims if d in dataset.coords}

        joined = dict(axes)
        with ThreadPoolExecutor(SCAN_THREADS) as pool:
            for found in pool.map(read, self._named[1:]):
                for dim, values in found.items():
                    if not np.array_equal(joined[dim], values):
                        joined[dim] = np.union1d(joined[dim], values)
        return joined


def netcdf_lock() -> Any:
    """Return the lock that xarray itself holds around the netCDF library, which has no threads."""
    try:
        from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK
    except ImportError:
        return _OWN_LOCK
    return NETCDF4_PYTHON_LOCK


def with_common_attributes(first: xr.Dataset, last: xr.Dataset) -> xr.Dataset:
    """Return the first dataset without the attributes on which the last one does not agree."""
    result = first.copy()
    result.attrs = _common(first.attrs, last.attrs)
    for name in first.variables:
        other = last[name].attrs if name in last.variables else {}
        result[name].attrs = _common(first[name].attrs, other)
    return result


def _common(attrs: Mapping[Any, Any], others: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in attrs.items() if same(value, others.get(name))}


def stacked_by(dataset: xr.Dataset) -> xr.Dataset:
    """Count every dimension by the coordinate that its ``stack_by`` attribute names."""
    swaps = {
        dim: dataset[dim].attrs["stack_by"]
        for dim in dataset.dims
        if dim in dataset.coords and dataset[dim].attrs.get("stack_by") in dataset.coords
    }
    return dataset.swap_dims(swaps) if swaps else dataset


def positional(dataset: xr.Dataset, moving: Iterable[Hashable]) -> xr.Dataset:
    """Turn dimensions into plain positions; their coordinates become ordinary ones."""
    names = {dim: f"{dim}{STEP_SUFFIX}" for dim in moving if dim in dataset.dims}
    return dataset.swap_dims(names).drop_vars(names.values(), errors="ignore") if names else dataset


def differing_axes(first: xr.Dataset, last: xr.Dataset) -> frozenset[str]:
    """Return the dimensions of equal size whose coordinates differ between two files."""
    import numpy as np

    return frozenset(
        str(dim)
        for dim in first.dims
        if dim in first.coords
        and dim in last.coords
        and first.sizes[dim] == last.sizes.get(dim)
        and not np.array_equal(first[dim].values, last[dim].values)
    )


def same(one: Any, other: Any) -> bool:
    """Return whether two attribute values, maybe arrays, are equal."""
    import numpy as np

    return type(one) is type(other) and bool(np.array_equal(one, other))


def _layout(
    sample: xr.Dataset, axes: Mapping[str, np.ndarray], moving: frozenset[str], has_gaps: bool
) -> Layout:
    mappings = {
        sample[name].attrs.get("grid_mapping") or sample[name].encoding.get("grid_mapping")
        for name in sample.variables
    }
    fixed = {
        str(name): sample[name].variable.load() for name in sample.variables if name in mappings
    }
    stacked = {
        str(name): _variable(sample[name], has_gaps)
        for name in sample.variables
        if name not in fixed and name not in axes
    }
    return Layout(
        axes=axes,
        axis_attrs={dim: _axis_attrs(sample[dim].attrs) for dim in axes},
        sizes={str(dim): len(axes.get(str(dim), range(n))) for dim, n in sample.sizes.items()},
        moving=moving,
        stacked=stacked,
        data=tuple(str(name) for name in sample.data_vars if str(name) in stacked),
        fixed=fixed,
        attrs=sample.attrs,
    )


def _axis_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attrs.items() if name != "bounds"}


def _variable(found: xr.DataArray, has_gaps: bool) -> Variable:
    """Describe one variable of the stack, with a type that can hold its gaps."""
    import numpy as np

    attrs = dict(found.attrs)
    mapping = found.encoding.get("grid_mapping")
    if mapping:
        attrs["grid_mapping"] = mapping
    fill = attrs.pop("empty_value", None)
    attrs.pop("stack_by", None)
    attrs.pop("bounds", None)
    dims = tuple(str(dim) for dim in found.dims)
    dtype = found.dtype
    if dtype.kind in "OUST":  # lengths of text differ from file to file
        return Variable(dims, np.dtype(object), attrs, "")
    if dtype.kind in "mM":
        return Variable(dims, dtype, attrs, np.array("NaT", dtype=dtype))
    if fill is None and dtype.kind in "biu" and has_gaps:
        dtype = np.dtype("float64")
    if fill is None:
        fill = np.nan if dtype.kind in "fc" else 0
    return Variable(dims, dtype, attrs, fill)


def check_align(align: str) -> str:
    """Return ``align`` if it is one that :class:`Stack` knows."""
    if align not in ("exact", "outer"):
        raise UsageError(f"align is {align!r}: it must be 'exact' or 'outer'")
    return align
