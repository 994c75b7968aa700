"""A map of the summed footprints of an ensemble, as a PNG file.

Needs matplotlib, which extra ``stilt`` brings.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

#: Orders of magnitude below the largest value that the colours show.
DECADES = 5
HORIZONTAL = (("lat", "lon"), ("y", "x"))


def plot_map(
    dataset: xr.Dataset,
    target: str | Path,
    *,
    footprint: str = "footprint",
    title: str | None = None,
) -> Path:
    """Draw the footprint summed over all simulations and hours, with the receptors.

    :param dataset: from :func:`airflow_ensemble.engine.collect.open_collection`.
    :param target: the PNG file; its folder is made when it does not exist.
    :param footprint: the product to draw.
    :param title: first line of the title; None says how many receptors are summed.
    :return: the target.
    :raises ValueError: when the dataset has no such footprint on a horizontal grid.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = summed(dataset, footprint)
    count = int((~dataset[f"{footprint}_empty"]).sum())
    figure = Figure(figsize=(8.0, 7.4), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_footprint(figure, axes, total)
    _draw_receptors(axes, dataset, total)
    heading = title or f"Surface influence of {count} receptor{'s' * (count != 1)}, summed"
    lines = _subtitle(dataset, footprint)
    axes.set_title(heading, fontsize=14, fontweight="bold", pad=10 + 13 * len(lines))
    axes.annotate(
        "\n".join(lines),
        (0.5, 1.0),
        xycoords="axes fraction",
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=9.5,
        color="0.25",
    )
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)
    return path


def summed(dataset: xr.Dataset, footprint: str) -> xr.DataArray:
    """Return the footprint summed over everything but its horizontal grid."""
    if footprint not in dataset.data_vars:
        known = ", ".join(map(str, dataset.data_vars))
        raise ValueError(f"the collection has no footprint {footprint!r}: it has {known or 'none'}")
    values = dataset[footprint]
    dims = _horizontal(values)
    return values.sum([dim for dim in values.dims if dim not in dims], keep_attrs=True).compute()


def _horizontal(values: xr.DataArray) -> tuple[str, str]:
    """Return the names of the dimensions from south to north and from west to east."""
    for y, x in HORIZONTAL:
        found = [
            next((str(d) for d in values.dims if str(d) == n or str(d).endswith(f"_{n}")), None)
            for n in (y, x)
        ]
        if found[0] and found[1]:
            return found[0], found[1]
    raise ValueError(f"{values.name!r} has no horizontal grid: its dimensions are {values.dims}")


def _draw_footprint(figure: Any, axes: Any, total: xr.DataArray) -> None:
    """Draw the values on a logarithmic colour scale; cells without influence stay blank."""
    from matplotlib.colors import LogNorm

    y, x = _horizontal(total)
    largest = float(total.max())
    top = 10.0 ** math.ceil(math.log10(largest)) if largest > 0 else 1.0
    norm = LogNorm(vmin=top / 10**DECADES, vmax=top)
    shown = total.where(total > 0).transpose(y, x)
    mesh = axes.pcolormesh(
        total[x], total[y], shown, norm=norm, cmap="viridis_r", shading="nearest", rasterized=True
    )
    bar = figure.colorbar(mesh, ax=axes, extend="min", shrink=0.85, pad=0.02, aspect=30)
    bar.set_label(f"footprint ({_pretty(str(total.attrs.get('units', '')))})")
    if x.endswith("lon"):
        axes.set_xlabel("longitude (°)")
        axes.set_ylabel("latitude (°)")
        axes.set_aspect(1 / math.cos(math.radians(float(total[y].mean()))))
    else:
        axes.set_xlabel(f"{x} ({total[x].attrs.get('units', 'm')})")
        axes.set_ylabel(f"{y} ({total[y].attrs.get('units', 'm')})")
        axes.set_aspect("equal")
    axes.grid(visible=True, color="0.85", linewidth=0.5)
    axes.set_axisbelow(True)


def _draw_receptors(axes: Any, dataset: xr.Dataset, total: xr.DataArray) -> None:
    """Mark the receptors, and name their sites where there are few."""
    _, x = _horizontal(total)
    if not x.endswith("lon") or not {"longitude", "latitude"} <= set(dataset.coords):
        return
    sites = (
        dataset["site"].values if "site" in dataset.coords else [""] * dataset.sizes["simulation"]
    )
    places = {
        (float(lon), float(lat)): str(site)
        for lon, lat, site in zip(dataset["longitude"].values, dataset["latitude"].values, sites)
    }
    longitudes, latitudes = zip(*places)
    axes.plot(
        longitudes,
        latitudes,
        "^",
        color="crimson",
        markersize=7,
        markeredgecolor="white",
        zorder=3,
        label="receptor",
    )
    if len(places) <= 20:
        for place, site in places.items():
            axes.annotate(site, place, xytext=(6, 4), textcoords="offset points", fontsize=9)
    axes.legend(loc="lower right", framealpha=0.9)


def _subtitle(dataset: xr.Dataset, footprint: str) -> list[str]:
    """Say which time is covered and what the meteorology is, a line each."""
    import numpy as np

    parts: list[str] = []
    times = next((n for n in (f"{footprint}_time", "time") if n in dataset.coords), None)
    if times is not None and dataset[times].dtype.kind == "M":
        values = dataset[times].values
        values = values[~np.isnat(values)]
        first, last = values.min(), values.max() + np.timedelta64(1, "h")
        parts.append(f"{_minute(first)} to {_minute(last)} UTC")
    meteorology = dataset[footprint].attrs.get("meteorology")
    if meteorology:
        parts.append(str(meteorology))
    return parts


def _minute(time: Any) -> str:
    return str(time)[:16].replace("T", " ")


def _pretty(units: str) -> str:
    """Write the footprint's units as people do."""
    return "ppm / (µmol m⁻² s⁻¹)" if units == "ppm m2 s umol-1" else units
