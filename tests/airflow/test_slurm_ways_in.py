"""Runs through the real Airflow on clusters that are reached, or keep accounts, in another way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from local_airflow import wait_until

from tests.airflow.live import Live, Run
from tests.airflow.slurm_runs import GATED_MODEL, WAIT, Place, await_state, make_place, queue, start
from tests.services.slurm import SlurmCluster
from tests.services.sshd import SshServer
from tests.slurm.ssh_places import open_master


def connect(airflow: Live, slurm: SlurmCluster, name: str, dag: str, **extra: object) -> None:
    """Make the connection of a DAG, and let the DAG run."""
    connection = json.loads(slurm.airflow_connection(poll_interval=2, **extra))
    connection["extra"] = json.dumps(connection["extra"])
    airflow.client.call("POST", "/connections", json={"connection_id": name, **connection})
    airflow.client.await_dag(dag)
    airflow.client.unpause(dag)


def begin(
    airflow: Live, slurm: SlurmCluster, folder: Path, dag: str, **execution: Any
) -> tuple[Run, Place]:
    """Start three chunks, one of which fails at once, and wait until the others run."""
    rows = [{"id": id} for id in ("bad", "a", "b")]
    place = make_place(
        *(slurm, folder, rows),
        **{"model": GATED_MODEL, "max_attempts": 1, "max_failed": 1, "execution": execution},
    )
    run = start(airflow, place, dag, n_workers=3)
    await_state(run, 0, "failed")
    wait_until(lambda: len(queue(slurm)) == 2, 60, "two elements to run")
    return run, place


def end_well(run: Run, place: Place) -> None:
    """Let what runs end, and check every state and that each was executed once."""
    place.open_gate()
    assert run.finish(120) == "success"
    states = run.states()
    assert [states[WAIT, n] for n in range(3)] == ["failed", "success", "success"]
    assert sorted(place.executions()) == ["a", "b", "bad"]
    assert (run.event()["complete"], run.event()["failed"]) == (2, 1)
    log = run.log(WAIT, 0)
    assert "bad: error in attempt 1" in log
    assert "no luck with bad" in log


def test_a_whole_run_over_a_jump_host(airflow: Live, slurm: SlurmCluster, tmp_path: Path) -> None:
    slurm.reset()
    with SshServer() as gate:
        gate.allow((slurm.root / "keys" / "client.pub").read_text())
        keys = f"{slurm.host_key}\n[127.0.0.1]:{gate.port} {gate.host_key}\n"
        way = f"{gate.user}@127.0.0.1:{gate.port}"
        connect(
            *(airflow, slurm, "hpc_behind_a_gate", "over_a_jump_host"),
            **{"proxy_jump": way, "host_key": keys},
        )
        before = slurm.ssh_connections
        run, place = begin(airflow, slurm, tmp_path, "over_a_jump_host")
        gate.cut()  # the sensors' connection comes back by itself
        end_well(run, place)
        assert gate.accepted == slurm.ssh_connections - before
        assert gate.accepted >= 3


def test_a_whole_run_over_an_open_master(
    airflow: Live, slurm: SlurmCluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Once a person has logged in, with whatever factors, nothing logs in again."""
    slurm.reset()
    with open_master(slurm.login(), tmp_path_factory.mktemp("m")) as socket:
        connect(
            *(airflow, slurm, "hpc_by_master", "over_an_open_master"),
            **{"control_path": str(socket), "private_key": None, "host_key": None},
        )
        before = slurm.ssh_connections
        run, place = begin(airflow, slurm, tmp_path, "over_an_open_master")
        end_well(run, place)
        assert slurm.ssh_connections == before


def test_a_whole_run_on_a_cluster_that_keeps_no_accounts(
    airflow: Live, slurm_without_accounting: SlurmCluster, tmp_path: Path
) -> None:
    """An element that is cancelled from outside, and soon purged, is not taken for complete."""
    slurm = slurm_without_accounting
    slurm.reset()
    connect(airflow, slurm, "hpc_without_accounts", "without_accounts")
    policies = {"cancelled": "retry"}
    run, place = begin(airflow, slurm, tmp_path, "without_accounts", policies=policies)
    (job_id,) = place.job_ids()
    slurm.answer(f"scancel {job_id}_1")
    wait_until(lambda: place.executions().count("a") == 2, 120, "the cancelled one to run again")
    place.open_gate()
    assert run.finish(120) == "success"
    assert sorted(place.executions()) == ["a", "a", "b", "bad"]
    assert (run.event()["complete"], run.event()["failed"]) == (2, 1)
    assert "no luck with bad" in run.log(WAIT, 0)
