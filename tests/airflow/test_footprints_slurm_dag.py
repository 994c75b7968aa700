"""The DAG ``footprints_slurm``: real footprints by a real scheduler, triggerer and cluster."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from tests.airflow.conftest import ROOT
from tests.airflow.live import Live, Run
from tests.hrrr import COLUMNS, GRID, HYSPLIT, Oracle, met_entry, receptors
from tests.services.slurm import SlurmCluster

DAG = "footprints_slurm"
FILE = ROOT / "dags" / DAG / "ensemble.yaml"


@pytest.fixture(scope="module")
def met(hpc: SlurmCluster, hrrr: Path) -> Path:
    """The meteorology where the cluster's account can read it."""
    return Path(shutil.copytree(hrrr, hpc.shared / "met"))


@pytest.fixture(scope="module")
def hrrr_run(
    airflow: Live, hpc: SlurmCluster, met: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run over the eight receptors, with everything said through the form's fields."""
    table = tmp_path_factory.mktemp("hrrr") / "receptors.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(receptors())
    conf = {
        "slurm_conn_id": "hpc",
        "output": str(hpc.shared / "footprints"),
        "python": hpc.python_with_models,
        "receptors": str(table),
        "met_directory": str(met),
        "n_workers": 4,
        "parameters": {**HYSPLIT, "grid": GRID},
    }
    airflow.client.await_dag(DAG)
    airflow.client.unpause(DAG)
    run = Run(airflow.client, DAG, airflow.client.trigger(DAG, conf))
    run.finish(400)
    return run


def open_results(airflow: Live, hpc: SlurmCluster, met: Path) -> Any:
    overrides = {
        "output": str(hpc.shared / "footprints"),
        "control": str(airflow.results / DAG),
        "parameters": {"met": met_entry(met), **HYSPLIT, "grid": GRID},
    }
    return open_control(load(FILE, overrides))


def test_footprints_equal_those_of_the_model_value_for_value(
    airflow: Live, hpc: SlurmCluster, hrrr_run: Run, met: Path, hrrr_oracle: dict[str, Oracle]
) -> None:
    assert hrrr_run.state == "success", hrrr_run.states()
    with open_results(airflow, hpc, met) as control:
        results = {result.id: result for result in control.index.results(control.key)}
        assert set(results) == set(hrrr_oracle)
        for id, oracle in hrrr_oracle.items():
            products = {product.name: product for product in results[id].products}
            with xr.open_dataset(control.root.fetch(str(products["footprint"].path))) as found:
                xr.testing.assert_equal(found["foot"].drop_vars("hour"), oracle.footprint)
                assert float(found["foot"].sum()) > 0


def test_one_array_with_an_element_for_each_worker_of_the_form(
    airflow: Live, hpc: SlurmCluster, hrrr_run: Run, met: Path
) -> None:
    waits = hrrr_run.tasks("footprints.wait_for_chunk")
    assert [wait["state"] for wait in waits] == ["success"] * 4
    assert hrrr_run.event()["complete"] == 8
    with open_results(airflow, hpc, met) as control:
        (job,) = control.index.jobs(control.key)
        assert job.place == "hpc"
        assert Path(job.folder).is_relative_to(hpc.shared)
        assert len(control.index.elements(job=job.name)) == 4
