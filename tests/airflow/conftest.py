"""Airflow for tests: ``dag.test()`` in this process, and one real Airflow for the whole session."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from tests.airflow.live import Live
    from tests.services.kubernetes import Cluster
    from tests.services.postgres import PostgresServer
    from tests.services.s3 import S3Server
    from tests.services.slurm import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
#: Airflow reads its settings when it is imported, so that they must stand before any test is.
_HOME = Path(tempfile.mkdtemp(prefix="ensemble-airflow-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
(_HOME / "dags").mkdir()
os.environ.update(
    AIRFLOW_HOME=str(_HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(_HOME / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME}/airflow.db?timeout=60",
)
sys.path.insert(0, str(ROOT / "scripts"))


#: What tests run in the real Airflow without more ado.
DAGS = (
    *("footprints", "cheap", "on_slurm", "in_a_hurry"),
    *("on_kubernetes", "pods_in_a_hurry", "no_second_pod", "as_written"),
)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """An initialised Airflow database of this process, for ``dag.test()``."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def run_dag(airflow_db: None) -> Callable[..., Any]:
    """Run a DAG of the test's in this process, and return its finished run."""

    def run(dag: DAG, **options: Any) -> Any:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
        from airflow.models.dagbundle import DagBundleModel
        from airflow.utils.session import create_session

        with create_session() as session:
            session.merge(DagBundleModel(name="testing"))
        bag = DagBag(dag_folder=str(_HOME / "dags"), bundle_name="testing")
        bag.bag_dag(dag)
        sync_bag_to_db(bag, bundle_name="testing", bundle_version=None)
        return dag.test(**options)

    return run


@pytest.fixture(scope="session")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3_process: S3Server
) -> Iterator[Live]:
    """A real Airflow on PostgreSQL, with this checkout's DAGs and the tests' own."""
    from local_airflow import LocalAirflow

    from tests.airflow.live import Live
    from tests.services.s3 import CREDENTIALS

    folder = tmp_path_factory.mktemp("airflow")
    shared = tmp_path_factory.mktemp("shared")
    dags = shutil.copytree(ROOT / "dags", folder / "dags")
    shutil.copytree(HERE / "dags", dags, dirs_exist_ok=True)
    dsn = postgres.new_database().replace("postgresql://", "postgresql+psycopg2://")
    environment = {
        "ENSEMBLE_HOME": str(folder / "results"),
        "ENSEMBLE_SCHEDULE": "",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "AIRFLOW_CONN_ENSEMBLE_INDEX": postgres.new_database(),
        "ENSEMBLE_TEST_SHARED": str(shared),
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": s3_process.endpoint,
    }
    local = LocalAirflow(folder / "home", dags, dsn=dsn, environment=environment, parallelism=6)
    with local, local.client() as client:
        for dag in DAGS:
            client.await_dag(dag)
            client.unpause(dag)
        yield Live(local, client, folder / "results", shared)


@pytest.fixture(scope="session")
def hpc(airflow: Live, slurm: SlurmCluster) -> SlurmCluster:
    """A real Slurm cluster, which the real Airflow reaches by its connection ``hpc``."""
    connection = json.loads(slurm.airflow_connection(poll_interval=2))
    connection["extra"] = json.dumps(connection["extra"])
    airflow.client.call("POST", "/connections", json={"connection_id": "hpc", **connection})
    slurm.reset()
    return slurm


@pytest.fixture(scope="session")
def cluster(airflow: Live, kubernetes: Cluster) -> Cluster:
    """A place for pods, which the real Airflow reaches by its connection ``cluster``."""
    connection = json.loads(kubernetes.airflow_connection())
    connection["extra"] = json.dumps(connection["extra"])
    airflow.client.call("POST", "/connections", json={"connection_id": "cluster", **connection})
    kubernetes.shared(airflow.shared)
    return kubernetes
