"""The worker bundle: one file that any supported Python runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from airflow_ensemble.engine import bundle, segment, storage
from airflow_ensemble.engine.index.interface import Result
from airflow_ensemble.engine.recipe import ProductSpec
from airflow_ensemble.engine.result_lines import render_results
from airflow_ensemble.engine.simulation import Product, ProductStatus
from tests.engine.running import assignments_of, recipe_of, write_chunk_file
from tests.interpreters import SUPPORTED, interpreters


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.write_bundle(tmp_path_factory.mktemp("bundle"))


def test_equal_sources_give_equal_bytes(tmp_path: Path, archive: Path) -> None:
    again = bundle.write_bundle(tmp_path / "other.pyz")

    assert again.read_bytes() == archive.read_bytes()


def test_it_is_small_and_named(archive: Path) -> None:
    assert archive.name == "ensemble-worker.pyz"
    assert archive.stat().st_size < 1_000_000


def test_an_older_one_is_replaced_in_one_step(tmp_path: Path) -> None:
    old = tmp_path / "worker.pyz"
    old.write_text("old")
    bundle.write_bundle(old)

    assert old.read_bytes()[:2] == b"#!"
    assert list(tmp_path.iterdir()) == [old]


def test_all_supported_pythons_are_on_this_machine() -> None:
    assert list(interpreters()) == [f"3.{minor}" for minor in SUPPORTED]


@pytest.mark.parametrize("version", [f"3.{minor}" for minor in SUPPORTED])
def test_a_chunk_of_a_command_runs_with_the_standard_library_alone(
    tmp_path: Path, archive: Path, version: str
) -> None:
    recipe = recipe_of(
        tmp_path / "output",
        command=("/bin/sh", "-c", "echo {id} {x} > out.txt; test {x} != 2"),
        products=(ProductSpec("values", "out.txt"),),
    )
    chunk = write_chunk_file(tmp_path, recipe, assignments_of([{"x": n} for n in range(4)]))
    # -I -S: no site-packages, no environment; -W error: not even a warning on a newer Python.
    done = subprocess.run(
        [interpreters()[version], "-I", "-S", "-W", "error", archive, "push-worker", chunk],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1, done.stderr
    root = storage.open_root(tmp_path / "output")
    prefix = storage.segments_prefix(recipe.hash8)
    records = [r for name, _ in root.list(prefix) for r in segment.parse(root.read(name)).records]
    outcomes = {r.outcome.id: r.outcome for r in segment.outcomes(records)}
    assert {id: outcome.is_complete for id, outcome in outcomes.items()} == {
        "s0": True,
        "s1": True,
        "s2": False,
        "s3": True,
    }
    assert root.read(outcomes["s3"].products[0].path or "") == b"s3 3\n"


def test_its_processes_come_from_the_bundle_even_beside_an_installed_package(
    tmp_path: Path, archive: Path
) -> None:
    (tmp_path / "asking.py").write_text(
        "import airflow_ensemble\n"
        "def simulate(run):\n"
        "    (run.workdir / 'where.txt').write_text(airflow_ensemble.__file__)\n"
        "    return {'where': 'where.txt'}\n"
    )
    recipe = recipe_of(
        tmp_path / "output",
        model="asking:simulate",
        code=(str(tmp_path),),
        products=(ProductSpec("where"),),
    )
    chunk = write_chunk_file(tmp_path, recipe, assignments_of([{}]))
    subprocess.run([sys.executable, archive, "push-worker", chunk], check=True)

    (where,) = (tmp_path / "output" / recipe.hash8 / "where").rglob("*.txt")
    assert where.read_text().startswith(str(archive))


# --- collecting -----------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Publish the product of three simulations and return the file that names them."""
    root = storage.open_root(tmp_path / "output")
    found = []
    for n, id in enumerate(("a", "b", "none")):
        record = Product("field", ProductStatus.COMPLETE_EMPTY)
        if id != "none":
            source = tmp_path / f"{id}.nc"
            xr.Dataset({"v": ("x", np.arange(3) + 10.0 * n)}).to_netcdf(source)
            size, checksum = root.publish(source, f"h/field/{id}.nc")
            record = Product("field", ProductStatus.COMPLETE, f"h/field/{id}.nc", size, checksum)
        found.append(Result(id, {"n": n}, 1, (record,)))
    path = tmp_path / "results.jsonl"
    path.write_text("".join(render_results(found)))
    return path


def collect(archive: Path, results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(archive), "collect", "--results", str(results)]
    output = ["--output", str(results.parent / "output")]
    return subprocess.run(
        [*command, *output, *options], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["all.nc", "all.zarr"])
def test_products_are_collected_without_an_index(archive: Path, results: Path, name: str) -> None:
    target = results.parent / name
    done = collect(archive, results, "--to", str(target))
    assert (done.returncode, done.stdout) == (0, f"wrote {target} of 3 simulations\n"), done.stderr
    with xr.open_dataset(target, engine="zarr" if name == "all.zarr" else None) as dataset:
        assert dataset["simulation"].values.tolist() == ["a", "b", "none"]
        assert dataset["n"].values.tolist() == [0, 1, 2]
        assert dataset["field"].values[:2].tolist() == [[0, 1, 2], [10, 11, 12]]
        assert dataset["field_empty"].values.tolist() == [False, False, True]


def test_the_format_may_be_given(archive: Path, results: Path) -> None:
    target = results.parent / "without a suffix"
    assert collect(archive, results, "--to", str(target), "--format", "netcdf").returncode == 0
    with xr.open_dataset(target, engine="netcdf4") as dataset:
        assert dataset.sizes["simulation"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "x.csv"), "cannot tell the format of 'x.csv'"),
        (("--to", "x.nc", "--product", "other"), "no complete simulation has a product 'other'"),
        (("--to", "x.nc", "--results", "nowhere.jsonl"), "results nowhere.jsonl cannot be read"),
        (("--to", "x.nc", "--results", "/dev/null"), "/dev/null names no result"),
    ],
)
def test_wrong_input_is_said_in_one_line(
    archive: Path, results: Path, options: tuple[str, ...], message: str
) -> None:
    done = collect(archive, results, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_products_that_do_not_fit_together_are_no_wrong_input(
    archive: Path, results: Path, tmp_path: Path
) -> None:
    (tmp_path / "output/h/field/b.nc").unlink()
    xr.Dataset({"v": ("x", np.arange(5.0))}).to_netcdf(tmp_path / "output/h/field/b.nc")
    done = collect(archive, results, "--to", str(tmp_path / "all.nc"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "all.nc").exists()


def test_axes_are_joined_when_that_is_asked_for(
    archive: Path, results: Path, tmp_path: Path
) -> None:
    for id, axis in (("a", [1, 2]), ("b", [2, 3, 4])):
        (tmp_path / f"output/h/field/{id}.nc").unlink()
        product = xr.Dataset({"v": ("x", axis)}, coords={"x": axis})
        product.to_netcdf(tmp_path / f"output/h/field/{id}.nc")
    arguments = ("--to", str(tmp_path / "all.nc"))
    assert (
        'choose --align outer (align="outer" in a DAG)'
        in collect(archive, results, *arguments).stderr
    )
    assert collect(archive, results, *arguments, "--align", "outer").returncode == 0
    with xr.open_dataset(tmp_path / "all.nc") as dataset:
        assert dataset["x"].values.tolist() == [1, 2, 3, 4]


def test_a_target_that_cannot_be_written_is_named(archive: Path, results: Path) -> None:
    done = collect(archive, results, "--to", f"{results}/all.nc")
    assert done.returncode == 2
    assert f"error: {results}/all.nc cannot be written (File exists): " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_python_without_the_packages_is_named(archive: Path, results: Path) -> None:
    python = interpreters()["3.9"]
    done = subprocess.run(
        [
            *(python, "-I", "-S", "-W", "error", archive, "collect", "--results", results),
            *("--output", results.parent / "output", "--to", "all.zarr"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "has no xarray, dask, netCDF4, zarr" in done.stderr
    assert "python" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_teaches(archive: Path) -> None:
    done = subprocess.run(
        [sys.executable, archive, "push-worker", "--help"], capture_output=True, text=True
    )

    assert done.returncode == 0
    assert "exit codes: 0 all complete" in done.stdout
