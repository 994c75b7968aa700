"""What it costs to open the products of an ensemble as one dataset, and to read it, beside xarray.

    .venv/bin/python benchmarks/collect.py            2,000 files
    .venv/bin/python benchmarks/collect.py --small    200

Each way runs in a process of its own, one after the other, on the same files, so that its memory is
its own: the peak of its largest process. The second of two rounds counts, when the files are in
the cache. ``open_mfdataset`` concatenates along a new dimension, with ``parallel=False``: what
``parallel=True`` does at once are threads, which netCDF has not, unless a cluster is set up.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = 2_000
WAYS = ("collect", "open_mfdataset")


def main(arguments: list[str]) -> int:
    """Write the files, open them in each way, and print the ratios."""
    if arguments[:1] == ["--way"]:
        print(json.dumps(measure(arguments[1], Path(arguments[2]), int(arguments[3]))))
        return 0
    count = FILES // 10 if "--small" in arguments else FILES
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root, count)
        figures = {way: in_own_process(way, root, count) for way in (*WAYS, *WAYS)}
    print(f"{count:,} files, variables over (time, lat, lon) = (24, 20, 20) and scalars")
    for way, (opening, reading, megabytes) in figures.items():
        print(f"{way:>15}: opened in {opening:.2f} s, read in {reading:.2f} s, {megabytes:.0f} MB")
    ours, theirs = (figures[way] for way in WAYS)
    names = ("time to open", "time to read", "peak memory")
    for name, mine, other in zip(names, ours, theirs):
        print(f"{name}: {mine / other:.2f} of open_mfdataset's")
    return 0


def write_files(root: Path, count: int) -> None:
    """Write files as models do: the same grid, other values, an attribute of their own."""
    import numpy as np
    import xarray as xr

    random = np.random.default_rng(1)
    (root / "out").mkdir()
    for number in range(count):
        field = random.random((24, 20, 20), "float32")
        dataset = xr.Dataset(
            {"field": (("time", "lat", "lon"), field, {"units": "ppm"}), "peak": field.max()},
            coords={"time": np.arange(24), "lat": np.linspace(40, 44, 20), "lon": np.arange(20.0)},
            attrs={"run": number},
        )
        dataset.to_netcdf(root / "out" / f"s{number}.nc")


def in_own_process(way: str, root: Path, count: int) -> tuple[float, float, float]:
    """Return seconds to open, seconds to read, and the peak of memory in megabytes."""
    command = [sys.executable, __file__, "--way", way, str(root), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    opening, reading, megabytes = json.loads(done.stdout.splitlines()[-1])
    return opening, reading, megabytes


def measure(way: str, root: Path, count: int) -> list[float]:
    """Open the files in one way, add up one variable, and say what that cost."""
    openers: dict[str, Callable[[Path, int], Any]] = {
        "collect": open_collected,
        "open_mfdataset": open_many,
    }
    open_files = openers[way]
    started = time.monotonic()
    dataset, name = open_files(root, count)
    opening = time.monotonic() - started
    started = time.monotonic()
    assert float(dataset[name].mean()) > 0
    reading = time.monotonic() - started
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return [opening, reading, peak / 1024]


def open_collected(root: Path, count: int) -> tuple[Any, str]:
    """Open the files as ``ensemble collect`` does."""
    from airflow_ensemble.engine.collect import open_collection
    from airflow_ensemble.engine.index.interface import Result
    from airflow_ensemble.engine.simulation import Product, ProductStatus
    from airflow_ensemble.engine.storage import open_root

    def result(number: int) -> Result:
        product = Product("out", ProductStatus.COMPLETE, f"out/s{number}.nc", 1, "")
        return Result(f"s{number}", {"number": number}, 1, (product,))

    return open_collection(map(result, range(count)), open_root(str(root))), "out_field"


def open_many(root: Path, count: int) -> tuple[Any, str]:
    """Open the files as xarray does."""
    import xarray as xr

    paths = [root / "out" / f"s{number}.nc" for number in range(count)]
    return xr.open_mfdataset(paths, combine="nested", concat_dim="simulation"), "field"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
