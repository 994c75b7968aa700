"""One stack of ``docker-compose.yaml`` for the session: built, started, killed, taken down."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index.interface import Counts, Scope
from tests.services.s3 import free_port

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from local_airflow import Client, wait_until  # noqa: E402

PROJECT = "ensemble-stack-test"
PASSWORD = "made4test"
INDEX = "ENSEMBLE_STACK_INDEX"
#: The DAGs, and the ensemble file and output root of each, as this machine sees them.
FILES = {
    "footprints": ROOT / "dags/footprints/ensemble.yaml",
    "footprints_slurm": ROOT / "dags/footprints_slurm/ensemble.yaml",
}


@dataclass(frozen=True)
class Stack:
    """A running stack under a name and on ports of its own.

    :param ports: by variable of the compose file.
    :param folder: for what is read back.
    """

    ports: dict[str, int]
    folder: Path

    def compose(self, *arguments: str, timeout: float = 1200) -> str:
        """Run ``docker compose`` and return what it printed."""
        command = ["docker", "compose", "--project-name", PROJECT, *arguments]
        return run(command, timeout, {key: str(port) for key, port in self.ports.items()})

    def client(self) -> Client:
        """Return a client of its Airflow, to be closed by the caller."""
        return Client(f"http://127.0.0.1:{self.ports['AIRFLOW_PORT']}", "admin", PASSWORD)

    def restarts(self, service: str) -> int:
        """Return how often a service's container has been started again by its policy."""
        return int(inspect(self._container(service), "{{.RestartCount}}"))

    def crash(self, service: str) -> None:
        """Kill a container's first process from outside, as nothing within can."""
        before = self.restarts(service)
        pid = inspect(self._container(service), "{{.State.Pid}}")
        base = os.environ.get("BASE", "debian:bookworm-slim")
        host = ["docker", "run", "--rm", "--privileged", "--pid=host", "--entrypoint=sh", base]
        run([*host, "-c", f"kill -9 {pid}"], 60)
        wait_until(lambda: self.restarts(service) > before, 60, f"{service} to be started again")

    def control(self, dag: str) -> Control:
        """Open the output index and root of a DAG's ensemble, from outside of the stack."""
        output = "s3://ensembles/footprints_slurm"
        if dag == "footprints":
            output = str(self.folder / "output")
            self.compose("cp", "airflow:/var/lib/ensembles/output", str(self.folder))
        places = {"output": output, "index": f"env:{INDEX}", "control": str(self.folder / dag)}
        return open_control(load(FILES[dag], places))

    def _container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Build and start a stack; in the end nothing of it is left."""
    ports = {name: free_port() for name in ("AIRFLOW_PORT", "POSTGRES_PORT", "S3_PORT")}
    stack = Stack(ports, tmp_path_factory.mktemp("stack"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in reach(ports).items():
            patch.setenv(name, value)
        stack.compose("down", "--volumes", "--remove-orphans")
        try:
            stack.compose("up", "--build", "--wait")
            yield stack
        except AssertionError:
            print(stack.compose("logs", "--tail", "60"))
            raise
        finally:
            stack.compose("down", "--volumes", "--rmi", "local")
    assert leftovers() == []


def reach(ports: dict[str, int]) -> dict[str, str]:
    """Return the environment in which this machine reads the stack's index and store."""
    return {
        "STACK_PASSWORD": PASSWORD,
        INDEX: f"postgresql://ensemble:{PASSWORD}@127.0.0.1:{ports['POSTGRES_PORT']}/ensemble",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['S3_PORT']}",
        "AWS_ACCESS_KEY_ID": "stack",
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def leftovers() -> list[str]:
    """Return what there still is of the stack: containers, networks, volumes, images."""
    label = f"label=com.docker.compose.project={PROJECT}"
    kinds = (["ps", "--all"], ["network", "ls"], ["volume", "ls"], ["image", "ls"])
    found = [run(["docker", *kind, "--quiet", "--filter", label], 60).split() for kind in kinds]
    return [name for names in found for name in names]


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same simulations, run by ``ensemble run`` on this machine: folder of the output."""
    folder = tmp_path_factory.mktemp("expected")
    places = [f"--set=output={folder}", f"--set=index={folder}/index.sqlite"]
    command = [sys.executable, "-m", "airflow_ensemble", "run", "-f", str(FILES["footprints"])]
    run([*command, *places], 900, {"XDG_CACHE_HOME": str(folder / "cache")})
    return folder


@pytest.fixture(scope="session")
def expected_footprints(expected: Path) -> dict[str, xr.DataArray]:
    """What each receptor's footprint must be, value for value."""
    places = {"output": str(expected), "index": f"{expected}/index.sqlite"}
    with open_control(load(FILES["footprints"], places)) as control:
        return footprints(control)


def footprints(control: Control) -> dict[str, xr.DataArray]:
    """Read the footprints of all complete simulations back, by id."""
    found = {}
    for result in control.index.results(control.key):
        (product,) = (one for one in result.products if one.name == "footprint")
        with xr.open_dataset(control.root.fetch(str(product.path))) as dataset:
            found[result.id] = dataset["foot"].load()
    return found


@dataclass
class DagRun:
    """One run of a DAG in the stack."""

    stack: Stack
    dag: str
    id: str

    def registration(self) -> dict[str, Any]:
        """Return what the registration said; waits until it has."""
        with self.stack.client() as client:
            task = "footprints.register"
            done = until(lambda: client.tasks(self.dag, self.id, task)[0]["state"] == "success")
            wait_until(done, 300, f"{task} of {self.dag}")
            return dict(client.xcom(self.dag, self.id, task))

    def await_begin(self) -> None:
        """Wait until some simulations are complete, and others are not."""
        batch = self.registration()["batch"]
        with open_control(load(FILES[self.dag], self._places())) as control:
            count = lambda: control.index.counts(control.key, Scope(batch=batch))  # noqa: E731
            wait_until(lambda: is_amid(count()), 400, f"the first results of {self.dag}")

    def _places(self) -> dict[str, str]:
        folder = self.stack.folder
        return {"output": str(folder / "none"), "index": f"env:{INDEX}", "control": str(folder)}

    def finish(self, seconds: float = 900) -> str:
        """Wait for the end, through restarts of whatever answers, and return the state."""
        with self.stack.client() as client:
            ended = until(lambda: client.run_state(self.dag, self.id) in ("success", "failed"))
            wait_until(ended, seconds, f"run {self.id} of {self.dag}")
            return client.run_state(self.dag, self.id)


def is_amid(counts: Counts) -> bool:
    """Return whether a run has begun and not ended."""
    return 0 < counts.complete < counts.total


def until(condition: Callable[[], bool]) -> Callable[[], bool]:
    """Return a condition that holds not yet, instead of failing, while the server is away."""
    import httpx
    from local_airflow import AirflowError

    def holds() -> bool:
        try:
            return condition()
        except (httpx.HTTPError, AirflowError):
            return False

    return holds


def inspect(container: str, form: str) -> str:
    return run(["docker", "inspect", "--format", form, container], 60).strip()


def run(command: list[str], timeout: float, environment: dict[str, str] | None = None) -> str:
    """Run a command that must succeed; its last words are the message of the failure."""
    begin = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    said = (
        f"{' '.join(command)} ended with {done.returncode} after {time.monotonic() - begin:.0f} s"
    )
    assert done.returncode == 0, f"{said}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
