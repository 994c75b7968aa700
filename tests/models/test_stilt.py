"""STILT through HYSPLIT: the products equal pystilt's own, and bad input is said, not run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml

from airflow_ensemble.cli import main
from airflow_ensemble.engine.model import Invalid, Run, load_function
from airflow_ensemble.engine.products import write_value
from airflow_ensemble.engine.simulation import Simulation
from airflow_ensemble.models import ideal_met
from airflow_ensemble.models.stilt import check, simulate
from airflow_ensemble.models.stilt_request import parse
from tests.hrrr import GRID, HYSPLIT, Oracle, parameters, receptors

SMALL_GRID = {
    **{"xmin": -98.6, "xmax": -97.4, "ymin": 39.2, "ymax": 40.4},
    **{"xres": 0.02, "yres": 0.02},
}
IDEAL_RECEPTOR = {
    **{"time": "2026-06-01 14:00", "longitude": -98, "latitude": 40, "altitude": 10},
    **{"met": "ideal", "n_hours": -2, "numpar": 50, "grid": SMALL_GRID},
}
MET = {"directory": "/met", "file_format": "%Y%m%d", "file_tres": "6h"}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep idealised days out of the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def run_of(params: Mapping[str, Any], workdir: Path, seed: int = 7, id: str = "a") -> Run:
    workdir.mkdir(parents=True, exist_ok=True)
    return Run(id=id, params=params, workdir=workdir, seed=seed)


def simulate_in(workdir: Path, seed: int = 7, **changes: Any) -> dict[str, Any]:
    params = {**IDEAL_RECEPTOR, **changes}
    return simulate(run_of({k: v for k, v in params.items() if v is not None}, workdir, seed))


# --- the real thing ---------------------------------------------------------------------------


@pytest.mark.parametrize("row", receptors(), ids=lambda row: row["id"])
def test_products_equal_pystilts_own_value_for_value(
    row: dict[str, Any], hrrr: Path, hrrr_oracle: dict[str, Oracle], tmp_path: Path
) -> None:
    params = {**parameters(hrrr), **{k: v for k, v in row.items() if k != "id"}}

    products = simulate(run_of(params, tmp_path, id=row["id"]))

    files = {name: write_value(name, value, tmp_path) for name, value in products.items()}
    expected = hrrr_oracle[row["id"]]
    with xr.open_dataset(files["footprint"]) as footprint:
        xr.testing.assert_equal(footprint["foot"].drop_vars("hour"), expected.footprint)
        assert footprint["foot"].dtype == expected.footprint.dtype
        assert float(footprint["foot"].sum()) > 0
    pd.testing.assert_frame_equal(pd.read_parquet(files["trajectory"]), expected.trajectory)


def test_met_below_a_very_long_path_is_read(
    hrrr: Path, hrrr_oracle: dict[str, Oracle], tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60) / ("f" * 60)
    deep.parent.mkdir(parents=True)
    deep.symlink_to(hrrr)
    row = receptors()[0]
    params = {**parameters(deep), **{k: v for k, v in row.items() if k != "id"}}
    footprint = simulate(run_of(params, tmp_path / "run"))["footprint"]
    np.testing.assert_array_equal(footprint["foot"], hrrr_oracle[row["id"]].footprint)


# --- seeds ------------------------------------------------------------------------------------


def test_a_seed_that_hysplit_cannot_hold_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"seed is 1073741824: HYSPLIT takes seeds below 1073741824"):
        simulate(run_of({**IDEAL_RECEPTOR, "seed": 2**30}, tmp_path))
    assert parse({**IDEAL_RECEPTOR, "seed": 2**30 - 1}, seed=1).hysplit["seed"] == 2**30 - 1


def test_the_seed_decides_the_particles(tmp_path: Path) -> None:
    first = simulate_in(tmp_path / "1", seed=7)
    again = simulate_in(tmp_path / "2", seed=7)
    other = simulate_in(tmp_path / "3", seed=8)
    pd.testing.assert_frame_equal(first["trajectory"], again["trajectory"])
    xr.testing.assert_equal(first["footprint"], again["footprint"])
    assert not first["trajectory"].equals(other["trajectory"])
    assert first["footprint"].attrs["seed"] == 7
    assert other["trajectory"].attrs["seed"] == 8


def test_a_seed_in_the_parameters_wins_over_the_simulations_own(tmp_path: Path) -> None:
    derived = simulate_in(tmp_path / "1", seed=42)
    named = simulate_in(tmp_path / "2", seed=7, **{})
    explicit = simulate(run_of({**IDEAL_RECEPTOR, "seed": 42}, tmp_path / "3", seed=7))
    pd.testing.assert_frame_equal(derived["trajectory"], explicit["trajectory"])
    assert not named["trajectory"].equals(explicit["trajectory"])


def test_the_largest_seeds_still_differ(tmp_path: Path) -> None:
    largest = simulate_in(tmp_path / "1", seed=2**31 - 1)
    next_one = simulate_in(tmp_path / "2", seed=2**31 - 2)
    assert not largest["trajectory"].equals(next_one["trajectory"])


# --- what the products say of themselves ---------------------------------------------------------


@pytest.fixture(scope="module")
def ideal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A four-hour simulation with idealised meteorology, written and read back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        workdir = tmp_path_factory.mktemp("ideal")
        products = simulate_in(workdir, n_hours=-4, numpar=100, site="plain", institution="A lab")
        files = {name: write_value(name, value, workdir) for name, value in products.items()}
        footprint = xr.load_dataset(files["footprint"])
        return {"footprint": footprint, "trajectory": pd.read_parquet(files["trajectory"])}


def test_a_footprint_follows_the_cf_conventions(ideal: dict[str, Any]) -> None:
    dataset = ideal["footprint"]
    foot = dataset["foot"]
    assert dataset.attrs["Conventions"] == "CF-1.10"
    assert foot.dims == ("time", "lat", "lon")
    assert foot.attrs["units"] == "ppm m2 s umol-1"
    assert foot.attrs["long_name"]
    assert foot.attrs["grid_mapping"] == "crs" or foot.encoding["grid_mapping"] == "crs"
    assert dataset["crs"].attrs["grid_mapping_name"] == "latitude_longitude"
    expected = {
        "time": {"standard_name": "time", "axis": "T"},
        "lat": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
        "lon": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
    }
    for name, attrs in expected.items():
        assert attrs.items() <= dataset[name].attrs.items()
    assert dataset["time"].attrs["bounds"] == "time_bnds"
    starts, ends = dataset["time_bnds"].values.T
    np.testing.assert_array_equal(starts, dataset["time"].values)
    np.testing.assert_array_equal(ends - starts, np.timedelta64(1, "h"))
    for name in ("title", "history", "source", "institution", "references"):
        assert dataset.attrs[name]


def test_a_footprint_has_a_layer_for_every_hour_of_the_run(ideal: dict[str, Any]) -> None:
    dataset = ideal["footprint"]
    assert dataset["hour"].values.tolist() == [-4, -3, -2, -1]
    assert str(dataset["time"].values[0]).startswith("2026-06-01T10:00")
    assert (dataset["foot"].sum(("lat", "lon")) > 0).all()


def test_attributes_hold_receptor_settings_and_versions(ideal: dict[str, Any]) -> None:
    import stilt

    for attrs in (ideal["footprint"].attrs, ideal["trajectory"].attrs):
        assert json.loads(attrs["receptor"])["altitude"] == 10
        assert attrs["site"] == "plain"
        assert attrs["simulation"] == "a"
        assert attrs["pystilt_version"] == stilt.__version__
        assert attrs["hysplit_version"]
        assert json.loads(attrs["hysplit_parameters"])["numpar"] == 100
    assert ideal["trajectory"].attrs["units"]["zagl"] == "m"


def test_idealised_meteorology_is_named_in_every_product(ideal: dict[str, Any]) -> None:
    assert "idealised" in ideal["footprint"].attrs["meteorology"]
    assert "idealised" in ideal["footprint"]["foot"].attrs["meteorology"]
    assert "idealised" in ideal["trajectory"].attrs["meteorology"]


def test_a_label_cannot_pass_idealised_meteorology_off_as_real(tmp_path: Path) -> None:
    ideal_met.write_ideal_days(tmp_path / "met", *[pd.Timestamp("2026-06-01").to_pydatetime()] * 2)
    met = {**ideal_met.met_entry(tmp_path / "met"), "label": "HRRR analysis"}
    footprint = simulate_in(tmp_path / "run", met=met)["footprint"]
    assert "idealised" in footprint.attrs["meteorology"]


def test_real_meteorology_takes_its_label_or_its_source_name(hrrr: Path, tmp_path: Path) -> None:
    row = {k: v for k, v in receptors()[0].items() if k != "id"}
    params = {**parameters(hrrr), **row, "n_hours": -1, "numpar": 20}
    unnamed = simulate(run_of(params, tmp_path / "1"))["footprint"]
    named = {**params, "met": {**params["met"], "label": "HRRR, cropped"}}
    labelled = simulate(run_of(named, tmp_path / "2"))["footprint"]
    assert unnamed.attrs["meteorology"] == "HRRR"
    assert labelled.attrs["meteorology"] == "HRRR, cropped"


# --- several footprints, none, empty ones ---------------------------------------------------------


def test_named_footprints_inherit_and_override_the_common_keys(tmp_path: Path) -> None:
    coarse = {**SMALL_GRID, "xres": 0.1, "yres": 0.1}
    footprints = {
        "near": None,
        "far": {"grid": coarse, "smooth_factor": 0},
        "total": {"time_integrate": True},
    }
    products = simulate_in(tmp_path, footprints=footprints)
    assert set(products) == {"trajectory", "near", "far", "total"}
    assert products["near"].sizes["lat"] == 60
    assert products["far"].sizes["lat"] == 12
    assert products["total"].sizes["time"] == 1
    np.testing.assert_allclose(
        products["total"]["foot"].sum(), products["near"]["foot"].sum(), rtol=1e-12
    )
    start, end = products["total"]["time_bnds"].values[0]
    assert end - start == np.timedelta64(2, "h")
    assert json.loads(products["far"]["foot"].attrs["stilt_footprint"])["smooth_factor"] == 0


def test_a_footprint_that_no_particle_touched_is_empty_and_others_are_not(tmp_path: Path) -> None:
    elsewhere = {**SMALL_GRID, "xmin": 10, "xmax": 11}
    footprints = {"here": {}, "there": {"grid": elsewhere}}
    products = simulate_in(tmp_path, footprints=footprints)
    assert products["there"] is None
    assert float(products["here"]["foot"].sum()) > 0


def test_what_the_ensemble_does_not_declare_is_left_out(tmp_path: Path) -> None:
    params = {**IDEAL_RECEPTOR, "footprints": {"near": {}, "far": {}}}
    (tmp_path / "work").mkdir()
    run = Run("a", params, tmp_path / "work", seed=1, products=("near",))
    assert set(simulate(run)) == {"near"}


def test_a_worker_runs_an_ensemble_that_declares_only_one_of_the_footprints(
    tmp_path: Path,
) -> None:
    ensemble = {
        "name": "one-of-two",
        "model": "airflow_ensemble.models.stilt:simulate",
        "parameters": {**IDEAL_RECEPTOR, "footprints": {"near": {}, "far": {}}},
        "simulations": "table.csv",
        "products": ["near"],
        "output": str(tmp_path / "output"),
    }
    (tmp_path / "ensemble.yaml").write_text(yaml.safe_dump(ensemble))
    (tmp_path / "table.csv").write_text("id,latitude\na,40.0\n")
    assert main(["run", str(tmp_path / "ensemble.yaml")]) == 0
    (file,) = (tmp_path / "output").glob("*/near/*/a.*.nc")
    assert float(xr.load_dataset(file)["foot"].sum()) > 0
    assert not list((tmp_path / "output").glob("*/trajectory"))


def test_without_a_grid_there_is_the_trajectory_only(tmp_path: Path) -> None:
    assert set(simulate_in(tmp_path, grid=None)) == {"trajectory"}


def test_a_projected_grid_is_described(tmp_path: Path) -> None:
    grid = {**SMALL_GRID, "xres": 2000, "yres": 2000, "crs": "EPSG:32614"}
    footprint = simulate_in(tmp_path, grid=grid)["footprint"]
    assert footprint["foot"].dims == ("time", "y", "x")
    assert footprint["x"].attrs["standard_name"] == "projection_x_coordinate"
    assert footprint["crs"].attrs["grid_mapping_name"] == "transverse_mercator"


def test_a_forward_run_and_a_column(tmp_path: Path) -> None:
    products = simulate_in(
        tmp_path, n_hours=2, altitude=None, bottom=0, top=500, time=202606011400, hnf_plume=False
    )
    assert products["trajectory"]["age"].max() > 0
    assert products["footprint"]["hour"].values.tolist() == [0, 1, 2]


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"numparr": 5}, "unknown parameter 'numparr' (did you mean 'numpar'?)"),
        ({"latitude": None}, "the receptor has no latitude"),
        ({"latitude": 95}, "latitude"),
        ({"time": "yesterday evening"}, "receptor"),
        (
            {"time": "03/04/2019 02:00"},
            "receptor: time '03/04/2019 02:00' can be read in more than",
        ),
        ({"time": "201902300200"}, "receptor: time '201902300200' does not exist"),
        ({"time": True}, "receptor: time True"),
        ({"longitude": True}, "receptor: longitude is True, a truth value: it must be a number"),
        ({"latitude": "40"}, "receptor: latitude is '40', text: it must be a number"),
        ({"altitude": float("nan")}, "receptor: altitude is nan: it must be a finite number"),
        ({"altitude_ref": 0}, "receptor: altitude_ref is 0, a number: it must be text"),
        ({"bottom": 0, "top": 10}, "it is a point or a column, not both"),
        ({"n_hours": "-2"}, "n_hours is '-2', text: it must be a number"),
        ({"numpar": True}, "numpar is True, a truth value: it must be a number"),
        ({"hnf_plume": "no"}, "hnf_plume is 'no', text: it must be a truth value"),
        ({"hnf_plume": 0}, "hnf_plume is 0, a number: it must be a truth value"),
        ({"ziscale": [1.0, "2"]}, "ziscale is '2', text: it must be a number"),
        ({"time_integrate": "off"}, "time_integrate is 'off', text: it must be a truth value"),
        ({"smooth_factor": True}, "smooth_factor is True, a truth value"),
        ({"grid": {**SMALL_GRID, "xres": True}}, "xres is True, a truth value"),
        ({"grid": {**SMALL_GRID, "xmin": "-98.6"}}, "xmin is '-98.6', text"),
        ({"met": {**MET, "file_tres": "6"}}, "met: file_tres is '6': write a number and min"),
        ({"met": {**MET, "file_tres": "06:00"}}, "met: file_tres is '06:00'"),
        ({"met": {**MET, "subgrid_enable": "no"}}, "subgrid_enable is 'no', text"),
        ({"altitude": -5}, "receptor"),
        ({"n_hours": 0}, "n_hours is 0"),
        ({"krand": 7}, "krand"),
        ({"krand": 4, "seed": 3}, "krand"),
        ({"met": None}, "met is None"),
        ({"met": "hrrr"}, "met is 'hrrr'"),
        ({"met": {"directory": "/x"}}, "file_format"),
        ({"met": {"directory": "met", "file_format": "%Y", "file_tres": "1D"}}, "is relative"),
        ({"grid": {"xmin": 0}}, "grid of footprint 'footprint': xmax"),
        ({"grid": {**SMALL_GRID, "xmax": -99}}, "grid of footprint 'footprint'"),
        ({"grid": {**SMALL_GRID, "xres": 1e-6, "yres": 1e-6}}, "cells, more than"),
        ({"grid": {**SMALL_GRID, "crs": "EPSG:junk"}}, "Invalid projection"),
        ({"footprints": {"near": {"gird": 1}}}, "'near' has unknown keys gird"),
        ({"footprints": {"trajectory": {}}}, "cannot be named 'trajectory'"),
        ({"grid": None, "footprints": {"near": {}}}, "'near' has no grid"),
        ({"footprints": []}, "footprints must be a mapping"),
    ],
)
def test_a_wrong_parameter_is_invalid_and_check_finds_it(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    given = {**IDEAL_RECEPTOR, **changes}
    params = {k: v for k, v in given.items() if v is not None}
    with pytest.raises(Invalid) as caught:
        simulate(run_of(params, tmp_path))
    assert said in str(caught.value)
    assert "simulation a" in str(caught.value)
    (problem,) = check(params, [Simulation("a")])
    assert said in problem
    assert not (tmp_path / "hysplit").exists()


def test_a_day_without_met_files_is_found_by_check_and_is_final(hrrr: Path, tmp_path: Path) -> None:
    row = {k: v for k, v in receptors()[0].items() if k != "id"}
    good = Simulation("good", row)
    missing = [Simulation(f"m{i}", {**row, "time": "2019-06-02T03:00:00"}) for i in range(3)]

    (problem,) = check(parameters(hrrr), [good, *missing])

    assert "simulation m0 and 2 more: no met file in" in problem
    assert "2019-06-02 00:00" in problem
    with pytest.raises(Invalid, match="No met file in"):
        simulate(run_of({**parameters(hrrr), **missing[0].params}, tmp_path))


def test_a_missing_met_directory_is_found_by_check_and_is_final(tmp_path: Path) -> None:
    params = {**parameters(tmp_path / "nowhere"), **receptors()[0]}
    del params["id"]
    (problem,) = check(params, [Simulation("a")])
    assert "nowhere does not exist here" in problem
    with pytest.raises(Invalid, match="does not exist here"):
        simulate(run_of(params, tmp_path / "run"))


def test_a_receptor_outside_the_met_is_found_by_check_and_is_final(
    hrrr: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = {**receptors()[0], "longitude": -80.0}
    del row["id"]
    (problem,) = check(parameters(hrrr), [Simulation("a", row)])
    assert "outside the meteorology's domain" in problem
    with pytest.raises(Invalid, match="outside the meteorology's domain"):
        simulate(run_of({**parameters(hrrr), **row}, tmp_path))
    assert "HYSPLIT's messages" in capfd.readouterr().err


def test_a_damaged_met_file_is_final(hrrr: Path, tmp_path: Path) -> None:
    broken = tmp_path / "met"
    broken.mkdir()
    whole = (hrrr / "20190530_00-05_hrrr").read_bytes()
    (broken / "20190530_00-05_hrrr").write_bytes(whole[: len(whole) // 2])
    params = {**parameters(broken), **receptors()[0]}
    del params["id"]
    with pytest.raises(Invalid):
        simulate(run_of(params, tmp_path / "run"))


def test_check_names_every_row_whose_time_is_none_and_runs_refuse_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    times = {
        **{"april-3": "03/04/2019 02:00", "april-13": "13/04/2019 02:00", "may-30": 190530},
        **{"two-oclock": "02:00", "now": "now", "decimal": 2019.5, "excel": 43558.5},
    }
    params = {**IDEAL_RECEPTOR}
    del params["time"]
    ensemble = {
        **{"name": "dates", "model": "airflow_ensemble.models.stilt:simulate"},
        **{"parameters": params, "products": ["trajectory"], "output": str(tmp_path / "output")},
        "simulations": "table.csv",
    }
    file = tmp_path / "ensemble.yaml"
    file.write_text(yaml.safe_dump(ensemble))
    rows = "".join(f"{id},{time}\n" for id, time in times.items())
    (tmp_path / "table.csv").write_text(f"id,time\n{rows}")

    assert main(["check", str(file)]) == 2
    checked = capfd.readouterr()
    for id, time in times.items():
        assert f"simulation {id}: receptor: time {time!r} can be read" in checked.out + checked.err
    assert main(["run", str(file)]) == 1
    assert f"invalid {len(times)} " in " ".join(capfd.readouterr().out.split())
    assert not list((tmp_path / "output").glob("*/trajectory/**/*.parquet"))


def test_moments_of_a_parquet_table_are_times(tmp_path: Path) -> None:
    moments = pd.to_datetime(["2026-06-01T14:00", "2026-06-01T15:00"]).tz_localize("Etc/GMT-2")
    pd.DataFrame({"id": ["a", "b"], "time": moments}).to_parquet(
        tmp_path / "table.parquet", index=False
    )
    params = {name: value for name, value in IDEAL_RECEPTOR.items() if name not in ("time", "grid")}
    ensemble = {
        **{"name": "moments", "model": "airflow_ensemble.models.stilt:simulate"},
        **{"parameters": params, "products": ["trajectory"], "output": str(tmp_path / "output")},
        "simulations": "table.parquet",
    }
    (tmp_path / "ensemble.yaml").write_text(yaml.safe_dump(ensemble))

    assert main(["run", str(tmp_path / "ensemble.yaml")]) == 0

    (first,) = (tmp_path / "output").glob("*/trajectory/**/a.*.parquet")
    table = pd.read_parquet(first)
    assert json.loads(table.attrs["receptor"])["time"].startswith("2026-06-01T12:00")


def test_check_passes_what_runs_and_names_at_most_twenty_problems(hrrr: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "id"} for row in receptors()]
    good = [Simulation(str(i), row) for i, row in enumerate(rows)]
    assert check(parameters(hrrr), good) == []
    bad = [Simulation(f"b{i}", {**rows[0], "latitude": 91 + i}) for i in range(40)]
    assert len(check(parameters(hrrr), bad)) <= 21


def test_the_model_is_found_by_its_reference_with_its_check() -> None:
    function = load_function("airflow_ensemble.models.stilt:simulate")
    assert function is simulate
    assert function.check is check  # type: ignore[attr-defined]


def test_the_eight_receptors_of_the_test_data_are_these() -> None:
    assert len(receptors()) == 8
    assert HYSPLIT["seed"] == 42
    assert GRID["xres"] == 0.01
