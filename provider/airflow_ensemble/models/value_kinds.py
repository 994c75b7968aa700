"""Kinds of values: what a checked class of pydantic would convert on its own is refused before.

To pydantic the text ``"-24"``, the number 1 and the truth value ``true`` may all be numbers, and
``"no"`` a truth value. Here each value must be of a kind that its field names. Standard library
only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin

_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((bool,), "a truth value"),
    ((int, float), "a number"),
    ((str, PurePath), "text"),
)


def refuse_other_kinds(what: str, model: Any, values: Mapping[str, Any]) -> None:
    """Compare truth values, numbers and texts with the kinds of the fields that they are for.

    :param what: the place, for errors.
    :param model: a class of pydantic; what it does not know is left to it.
    :param values: by the names of its fields.
    :raises ValueError: naming the first value of another kind, or one that is no finite number.
    """
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is not None:
            _compare(f"{what}: {name}", list(_leaves(field.annotation)), value)


def _compare(place: str, leaves: list[Any], value: Any) -> None:
    if isinstance(value, Mapping):
        for leaf in leaves:
            if hasattr(leaf, "model_fields"):
                refuse_other_kinds(place, leaf, value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _compare(place, leaves, item)
    else:
        _compare_scalar(place, leaves, value)


def _compare_scalar(place: str, leaves: list[Any], value: Any) -> None:
    kind = _kind(type(value))
    wanted = {_kind(leaf) for leaf in leaves if isinstance(leaf, type)} - {""}
    if kind and wanted and kind not in wanted and Any not in leaves:
        raise ValueError(f"{place} is {value!r}, {kind}: it must be {' or '.join(sorted(wanted))}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value!r}: it must be a finite number")


def _kind(type_: type) -> str:
    return next((kind for types, kind in _KINDS if issubclass(type_, types)), "")


def _leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types inside an annotation, those of a literal's values included."""
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif get_args(annotation):
        for argument in get_args(annotation):
            yield from _leaves(argument)
    else:
        yield annotation
