"""The whole stack, as a user has it: its DAGs, what kills do to them, and that nothing is left.

In this order: the later tests go on with what the earlier ones have made.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import xarray as xr
from local_airflow import wait_until

from airflow_ensemble.engine.index.interface import Scope
from tests.checkout import changed_checkout
from tests.services.kubernetes import Cluster
from tests.stack.conftest import INDEX, PROJECT, ROOT, DagRun, Stack, footprints, inspect, run

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

ANEW = {"skip_existing": False}


def trigger(stack: Stack, dag: str, conf: dict[str, object] | None = None) -> DagRun:
    with stack.client() as client:
        client.await_dag(dag)
        return DagRun(stack, dag, client.trigger(dag, conf))


def check(stack: Stack, run: DagRun, expected: dict[str, xr.DataArray]) -> None:
    """Every simulation of a run is complete, and its footprint is what this machine computes."""
    assert run.finish() == "success"
    batch = run.registration()["batch"]
    with stack.control(run.dag) as control:
        counts = control.index.counts(control.key, Scope(batch=batch))
        assert (counts.complete, counts.failed, counts.unfinished) == (len(expected), 0, 0)
        found = footprints(control)
    assert set(found) == set(expected)
    for id, footprint in expected.items():
        xr.testing.assert_equal(found[id], footprint)
    assert sum(float(footprint.sum()) for footprint in expected.values()) > 0


def generations(stack: Stack) -> set[int]:
    """Return the generations of the products that there are of ``footprints_slurm``."""
    with stack.control("footprints_slurm") as control:
        return {result.generation for result in control.index.results(control.key)}


@pytest.fixture(scope="session")
def first_run(stack: Stack) -> DagRun:
    """The first run of ``footprints_slurm``, started as the page says, at its end."""
    with stack.client() as client:
        client.await_dag("footprints_slurm")
        stack.compose("exec", "-T", "airflow", "airflow", "dags", "trigger", "footprints_slurm")
        (run,) = client.call("GET", "/dags/footprints_slurm/dagRuns")["dag_runs"]
    first = DagRun(stack, "footprints_slurm", run["dag_run_id"])
    assert first.finish() == "success"
    return first


def test_a_run_on_slurm_from_the_command_line(
    stack: Stack, first_run: DagRun, expected_footprints: dict[str, xr.DataArray]
) -> None:
    check(stack, first_run, expected_footprints)
    with stack.client() as client:
        log = client.log(first_run.dag, first_run.id, "footprints.submit")
    assert "12 simulations in 4 chunks" in log
    assert "changes nothing" not in log  # the warning of a factor without a limit


def test_products_are_read_back_as_the_documentation_says(
    stack: Stack, expected_footprints: dict[str, xr.DataArray]
) -> None:
    """Both commands, and the copy, of ``docs/stack.rst``."""
    page = (ROOT / "docs/stack.rst").read_text().replace("\\\n", " ")
    begin = "   $ docker compose exec airflow ensemble "
    commands = [line for line in page.splitlines() if line.startswith(begin)]
    said = [stack.compose("exec", "-T", *shlex.split(line)[4:]) for line in commands]
    assert len(said) == 2
    assert " 12 " in said[0]
    stack.compose("cp", "airflow:/tmp/footprints.nc", str(stack.folder))
    with xr.open_dataset(stack.folder / "footprints.nc") as dataset:
        for id, footprint in expected_footprints.items():
            found = dataset["footprint"].sel(simulation=id)
            assert float(found.sum()) == pytest.approx(float(footprint.sum()), rel=1e-6)


def test_a_run_in_pods_outlives_the_store(
    stack: Stack, kubernetes: Cluster, expected_footprints: dict[str, xr.DataArray]
) -> None:
    """On the cluster of ``KUBECONFIG``, or else the fake, with the Secrets of the page."""
    store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    kubernetes.make_secret({"dsn": os.environ[INDEX]}, "ensemble-index")
    kubernetes.make_secret(store, "ensemble-object-store")
    run = trigger(stack, "footprints_kubernetes")
    run.await_begin()
    stack.crash("s3")
    check(stack, run, expected_footprints)
    with stack.control("footprints_kubernetes") as control:
        workers = {str(one.worker) for one in control.index.simulations(control.key)}
    pods = {worker.rpartition(".")[0] for worker in workers}
    assert all(pod.startswith("footprints-kubernetes-") for pod in pods), workers
    kubernetes.await_gone(*pods)


@pytest.mark.parametrize(
    "service",
    [
        "slurm",
        pytest.param("s3", marks=pytest.mark.faults),
        pytest.param("airflow", marks=pytest.mark.faults),
    ],
)
@pytest.mark.usefixtures("first_run")
def test_a_killed_container_loses_nothing(
    stack: Stack, expected_footprints: dict[str, xr.DataArray], service: str
) -> None:
    """Each in the middle of a run that computes everything anew."""
    before = generations(stack)
    run = trigger(stack, "footprints_slurm", ANEW)
    run.await_begin()
    stack.crash(service)
    check(stack, run, expected_footprints)
    assert (before, generations(stack)) == ({run.generation - 1}, {run.generation})


def test_a_killed_database_loses_nothing(
    stack: Stack, expected_footprints: dict[str, xr.DataArray]
) -> None:
    run = trigger(stack, "footprints")
    run.await_begin()
    stack.crash("postgres")
    check(stack, run, expected_footprints)


def test_up_after_down_goes_on_where_it_was(
    stack: Stack, expected_footprints: dict[str, xr.DataArray]
) -> None:
    before = submitted(stack)
    assert len(before) >= 2
    stack.compose("down")
    stack.compose("up", "--wait")
    with stack.client() as client:
        states = {one["state"] for one in client.call("GET", "/dags/~/dagRuns")["dag_runs"]}
    assert states == {"success"}
    again = trigger(stack, "footprints_slurm")
    check(stack, again, expected_footprints)
    assert again.registration()["complete"] == len(expected_footprints)
    assert submitted(stack) == before


def submitted(stack: Stack) -> set[str]:
    """Return the names of all jobs that the cluster remembers."""
    words = "sacct -anX --format=jobname%50 --starttime=now-1days"
    return set(stack.compose("exec", "-T", "slurm", *words.split()).split())


def test_a_change_of_the_code_builds_no_dependency_again(stack: Stack, tmp_path: Path) -> None:
    """All layers are the stack's but the last ones of ``airflow``, which have the code."""
    checkout = changed_checkout(tmp_path)
    changed = f"{PROJECT}-changed"
    compose = ["docker", "compose", "--project-name", changed, "--project-directory", str(checkout)]
    services = run([*compose, "config", "--services"], 60).split()
    try:
        run([*compose, "build", "--quiet"], 600)
        new = {name: differing(f"{PROJECT}-{name}", f"{changed}-{name}") for name in services}
    finally:
        run(["docker", "rmi", *(f"{changed}-{name}" for name in services)], 120)
    assert new == {"postgres": 0, "s3": 0, "slurm": 0, "airflow": 2}


def differing(image: str, other: str) -> int:
    """Return how many layers of an image another one does not have."""
    layers, others = (
        {*json.loads(inspect(name, "{{json .RootFS.Layers}}"))} for name in (image, other)
    )
    return len(layers - others)


def test_the_images_of_pods_have_names(stack: Stack) -> None:
    """The profile ``kubernetes``, of which ``.ci/run`` builds the images."""
    named = stack.compose("--profile", "kubernetes", "config", "--images").split()
    assert {"ensemble-worker:stack", os.environ["ENSEMBLE_KUBERNETES_IMAGE"]} <= {*named}


def test_the_login_is_printed(stack: Stack) -> None:
    line = f"http://127.0.0.1:{stack.ports['AIRFLOW_PORT']}, user admin, password"
    wait_until(lambda: line in stack.compose("logs", "airflow"), 10, "the login in the logs")
