"""Stacks one product's NetCDF files along a new dimension ``simulation``, lazily.

All files are looked at first (:mod:`airflow_ensemble.engine.survey`) and make one layout
(:mod:`airflow_ensemble.engine.layout`), the same whatever their order; values are read when dask
asks for their block, and each comes as it is in its file or not at all.

How dimensions are treated:

* a dimension whose coordinate is the same in all files stays as it is;
* one whose coordinate has the attribute ``stack_by``, naming another coordinate along it, is
  counted by that other one: footprints at different times share ``hour``, counted from their
  release, and keep their times as a coordinate over (simulation, hour);
* one whose coordinate differs between the files, at equal size, becomes a plain position
  (``<name>_step``) and its coordinate a variable over (simulation, position);
* files of different sizes need ``align="outer"``: the union of the coordinates, gaps filled.

A simulation whose product is complete-empty is filled with the variable's attribute ``empty_value``
where all files have it, else with NaN (NaT, empty text); whole numbers and truth values become
float64 then. So they do where a file does not have the variable.

Standard library only at import time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.errors import CollectError, UsageError
from airflow_ensemble.engine.layout import SIMULATION, Layout, Variable, build_layout
from airflow_ensemble.engine.product_file import Unusable, opened, positional, values_of
from airflow_ensemble.engine.survey import Misfit, survey
from airflow_ensemble.engine.value_types import Inexact, canonical, cast

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from airflow_ensemble.engine.storage import OutputRoot

__all__ = ["SIMULATION", "CollectError", "Stack", "check_align"]

#: Bytes of one variable that dask reads and holds at once.
BLOCK_BYTES = 16 << 20
#: Files in one block at most, so that a small variable is not one block of 100,000 files.
MAX_BLOCK_FILES = 1024
#: Bytes of a variable of one simulation up to which it is read along with others.
SMALL_BYTES = 4096
#: Values that were read along and are kept at once.
MAX_KEPT = 50_000
#: How a Python program, and a DAG, asks for different axes to be joined.
OUTER_OPTION = 'align="outer"'
ALIGNMENTS = ("exact", "outer")


class Stack:
    """The files of one product, one or none for each simulation.

    :param product: the product's name.
    :param ids: the simulations.
    :param files: names below the output root, None where there is no file.
    :param root: where they are.
    :param align: ``exact`` or ``outer``.
    :param outer_option: what an error calls the option that joins different axes.
    :raises CollectError: when the files do not fit together.
    """

    def __init__(
        self,
        product: str,
        ids: Sequence[str],
        files: Sequence[str | None],
        root: OutputRoot,
        align: str = "exact",
        outer_option: str = OUTER_OPTION,
    ) -> None:
        self.product = product
        self._ids = ids
        self._files = files
        self._root = root
        self._outer = align == "outer"
        self._outer_option = outer_option
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
        shape = self._shape(variable)
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

    def _shape(self, variable: Variable) -> tuple[int, ...]:
        return tuple(self.layout.sizes[dim] for dim in variable.dims)

    def _bytes(self, name: str) -> int:
        """Return the bytes of one variable of one simulation, at least 1."""
        variable = self.layout.stacked[name]
        return max(1, math.prod(self._shape(variable)) * variable.dtype.itemsize)

    def _read_block(
        self, *, variable: str, step: int, block_id: tuple[int, ...] = (0,)
    ) -> np.ndarray:
        """Read one variable of up to ``step`` simulations; dask calls this."""
        import numpy as np

        what = self.layout.stacked[variable]
        start = block_id[0] * step
        indices = range(start, min(start + step, len(self._ids)))
        block = np.full((len(indices), *self._shape(what)), what.fill, dtype=what.dtype)
        for row, index in enumerate(indices):
            if self._files[index] is not None:
                block[row, ...] = self._read(index, variable)
        return block

    def _read(self, index: int, name: str) -> Any:
        """Read one variable of one simulation, as the layout has it."""
        kept = self._kept.pop((index, name), None)
        if kept is not None:
            return kept
        # Opening costs more than reading: what is small comes along for its own block.
        along = self._small - {name} if name in self._small else frozenset()
        if len(self._kept) >= MAX_KEPT:
            along = frozenset()
        try:
            with opened(self._path(index)) as dataset:
                placed = positional(dataset, self.layout.moving)
                self._kept.update({(index, n): self._values(placed, n) for n in along})
                return self._values(placed, name)
        except Unusable as error:
            raise self._misfit(Misfit(index, str(error))) from error

    def _values(self, dataset: xr.Dataset, name: str) -> Any:
        """Return a variable's values in the layout's type and places."""
        import numpy as np

        what = self.layout.stacked[name]
        if name not in dataset.variables:
            return np.full(self._shape(what), what.missing, dtype=what.dtype)
        found = dataset.variables[name].transpose(*what.dims)
        try:
            values = cast(values_of(found), what.dtype)
        except Unusable as error:
            raise Unusable(f"{error}, in the variable {name!r}") from error
        except Inexact as error:
            raise Unusable(f"has in {name!r} what the type of all cannot hold: {error}") from error
        places = [self._places(dataset, dim) for dim in what.dims]
        if all(isinstance(place, slice) for place in places):
            return _of_shape(values, self._shape(what), name)
        block = np.full(self._shape(what), what.fill, dtype=what.dtype)
        ranges = [np.arange(size)[place] for size, place in zip(block.shape, places)]
        block[np.ix_(*ranges)] = values
        return block

    def _places(self, dataset: xr.Dataset, dim: str) -> Any:
        """Return where a file's values lie along a dimension."""
        import numpy as np

        if dim not in self.layout.joined:
            return slice(None)
        union, is_falling = self.layout.joined[dim]
        places = np.searchsorted(union, canonical(values_of(dataset.variables[dim])))
        return len(union) - 1 - places if is_falling else places

    def _path(self, index: int) -> Any:
        name = self._files[index]
        assert name is not None
        return self._root.fetch(name)

    def _survey(self) -> Layout:
        """Find the layout from all files."""
        named = [index for index, name in enumerate(self._files) if name is not None]
        try:
            summary = survey(named, self._path, join=self._outer, processes=_cpus())
            return build_layout(summary, outer=self._outer, has_empty=len(named) < len(self._files))
        except Misfit as misfit:
            raise self._misfit(misfit) from misfit

    def _misfit(self, misfit: Misfit) -> CollectError:
        """Say what is wrong in which file, and what to do."""
        text = f"product {self.product!r} of simulation {self._ids[misfit.number]!r}"
        place = f"({self._files[misfit.number]} below {self._root.uri})"
        if misfit.other is None:
            text += f" {place} {misfit.what}"
        else:
            text += f" {misfit.what}, unlike that of {self._ids[misfit.other]!r} {place}"
        if misfit.outer:
            text += f": choose {self._outer_option} to join what differs, or leave this product out"
        return CollectError(text)


def _of_shape(values: Any, shape: tuple[int, ...], name: str) -> Any:
    """Return values if they fill their place, not less of it."""
    if values.shape != shape:
        raise Unusable(f"was changed while it was collected: {name!r} is of another size now")
    return values


def _cpus() -> int:
    """Return the number of CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def check_align(align: str) -> str:
    """Return ``align`` if it is one that :class:`Stack` knows."""
    if align not in ALIGNMENTS:
        raise UsageError(f"align is {align!r}: it must be 'exact' or 'outer'")
    return align
