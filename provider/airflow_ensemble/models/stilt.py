"""STILT footprints: each simulation is one receptor, run by HYSPLIT through PyPI's ``pystilt``.

In an ensemble file::

    model: airflow_ensemble.models.stilt:simulate
    products: [trajectory, footprint]
    simulations: receptors.csv
    parameters: {n_hours: -24, numpar: 200, met: {…}, grid: {…}}

with ``met`` as ``{directory: /data/hrrr, file_format: "%Y%m%d_%H", file_tres: 6h}`` or, where no
meteorology is at hand, ``ideal``; with ``grid`` as ``{xmin: -113, xmax: -111, ymin: 40, ymax: 42,
xres: 0.01, yres: 0.01}``; and with the columns ``id``, ``time`` (UTC), ``longitude``, ``latitude``
and ``altitude`` (m above ground) in the table of receptors.

Several footprints from the same particles are named under ``footprints``; each is a product of its
own and inherits ``grid``, ``smooth_factor`` and ``time_integrate`` where it does not set them. Any
other parameter of pystilt's ``HysplitConfig`` may be given. ``krand`` is 2 by default, so that the
simulation's seed (or the parameter ``seed``) makes the result reproducible.

Standard library only at import time: extra ``stilt`` brings the model.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ensemble.models import ideal_met
from airflow_ensemble.models.stilt_output import Provenance, footprint_dataset, trajectory_table
from airflow_ensemble.models.stilt_request import (
    RECEPTOR_KEYS,
    TRAJECTORY,
    FootprintRequest,
    Request,
    parse,
    parse_receptor,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from airflow_ensemble.engine.model import Run
    from airflow_ensemble.engine.simulation import Simulation

#: Reasons of pystilt that the same run would meet again.
HOPELESS = frozenset({"MET_COVERAGE", "VARYING_MET_INTERVAL", "PARTICLE_LIMIT"})
#: What HYSPLIT writes when a receptor lies outside the meteorology, then ends without particles.
OUTSIDE = "off all meteo grids"
MAX_PROBLEMS = 20
#: Stands in where only the parameters common to many receptors are parsed.
ANY_RECEPTOR = {"time": "2000-01-01", "longitude": 0, "latitude": 0, "altitude": 0}
LOG_LINES = 60


def simulate(run: Run) -> dict[str, Any]:
    """Run one receptor.

    :param run: its ``params`` are the receptor's columns and the common parameters.
    :return: ``trajectory`` (a DataFrame, one row per particle and step) and every footprint by
        name (a Dataset, hour by hour, ppm m2 s umol-1; None where no particle touched the grid).
    :raises airflow_ensemble.engine.model.Invalid: when trying again cannot help: a wrong
        parameter, meteorology that is missing or does not cover the run.
    """
    from airflow_ensemble.engine.model import Invalid

    try:
        request = parse(run.params, run.seed)
    except ValueError as error:
        raise Invalid(f"simulation {run.id}: {error}") from error
    met = _met_entry(request, run.id)
    particles = _particles(request, met, run)
    origin = _provenance(request, met, run.id)
    products: dict[str, Any] = {
        name: _footprint(particles, name, wanted, request, origin)
        for name, wanted in request.footprints.items()
        if _wanted(run, name)
    }
    if _wanted(run, TRAJECTORY):
        products[TRAJECTORY] = trajectory_table(particles, request, origin)
    return products


def _wanted(run: Run, name: str) -> bool:
    """Return whether the ensemble declares this product; a run that does not say wants all."""
    return not run.products or name in run.products


def _met_entry(request: Request, id: str) -> Mapping[str, Any]:
    """Return pystilt's met entry with an absolute directory; writes idealised days."""
    from airflow_ensemble.engine.model import Invalid

    if request.met is None:
        directory = ideal_met.cache_directory()
        ideal_met.write_ideal_days(directory, *request.window)
        return ideal_met.met_entry(directory)
    problem = _directory_problem(request.met)
    if problem:
        raise Invalid(f"simulation {id}: {problem}")
    return request.met


def _directory_problem(met: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the place of the met files, if anything is."""
    from stilt.transport.hysplit import Met, MetConfig

    given = Path(str(met["directory"]))
    if not given.is_absolute() and str(given)[0] not in "~$":
        return (
            f"parameters.met.directory {str(given)!r} is relative, and a worker may run in any "
            "folder: write an absolute path (~ and $VARIABLES are expanded)"
        )
    directory = Met("met", MetConfig.model_validate(met)).directory
    if met.get("download") is None and not directory.is_dir():
        return (
            f"the met directory {directory} does not exist here: correct "
            "parameters.met.directory, or mount it on this host"
        )
    return None


def _particles(request: Request, met: Mapping[str, Any], run: Run) -> pd.DataFrame:
    """Run HYSPLIT in the simulation's own working directory."""
    import stilt
    from stilt.exceptions import SimulationError

    from airflow_ensemble.engine.model import Invalid

    workdir = Path(run.workdir) / "hysplit"
    try:
        return stilt.run_trajectories(request.receptor, met, workdir=workdir, **request.hysplit)
    except SimulationError as error:
        _print_log(workdir)
        message = f"simulation {run.id}, receptor {request.receptor.id}: {error}"
        if OUTSIDE in _messages(workdir):
            raise Invalid(
                f"{message} The receptor lies outside the meteorology's domain: "
                "move it, or use meteorology that covers it"
            ) from error
        if error.reason in HOPELESS:
            raise Invalid(message) from error
        raise RuntimeError(f"{message} ({error.reason})") from error


def _messages(workdir: Path) -> str:
    """Return all that HYSPLIT wrote for people."""
    found = (workdir / name for name in ("stilt.log", "WARNING", "MESSAGE"))
    return "\n".join(path.read_text(errors="replace") for path in found if path.is_file())


def _print_log(workdir: Path) -> None:
    """Copy the end of HYSPLIT's messages to the simulation's log: the workdir does not survive."""
    lines = _messages(workdir).splitlines()
    print(f"--- the last lines of HYSPLIT's messages ({len(lines)} in all)", file=sys.stderr)
    print("\n".join(lines[-LOG_LINES:]), file=sys.stderr, flush=True)


def _footprint(
    particles: pd.DataFrame,
    name: str,
    wanted: FootprintRequest,
    request: Request,
    origin: Provenance,
) -> xr.Dataset | None:
    """Calculate one footprint; None when no particle touched its grid."""
    import stilt
    from stilt.exceptions import EmptyFootprint

    try:
        foot = stilt.calc_footprint(
            particles,
            request.receptor,
            wanted.grid,
            smooth_factor=wanted.smooth_factor,
            time_integrate=wanted.time_integrate,
            transforms=wanted.transforms,
            name=name,
        )
    except EmptyFootprint:
        return None
    return footprint_dataset(foot, name, request, origin)


def _provenance(request: Request, met: Mapping[str, Any], id: str) -> Provenance:
    """Return what the attributes say of the origin."""
    import stilt
    from stilt.transport import get_model
    from stilt.transport.hysplit import HysplitConfig

    source = _met_source(json.dumps(dict(met), sort_keys=True, default=str))
    # The files themselves say so: a forgotten label cannot pass them off as real.
    is_ideal = source == ideal_met.SOURCE
    label = ideal_met.LABEL if is_ideal else request.label or source
    version = get_model("hysplit").version(HysplitConfig(**request.hysplit))
    return Provenance(id, label, source, stilt.__version__, version)


@functools.lru_cache(maxsize=16)
def _met_source(met: str) -> str:
    """Return the source name in the headers of the met files."""
    from stilt.transport.hysplit import MetConfig

    return MetConfig.model_validate(json.loads(met)).source()


def check(parameters: Mapping[str, Any], simulations: Iterable[Simulation]) -> list[str]:
    """Find what would stop simulations before any runs: parameters, receptors, met coverage.

    Looks for met files by name and at the header of the first one; opens and runs nothing else.

    :param parameters: common to all simulations.
    :param simulations: all of them; read once.
    :return: the problems, at most 20 and a line that says how many more; empty when there is none.
    """
    try:
        import stilt  # noqa: F401
    except ImportError as error:
        return [f"{error}: the model needs 'pip install airflow-provider-ensemble[stilt]'"]
    checker = _Checker(parameters)
    problems = _Problems()
    for simulation in simulations:
        for problem in checker.problems(simulation):
            problems.add(simulation.id, problem)
    for id, problem in checker.outside():
        problems.add(id, problem)
    return problems.lines()


simulate.check = check  # type: ignore[attr-defined]


class _Problems:
    """The first problems, each with the first simulation that has it; the rest is counted."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, int]] = {}
        self._others = 0

    def add(self, id: str, problem: str) -> None:
        """Note that a simulation has a problem."""
        if problem not in self._found and len(self._found) >= MAX_PROBLEMS:
            self._others += 1
            return
        first, number = self._found.get(problem, (id, 0))
        self._found[problem] = (first, number + 1)

    def lines(self) -> list[str]:
        """Return a line for each problem, and one that says how many are not named."""
        lines = []
        for problem, (first, number) in self._found.items():
            others = f" and {number - 1} more" if number > 1 else ""
            lines.append(f"simulation {first}{others}: {problem}")
        if self._others:
            lines.append(f"… and {self._others} more simulations with other problems")
        return lines


class _Checker:
    """Checks simulations one by one and remembers what many of them share."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters
        self._common: dict[str, Request | str] = {}
        self._met_problems: dict[tuple[str, datetime, int], str | None] = {}
        self._mets: dict[str, Any] = {}
        self._points: dict[str, list[tuple[str, float, float]]] = {}

    def problems(self, simulation: Simulation) -> list[str]:
        """Return what is wrong with one simulation, but for :meth:`outside`."""
        params = {**self._parameters, **simulation.params}
        common = self._parse_common(params)
        if isinstance(common, str):
            return [common]
        try:
            request = replace(common, receptor=parse_receptor(params))
        except ValueError as error:
            return [str(error)]
        key = json.dumps(request.met and dict(request.met), sort_keys=True, default=str)
        coverage = self._coverage(key, request) if request.met is not None else None
        if coverage:
            return [coverage]
        points = [(simulation.id, lon, lat) for lat, lon, _ in request.receptor.coords()]
        self._points.setdefault(key, []).extend(points)
        return []

    def outside(self) -> Iterator[tuple[str, str]]:
        """Yield id and problem of the receptors that are not on their meteorology's grid."""
        for key, points in self._points.items():
            grid = _first_grid(self._mets[key]) if key in self._mets else ideal_met.grid()
            if grid is None:
                continue
            ids, lons, lats = zip(*points)
            xs, ys = grid.fractional_indices(lons, lats)
            for id, lon, lat, x, y in zip(ids, lons, lats, xs, ys):
                if not (0 <= x <= grid.nx - 1 and 0 <= y <= grid.ny - 1):
                    place = f"longitude {lon:g}, latitude {lat:g}"
                    yield id, f"{place} is outside the meteorology's domain"

    def _parse_common(self, params: Mapping[str, Any]) -> Request | str:
        """Return all but the receptor, or what is wrong with it; parsed once for equal values."""
        rest = {name: value for name, value in params.items() if name not in RECEPTOR_KEYS}
        key = json.dumps(rest, sort_keys=True, default=str)
        if key not in self._common:
            try:
                self._common[key] = parse({**rest, **ANY_RECEPTOR}, seed=1)
            except ValueError as error:
                self._common[key] = str(error)
        return self._common[key]

    def _coverage(self, key: str, request: Request) -> str | None:
        """Say which met files the run lacks; asked once for each release time."""
        asked = (key, request.receptor.time, request.n_hours)
        if asked not in self._met_problems:
            self._met_problems[asked] = self._find_coverage(key, request)
        return self._met_problems[asked]

    def _find_coverage(self, key: str, request: Request) -> str | None:
        from stilt.transport.hysplit import Met, MetConfig

        assert request.met is not None
        problem = _directory_problem(request.met)
        if problem:
            return problem
        if key not in self._mets:
            self._mets[key] = Met("met", MetConfig.model_validate(request.met))
        first, last = sorted([request.receptor.time, _end(request)])
        missing = self._mets[key].missing_hours((first, last), hour_after=request.n_hours < 0)
        if not missing:
            return None
        names = ", ".join(f"{time:%Y-%m-%d %H:%M}" for time in missing)
        return (
            f"no met file in {self._mets[key].directory} for {names} "
            f"(named {request.met.get('file_format')}…; the run covers {first:%Y-%m-%d %H:%M} to "
            f"{last:%Y-%m-%d %H:%M} UTC): add the files or drop the simulation"
        )


def _end(request: Request) -> datetime:
    """Return when the run ends, UTC; before its release when it runs backward."""
    first, last = request.window
    return last if request.n_hours > 0 else first


def _first_grid(met: Any) -> Any:
    """Return the grid in the header of the first ARL file of a met; None when there is none."""
    import arlmet

    if met.config.download is not None:
        return None
    for path in sorted(met.directory.rglob("*")):
        try:
            with path.open("rb") as file:
                return arlmet.IndexRecord.from_position(file, 0).grid
        except (EOFError, OSError, ValueError):
            continue
    return None
