"""``ensemble status | cancel | reconcile | check`` beside array jobs of a real cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.login_node import LoginNode, tools_without_slurm, wait_for
from tests.ensembles import executions
from tests.services.slurm import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def node(slurm: SlurmCluster) -> LoginNode:
    slurm.reset()
    return LoginNode(slurm)


def submitted(node: LoginNode, rows, **execution):
    """Submit an ensemble and return its file."""
    file = node.write("e", rows, execution=execution)
    ended = node("run", file)
    assert ended.code == 0, ended.err
    return file


def test_status_shows_slurms_view_beside_that_of_the_index(node):
    rows = [{"id": f"s{n}", "sleep": 60} for n in range(4)]
    file = submitted(node, rows, n_workers=4, array_parallelism=2)
    wait_for(lambda: len(executions(file.parent)) == 2)
    before = node.cluster.rpcs()

    record = node("status", file, "--json").json

    after = node.cluster.rpcs()
    asked = {name: after[name] - before.get(name, 0) for name in after}
    assert sum(number for name, number in asked.items() if "JOB" in name) == 1, asked
    assert record["slurm"]["answered"]
    (job,) = record["slurm"]["jobs"]
    assert job["states"] == {"RUNNING": 2, "PENDING": 2}
    assert job["reasons"] == {"JobArrayTaskLimit": 2}
    assert job["elements"] == 4
    text = node("status", file).out
    assert job["id"] in text
    assert job["name"] in text
    assert "2 PENDING, 2 RUNNING" in text
    assert "2 JobArrayTaskLimit" in text


def test_status_is_no_error_when_slurm_does_not_answer(node):
    file = submitted(node, [{"id": "a", "sleep": 60}])
    node.cluster.stop("slurmctld")

    ended = node("status", file)
    record = node("status", file, "--json").json

    assert ended.code == 0, ended.err
    assert "Slurm's own view is missing" in ended.out
    assert record["counts"]["total"] == 1
    assert not record["slurm"]["answered"]
    assert record["slurm"]["jobs"][0]["states"] == {"unknown": 1}


def test_pystilt_fault_02_a_queue_that_does_not_answer_deletes_nothing(node):
    file = submitted(node, [{"id": "a", "sleep": 8}, {"id": "b", "sleep": 8}], n_workers=2)
    wait_for(lambda: len(executions(file.parent)) == 2)
    before = sorted(path for path in (file.parent / "output").rglob("*.jsonl"))
    node.cluster.stop("slurmctld")

    assert node("status", file, "--refresh").code == 0
    assert node("reconcile", file).code == 0

    counts = node("status", file, "--json").json["counts"]
    assert (counts["total"], counts["failed"]) == (2, 0)
    assert set(before) <= set((file.parent / "output").rglob("*.jsonl"))
    node.cluster.start("slurmctld")
    assert node("run", file, "--wait", "--poll", "0.5").code == 0
    assert sorted(executions(file.parent)) == ["a", "b"]


def test_status_is_no_error_where_there_is_no_slurm(node):
    file = submitted(node, [{"id": "a", "sleep": 60}])

    ended = node("status", file, path=str(tools_without_slurm(node.cluster)))

    assert ended.code == 0, ended.err
    assert "Slurm's own view is missing" in ended.out


def test_refresh_brings_in_what_has_ended(node):
    file = submitted(node, [{"id": "good"}, {"id": "bad", "what": "raise"}])
    wait_for(lambda: not node.states())

    record = node("status", file, "--json", "--refresh").json

    assert record["counts"]["complete"] == 1
    wait_for(lambda: node("status", file, "--json", "--refresh").json["slurm"] is None, 60)


def test_watch_follows_an_array_to_its_end(node):
    file = submitted(node, [{"id": f"s{n}", "sleep": 2} for n in range(3)], n_workers=3)

    ended = node("status", file, "--watch")

    assert ended.code == 0, ended.err
    assert "3/3 · complete 3" in ended.err


def test_cancel_reaches_exactly_the_named(node):
    rows = [{"id": f"s{n}", "sleep": 60} for n in range(3)]
    file = submitted(node, rows, n_workers=3)
    wait_for(lambda: len(executions(file.parent)) == 3)

    ended = node("cancel", "s1", "-f", file)

    assert ended.code == 0, ended.err
    wait_for(lambda: node.states() == ["RUNNING", "RUNNING"])
    shown = {id: node("show", id, "-f", file, "--json").json for id in ("s0", "s1", "s2")}
    assert shown["s1"]["reason"] == "cancelled"
    assert {shown["s0"]["status"], shown["s2"]["status"]} <= {"pending", "dispatched", "running"}


def test_cancel_of_one_in_a_chunk_leaves_the_others_running(node):
    rows = [{"id": "stopped", "sleep": 60}, {"id": "kept", "sleep": 3}]
    file = submitted(node, rows, **{"n_workers": 1, "cpus-per-task": 2})
    wait_for(lambda: len(executions(file.parent)) == 2)

    assert node("cancel", "stopped", "-f", file).code == 0
    ended = node("run", file, "--wait", "--poll", "0.5")

    assert ended.code == 1
    assert "1 complete (0 empty), 1 failed" in ended.out
    assert executions(file.parent).count("kept") == 1
    assert node.states() == []


def test_cancel_of_all_empties_the_queue(node):
    rows = [{"id": f"s{n}", "sleep": 60} for n in range(4)]
    file = submitted(node, rows, n_workers=4, array_parallelism=1)
    wait_for(lambda: executions(file.parent))

    ended = node("cancel", "--all", "-f", file)

    assert ended.code == 0, ended.err
    wait_for(lambda: not node.states())
    assert node("status", file, "--json").json["reasons"] == {"cancelled": 4}


def test_reconcile_settles_what_ended_and_leaves_what_lives(node):
    rows = [{"id": "long", "sleep": 60}, {"id": "killed", "sleep": 60}]
    file = submitted(node, rows, n_workers=2)
    wait_for(lambda: len(executions(file.parent)) == 2)
    element = node("show", "killed", "-f", file, "--json").json["slurm"]
    node.cluster.answer(f"scancel {element['job']}_{element['element']}")
    wait_for(lambda: node.states() == ["RUNNING"])

    wait_for(lambda: "given back" in node("reconcile", file).out, 60)

    states = {
        id: node("show", id, "-f", file, "--json").json["status"] for id in ("long", "killed")
    }
    assert states["killed"] == "pending"
    assert states["long"] in ("running", "dispatched")
    assert node.states() == ["RUNNING"]


def test_check_asks_the_site(node):
    file = node.write("e", [{"id": "a"}], execution={"partition": "debug", "time": "00:01:00"})

    ended = node("check", file)

    assert ended.code == 0, ended.out
    assert "slurm" in ended.out
    assert "accounting answers" in ended.out
    assert "would be taken by sbatch" in ended.out
    assert f"{node.cluster.python} is 3." in ended.out


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        ({"partition": "nowhere"}, ("partition", "execution")),
        ({"account": "nobody"}, ("account", "execution")),
        ({"python": "/no/such/python"}, ("/no/such/python", "3.9")),
        ({"setup": ["module load nothing"]}, ("set-up line failed: module load nothing",)),
    ],
    ids=["partition", "account", "python", "setup"],
)
def test_check_finds_what_the_site_would_refuse(node, execution, words):
    file = node.write("e", [{"id": "a"}], execution=execution)

    ended = node("check", file)

    assert ended.code == 2, ended.out
    for word in words:
        assert word in ended.out
    assert node.states() == []


def test_a_factor_that_changes_nothing_is_warned_of(node):
    policies = {"out-of-memory": {"memory": 2}, "time-limit": {"time": 2}}
    file = node.write("e", [{"id": "a"}], execution={"policies": policies, "mem": "100M"})
    words = "the factor of time for time-limit changes nothing, for jobs ask for no time limit"

    checked, planned, ran = node("check", file), node("run", file, "--dry-run"), node("run", file)

    assert (checked.code, planned.code, ran.code) == (0, 0, 0)
    for said in (checked.out, planned.err, ran.err):
        assert f"warning: execution.policies: {words}" in said
        assert f"set 'time' below 'execution' in {file}" in said
        assert "the factor of memory" not in said


def test_the_ensemble_of_the_dag_is_submitted_without_a_warning(node):
    """``dags/footprints_slurm``, with the interpreter of this site."""
    folder = Path(shutil.copytree(ROOT / "dags", node.shared / "dags"))
    node.own(folder)
    file = folder / "footprints_slurm" / "ensemble.yaml"
    python = ("--set", f"execution.python={node.cluster.python_with_models}")

    said = [node(*command, *python) for command in (("check", file), ("run", file))]
    cancelled = node("cancel", "--all", "-f", file)

    assert [ended.code for ended in (*said, cancelled)] == [0, 0, 0], said
    assert "submitted 4 array elements" in said[1].out
    for ended in said:
        assert "warning" not in (ended.out + ended.err).lower()
