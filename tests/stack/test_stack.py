"""The whole stack, as a user has it: its DAGs, what kills do to them, and that nothing is left.

In this order: the later tests go on with what the earlier ones have made.
"""

from __future__ import annotations

import shlex

import pytest
import xarray as xr
from local_airflow import wait_until

from airflow_ensemble.engine.index.interface import Scope
from tests.stack.conftest import ROOT, DagRun, Stack, footprints

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


def test_a_run_on_slurm_from_the_command_line(
    stack: Stack, expected_footprints: dict[str, xr.DataArray]
) -> None:
    with stack.client() as client:
        client.await_dag("footprints_slurm")
    stack.compose("exec", "-T", "airflow", "airflow", "dags", "trigger", "footprints_slurm")
    with stack.client() as client:
        (run,) = client.call("GET", "/dags/footprints_slurm/dagRuns")["dag_runs"]
    check(stack, DagRun(stack, "footprints_slurm", run["dag_run_id"]), expected_footprints)


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


def test_a_killed_cluster_loses_nothing(
    stack: Stack, expected_footprints: dict[str, xr.DataArray]
) -> None:
    run = trigger(stack, "footprints_slurm", ANEW)
    run.await_begin()
    stack.crash("slurm")
    check(stack, run, expected_footprints)
    assert run.registration()["generation"] == 2


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
    stack.compose("down")
    stack.compose("up", "--wait")
    with stack.client() as client:
        states = {one["state"] for one in client.call("GET", "/dags/~/dagRuns")["dag_runs"]}
    assert states == {"success"}
    again = trigger(stack, "footprints_slurm")
    check(stack, again, expected_footprints)
    assert again.registration()["complete"] == len(expected_footprints)
    submitted = stack.compose("exec", "-T", "slurm", "sacct", "-anX", "--format=jobname")
    assert len(set(submitted.split())) == 2


def test_the_login_is_printed(stack: Stack) -> None:
    line = f"http://127.0.0.1:{stack.ports['AIRFLOW_PORT']}, user admin, password"
    wait_until(lambda: line in stack.compose("logs", "airflow"), 10, "the login in the logs")
