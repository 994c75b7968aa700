"""What pystilt computed, as products: a CF dataset for a footprint, a described particle table.

Standard library only at import time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_ensemble.models.stilt_request import Request

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

CONVENTIONS = "CF-1.10"
UNITS = "ppm m2 s umol-1"
REFERENCES = (
    "Fasoli et al. (2018), doi:10.5194/gmd-11-2813-2018; "
    "Loughner et al. (2021), doi:10.1175/JAMC-D-20-0158.1"
)
#: Units of the columns of the particle table that pystilt writes by default.
COLUMN_UNITS = {
    "age": "minutes since release, negative backward",
    "particle": "1",
    "lon": "degrees_east",
    "lat": "degrees_north",
    "zagl": "m",
    "foot": "ppm m2 s umol-1",
    "foot_no_hnf_dilution": "ppm m2 s umol-1",
    "mlht": "m",
    "pres": "hPa",
    "dens": "kg m-3",
    "samt": "minutes",
    "sigw": "m s-1",
    "tlgr": "s",
    "release_height": "m",
}
AXES = {
    "lon": ("longitude", "degrees_east", "X"),
    "lat": ("latitude", "degrees_north", "Y"),
    "x": ("projection_x_coordinate", "m", "X"),
    "y": ("projection_y_coordinate", "m", "Y"),
}


@dataclass(frozen=True)
class Provenance:
    """Where a product comes from, for its attributes.

    :param id: the simulation.
    :param met_label: what the meteorology is.
    :param met_source: the source name in the met files' headers.
    :param pystilt: version of pystilt.
    :param hysplit: version of HYSPLIT.
    """

    id: str
    met_label: str
    met_source: str
    pystilt: str
    hysplit: str


def describe(request: Request, origin: Provenance) -> dict[str, Any]:
    """Return the attributes that all products of a simulation carry."""
    receptor = request.receptor
    attrs = {
        "simulation": origin.id,
        "receptor": receptor.to_json(),
        "receptor_id": str(receptor.id),
        "site": request.site,
        "institution": request.institution,
        "meteorology": origin.met_label,
        "meteorology_source": origin.met_source,
        "hysplit_parameters": json.dumps(dict(request.hysplit), sort_keys=True),
        "source": f"STILT: HYSPLIT {origin.hysplit} through pystilt {origin.pystilt}",
        "pystilt_version": origin.pystilt,
        "hysplit_version": origin.hysplit,
        "references": REFERENCES,
    }
    if "seed" in request.hysplit:
        attrs["seed"] = int(request.hysplit["seed"])
    return {name: value for name, value in attrs.items() if value != ""}


def trajectory_table(particles: pd.DataFrame, request: Request, origin: Provenance) -> pd.DataFrame:
    """Return the particle table with units, receptor and settings in its attributes.

    pandas keeps them in the metadata of the Parquet file and restores them on reading.
    """
    units = {str(name): COLUMN_UNITS[name] for name in particles if name in COLUMN_UNITS}
    particles.attrs["title"] = "STILT particle trajectories"
    particles.attrs.update(describe(request, origin))
    particles.attrs["units"] = units
    return particles


def footprint_dataset(
    foot: xr.DataArray, name: str, request: Request, origin: Provenance
) -> xr.Dataset:
    """Return a footprint as a CF dataset with one layer for every hour of the run.

    pystilt leaves out the hours in which no particle touched the grid: they are added as zeros, so
    that all simulations of an ensemble have the same shape.

    :param foot: as ``stilt.calc_footprint`` returns it: (time, lat, lon) or (time, y, x).
    """
    integrated = request.footprints[name].time_integrate
    foot = foot if integrated else _every_hour(foot, request)
    data = foot.assign_attrs(_footprint_attrs(foot, origin))
    dataset = data.to_dataset(name="foot")
    dataset = _with_times(dataset, request, integrated)
    dataset = _with_space(dataset, request.footprints[name].grid)
    dataset.attrs = {
        "Conventions": CONVENTIONS,
        "title": f"STILT surface influence footprint {name!r} of simulation {origin.id}",
        **describe(request, origin),
        "history": f"{_now()} computed by airflow-provider-ensemble",
    }
    dataset["foot"].encoding = {"zlib": True, "complevel": 4, "_FillValue": None}
    return dataset


def hours_of_run(n_hours: int) -> range:
    """Return the hours, counted from the release, in whose layers particles can be.

    A forward run's last minute falls at the start of one more hour.
    """
    return range(n_hours, 0) if n_hours < 0 else range(n_hours + 1)


def _every_hour(foot: xr.DataArray, request: Request) -> xr.DataArray:
    """Add the missing hours as zeros."""
    import pandas as pd

    hours = pd.to_timedelta(list(hours_of_run(request.n_hours)), unit="h")
    times = pd.DatetimeIndex([request.receptor.time]).repeat(len(hours)) + hours
    every = times.as_unit(foot.indexes["time"].unit).union(foot.indexes["time"])
    return foot.reindex(time=every, fill_value=0.0)


def _footprint_attrs(foot: xr.DataArray, origin: Provenance) -> Mapping[str, Any]:
    """Return the attributes of the footprint variable itself."""
    return {
        **foot.attrs,
        "long_name": "surface influence footprint",
        "units": UNITS,
        "cell_methods": "time: sum",
        "grid_mapping": "crs",
        "meteorology": origin.met_label,
        # For collect: what a simulation whose footprint is complete-empty contributes.
        "empty_value": 0.0,
    }


def _with_times(dataset: xr.Dataset, request: Request, integrated: bool) -> xr.Dataset:
    """Describe the time axis: bounds, and ``hour`` counted from the release, equal in all runs."""
    import numpy as np

    an_hour = np.timedelta64(1, "h")
    release = np.datetime64(request.receptor.time, "ns")
    start = dataset["time"].values.astype("datetime64[ns]")
    hour = ((start - release) // an_hour).astype("int32")
    end = start + an_hour
    if integrated:
        ends = sorted([release, release + request.n_hours * an_hour])
        start, end = np.array(ends[:1]), np.array(ends[1:])
    hours = {"long_name": "start of the layer, counted from the release", "units": "hours"}
    dataset = dataset.assign_coords(
        hour=("time", hour, hours),
        time_bnds=(("time", "nv"), np.stack([start, end], axis=1)),
    )
    dataset["time"].attrs = {
        "standard_name": "time",
        "long_name": "start of the layer (UTC)",
        "axis": "T",
        "bounds": "time_bnds",
        # For collect: simulations are stacked by this coordinate, not by absolute time.
        "stack_by": "hour",
    }
    for name in ("time", "time_bnds"):
        dataset[name].encoding = {
            "units": "seconds since 1970-01-01 00:00:00",
            "calendar": "proleptic_gregorian",
            "dtype": "int64",
        }
    return dataset


def _with_space(dataset: xr.Dataset, grid: Any) -> xr.Dataset:
    """Describe the horizontal axes and add the grid mapping."""
    import numpy as np
    from pyproj import CRS

    for name in dataset.dims:
        if name in AXES:
            standard_name, units, axis = AXES[str(name)]
            dataset[name].attrs = {
                "standard_name": standard_name,
                "long_name": standard_name.replace("_", " "),
                "units": units,
                "axis": axis,
            }
    dataset["receptor"].attrs = {"long_name": "receptor: release time and place"}
    crs = CRS.from_user_input(grid.crs)
    wanted = (str, int, float, np.number)
    attrs = {key: value for key, value in crs.to_cf().items() if isinstance(value, wanted)}
    dataset["crs"] = ((), np.int32(0), attrs)
    return dataset


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
