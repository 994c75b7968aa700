"""Array expressions and job ids, as Slurm writes them: ``11_[0-8:2,13%4]``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Elements:
    """A set of array indices, kept as ranges: a million of them cost nothing.

    :param ranges: of each its first and last index and the step between.
    :param limit: how many may run at once; None for any number.
    :param truncated: whether Slurm left out the rest (``...``): more indices may belong to it.
    """

    ranges: tuple[range, ...]
    limit: int | None = None
    truncated: bool = False

    def __contains__(self, index: object) -> bool:
        return any(index in one for one in self.ranges)

    def __iter__(self) -> Iterator[int]:
        for one in self.ranges:
            yield from one

    def __len__(self) -> int:
        return sum(len(one) for one in self.ranges)


@dataclass(frozen=True)
class JobId:
    """What one row of Slurm's output speaks of.

    :param job: id of the job; of the whole array if it is one.
    :param elements: which of its elements; None for a job that is no array, or all of it.
    :param component: of a heterogeneous job; None for others.
    """

    job: str
    elements: Elements | None = None
    component: int | None = None


_PIECE = re.compile(r"(\d{1,10})(?:-(\d{1,10})(?::(\d{1,10}))?)?")
_ID = re.compile(r"(\d{1,12})(?:_(\[[^\[\]]*\]?|\d{1,10})|\+(\d{1,6}))?(?:;[\w.-]+)?")


def parse_elements(text: str) -> Elements:
    """Return the indices of an array expression, such as ``0-8:2,13%4`` or ``[0,2,4,1...%4]``.

    Slurm cuts a long expression with dots or just so, without its bracket, maybe within a number:
    the last piece of what was cut is left out.

    :raises ValueError: when this is no array expression.
    """
    plain = text.strip()
    is_open = plain.startswith("[") and not plain.endswith("]")
    if plain.startswith("["):
        plain = plain[1:] if is_open else plain[1:-1]
    body, percent, limit = plain.partition("%")
    if percent and not is_open and not re.fullmatch(r"\d{1,10}", limit):
        raise ValueError(f"{text!r} is no array expression: {limit!r} is no limit")
    kept, dots, rest = body.partition("...")
    if rest:
        raise ValueError(f"{text!r} is no array expression: something follows '...'")
    pieces = kept.split(",")
    # A limit stands behind all of the indices: where it is cut, they are not.
    is_cut = bool(dots) or (is_open and not percent)
    if is_cut:
        pieces.pop()
    ranges = tuple(_range(piece, text) for piece in pieces)
    return Elements(ranges, int(limit) if percent and not is_open else None, is_cut)


def _range(piece: str, text: str) -> range:
    found = _PIECE.fullmatch(piece)
    if not found:
        raise ValueError(f"{text!r} is no array expression: {piece!r} is no index or range")
    first, last, step = (None if part is None else int(part) for part in found.groups())
    assert first is not None
    if last is None:
        return range(first, first + 1)
    if last < first or step == 0:
        raise ValueError(f"{text!r} is no array expression: {piece!r} holds no index")
    return range(first, last + 1, step or 1)


def format_elements(indices: Iterable[int], limit: int | None = None) -> str:
    """Return the shortest expression of ranges that ``sbatch --array`` takes.

    :param indices: in any order, each counted once.
    :param limit: how many may run at once.
    :raises ValueError: when there is none, or a negative one.
    """
    ordered = sorted(set(indices))
    if not ordered or ordered[0] < 0:
        raise ValueError("an array needs indices, from 0 on")
    runs: list[list[int]] = []
    for index in ordered:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    text = ",".join(str(one) if one == last else f"{one}-{last}" for one, last in runs)
    return text if limit is None else f"{text}%{limit}"


def parse_job_id(text: str) -> JobId:
    """Return what an id speaks of: ``11``, ``11_3``, ``11_[2-5%2]``, ``123+1``, ``11;cluster``.

    :raises ValueError: when this is no id of a job, such as that of a step.
    """
    found = _ID.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no id of a Slurm job")
    job, elements, component = found.groups()
    return JobId(
        job,
        None if elements is None else parse_elements(elements),
        None if component is None else int(component),
    )
