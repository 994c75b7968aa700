"""Products of simulations for the tests of collecting, published below an output root."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import netCDF4
import xarray as xr

from airflow_ensemble.engine.index.interface import Result
from airflow_ensemble.engine.simulation import Product, ProductStatus
from airflow_ensemble.engine.storage import OutputRoot

#: A product: a dataset, something that writes a netCDF file, or None for complete-empty.
Content = xr.Dataset | Callable[[netCDF4.Dataset], object] | None


def publish(
    root: OutputRoot,
    folder: Path,
    id: str,
    params: Mapping[str, Any] | None = None,
    **products: Content,
) -> Result:
    """Publish a simulation's products, and return its result."""
    records = []
    for name, content in products.items():
        if content is None:
            records.append(Product(name, ProductStatus.COMPLETE_EMPTY))
            continue
        file = folder / "writing.nc"
        if isinstance(content, xr.Dataset):
            content.to_netcdf(file)
        else:
            with netCDF4.Dataset(file, "w") as opened:
                content(opened)
        path = f"{name}/{id}.nc"
        size, checksum = root.publish(file, path)
        records.append(Product(name, ProductStatus.COMPLETE, path, size, checksum))
    return Result(id, params or {}, 1, tuple(records))
