"""Looks at every file of a product, and folds what it finds into one bounded summary.

What is kept of a fact is each different finding and the first file that has it, so that a summary
is as large as the files are different, and not as they are many. Summaries of parts can be merged
in any order: with many files, processes of their own survey a part each, for the netCDF library
has no threads. Standard library only at import time.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha1
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from airflow_ensemble.engine.errors import EnsembleError
from airflow_ensemble.engine.product_file import (
    Unusable,
    grid_mappings,
    opened,
    values_of,
)
from airflow_ensemble.engine.value_types import (
    Inexact,
    canonical,
    cast,
    coarsest,
    finest,
    fits_nanoseconds,
    type_of,
)

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

#: Attributes that must be equal in all files, or equal numbers would not mean the same.
CHECKED_ATTRIBUTES = (
    "units",
    "calendar",
    "positive",
    "flag_values",
    "flag_meanings",
    "flag_masks",
)
#: Attributes that speak of packed numbers, and would be wrong beside what these stand for.
PACKED_ATTRIBUTES = ("valid_range", "valid_min", "valid_max")
#: Files for which one more process pays for its start.
FILES_A_PROCESS = 400
#: Files that a process surveys at a time.
BATCH = 50
#: Downloads at one time for each process.
FETCHES = 4
#: Values of a variable of dates up to which they are read, to see which unit holds them.
MAX_DATES = 1 << 20

_K = TypeVar("_K", bound=Hashable)
#: What was found, and the number of the first file in which it was.
Found = dict[_K, int]


class Misfit(Exception):
    """A file does not fit to the others.

    :param number: of the file.
    :param what: what it has, as the rest of a sentence about it.
    :param other: number of a file that it does not fit to, if it is one.
    :param outer: whether joining the axes would help.
    """

    def __init__(
        self, number: int, what: str, other: int | None = None, outer: bool = False
    ) -> None:
        super().__init__(number, what, other, outer)
        self.number = number
        self.what = what
        self.other = other
        self.outer = outer


@dataclass
class Values:
    """The values of an axis, or of a variable that is once for all, in the files seen so far.

    :param digests: of equal values; of many, two are kept.
    :param values: those of the first file.
    :param first: its number.
    :param joined: the sorted union; None when no union is wanted.
    :param rising: whether each file's are sorted upward; so is ``falling``, downward.
    :param unjoinable: why values have no place in a union.
    """

    digests: Found[str]
    values: np.ndarray
    first: int
    joined: np.ndarray | None = None
    rising: bool = True
    falling: bool = True
    unjoinable: Found[str] = field(default_factory=dict)

    def merge(self, other: Values) -> None:
        """Take in what other files have."""
        if other.first < self.first:
            self.values, self.first = other.values, other.first
        if self.joined is not None and set(self.digests) != set(other.digests):
            self._join(other)
        self.digests = dict(sorted(_merged(self.digests, other.digests).items(), key=_second)[:2])
        self.rising &= other.rising
        self.falling &= other.falling
        self.unjoinable = _merged(self.unjoinable, other.unjoinable)

    def _join(self, other: Values) -> None:
        try:
            self.joined = union(self.joined, other.joined)
        except (TypeError, Inexact) as error:
            self.unjoinable.setdefault(f"values that cannot be joined ({error})", other.first)


@dataclass
class VariableFacts:
    """What is known of one variable.

    :param dims: its dimensions.
    :param types: see :mod:`airflow_ensemble.engine.value_types`.
    :param is_data: whether it is data in a file, and not a coordinate.
    :param checked: for each of :data:`CHECKED_ATTRIBUTES`, its values.
    :param attrs: the attributes on which all files agree.
    :param unit: of dates: the coarsest that holds them all.
    :param is_far: of dates: whether one lies beyond NumPy's nanoseconds.
    :param values: of an axis, or of a grid mapping.
    :param lacking: the first file without it.
    """

    dims: Found[tuple[str, ...]]
    types: Found[str]
    is_data: bool
    checked: dict[str, Found[Any]]
    attrs: dict[str, Any]
    unit: str = "s"
    is_far: bool = False
    values: Values | None = None
    lacking: int | None = None

    def merge(self, other: VariableFacts) -> None:
        """Take in what other files have."""
        self.dims = _merged(self.dims, other.dims)
        self.types = _merged(self.types, other.types)
        self.is_data |= other.is_data
        self.checked = {
            key: _merged(self.checked[key], other.checked[key]) for key in CHECKED_ATTRIBUTES
        }
        self.attrs = common_attributes(self.attrs, other.attrs)
        self.unit = finest((self.unit, other.unit))
        self.is_far |= other.is_far
        self.lacking = _least(self.lacking, other.lacking)
        if self.values is None:
            self.values = other.values
        elif other.values is not None:
            self.values.merge(other.values)


@dataclass
class DimensionFacts:
    """What is known of one dimension.

    :param sizes: its lengths.
    :param bare: the first file that has no coordinate of its name.
    :param lacking: the first file without it.
    """

    sizes: Found[int]
    bare: int | None = None
    lacking: int | None = None

    def merge(self, other: DimensionFacts) -> None:
        """Take in what other files have."""
        self.sizes = _merged(self.sizes, other.sizes)
        self.bare = _least(self.bare, other.bare)
        self.lacking = _least(self.lacking, other.lacking)


@dataclass
class Summary:
    """What is known of the files of a product.

    :param first: the number of the first of them.
    :param attrs: the attributes on which all files agree.
    :param mappings: variables that others name as grid mappings: they are once for all.
    """

    first: int
    attrs: dict[str, Any]
    mappings: Found[str]
    dimensions: dict[str, DimensionFacts]
    variables: dict[str, VariableFacts]

    def merge(self, other: Summary) -> None:
        """Take in what other files have."""
        _merge_facts(self.dimensions, other.dimensions, self.first, other.first)
        _merge_facts(self.variables, other.variables, self.first, other.first)
        self.attrs = common_attributes(self.attrs, other.attrs)
        self.mappings = _merged(self.mappings, other.mappings)
        self.first = min(self.first, other.first)


_F = TypeVar("_F", VariableFacts, DimensionFacts)


def _merge_facts(mine: dict[str, _F], others: Mapping[str, _F], first: int, other: int) -> None:
    """Merge facts by name; what one side does not have lacks in its first file at the latest."""
    for name, facts in others.items():
        if name in mine:
            mine[name].merge(facts)
            continue
        mine[name] = facts
        facts.lacking = _least(facts.lacking, first)
    for name in mine.keys() - others.keys():
        mine[name].lacking = _least(mine[name].lacking, other)


def _merged(one: Found[_K], other: Found[_K]) -> Found[_K]:
    result = dict(one)
    for value, number in other.items():
        result[value] = min(number, result.get(value, number))
    return result


def _least(one: int | None, other: int | None) -> int | None:
    numbers = [number for number in (one, other) if number is not None]
    return min(numbers, default=None)


def _second(pair: tuple[Any, int]) -> int:
    return pair[1]


def common_attributes(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that two mappings have alike."""
    return {key: value for key, value in one.items() if key in other and same(value, other[key])}


def same(one: Any, other: Any) -> bool:
    """Return whether two attribute values, maybe arrays, are equal and of one type."""
    import numpy as np

    kind = np.asarray(one).dtype.kind
    if type(one) is not type(other) or kind != np.asarray(other).dtype.kind:
        return False
    return bool(np.array_equal(one, other, equal_nan=kind == "f"))


def union(one: Any, other: Any) -> Any:
    """Return the sorted union of two canonical arrays.

    :raises TypeError: when their values cannot be compared.
    :raises Inexact: when no unit of time holds them all.
    """
    import numpy as np

    if one.dtype.kind in "mM" and one.dtype.kind == other.dtype.kind:
        unit = finest(np.datetime_data(values.dtype)[0] for values in (one, other))
        dtype = np.dtype(f"{one.dtype.kind}8[{unit}]")
        one, other = cast(one, dtype), cast(other, dtype)
    elif one.dtype.kind != other.dtype.kind and "O" not in (one.dtype.kind, other.dtype.kind):
        raise TypeError("values of several kinds")
    return np.union1d(one, other)


# --- one file -------------------------------------------------------------------------------------


def describe(dataset: xr.Dataset, number: int, *, join: bool) -> Summary:
    """Return what one file has.

    :param number: by which it is known.
    :param join: whether the union of the axes is wanted.
    :raises Unusable: when it cannot be part of a dataset.
    """
    mappings = {name for v in dataset.variables.values() for name in grid_mappings(v)}
    axes = {str(dim) for dim in dataset.dims if dim in dataset.coords}
    variables = {}
    for name, variable in dataset.variables.items():
        text = str(name)
        with _naming(text):
            facts = _facts(variable, number, is_data=name in dataset.data_vars)
            if text in axes:
                facts.values = _axis_values(variable, number, join=join)
            elif text in mappings:
                facts.values = _mapping_values(variable, number)
        variables[text] = facts
    dimensions = {
        str(dim): DimensionFacts({size: number}, bare=None if dim in axes else number)
        for dim, size in dataset.sizes.items()
    }
    shared = {name: number for name in mappings if name in variables}
    return Summary(number, dict(dataset.attrs), shared, dimensions, variables)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of which variable an error speaks."""
    try:
        yield
    except Unusable as error:
        raise Unusable(f"{error}, in the variable {name!r}") from error


def _facts(variable: xr.Variable, number: int, *, is_data: bool) -> VariableFacts:
    kind = type_of(variable)
    if kind is None:
        raise Unusable(f"has values of the type {variable.dtype}, which cannot be joined")
    attrs = dict(variable.attrs)
    if {"scale_factor", "add_offset"} & set(variable.encoding):
        for key in PACKED_ATTRIBUTES:
            attrs.pop(key, None)
    mapping = variable.encoding.get("grid_mapping")
    if mapping:
        attrs["grid_mapping"] = mapping
    facts = VariableFacts(
        dims={tuple(str(dim) for dim in variable.dims): number},
        types={kind: number},
        is_data=is_data,
        checked={key: {_hashable(attrs.get(key)): number} for key in CHECKED_ATTRIBUTES},
        attrs=attrs,
    )
    if variable.dtype.kind in "mM":
        facts.unit, facts.is_far = _unit(variable)
    return facts


def _unit(variable: xr.Variable) -> tuple[str, bool]:
    """Return the coarsest unit that holds dates, and whether nanoseconds do not."""
    import numpy as np

    if variable.size > MAX_DATES:
        return str(np.datetime_data(variable.dtype)[0]), False
    values = values_of(variable)
    return str(np.datetime_data(coarsest(values).dtype)[0]), not fits_nanoseconds(values)


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return tuple(value.ravel().tolist()) if hasattr(value, "ravel") else value


def _mapping_values(variable: xr.Variable, number: int) -> Values:
    """Return what a grid mapping is: mostly its attributes."""
    raw = values_of(variable)
    attrs = repr([(key, _hashable(value)) for key, value in sorted(variable.attrs.items())])
    return Values({digest(raw) + attrs: number}, raw, number)


def _axis_values(variable: xr.Variable, number: int, *, join: bool) -> Values:
    import numpy as np

    raw = values_of(variable)
    found = canonical(raw)
    result = Values({digest(found): number}, raw, number)
    if not join:
        return result
    missing = found != found
    if np.any(missing):
        result.unjoinable = {"a missing value on it": number}
    result.joined = np.unique(found[~missing])
    if len(result.joined) < len(found[~missing]):
        result.unjoinable = {"a value twice on it": number}
    result.rising = bool(np.array_equal(found, result.joined))
    result.falling = bool(np.array_equal(found, result.joined[::-1]))
    return result


def digest(values: np.ndarray) -> str:
    """Return a digest that equal arrays of one type have alike."""
    data = repr(values.tolist()).encode() if values.dtype.kind == "O" else values.tobytes()
    return sha1(f"{values.dtype.str}{values.shape}".encode() + data).hexdigest()


# --- all files ------------------------------------------------------------------------------------


def survey(
    numbers: Sequence[int], fetch: Callable[[int], Path], *, join: bool, processes: int
) -> Summary:
    """Look at all files.

    :param numbers: by which they are known, at least one.
    :param fetch: brings one to this machine.
    :param join: whether the union of the axes is wanted.
    :param processes: how many may be used at most.
    :raises Misfit: when one of them cannot be part of a dataset.
    """
    helpers = min(processes, len(numbers) // FILES_A_PROCESS)
    if helpers < 2:
        return survey_here(_fetched(numbers, fetch), join=join)
    batches = _Batches(numbers, fetch)
    total: Summary | None = None
    with ThreadPoolExecutor(helpers) as threads:
        for summary in threads.map(lambda _: _survey_beside(batches, join), range(helpers)):
            total = _plus(total, summary)
    assert total is not None
    return total


def survey_here(files: Iterable[tuple[int, Path]], *, join: bool) -> Summary:
    """Look at some files in this process, one after the other.

    :raises Misfit: when one of them cannot be part of a dataset.
    """
    total: Summary | None = None
    for number, path in files:
        try:
            with opened(path) as dataset:
                summary = describe(dataset, number, join=join)
        except Unusable as error:
            raise Misfit(number, str(error)) from error
        total = _plus(total, summary)
    assert total is not None
    return total


def _plus(total: Summary | None, summary: Summary | None) -> Summary | None:
    if total is None or summary is None:
        return total or summary
    total.merge(summary)
    return total


def _fetched(numbers: Sequence[int], fetch: Callable[[int], Path]) -> Iterator[tuple[int, Path]]:
    """Yield files that are here, a batch at a time: a remote root downloads several at once."""
    with ThreadPoolExecutor(FETCHES) as threads:
        for start in range(0, len(numbers), BATCH):
            batch = numbers[start : start + BATCH]
            yield from zip(batch, threads.map(fetch, batch))


class _Batches:
    """Deals the files out to those who survey them, a batch at a time, each once."""

    def __init__(self, numbers: Sequence[int], fetch: Callable[[int], Path]) -> None:
        self._files: Iterator[tuple[int, Path]] = _fetched(numbers, fetch)
        self._lock = threading.Lock()

    def next(self) -> list[tuple[int, Path]]:
        """Return the next batch; an empty one when nothing is left."""
        with self._lock:
            return list(islice(self._files, BATCH))

    def stop(self) -> None:
        """Let nobody get another batch."""
        with self._lock:
            self._files = iter(())


def _survey_beside(batches: _Batches, join: bool) -> Summary | None:
    """Survey batches in one process beside this one until none are left."""
    total: Summary | None = None
    command = [sys.executable, "-c", _BESIDE, *sys.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for batch in iter(batches.next, []):
            answer = _ask(process, (batch, join))
            if isinstance(answer, Misfit):
                batches.stop()
                raise answer
            total = _plus(total, answer)
    return total


def _ask(process: subprocess.Popen[bytes], question: Any) -> Any:
    """Return a process's answer.

    :raises EnsembleError: when it has died.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        _send(process.stdin, question)
        return _receive(process.stdout)
    except (EOFError, OSError) as error:
        with contextlib.suppress(OSError):
            process.stdin.close()  # what was not sent yet goes nowhere, and is no error of its own
        raise EnsembleError(
            "a process that looked at products beside this one has died: is there memory left?"
        ) from error


#: What such a process runs: it must not import the caller's own program, as multiprocessing would.
_BESIDE = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from airflow_ensemble.engine.survey import survey_batches; survey_batches()"
)


def survey_batches() -> None:
    """Survey the batches that come by standard input, and answer each with its summary."""
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no answer
    while True:
        try:
            batch, join = _receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            _send(answers, survey_here(batch, join=join))
        except Misfit as misfit:
            _send(answers, misfit)


def _send(stream: IO[bytes], message: Any) -> None:
    pickle.dump(message, stream)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    return pickle.load(stream)
