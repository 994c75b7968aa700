"""The map: written by real parts, looked into pixel by pixel where a person would look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread

from airflow_ensemble.engine.collect import open_collection
from airflow_ensemble.engine.index.interface import Result
from airflow_ensemble.engine.model import Run
from airflow_ensemble.engine.products import write_value
from airflow_ensemble.engine.simulation import Product, ProductStatus
from airflow_ensemble.engine.storage import open_root
from airflow_ensemble.models.stilt import simulate
from airflow_ensemble.models.stilt_map import _subtitle, plot_map, summed

GRID = {
    **{"xmin": -98.5, "xmax": -97.5, "ymin": 39.3, "ymax": 40.3},
    **{"xres": 0.05, "yres": 0.05},
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Two footprints and an empty one, with idealised meteorology, collected."""
    root = open_root(str(tmp_path_factory.mktemp("output")))
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        for i, longitude in enumerate((-98.1, -97.8, -95.5)):
            workdir = tmp_path_factory.mktemp("run")
            own = {"longitude": longitude, "latitude": 40.0, "site": f"s{i}"}
            common = {"met": "ideal", "n_hours": -2, "numpar": 50, "grid": GRID}
            params = {**common, **own, "time": f"2026-06-01 {14 + i}:00", "altitude": 10}
            value = simulate(Run(f"r{i}", params, workdir, seed=i + 1))["footprint"]
            record = Product("footprint", ProductStatus.COMPLETE_EMPTY)
            if value is not None:
                path = f"footprint/r{i}.nc"
                size, checksum = root.publish(write_value("footprint", value, workdir), path)
                record = Product("footprint", ProductStatus.COMPLETE, path, size, checksum)
            results.append(Result(f"r{i}", own, 1, (record,)))
    return open_collection(results, root)


def test_the_sum_is_over_everything_but_the_grid(collection: xr.Dataset) -> None:
    total = summed(collection, "footprint")
    assert total.dims == ("lat", "lon")
    assert collection["footprint_empty"].values.tolist() == [False, False, True]
    np.testing.assert_allclose(float(total.sum()), collection["footprint"].values.sum())
    assert float(total.sum()) > 0


def test_the_map_is_a_picture_with_colours_and_receptors(
    collection: xr.Dataset, tmp_path: Path
) -> None:
    path = plot_map(collection, tmp_path / "maps" / "sum.png")
    pixels = imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 700
    crimson = np.array([220, 20, 60]) / 255
    assert (np.abs(pixels - crimson).max(axis=2) < 0.01).sum() > 50
    coloured = (pixels.max(axis=2) - pixels.min(axis=2)) > 0.3
    assert 0.01 < coloured.mean() < 0.6


def test_the_title_says_when_and_that_the_meteorology_is_idealised(collection: xr.Dataset) -> None:
    times, meteorology = _subtitle(collection, "footprint")
    assert times == "2026-06-01 12:00 to 2026-06-01 15:00 UTC"
    assert meteorology.startswith("idealised meteorology")


def test_a_collection_without_that_footprint_is_refused(
    collection: xr.Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no footprint 'near': it has"):
        plot_map(collection, tmp_path / "x.png", footprint="near")
    with pytest.raises(ValueError, match="no horizontal grid"):
        plot_map(collection, tmp_path / "x.png", footprint="footprint_empty")
