"""What all files of a product make together: one type, one set of dimensions, for each variable.

No I/O: a :class:`~airflow_ensemble.engine.survey.Summary` of all files in, a :class:`Layout` out,
or a :class:`~airflow_ensemble.engine.survey.Misfit` that names two files. Standard library only at
import time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.product_file import STEP_SUFFIX
from airflow_ensemble.engine.survey import (
    CHECKED_ATTRIBUTES,
    DimensionFacts,
    Found,
    Misfit,
    Summary,
    VariableFacts,
)
from airflow_ensemble.engine.value_types import CFTIME, TEXT, Inexact, cast, common_type, kind_of

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

SIMULATION = "simulation"
#: Attributes that are instructions to collect, or name what is renamed.
CONSUMED = ("empty_value", "stack_by", "bounds", "coordinates")


@dataclass(frozen=True)
class Variable:
    """One variable of all files.

    :param dims: without ``simulation``.
    :param dtype: of its values.
    :param fill: for simulations whose product is complete-empty, and for gaps between joined axes.
    :param missing: for simulations whose file does not have it.
    """

    dims: tuple[str, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any]
    fill: Any
    missing: Any


@dataclass(frozen=True)
class Layout:
    """What all files of a product make together.

    :param axes: coordinate values by dimension; a dimension without coordinate is missing.
    :param axis_attrs: their attributes.
    :param joined: of the axes that differ and were joined, the sorted union to look places up in,
        and whether the axis runs the other way.
    :param sizes: by dimension.
    :param moving: dimensions whose own coordinate differs from file to file.
    :param stacked: the variables with a value per simulation.
    :param data: of those, the ones that are data, not coordinates.
    :param fixed: variables that say how to read others (grid mappings), once for all.
    :param attrs: the attributes on which all files agree.
    """

    axes: Mapping[str, np.ndarray]
    axis_attrs: Mapping[str, Mapping[str, Any]]
    joined: Mapping[str, tuple[np.ndarray, bool]]
    sizes: Mapping[str, int]
    moving: frozenset[str]
    stacked: Mapping[str, Variable]
    data: tuple[str, ...]
    fixed: Mapping[str, xr.Variable]
    attrs: Mapping[str, Any]


def build_layout(summary: Summary, *, outer: bool, has_empty: bool) -> Layout:
    """Find what all files make together.

    :param outer: join axes that differ.
    :param has_empty: whether there are simulations without a file.
    :raises Misfit: when the files do not fit together.
    """
    _check_names(summary)
    for name, facts in sorted(summary.variables.items()):
        _check_variable(name, facts)
    axes = {dim: facts for dim, facts in summary.variables.items() if _is_axis(dim, summary)}
    dims = summary.dimensions
    differing = {dim for dim, facts in axes.items() if _differs(facts, dims[dim])}
    _check_sizes(summary, differing if outer else set(), outer)
    moving = frozenset() if outer else frozenset(differing)
    _check_steps(summary, moving)
    kept = {dim: facts for dim, facts in sorted(axes.items()) if dim not in moving}
    joined = {dim: _joined(dim, kept[dim], dims[dim]) for dim in kept if dim in differing}
    values = {dim: _axis(dim, facts, joined) for dim, facts in kept.items()}
    fixed = {name: _fixed(name, summary) for name in sorted(summary.mappings)}
    names = sorted(summary.variables.keys() - kept.keys() - fixed.keys())
    gaps = set(joined)
    stacked = {
        name: _variable(name, summary.variables[name], moving, gaps, has_empty) for name in names
    }
    return Layout(
        axes=values,
        axis_attrs={dim: _attrs(facts) for dim, facts in kept.items()},
        joined=joined,
        sizes=_sizes(summary, values, moving),
        moving=moving,
        stacked=stacked,
        data=tuple(name for name in names if summary.variables[name].is_data),
        fixed=fixed,
        attrs=summary.attrs,
    )


# --- what does not fit ----------------------------------------------------------------------------


def _two(found: Found[Any]) -> tuple[tuple[Any, int], tuple[Any, int]]:
    """Return the first finding and the first other one, each with its file."""
    first, second, *_ = sorted(found.items(), key=lambda pair: pair[1])
    return first, second


def _check_names(summary: Summary) -> None:
    """Raise on what is called like the dimension that is to come."""
    dimension = summary.dimensions.get(SIMULATION)
    if dimension is not None:
        raise Misfit(
            min(dimension.sizes.values()),
            f"has a dimension {SIMULATION!r}, the name of the one along which simulations are "
            "joined: call it something else in the model",
        )
    coordinate = summary.variables.get(SIMULATION)
    if coordinate is not None and not coordinate.is_data:
        raise Misfit(
            min(coordinate.types.values()),
            f"has a coordinate {SIMULATION!r}, the name of the simulations' ids in the dataset: "
            "call it something else in the model",
        )


def _check_variable(name: str, facts: VariableFacts) -> None:
    """Raise when a variable is not the same thing in all files."""
    kinds: Found[str] = {}
    for type_name, number in sorted(facts.types.items(), key=lambda pair: pair[1]):
        kinds.setdefault(kind_of(type_name), number)
    if len(kinds) > 1:
        (kind, one), (other_kind, number) = _two(kinds)
        raise Misfit(number, f"has {other_kind} in {name!r}, not {kind}", one)
    for key in CHECKED_ATTRIBUTES:
        if len(facts.checked[key]) > 1:
            (value, one), (other, number) = _two(facts.checked[key])
            text = f"has other {key} of {name!r}, {_said(other)} and not {_said(value)}"
            raise Misfit(number, text, one)
    sets: Found[frozenset[str]] = {}
    for dims, number in sorted(facts.dims.items(), key=lambda pair: pair[1]):
        sets.setdefault(frozenset(dims), number)
    if len(sets) > 1:
        (dims_set, one), (other_set, number) = _two(sets)
        raise Misfit(
            number, f"has {name!r} over {_dims(other_set)}, not over {_dims(dims_set)}", one
        )


def _said(value: Any) -> str:
    return "none" if value is None else repr(value)


def _dims(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "no dimension"


def _check_sizes(summary: Summary, joinable: set[str], outer: bool) -> None:
    """Raise on dimensions that some files lack, or that differ in size and are not joined."""
    for dim, facts in sorted(summary.dimensions.items()):
        if facts.lacking is not None and not outer:
            has_it = min(facts.sizes.values())
            raise Misfit(facts.lacking, f"has no dimension {dim!r}", has_it, outer=True)
        if len(facts.sizes) == 1 or dim in joinable:
            continue
        (size, one), (other, number) = _two(facts.sizes)
        text = f"has {other} values along {dim!r}, not {size}"
        if outer:
            text += " (and no coordinate by which they could be joined)"
        raise Misfit(number, text, one, outer=_is_axis(dim, summary) and not outer)


def _check_steps(summary: Summary, moving: frozenset[str]) -> None:
    """Raise when the name of a plain position is taken."""
    for dim in sorted(moving):
        step = f"{dim}{STEP_SUFFIX}"
        if step in summary.variables or step in summary.dimensions:
            raise Misfit(
                summary.first,
                f"has {step!r} beside {dim!r}, and {dim!r} differs from file to file, so that its "
                f"positions would be called {step!r} too: call one of them something else",
            )


# --- axes -----------------------------------------------------------------------------------------


def _is_axis(dim: str, summary: Summary) -> bool:
    facts = summary.variables.get(dim)
    return dim in summary.dimensions and facts is not None and (dim,) in facts.dims


def _differs(facts: VariableFacts, dimension: DimensionFacts) -> bool:
    assert facts.values is not None
    return len(facts.values.digests) > 1 or dimension.bare is not None


def _joined(dim: str, facts: VariableFacts, dimension: DimensionFacts) -> tuple[np.ndarray, bool]:
    """Return the union of an axis, sorted upward, and whether the files run downward."""
    values = facts.values
    assert values is not None
    assert values.joined is not None
    if dimension.bare is not None:
        raise Misfit(dimension.bare, f"has no coordinate {dim!r} to be joined by", values.first)
    for why, number in values.unjoinable.items():
        raise Misfit(number, f"has {why}, the axis {dim!r}, so that it cannot be joined to others")
    return values.joined, values.falling and not values.rising


def _axis(
    dim: str, facts: VariableFacts, joined: Mapping[str, tuple[np.ndarray, bool]]
) -> np.ndarray:
    """Return the values of an axis, in a type that holds those of all files."""
    values = facts.values
    assert values is not None
    dtype = common_type(facts.types, has_gaps=False, needed_unit=_needed_unit(facts))
    union, is_falling = joined.get(dim, (values.values, False))
    try:
        result: np.ndarray = cast(union, dtype)
    except Inexact as error:
        raise Misfit(values.first, f"has an axis {dim!r} that cannot be joined: {error}") from error
    return result[::-1] if is_falling else result


def _sizes(
    summary: Summary, axes: Mapping[str, np.ndarray], moving: frozenset[str]
) -> dict[str, int]:
    sizes = {}
    for dim, facts in summary.dimensions.items():
        name = f"{dim}{STEP_SUFFIX}" if dim in moving else dim
        sizes[name] = len(axes[dim]) if dim in axes else next(iter(facts.sizes))
    return sizes


# --- variables ------------------------------------------------------------------------------------


def _needed_unit(facts: VariableFacts) -> str | None:
    return facts.unit if facts.is_far else None


def _attrs(facts: VariableFacts) -> dict[str, Any]:
    return {name: value for name, value in facts.attrs.items() if name not in CONSUMED}


def _fixed(name: str, summary: Summary) -> xr.Variable:
    """Return a variable that is once for all."""
    import xarray as xr

    facts = summary.variables[name]
    assert facts.values is not None
    if len(facts.values.digests) > 1:
        (_, one), (_, number) = _two(facts.values.digests)
        raise Misfit(number, f"has another grid mapping {name!r}", one)
    return xr.Variable(min(facts.dims), facts.values.values, _attrs(facts))


def _variable(
    name: str, facts: VariableFacts, moving: frozenset[str], gaps: set[str], has_empty: bool
) -> Variable:
    """Describe one variable of the stack, with a type that can hold what is missing."""
    import numpy as np

    order = min(facts.dims)
    dims = tuple(f"{dim}{STEP_SUFFIX}" if dim in moving else dim for dim in order)
    attrs = _attrs(facts)
    first = min(facts.types)
    if first == TEXT:
        empty = facts.attrs.get("empty_value")
        return Variable(dims, np.dtype(object), attrs, empty if isinstance(empty, str) else "", "")
    if first.startswith(CFTIME):
        return Variable(dims, np.dtype(object), attrs, None, None)
    is_missing = facts.lacking is not None
    has_gaps = has_empty or bool(gaps & set(order))
    empty = _empty_value(name, facts)
    dtype = common_type(
        facts.types,
        has_gaps=is_missing or (has_gaps and empty is None),
        needed_unit=_needed_unit(facts),
    )
    if dtype.kind in "mM":
        missing = np.array("NaT", dtype=dtype)
        return Variable(dims, dtype, attrs, missing, missing)
    dtype = _with_empty(dtype, empty) if has_gaps else dtype
    missing = np.array(np.nan if dtype.kind == "f" else 0, dtype)  # a zero is never used
    fill = missing if empty is None else np.array(empty).astype(dtype)
    return Variable(dims, dtype, attrs, fill, missing)


def _empty_value(name: str, facts: VariableFacts) -> Any:
    """Return what all files say that the variable is where a product is complete-empty."""
    import numpy as np

    value = facts.attrs.get("empty_value")
    if value is None:
        return None
    number = np.asarray(value)
    if number.ndim or number.dtype.kind not in "biuf":
        raise Misfit(
            min(facts.types.values()),
            f"has the attribute empty_value {value!r} at {name!r}: it must be a number",
        )
    return number[()]


def _with_empty(dtype: np.dtype[Any], empty: Any) -> np.dtype[Any]:
    """Return a type that holds a variable's values and its empty value."""
    import numpy as np

    if empty is None:
        return dtype
    try:
        cast(np.asarray(empty), dtype)
    except Inexact:
        return np.result_type(dtype, np.asarray(empty).dtype, "float32")
    return dtype
