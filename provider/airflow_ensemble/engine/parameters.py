"""Parameters as they are stored, and as a model sees them.

A record of parameters holds JSON values by name. Names that begin with ``$`` are no parameters:
they say what JSON cannot. ``$written`` holds, by the parameter's name, the command argument of a
number or truth value that would print otherwise than it was written (``1.10`` is 1.1). Records
travel whole through index, chunk files and segments, so that equal records are equal simulations;
only who hands them to a model or shows them takes them apart. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

#: What a name begins with that is no parameter.
MARK = "$"
WRITTEN = "$written"


class Parameters(NamedTuple):
    """A record, taken apart.

    :param values: the parameters.
    :param written: command arguments by parameter, where they differ from what the value prints.
    """

    values: dict[str, Any]
    written: dict[str, str]


def take_apart(common: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Parameters:
    """Return the parameters of a simulation: its own over those that all share.

    :param common: the record of the ensemble.
    :param own: the record of the simulation.
    """
    own = own or {}
    values = {name: value for name, value in {**common, **own}.items() if name[:1] != MARK}
    shared = {name: text for name, text in common.get(WRITTEN, {}).items() if name not in own}
    return Parameters(values, {**shared, **own.get(WRITTEN, {})})


def as_argument(value: Any) -> str:
    """Return a value as a command gets it that was written as it prints."""
    if isinstance(value, (bool, list, dict)):
        return json.dumps(value, separators=(",", ":"))
    return str(value)
