"""What the parameters of one STILT simulation ask for, parsed: no files are touched here.

Standard library only at import time; ``stilt`` (PyPI's ``pystilt``) is imported where it is used.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow_ensemble.models import ideal_met
from airflow_ensemble.models.receptor_time import parse_time
from airflow_ensemble.models.value_kinds import refuse_other_kinds

POINT = ("time", "longitude", "latitude", "altitude")
COLUMN = ("time", "longitude", "latitude", "bottom", "top")
RECEPTOR_KEYS = frozenset({*POINT, *COLUMN, "altitude_ref", "site"})
FOOTPRINT_KEYS = frozenset({"grid", "smooth_factor", "time_integrate", "transforms"})
OWN_KEYS = frozenset({"met", "footprints", "institution"}) | FOOTPRINT_KEYS | RECEPTOR_KEYS
#: What stands for idealised meteorology in place of a mapping under ``met``.
IDEAL = "ideal"
#: The name of the footprint where the ensemble names none.
FOOTPRINT = "footprint"
TRAJECTORY = "trajectory"
MAX_CELLS = 25_000_000
_SEEDS = 2**30
#: Periods that pandas reads as everybody does: to it, ``6`` is 6 nanoseconds.
_PERIOD = re.compile(r"[1-9][0-9]* ?(?:min|[hHdD]|(?:minute|hour|day)s?)")


@dataclass(frozen=True)
class FootprintRequest:
    """One footprint to calculate from the particles.

    :param grid: a ``stilt.Grid``.
    :param smooth_factor: factor on the width of the smoothing kernel.
    :param time_integrate: one layer for the whole run, not one an hour.
    :param transforms: pystilt's particle transforms, as mappings.
    """

    grid: Any
    smooth_factor: float = 1.0
    time_integrate: bool = False
    transforms: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Request:
    """One simulation, as its parameters ask for it.

    :param receptor: a ``stilt.Receptor``.
    :param site: a label for people; may be empty.
    :param institution: who computes, for the attributes; may be empty.
    :param met: pystilt's met entry; None for idealised meteorology.
    :param label: what the products say of the meteorology; empty takes it from the met files.
    :param hysplit: HYSPLIT's parameters, seed included.
    :param footprints: by product name.
    """

    receptor: Any
    site: str
    institution: str
    met: Mapping[str, Any] | None
    label: str
    hysplit: Mapping[str, Any]
    footprints: Mapping[str, FootprintRequest]

    @property
    def n_hours(self) -> int:
        """Return the length of the run, hours, negative backward."""
        return int(self.hysplit["n_hours"])

    @property
    def window(self) -> tuple[datetime, datetime]:
        """Return the first and last time that the meteorology must cover, UTC.

        A backward run interpolates its release between two hours, so it needs the hour after.
        """
        release: datetime = self.receptor.time
        other = release + timedelta(hours=self.n_hours)
        if other > release:
            return release, other
        return other, release + timedelta(hours=1)


def parse(params: Mapping[str, Any], seed: int) -> Request:
    """Read the parameters of one simulation, common and own merged.

    :param params: as in the ensemble file and the table of simulations.
    :param seed: the simulation's own seed; one that its row gives is among the parameters, too.
    :raises ValueError: naming the parameter and what to do about it.
    """
    reject_unknown(params)
    met, label = parse_met(params.get("met"))
    return Request(
        receptor=parse_receptor(params),
        site=_label(params.get("site")),
        institution=_label(params.get("institution")),
        met=met,
        label=label,
        hysplit=parse_hysplit(params, seed),
        footprints=parse_footprints(params),
    )


def reject_unknown(params: Mapping[str, Any]) -> None:
    """Raise ValueError for a parameter that neither this adapter nor HYSPLIT knows."""
    known = OWN_KEYS | hysplit_keys()
    for name in params:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"unknown parameter {name!r}{hint}: a STILT simulation takes receptor columns "
            f"({', '.join(POINT)}, altitude_ref, or bottom and top for a column, and site), met, "
            f"{', '.join(sorted(FOOTPRINT_KEYS))}, footprints, institution and "
            "HYSPLIT's own names"
        )


@functools.lru_cache(maxsize=1)
def hysplit_keys() -> frozenset[str]:
    """Return the names of HYSPLIT's parameters, as pystilt knows them."""
    from stilt.transport.hysplit import HysplitConfig

    return frozenset(HysplitConfig.model_fields)


def parse_receptor(params: Mapping[str, Any]) -> Any:
    """Return the ``stilt`` receptor that the columns describe."""
    import stilt

    given = {name for name in RECEPTOR_KEYS if not _is_missing(params.get(name))}
    is_column = "bottom" in params or "top" in params
    names = COLUMN if is_column else POINT
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(
            f"the receptor has no {', '.join(missing)}: the table of simulations needs the columns "
            f"{', '.join(names)}"
        )
    if is_column and "altitude" in given:
        raise ValueError(
            "the receptor has an altitude, and bottom and top: it is a point or a column, not both"
        )
    values = {name: params[name] for name in (*names, "altitude_ref") if name in given}
    try:
        values["time"] = parse_time(values["time"])
    except ValueError as error:
        raise ValueError(f"receptor: {error}") from None
    kind = stilt.ColumnReceptor if is_column else stilt.PointReceptor
    return _validated("receptor", kind, values)


def _is_missing(value: Any) -> bool:
    return value is None or value == ""


def _label(value: Any) -> str:
    return "" if value is None else str(value)


def parse_met(met: Any) -> tuple[Mapping[str, Any] | None, str]:
    """Return pystilt's met entry (None for idealised meteorology) and the label, maybe empty."""
    if met == IDEAL:
        return None, ideal_met.LABEL
    if not isinstance(met, Mapping):
        raise ValueError(
            f"met is {met!r}: it must be 'ideal' (idealised meteorology, written when needed) or "
            "a mapping such as {directory: /data/hrrr, file_format: '%Y%m%d_%H', file_tres: 6h}"
        )
    from stilt.transport.hysplit import MetConfig

    entry = {name: value for name, value in met.items() if name != "label"}
    _validated("met", MetConfig, entry)
    period = entry.get("file_tres")
    if period is not None and not _PERIOD.fullmatch(period):
        raise ValueError(f"met: file_tres is {period!r}: write a number and min, h or d, as in 6h")
    return entry, _label(met.get("label"))


def parse_hysplit(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return HYSPLIT's parameters; ``krand`` is 2 unless given, so that the seed counts."""
    from stilt.transport.hysplit import HysplitConfig

    values = {name: params[name] for name in params if name in hysplit_keys()}
    values.setdefault("n_hours", HysplitConfig.model_fields["n_hours"].default)
    values.setdefault("krand", 2)
    if values["krand"] == 2:
        # HYSPLIT negates the seed and subtracts from it in 32 bits.
        values.setdefault("seed", seed % _SEEDS)
    if isinstance(values.get("seed"), int) and values["seed"] >= _SEEDS:
        raise ValueError(f"seed is {values['seed']}: HYSPLIT takes seeds below {_SEEDS}")
    config = _validated("HYSPLIT's parameters", HysplitConfig, values)
    if config.n_hours == 0:
        raise ValueError("n_hours is 0: give the hours to run, negative for backward")
    return {**values, "n_hours": config.n_hours}


def parse_footprints(params: Mapping[str, Any]) -> dict[str, FootprintRequest]:
    """Return the footprints by product name: those under ``footprints``, or the one of ``grid``.

    Each named one inherits the common keys and overrides them. Without ``footprints`` and
    ``grid`` the simulation yields its trajectory only.
    """
    common = {name: params[name] for name in FOOTPRINT_KEYS if params.get(name) is not None}
    named = params.get("footprints")
    if named is None:
        return {FOOTPRINT: _footprint(FOOTPRINT, common)} if "grid" in common else {}
    if not isinstance(named, Mapping) or not named:
        raise ValueError("footprints must be a mapping of product name to {grid, smooth_factor, …}")
    return {name: _footprint(name, {**common, **(own or {})}) for name, own in named.items()}


def _footprint(name: str, values: Mapping[str, Any]) -> FootprintRequest:
    """Return one footprint's settings, checked."""
    from stilt.footprint import FootprintConfig

    if name == TRAJECTORY:
        raise ValueError(f"a footprint cannot be named {TRAJECTORY!r}")
    unknown = sorted(set(values) - FOOTPRINT_KEYS)
    if unknown:
        raise ValueError(
            f"footprint {name!r} has unknown keys {', '.join(unknown)}: it takes "
            f"{', '.join(sorted(FOOTPRINT_KEYS))}"
        )
    if "grid" not in values:
        raise ValueError(f"footprint {name!r} has no grid: give xmin, xmax, ymin, ymax, xres, yres")
    grid = _grid(name, values["grid"])
    config = _validated(f"footprint {name!r}", FootprintConfig, {**values, "grid": grid})
    transforms = tuple(values.get("transforms") or ())
    return FootprintRequest(grid, config.smooth_factor, config.time_integrate, transforms)


def _grid(name: str, values: Any) -> Any:
    """Return a ``stilt.Grid`` that has cells, and not too many."""
    import stilt

    what = f"grid of footprint {name!r}"
    grid = _validated(what, stilt.Grid, values)
    if grid.xres <= 0 or grid.yres <= 0:
        raise ValueError(f"{what}: xres and yres must be positive")
    nx, ny = _cells(what, grid)
    if nx < 1 or ny < 1:
        raise ValueError(f"{what} has no whole cell: its box is smaller than xres by yres")
    if nx * ny > MAX_CELLS:
        raise ValueError(
            f"{what} has {nx:.0f} × {ny:.0f} cells, more than {MAX_CELLS}: make xres and yres "
            "larger or the box smaller"
        )
    return grid


def _cells(what: str, grid: Any) -> tuple[float, float]:
    """Return about how many cells a grid has along x and y, without making them."""
    width = grid.xmax - grid.xmin
    if grid.xmin > 0 > grid.xmax:  # across the antimeridian
        width += 360
    if width <= 0 or grid.ymax <= grid.ymin:
        raise ValueError(f"{what}: xmax must lie east of xmin and ymax north of ymin")
    try:
        if grid.is_longlat:
            return (width + 1e-9) / grid.xres, (grid.ymax - grid.ymin + 1e-9) / grid.yres
        x, y = grid.axes
    except (ValueError, RuntimeError) as error:  # pyproj's is a RuntimeError
        raise ValueError(f"{what}: {error}") from None
    return len(x), len(y)


def _validated(what: str, kind: Any, values: Any) -> Any:
    """Build one of pystilt's checked objects; its complaint becomes one line that says where."""
    if isinstance(values, Mapping):
        refuse_other_kinds(what, kind, values)
    try:
        return kind.model_validate(values)
    except ValueError as error:
        raise ValueError(f"{what}: {_first_problem(error)}") from None


def _first_problem(error: ValueError) -> str:
    """Return pydantic's first complaint in one line."""
    problems = getattr(error, "errors", None)
    if not callable(problems):
        return str(error)
    first = problems()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
