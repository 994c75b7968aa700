"""The eight receptors over Salt Lake City, real meteorology (NOAA HRRR), and what they must give.

The meteorology is not part of the repository: it is found through the environment variable
``ENSEMBLE_TEST_HRRR``, or in ``shared/data/hrrr`` beside the checkout.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

HOURS = (3, 4, 5, 6)
LONGITUDES = (-112.0, -112.1)
LATITUDE, ALTITUDE = 40.7, 10
HYSPLIT = {"n_hours": -3, "numpar": 200, "krand": 2, "seed": 42}
GRID = {
    **{"xmin": -112.85, "xmax": -111.15, "ymin": 40.15, "ymax": 41.35},
    **{"xres": 0.01, "yres": 0.01},
}
COLUMNS = ("id", "time", "longitude", "latitude", "altitude")


@dataclass(frozen=True)
class Oracle:
    """What pystilt itself gives for one receptor.

    :param footprint: (time, lat, lon), from ``stilt.calc_footprint``.
    :param trajectory: the particle table, from ``stilt.run_trajectories``.
    """

    footprint: Any
    trajectory: Any


def receptors() -> list[dict[str, Any]]:
    """Return the eight receptors as rows of a table of simulations."""
    return [
        {
            "id": f"slc-{hour:02d}-w{round(-10 * longitude)}",
            "time": f"2019-05-30T{hour:02d}:00:00",
            "longitude": longitude,
            "latitude": LATITUDE,
            "altitude": ALTITUDE,
        }
        for hour in HOURS
        for longitude in LONGITUDES
    ]


def met_entry(directory: Path) -> dict[str, str]:
    return {"directory": str(directory), "file_format": "%Y%m%d_%H", "file_tres": "6h"}


def parameters(directory: Path) -> dict[str, Any]:
    """Return the parameters common to the eight."""
    return {"met": met_entry(directory), **HYSPLIT, "grid": dict(GRID)}


def write_hrrr_ensemble(
    folder: Path, hrrr: Path, output: str | Path, *, first: int | None = None, **keys: Any
) -> Path:
    """Write ``ensemble.yaml`` and ``receptors.csv`` of the eight receptors.

    :param folder: made when it does not exist.
    :param hrrr: the directory of the met files, from the fixture ``hrrr``.
    :param output: the output root.
    :param first: only so many receptors.
    :param keys: further keys of the ensemble file.
    :return: the ensemble file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "receptors.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(receptors()[:first])
    content: Mapping[str, Any] = {
        "name": "slc-footprints",
        "model": "airflow_ensemble.models.stilt:simulate",
        "seed": 42,
        "parameters": parameters(hrrr),
        "simulations": "receptors.csv",
        "products": ["trajectory", "footprint"],
        "output": str(output),
        **keys,
    }
    path = folder / "ensemble.yaml"
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return path


def find_hrrr() -> Path:
    """Return the directory of the met files.

    :raises FileNotFoundError: saying where it was looked for.
    """
    checkout = Path(__file__).resolve().parents[1]
    named = os.environ.get("ENSEMBLE_TEST_HRRR")
    place = Path(named) if named else checkout.parent / "shared" / "data" / "hrrr"
    if not (place / "20190530_00-05_hrrr").is_file():
        raise FileNotFoundError(
            f"no HRRR test meteorology in {place}: set ENSEMBLE_TEST_HRRR to the directory that "
            "holds 20190530_00-05_hrrr and 20190530_06-11_hrrr"
        )
    return place


@pytest.fixture(scope="session")
def hrrr() -> Path:
    """The directory of the met files; without them the test fails, it is not skipped."""
    try:
        return find_hrrr()
    except FileNotFoundError as error:
        pytest.fail(str(error))


@pytest.fixture(scope="session")
def hrrr_oracle(hrrr: Path) -> dict[str, Oracle]:
    """What pystilt itself gives for the eight receptors, by id; computed once, about 20 s."""
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda row: _compute(row, hrrr), receptors())
        return {row["id"]: result for row, result in zip(receptors(), results)}


def _compute(row: Mapping[str, Any], directory: Path) -> Oracle:
    import stilt

    receptor = stilt.PointReceptor(**{name: row[name] for name in COLUMNS[1:]})
    particles = stilt.run_trajectories(receptor, met_entry(directory), **HYSPLIT)
    return Oracle(stilt.calc_footprint(particles, receptor, stilt.Grid(**GRID)), particles)
