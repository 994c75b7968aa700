"""Kill every part of a run, at several moments, on both databases: the next run mends all of it.

``make test`` runs each fault once; ``make test-faults`` runs the whole matrix.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index.interface import Scope
from airflow_ensemble.engine.ingest import ingest
from airflow_ensemble.engine.simulation import Status
from tests.cli.conftest import processes_of, start
from tests.ensembles import executions, write_ensemble
from tests.services.postgres import PostgresServer

COUNT = 12
SECONDS = 0.25
INDEX_VARIABLE = "ENSEMBLE_FAULT_MATRIX_INDEX"


def find_driver(driver: psutil.Process) -> list[psutil.Process]:
    return [driver]


def find_worker(driver: psutil.Process) -> list[psutil.Process]:
    """Return the push worker: the driver's one child."""
    return list(driver.children())


def find_warden(driver: psutil.Process) -> list[psutil.Process]:
    """Return the process between the worker and its simulations."""
    return [warden for worker in driver.children() for warden in worker.children()]


def find_simulation(driver: psutil.Process) -> list[psutil.Process]:
    """Return one process that runs simulations."""
    return [process for warden in find_warden(driver) for process in warden.children()][:1]


def find_everything(driver: psutil.Process) -> list[psutil.Process]:
    """Return all of it, as when the machine loses power."""
    return [driver, *driver.children(recursive=True)]


Finder = Callable[[psutil.Process], list[psutil.Process]]
FAULTS: dict[str, tuple[Finder, signal.Signals]] = {
    "driver-killed": (find_driver, signal.SIGKILL),
    "driver-stopped": (find_driver, signal.SIGTERM),
    "worker-killed": (find_worker, signal.SIGKILL),
    "worker-stopped": (find_worker, signal.SIGTERM),
    "warden-killed": (find_warden, signal.SIGKILL),
    "simulation-killed": (find_simulation, signal.SIGKILL),
    "power-lost": (find_everything, signal.SIGKILL),
}


def cases() -> Iterator[object]:
    """Yield every fault at every moment on every database; all but one of each are marked."""
    for fault in FAULTS:
        for moment in (1, COUNT // 2, COUNT - 1):
            for database in ("sqlite", "postgresql"):
                is_quick = moment == COUNT // 2 and database == "sqlite"
                marks = () if is_quick else (pytest.mark.faults,)
                name = f"{fault}-after-{moment}-{database}"
                yield pytest.param(fault, moment, database, marks=marks, id=name)


@pytest.fixture
def index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return what the ensemble file says of the index of a database."""

    def choose(database: str) -> str:
        if database == "sqlite":
            return "sqlite"
        server: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setenv(INDEX_VARIABLE, server.new_database())
        return f"env:{INDEX_VARIABLE}"

    return choose


def write_fault_ensemble(folder: Path, index: str) -> Path:
    rows = [{"id": f"simulation-{i:02d}", "sleep": SECONDS, "x": i} for i in range(COUNT)]
    return write_ensemble(folder, rows, index=index, execution={"n_workers": 2})


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def strike(driver: subprocess.Popen[str], fault: str) -> None:
    """Send the fault's signal to its victims, as soon as there are any."""
    find, number = FAULTS[fault]
    parent = psutil.Process(driver.pid)
    wait_for(lambda: bool(find(parent)), 10)
    for victim in find(parent):
        try:
            victim.send_signal(number)
        except psutil.NoSuchProcess:  # it ended with the one before it
            continue


def complete_ids(file: Path) -> set[str]:
    """Return what is complete, once all that was written is in the index."""
    with open_control(load(file)) as control:
        ingest(control)
        complete = Scope(statuses=(Status.COMPLETE,))
        found = control.index.simulations(control.key, complete)
        return {info.simulation.id for info in found}


def check_products(file: Path) -> None:
    """Every product is the right one, whole, and there is exactly one for each simulation."""
    with open_control(load(file)) as control:
        results = list(control.index.results(control.key))
        assert len(results) == COUNT
        for result in results:
            (product,) = result.products
            assert product.path is not None
            data = control.root.read(product.path)
            assert json.loads(data)["id"] == result.id
            assert product.size == len(data)
            assert product.checksum == f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize(("fault", "moment", "database"), cases())
def test_the_next_run_mends_what_a_fault_has_left(
    fault: str, moment: int, database: str, tmp_path: Path, index: Callable[[str], str]
) -> None:
    file = write_fault_ensemble(tmp_path, index(database))
    driver = start("run", file)
    wait_for(lambda: len(executions(tmp_path)) >= moment or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()
    strike(driver, fault)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode in (0, 3, -signal.SIGKILL, -signal.SIGTERM), said
    wait_for(lambda: processes_of(tmp_path) == [], 30)

    done = complete_ids(file)
    executed = Counter(executions(tmp_path))
    again = start("run", file)
    _, said = again.communicate(timeout=120)

    assert again.returncode == 0, said
    assert len(complete_ids(file)) == COUNT
    repeated = Counter(executions(tmp_path)) - executed
    assert not done & set(repeated), "what was complete has run again"
    assert set(repeated) == {f"simulation-{i:02d}" for i in range(COUNT)} - done
    check_products(file)
    assert processes_of(tmp_path) == []


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_second_pull_worker_takes_over(
    number: signal.Signals, database: str, tmp_path: Path, index: Callable[[str], str]
) -> None:
    """A worker that is stopped hands its simulations back; of a killed one the lease runs out."""
    file = write_fault_ensemble(tmp_path, index(database))
    assert start("register", file).wait(60) == 0
    first = start("pull-worker", file, "--cpus", 2)
    wait_for(lambda: len(executions(tmp_path)) >= COUNT // 2 or first.poll() is not None)
    assert first.poll() is None, first.communicate()
    first.send_signal(number)
    first.communicate(timeout=60)
    assert first.returncode in (3, -signal.SIGKILL)
    wait_for(lambda: processes_of(tmp_path) == [], 30)

    done = complete_ids(file)
    executed = Counter(executions(tmp_path))
    deadline = time.monotonic() + 150
    while len(complete_ids(file)) < COUNT:
        assert time.monotonic() < deadline, "nobody took the vanished worker's simulations over"
        start("pull-worker", file, "--cpus", 2).communicate(timeout=150)
        time.sleep(1)

    assert not done & set(Counter(executions(tmp_path)) - executed)
    check_products(file)
    assert processes_of(tmp_path) == []
