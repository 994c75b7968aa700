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
#: Stands where the parameter ``seed`` is the seed of the simulation. Versions that made nothing of
#: such a column did not write it, so that what they made is never taken for the same.
SEED = "$seed"

#: Characters of one value that a sentence repeats.
_SHOWN = 60


class Parameters(NamedTuple):
    """A record, taken apart.

    :param values: the parameters.
    :param written: command arguments by parameter, where they differ from what the value prints.
    :param seed: of the simulation, where its row gives one.
    """

    values: dict[str, Any]
    written: dict[str, str]
    seed: int | None = None


def take_apart(common: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Parameters:
    """Return the parameters of a simulation: its own over those that all share.

    :param common: the record of the ensemble.
    :param own: the record of the simulation.
    """
    own = own or {}
    values = {name: value for name, value in {**common, **own}.items() if name[:1] != MARK}
    shared = {name: text for name, text in common.get(WRITTEN, {}).items() if name not in own}
    return Parameters(values, {**shared, **own.get(WRITTEN, {})}, _seed(own))


def as_argument(value: Any) -> str:
    """Return a value as a command gets it that was written as it prints."""
    if isinstance(value, (bool, list, dict)):
        return json.dumps(value, separators=(",", ":"))
    return str(value)


def describe_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in which column two records of one simulation differ, with both values as written.

    :param old: what is known.
    :param new: what is given now.
    :return: of several columns the first, and how many there are more.
    """
    before, after = _as_written(old), _as_written(new)
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    words = [_describe_column(name, old, new) for name in changed]
    if _seed(old) != _seed(new):
        words = [_describe_seed(old, new), *(word for word in words if "'seed'" not in word)]
    if not words:
        return "it has other parameters"
    more = len(words) - 1
    return words[0] + (f", and {more} more column{'s' if more > 1 else ''}" if more else "")


def _as_written(record: Mapping[str, Any]) -> dict[str, str]:
    values, written, _ = take_apart(record)
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    return {**texts, **written}


def _seed(record: Mapping[str, Any]) -> int | None:
    return record.get("seed") if SEED in record else None


def _describe_column(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    was, now = (_shorten(_as_written(record).get(name, "")) for record in (old, new))
    if name not in old:
        return f"column {name!r} is new ({now})"
    if name not in new:
        return f"column {name!r} ({was}) is gone"
    if old[name] == new[name] and type(old[name]) is type(new[name]):
        return f"column {name!r} was written {was} and is now written {now}"
    return f"column {name!r} was {was} and is now {now}"


def _describe_seed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    was, now = (
        f"{verb} {'derived from its id' if seed is None else seed}"
        for verb, seed in (("was", _seed(old)), ("is now", _seed(new)))
    )
    return f"its seed {was} and {now} (column 'seed'), so that its result is of another seed"


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
