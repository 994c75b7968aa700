"""An idealised day of meteorology in ARL format, for demonstrations where no real one is at hand.

It is invented, not observed and not forecast: a flat plain at 40° N, 98° W, dry air, clear sky, a
boundary layer that grows over the day and collapses at dusk, and a wind that turns with the hour
and with height, of the same course every day. Files are named ``ideal_YYYYMMDD.arl`` and carry the
ARL source name ``IDEA``, from which :mod:`airflow_ensemble.models.stilt` labels its products.
Standard library only at import time.
"""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.cache import cache_home

#: The ARL source name in the header of every idealised file.
SOURCE = "IDEA"
#: What products made with it say of their meteorology.
LABEL = "idealised meteorology (invented for demonstration; not observed, not forecast)"

WEST, EAST, SOUTH, NORTH, SPACING = -101.0, -95.0, 37.5, 42.5, 0.1
SURFACE_HEIGHT = 300.0  # m above sea level
SURFACE_PRESSURE = 978.0  # hPa
SIGMA = (
    *(1.0, 0.999, 0.996, 0.991, 0.984, 0.974, 0.962, 0.947, 0.929, 0.908),
    *(0.884, 0.857, 0.826, 0.79, 0.75, 0.705, 0.655, 0.6, 0.54, 0.475, 0.405),
)
SOLAR_LAG = 6.5  # hours that local solar time is behind UTC at 98° W
GEOSTROPHIC_SPEED = 7.0  # m s-1
DRY_GAS_CONSTANT, GRAVITY, HEAT_CAPACITY = 287.05, 9.81, 1004.6
ROUGHNESS = 0.1  # m
VON_KARMAN = 0.4


@dataclass(frozen=True)
class Hour:
    """The state of the idealised boundary layer at one hour of the day.

    :param sunlight: height of the sun as a fraction of noon's, 0 at night.
    :param depth: depth of the boundary layer, m.
    :param surface_temperature: potential temperature of the air near the ground, K.
    :param inversion: how much warmer the air above a shallow night-time layer is, K.
    :param heat_flux: sensible heat flux, W m-2, upward.
    :param friction_velocity: m s-1.
    :param direction: where the geostrophic wind goes, radians from east, counter-clockwise.
    """

    sunlight: float
    depth: float
    surface_temperature: float
    inversion: float
    heat_flux: float
    friction_velocity: float
    direction: float


def met_entry(directory: str | Path) -> dict[str, str]:
    """Return what ``parameters.met`` needs to find the idealised files in a directory."""
    return {"directory": str(directory), "file_format": "ideal_%Y%m%d", "file_tres": "24h"}


def cache_directory() -> Path:
    """Return where idealised days are kept when the user names no directory."""
    return cache_home() / "airflow-ensemble" / "ideal-met"


def write_ideal_days(directory: str | Path, first: datetime, last: datetime) -> list[Path]:
    """Write every idealised day that the time from ``first`` to ``last`` (UTC) touches."""
    count = (last.date() - first.date()).days + 1
    return [write_ideal_day(directory, first.date() + timedelta(days=i)) for i in range(count)]


def write_ideal_day(directory: str | Path, day: date) -> Path:
    """Write one idealised day, 00 to 23 UTC, hourly; a day that exists is left as it is.

    Several processes may write the same day at once: each writes aside and renames, and all write
    the same bytes.

    :param directory: made when it does not exist.
    :param day: the UTC day.
    :return: the file.
    """
    folder = Path(directory)
    target = folder / f"ideal_{day:%Y%m%d}.arl"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # Hidden, and not matched by the pattern that HYSPLIT's files are found with.
    handle, aside = tempfile.mkstemp(prefix=f".{target.name}.", dir=folder)
    os.close(handle)
    try:
        _write_file(Path(aside), day)
        Path(aside).chmod(0o644)
        Path(aside).replace(target)
    finally:
        Path(aside).unlink(missing_ok=True)
    return target


def _write_file(path: Path, day: date) -> None:
    """Pack 24 hourly steps with arlmet."""
    import arlmet
    import pandas as pd

    axis = arlmet.SigmaAxis(levels=list(SIGMA))
    with arlmet.File(path, mode="w", source=SOURCE, grid=grid(), vertical_axis=axis) as file:
        for hour in range(24):
            step = file.create_recordset(pd.Timestamp(day) + pd.Timedelta(hours=hour), forecast=0)
            surface, levels = fields(hour)
            for name, values in surface.items():
                step.create_datarecord(name, level=0, forecast=0, data=values)
            for level, variables in enumerate(levels, start=1):
                for name, values in variables.items():
                    step.create_datarecord(name, level=level, forecast=0, data=values)
            file.flush()


def grid() -> Any:
    """Return the ARL grid; ARL wants longitudes of 0 … 360 in its header."""
    import arlmet

    nx = round((EAST - WEST) / SPACING) + 1
    ny = round((NORTH - SOUTH) / SPACING) + 1
    projection = arlmet.Projection(
        pole_lat=NORTH,
        pole_lon=EAST % 360,
        tangent_lat=SPACING,
        tangent_lon=SPACING,
        grid_size=0.0,
        orientation=0.0,
        cone_angle=0.0,
        sync_x=1.0,
        sync_y=1.0,
        sync_lat=SOUTH,
        sync_lon=WEST % 360,
    )
    return arlmet.Grid(projection=projection, nx=nx, ny=ny)


def state(hour: float) -> Hour:
    """Return the idealised boundary layer at an hour (UTC) of any day."""
    local = (hour - SOLAR_LAG) % 24
    sunlight = max(0.0, math.sin(math.pi * (local - 6) / 12))
    # The mixed layer and the temperature follow the heat, so both lag the sun.
    warmth = max(0.0, math.sin(math.pi * (local - 7) / 12)) ** 1.5
    return Hour(
        sunlight=sunlight,
        depth=180.0 + 1300.0 * warmth,
        surface_temperature=291.0 + 8.0 * warmth,
        inversion=5.0 * (1 - warmth),
        heat_flux=-25.0 + 275.0 * sunlight,
        friction_velocity=0.18 + 0.25 * warmth,
        direction=math.radians(60.0) + math.radians(50.0) * math.sin(2 * math.pi * local / 24),
    )


def fields(hour: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the surface fields and those of every level above it, each (lat, lon), ARL units."""
    now = state(hour)
    u10, v10 = _wind(now, 10.0, hour)
    surface = {
        "PRSS": SURFACE_PRESSURE,
        "SHGT": SURFACE_HEIGHT,
        "T02M": _temperature(now, 2.0, SURFACE_PRESSURE),
        "U10M": u10,
        "V10M": v10,
        "PBLH": now.depth,
        "SHTF": now.heat_flux,
        "USTR": now.friction_velocity,
        "DSWF": 900.0 * now.sunlight,
        "RGHS": ROUGHNESS,
        "TPP1": 0.0,
    }
    levels = []
    for sigma in SIGMA[1:]:
        pressure = SURFACE_PRESSURE * sigma
        height = _height(now, pressure)
        u, v = _wind(now, height, hour)
        level = {"TEMP": _temperature(now, height, pressure), "UWND": u, "VWND": v}
        levels.append(_on_grid({**level, "WWND": 0.0, "SPHU": 0.004 * sigma**3}))
    return _on_grid(surface), levels


def _height(now: Hour, pressure: float) -> float:
    """Return metres above ground of a pressure (hPa), close enough to place the profiles."""
    mean = now.surface_temperature - 3.0
    return DRY_GAS_CONSTANT * mean / GRAVITY * math.log(SURFACE_PRESSURE / pressure)


def _temperature(now: Hour, height: float, pressure: float) -> float:
    """Return K: mixed by day, an inversion by night, stable above."""
    above = max(0.0, height - now.depth)
    inversion = now.inversion * min(1.0, height / now.depth)
    potential = now.surface_temperature + inversion + 0.005 * above
    return float(potential * (pressure / SURFACE_PRESSURE) ** (DRY_GAS_CONSTANT / HEAT_CAPACITY))


def _wind(now: Hour, height: float, hour: float) -> tuple[Any, Any]:
    """Return u and v (lat, lon), m s-1: logarithmic near the ground, turning to geostrophic aloft.

    A standing wave without divergence lies on it, so that no two receptors see the same wind.
    """
    import numpy as np

    surface_layer = now.friction_velocity / VON_KARMAN * math.log(max(height, 1.0) / ROUGHNESS)
    speed = min(GEOSTROPHIC_SPEED, surface_layer)
    direction = now.direction + math.radians(25.0) * math.exp(-height / now.depth)
    lon, lat = _axes()
    phase = 2 * math.pi * hour / 24
    wave = 0.3 * speed
    u = speed * math.cos(direction) + wave * np.sin(math.pi * (lat - SOUTH) / 1.5 + phase)
    v = speed * math.sin(direction) + wave * np.sin(math.pi * (lon - WEST) / 2.0 - phase)
    return np.broadcast_to(u[:, None], (lat.size, lon.size)), np.broadcast_to(
        v[None, :], (lat.size, lon.size)
    )


def _axes() -> tuple[Any, Any]:
    """Return the longitudes and latitudes of the grid points."""
    import numpy as np

    lon = WEST + SPACING * np.arange(round((EAST - WEST) / SPACING) + 1)
    lat = SOUTH + SPACING * np.arange(round((NORTH - SOUTH) / SPACING) + 1)
    return lon, lat


def _on_grid(values: dict[str, Any]) -> dict[str, Any]:
    """Spread plain numbers over the grid."""
    import numpy as np

    lon, lat = _axes()
    shape = (lat.size, lon.size)
    return {k: np.array(np.broadcast_to(v, shape), dtype=np.float32) for k, v in values.items()}
