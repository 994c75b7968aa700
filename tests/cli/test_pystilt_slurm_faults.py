"""Faults of the predecessor with Slurm: each would show again here, on a real cluster.

The numbers are those of the list of faults that were reproduced with PYSTILT 0.1.0a1, a4 and a25.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from airflow_ensemble.engine.batch import dispatch, register
from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.slurm.batches import submit
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.remote_root import open_output
from tests.cli.conftest import picture
from tests.cli.login_node import LoginNode
from tests.ensembles import executions, write_ensemble
from tests.services.slurm import SlurmCluster, accounting_template

TAKES_MEMORY = """
    def simulate(run):
        return {"values": bytearray(300 << 20) and None}
"""


@pytest.mark.faults
def test_pystilt_fault_02_run_returns_and_an_outage_of_slurm_deletes_nothing(
    slurm: SlurmCluster,
) -> None:
    slurm.reset()
    node = LoginNode(slurm)
    file = node.write("e", [{"id": f"s{n}", "sleep": 8} for n in range(2)])
    started = time.monotonic()
    submitted = node("run", file)
    assert submitted.code == 0, submitted.err
    assert time.monotonic() - started < 8
    assert len(node.states()) == 2
    folder = file.parent / "output" / ".ensemble" / "slurm"
    staged = {path for path in picture(folder) if str(path).endswith((".sh", ".jsonl", ".pyz"))}
    assert staged
    slurm.stop("slurmctld")
    try:
        seen = node("status", file, "--refresh", "--json")
        assert seen.code == 0, seen.err
        assert seen.json["slurm"]["answered"] is False
        assert staged <= set(picture(folder))
    finally:
        slurm.start()
    ended = node("run", file, "--wait", "--poll", "0.5")
    assert ended.code == 0, ended.err
    assert sorted(executions(file.parent)) == ["s0", "s1"]


@pytest.mark.faults
def test_pystilt_fault_14_an_array_that_ran_out_of_memory_is_no_success() -> None:
    with SlurmCluster(database=accounting_template(), memory_limits=True) as cluster:
        node = LoginNode(cluster)
        file = node.write(
            "e",
            [{"id": "large"}, {"id": "larger"}],
            model=TAKES_MEMORY,
            max_attempts=1,
            execution={"mem": "100M"},
        )
        ended = node("run", file, "--wait", "--poll", "1")
        counts = node("status", file, "--json").json
    assert ended.code == 1, ended.out + ended.err
    assert counts["counts"]["failed"] == 2
    assert counts["reasons"] == {"out-of-memory": 2}


def test_pystilt_fault_16_no_path_of_this_side_reaches_the_cluster(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    slurm.reset()
    file = write_ensemble(
        tmp_path / "here",
        [{"id": "a"}, {"id": "b"}],
        output=str(slurm.shared / "output"),
        control=str(tmp_path / "control"),
        execution={"python": slurm.python, "begin": "now+1hour"},
        parameters={"trace": str(slurm.shared / "trace")},
    )
    with make_runner(slurm.login()) as runner:
        cluster = Cluster(SlurmClient(runner), "tests", str(slurm.shared))
        ensemble = load(file)
        root = open_output(ensemble.output, runner)
        with open_control(ensemble, create=True, root=root) as control:
            batch = register(control, "key").batch
            (job,) = submit(control, cluster, dispatch(control, batch, backend="slurm", n_chunks=2))
    staged = [path for path in Path(job.folder).rglob("*") if path.is_file()]
    chunks = [path for path in staged if path.suffix == ".jsonl"]
    assert len(chunks) == 2
    assert [path for path in staged if str(tmp_path) in path.read_text()] == []
    assert f'"{slurm.shared}/output"' in chunks[0].read_text().splitlines()[0]


def test_pystilt_fault_21_waiting_ends_where_there_is_no_accounting(
    slurm_without_accounting: SlurmCluster,
) -> None:
    slurm_without_accounting.reset()
    node = LoginNode(slurm_without_accounting)
    file = node.write("e", [{"id": "good"}, {"id": "bad", "what": "raise"}], max_attempts=1)
    started = time.monotonic()
    ended = node("run", file, "--wait", "--poll", "0.5")
    assert ended.code == 1, ended.err
    assert time.monotonic() - started < 60
    assert node("status", file, "--json").json["counts"]["complete"] == 1
