"""One stack of ``docker-compose.yaml`` for the session: built, started, killed, taken down."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import xarray as xr

from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index.interface import Counts, Scope
from tests.services.kubernetes import KUBECONFIG, Cluster, fake_cluster, real_cluster
from tests.services.s3 import free_port

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from local_airflow import FINISHED, AirflowError, Client, wait_until  # noqa: E402

T = TypeVar("T")

PROJECT = "ensemble-stack-test"
PASSWORD = "made4test"
INDEX = "ENSEMBLE_STACK_INDEX"
#: The DAGs, and the ensemble file of each.
FILES = {
    dag: ROOT / "dags" / dag / "ensemble.yaml"
    for dag in ("footprints", "footprints_slurm", "footprints_kubernetes")
}


@dataclass(frozen=True)
class Stack:
    """A running stack under a name and on ports of its own.

    :param address: where it listens.
    :param ports: by variable of the compose file.
    :param folder: for what is read back.
    """

    address: str
    ports: dict[str, int]
    folder: Path

    def compose(self, *arguments: str, timeout: float = 1200) -> str:
        """Run ``docker compose`` and return what it printed."""
        command = ["docker", "compose", "--project-name", PROJECT, *arguments]
        return run(command, timeout, {key: str(port) for key, port in self.ports.items()})

    def client(self) -> Client:
        """Return a client of its Airflow, which may be on its way back; the caller closes it."""
        url = f"http://{self.address}:{self.ports['AIRFLOW_PORT']}"
        return answer(lambda: Client(url, "admin", PASSWORD), 300, "Airflow to let a client in")

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
        output = f"s3://ensembles/{dag}"
        if dag == "footprints":
            output = str(self.folder / "output")
            self.compose("cp", "airflow:/var/lib/ensembles/output", str(self.folder))
        places = {"output": output, "index": f"env:{INDEX}", "control": str(self.folder / dag)}
        return open_control(load(FILES[dag], places))

    def _container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()


@pytest.fixture(scope="session")
def stack(kubernetes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Build and start a stack where pods reach it; in the end nothing of it is left."""
    ports = {name: free_port() for name in ("AIRFLOW_PORT", "POSTGRES_PORT", "S3_PORT")}
    stack = Stack(kubernetes.host, ports, tmp_path_factory.mktemp("stack"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**reach(stack), **lead_to(kubernetes, stack.folder)}.items():
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


def reach(stack: Stack) -> dict[str, str]:
    """Return the environment in which this machine, and pods, use the stack's index and store."""
    database = f"{stack.address}:{stack.ports['POSTGRES_PORT']}/ensemble"
    return {
        "STACK_PASSWORD": PASSWORD,
        INDEX: f"postgresql://ensemble:{PASSWORD}@{database}",
        "AWS_ENDPOINT_URL": f"http://{stack.address}:{stack.ports['S3_PORT']}",
        "AWS_ACCESS_KEY_ID": "stack",
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def lead_to(kubernetes: Cluster, folder: Path) -> dict[str, str]:
    """Return the environment in which a stack is started whose Airflow may use a cluster."""
    config = folder / "kubeconfig"
    config.write_bytes(kubernetes.airflow_config.read_bytes())
    config.chmod(0o644)
    return {
        "STACK_ADDRESS": kubernetes.host,
        "STACK_KUBECONFIG": str(config),
        "STACK_NAMESPACE": kubernetes.namespace,
        "ENSEMBLE_KUBERNETES_IMAGE": image_with_stilt(kubernetes),
    }


def image_with_stilt(kubernetes: Cluster) -> str:
    """Return the image of the DAG's pods."""
    image = kubernetes.stilt_image
    assert image, "set ENSEMBLE_TEST_KUBE_STILT_IMAGE to an image with STILT that the cluster has"
    return image


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Cluster]:
    """The cluster of ``KUBECONFIG``, or the fake where containers reach it."""
    with real_cluster(Path(KUBECONFIG)) if KUBECONFIG else fake_cluster(bridge()) as found:
        yield found


def bridge() -> str:
    """Return the address of this machine on the network of containers."""
    form = "{{(index .IPAM.Config 0).Gateway}}"
    return run(["docker", "network", "inspect", "bridge", "--format", form], 60).strip()


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
        task = "footprints.register"

        def said() -> dict[str, Any] | None:
            is_done = client.tasks(self.dag, self.id, task)[0]["state"] == "success"
            return dict(client.xcom(self.dag, self.id, task)) if is_done else None

        with self.stack.client() as client:
            return answer(said, 300, f"{task} of {self.dag}")

    @property
    def generation(self) -> int:
        """Return the generation that it computes."""
        return int(self.registration()["generation"])

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

        def ended() -> str | None:
            state = client.run_state(self.dag, self.id)
            return state if state in FINISHED else None

        with self.stack.client() as client:
            return answer(ended, seconds, f"run {self.id} of {self.dag}")


def is_amid(counts: Counts) -> bool:
    """Return whether a run has begun and not ended."""
    return 0 < counts.complete < counts.total


def answer(question: Callable[[], T | None], seconds: float, what: str) -> T:
    """Return the first answer to a question; while the server is away there is none."""
    answers: list[T] = []

    def is_answered() -> bool:
        with contextlib.suppress(httpx.HTTPError, AirflowError):
            if (found := question()) is not None:
                answers.append(found)
        return bool(answers)

    wait_until(is_answered, seconds, what)
    return answers[0]


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
