"""The DAG ``footprints_kubernetes``: real footprints in pods, by way of PostgreSQL and S3."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import xarray as xr
import yaml

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from tests.airflow.conftest import ROOT
from tests.airflow.live import Live, Run
from tests.hrrr import COLUMNS, GRID, HYSPLIT, Oracle, met_entry, receptors
from tests.services.kubernetes import Cluster
from tests.services.s3 import CREDENTIALS, S3Server

DAG = "footprints_kubernetes"
FILE = ROOT / "dags" / DAG / "ensemble.yaml"
WORKER = "footprints.pull_worker"
#: The Secret that the ensemble file names.
STORE_SECRET = "ensemble-object-store"
MODEL = {**HYSPLIT, "grid": GRID}
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def bucket(s3_process: S3Server) -> str:
    return s3_process.make_bucket()


@pytest.fixture(scope="module")
def hrrr_run(
    airflow: Live,
    cluster: Cluster,
    hrrr: Path,
    bucket: str,
    s3_process: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """A run over the eight receptors, with everything else said through the form's fields."""
    if not cluster.stilt_image:
        pytest.skip("ENSEMBLE_TEST_KUBE_STILT_IMAGE names no image that the cluster's nodes have")
    table = tmp_path_factory.mktemp("hrrr") / "receptors.csv"
    with cluster.claim(hrrr) as claim:
        if claim is not None:
            mount(airflow.local.dags / DAG / "ensemble.yaml", hrrr, claim)
        return run_receptors(airflow, cluster, hrrr, bucket, s3_process, table)


def mount(file: Path, folder: Path, claim: str) -> None:
    """Let an ensemble's pods see a folder, as a person does: in the ensemble file."""
    content = yaml.safe_load(file.read_text())
    volumes = {str(folder): {"claim": claim, "read_only": True}}
    content["execution"]["kubernetes"]["volumes"] = volumes
    file.write_text(yaml.safe_dump(content))


def run_receptors(
    airflow: Live, cluster: Cluster, met: Path, bucket: str, s3: S3Server, table: Path
) -> Run:
    """Run the eight receptors to the end."""
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(receptors())
    store = {**CREDENTIALS, "AWS_ENDPOINT_URL": cluster.for_pods(s3.endpoint)}
    cluster.core.create_namespaced_secret(
        cluster.namespace, {"metadata": {"name": STORE_SECRET}, "stringData": store}
    )
    conf = {
        "kubernetes_conn_id": "cluster",
        "output": f"{bucket}/footprints",
        "image": cluster.stilt_image,
        "index_secret": cluster.index_secret(airflow.index_dsn),
        "receptors": str(table),
        "met_directory": str(met),
        "n_workers": 2,
        "parameters": MODEL,
    }
    airflow.client.await_dag(DAG)
    airflow.client.unpause(DAG)
    run = Run(airflow.client, DAG, airflow.client.trigger(DAG, conf))
    run.finish(600)
    return run


def test_footprints_equal_those_of_the_model_value_for_value(
    airflow: Live,
    hrrr_run: Run,
    hrrr: Path,
    bucket: str,
    s3: S3Server,
    hrrr_oracle: dict[str, Oracle],
) -> None:
    assert hrrr_run.state == "success", hrrr_run.states()
    overrides = {
        "output": f"{bucket}/footprints",
        "control": str(airflow.results / DAG),
        "parameters": {"met": met_entry(hrrr), **MODEL},
    }
    ensemble = load(FILE, overrides)
    with open_control(ensemble, resolve_connection=lambda _: airflow.index_dsn) as control:
        results = {result.id: result for result in control.index.results(control.key)}
        assert set(results) == set(hrrr_oracle)
        for id, oracle in hrrr_oracle.items():
            products = {product.name: product for product in results[id].products}
            with xr.open_dataset(control.root.fetch(str(products["footprint"].path))) as found:
                xr.testing.assert_equal(found["foot"].drop_vars("hour"), oracle.footprint)
                assert float(found["foot"].sum()) > 0


def test_as_many_pods_as_the_form_says_and_one_asset_event(hrrr_run: Run) -> None:
    assert [task["state"] for task in hrrr_run.tasks(WORKER)] == ["success"] * 2
    event = hrrr_run.event()
    assert (event["complete"], event["failed"]) == (8, 0)
    assert event["output"].startswith("s3://")
