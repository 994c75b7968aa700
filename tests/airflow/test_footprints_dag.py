"""The DAG ``footprints``: its form, and real footprints that equal the model's own."""

from __future__ import annotations

import csv
import importlib.util
from datetime import date, datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import xarray as xr
from local_airflow import AirflowError

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from tests.airflow.conftest import ROOT
from tests.airflow.live import Live, Run
from tests.hrrr import COLUMNS, GRID, HYSPLIT, Oracle, met_entry, receptors

RUN_CHUNK = "footprints.run_chunk"


@pytest.fixture(scope="module")
def hrrr_run(airflow: Live, hrrr: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over the eight receptors, with everything said through the form's fields."""
    table = tmp_path_factory.mktemp("hrrr") / "receptors.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(receptors())
    conf = {
        "receptors": str(table),
        "met_directory": str(hrrr),
        "n_workers": 4,
        "parameters": {**HYSPLIT, "grid": GRID},
    }
    run = Run(airflow.client, "footprints", airflow.client.trigger("footprints", conf))
    run.finish(240)
    return run


def open_results(airflow: Live, hrrr: Path) -> Any:
    overrides = {
        "output": str(airflow.results / "output"),
        "parameters": {"met": met_entry(hrrr), **HYSPLIT, "grid": GRID},
    }
    return open_control(load(ROOT / "dags/footprints/ensemble.yaml", overrides))


def test_footprints_equal_those_of_the_model_value_for_value(
    airflow: Live, hrrr_run: Run, hrrr: Path, hrrr_oracle: dict[str, Oracle]
) -> None:
    assert hrrr_run.state == "success"
    with open_results(airflow, hrrr) as control:
        results = {result.id: result for result in control.index.results(control.key)}
        assert set(results) == set(hrrr_oracle)
        for id, oracle in hrrr_oracle.items():
            products = {product.name: product for product in results[id].products}
            with xr.open_dataset(control.root.fetch(str(products["footprint"].path))) as found:
                xr.testing.assert_equal(found["foot"].drop_vars("hour"), oracle.footprint)
                assert float(found["foot"].sum()) > 0


def test_the_forms_fields_decide_the_run(hrrr_run: Run) -> None:
    chunks = hrrr_run.tasks(RUN_CHUNK)
    assert [chunk["rendered_map_index"] for chunk in chunks] == [
        f"chunk {number:04d} · 2 simulations" for number in range(4)
    ]
    assert hrrr_run.event()["complete"] == 8


def test_skip_existing_can_be_switched_off_for_one_run(
    airflow: Live, hrrr_run: Run, tmp_path: Path
) -> None:
    short = tmp_path / "one.csv"
    short.write_text("id,time,longitude,latitude,altitude\nonly,2026-06-01T12:00,-98.05,40.0,10\n")
    conf = {"receptors": str(short), "parameters": {"n_hours": -1, "numpar": 20}}
    runs = []
    for skip in (True, True, False):
        id = airflow.client.trigger("footprints", {**conf, "skip_existing": skip})
        runs.append(Run(airflow.client, "footprints", id))
        assert runs[-1].finish() == "success"
    assert [run.event()["generation"] for run in runs] == [1, 1, 2]
    assert [run.states().get((RUN_CHUNK, 0)) for run in runs] == ["success", None, "success"]


def test_the_user_interface_shows_a_form(airflow: Live) -> None:
    params = airflow.client.call("GET", "/dags/footprints/details")["params"]
    for name in ("receptors", "met_directory", "n_workers", "skip_existing"):
        assert params[name]["schema"]["title"]
        assert params[name]["description"]


def test_a_wrong_field_is_refused_by_the_form(airflow: Live) -> None:
    with pytest.raises(AirflowError, match="n_workers"):
        airflow.client.trigger("footprints", {"n_workers": 0})


@pytest.mark.parametrize(
    ("wanted", "run_type", "expected"),
    [
        (None, "manual", None),
        (None, "scheduled", date(2026, 6, 1)),
        (None, "backfill", date(2026, 6, 1)),
        ("2026-07-04", "manual", date(2026, 7, 4)),
        ("2026-07-04", "scheduled", date(2026, 7, 4)),
    ],
)
def test_a_scheduled_run_computes_the_day_before_it(
    wanted: str | None, run_type: str, expected: date | None
) -> None:
    scheduled = datetime(2026, 6, 2, 3, tzinfo=timezone.utc)
    assert load_receptor_days().choose_day(wanted, run_type, scheduled) == expected


@pytest.mark.parametrize(
    ("variable", "index"), [("", None), ("ensemble_index", "conn:ensemble_index")]
)
def test_the_environment_may_name_a_database_for_the_index(
    variable: str, index: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_INDEX_CONN", variable)
    assert load_receptor_days().OVERRIDES["index"] == index


def load_receptor_days() -> ModuleType:
    spec = importlib.util.spec_from_file_location("days", ROOT / "dags/receptor_days.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
