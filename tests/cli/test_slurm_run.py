"""``ensemble run`` with the backend ``slurm`` on the login node of a real cluster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import picture
from tests.cli.login_node import LoginNode, python_version, wait_for
from tests.ensembles import executions
from tests.services.slurm import SlurmCluster


@pytest.fixture
def node(slurm: SlurmCluster) -> LoginNode:
    slurm.reset()
    return LoginNode(slurm)


@pytest.fixture
def bare_node(slurm_without_accounting: SlurmCluster) -> LoginNode:
    slurm_without_accounting.reset()
    return LoginNode(slurm_without_accounting)


def counts_of(node, file):
    return node("status", file, "--json").json["counts"]


def test_run_returns_after_submission_and_says_what_next(node):
    file = node.write(
        "e", [{"id": f"s{n}", "sleep": 3} for n in range(6)], execution={"n_workers": 3}
    )

    ended = node("run", file)

    assert ended.code == 0, ended.err
    assert "submitted 3 array elements" in ended.out
    job, elements, folder = ended.out.splitlines()[2].split()
    assert elements == "3"
    assert (Path(folder) / "job.sh").is_file()
    assert node.cluster.answer(f"squeue -h -r -j {job} -o %A").count("\n") == 2
    assert f"ensemble status -f {file}" in ended.err
    assert f"ensemble run --wait -f {file}" in ended.err
    assert f"ensemble cancel --all -f {file}" in ended.err

    waited = node("run", file, "--wait", "--poll", "0.5")
    assert waited.code == 0, waited.err
    assert waited.out.startswith("6 complete (0 empty), 0 failed")
    assert sorted(executions(file.parent)) == [f"s{n}" for n in range(6)]


def test_a_second_run_submits_nothing_while_the_array_lives(node):
    file = node.write("e", [{"id": "a", "sleep": 60}])
    assert node("run", file).code == 0

    again = node("run", file)

    assert again.code == 0, again.err
    assert "submitted" not in again.out
    assert "1 are in array jobs of an earlier run" in again.err
    assert len(node.states()) == 1


def test_wait_retries_what_failed_and_ends_with_zero(node):
    rows = [
        {"id": "good"},
        {"id": "empty", "what": "empty"},
        {"id": "once", "what": "raise once"},
    ]
    file = node.write("e", rows, execution={"n_workers": 2})

    ended = node("run", file, "--wait", "--poll", "0.5")

    assert ended.code == 0, ended.err
    assert "3 complete (1 empty), 0 failed, 0 unfinished of 3" in ended.out
    assert executions(file.parent).count("once") == 2
    assert node.states() == []


def test_pystilt_fault_21_without_accounting_wait_ends_with_what_failed(bare_node):
    file = bare_node.write("e", [{"id": "good"}, {"id": "bad", "what": "raise"}], max_attempts=2)

    ended = bare_node("run", file, "--wait", "--poll", "0.5")

    assert ended.code == 1, ended.err
    assert "1 complete (0 empty), 1 failed" in ended.out
    assert "no luck with bad" in ended.out
    assert executions(file.parent).count("bad") == 2
    assert bare_node("run", file, "--set", "max_failed=1", "--wait").code == 0


def test_pystilt_fault_14_all_out_of_memory_is_no_success(node):
    model = """
        def simulate(run):
            held = bytearray(600_000_000)
            for place in range(0, len(held), 4096):
                held[place] = 1
            return {"values": None}
    """
    rows = [{"id": f"s{n}", "memory": 100} for n in range(2)]
    file = node.write("e", rows, model=model, max_attempts=1, execution={"n_workers": 2})

    ended = node("run", file, "--wait", "--poll", "0.5")

    assert ended.code == 1, ended.err
    assert node("status", file, "--json").json["reasons"] == {"out-of-memory": 2}


def test_a_whole_run_under_python_3_9(node):
    model = """
        import sys
        from pathlib import Path

        def simulate(run):
            path = run.workdir / "values.txt"
            path.write_text("%d.%d" % sys.version_info[:2])
            return {"values": path}
    """
    file = node.write(
        "e", [{"id": f"s{n}"} for n in range(4)], model=model,
        execution={"python": node.cluster.python39, "n_workers": 2, "cpus-per-task": 2},
    )  # fmt: skip
    assert python_version(node.cluster.python39) == "3.9"

    ended = node("run", file, "--wait", "--poll", "0.5")

    assert ended.code == 0, ended.err
    written = [path.read_text() for path in (file.parent / "output").rglob("*.txt")]
    assert written == ["3.9"] * 4


def test_wait_ends_soon_after_the_last_element(node):
    file = node.write("e", [{"id": f"s{n}"} for n in range(24)], execution={"n_workers": 24})

    ended = node("run", file, "--wait")
    over = time.time()

    assert ended.code == 0, ended.err
    assert "submitted 24 array elements" in ended.out
    job = node("show", "s0", "-f", file, "--json").json["slurm"]["job"]
    command = f"SLURM_TIME_FORMAT=%s squeue -h -r -t all -j {job} -o '%e'"
    last = max(int(text) for text in node.cluster.answer(command).split())
    assert over - last <= 5


def test_one_array_for_each_resource_class(node):
    rows = [{"id": f"s{n}", "cores_per_task": 1 + n % 2, "sleep": 20} for n in range(4)]
    file = node.write("e", rows, execution={"n_workers": 2})

    ended = node("run", file)

    assert ended.code == 0, ended.err
    jobs = [line.split()[0] for line in ended.out.splitlines()[2:]]
    assert len(jobs) == 2
    cpus = {
        re.search(r"NumCPUs=(\d+)", node.cluster.admin("scontrol", "show", "job", job))[1]
        for job in jobs
    }
    assert cpus == {"1", "2"}


def test_a_dry_run_prints_the_script_and_changes_nothing(node):
    rows = [{"id": f"s{n}"} for n in range(5)]
    file = node.write(
        "e", rows, execution={"n_workers": 2, "time": "00:05:00", "partition": "debug"}
    )
    before = picture(node.shared)

    ended = node("run", file, "--dry-run", "--first", 3)

    assert ended.code == 0, ended.err
    assert ended.out.startswith("#!/bin/bash -l\n")
    for line in ("--array=0-1", "--time=00:05:00", "--partition=debug"):
        assert f"#SBATCH {line}\n" in ended.out
    assert "would run 3 of 3 simulations, in 2 array elements of Slurm" in ended.out
    assert ended.out.rstrip().endswith("nothing was changed")
    script = ended.out.partition("would run")[0]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert picture(node.shared) == before
    assert node.states() == []


def test_the_first_rows_alone(node):
    file = node.write("e", [{"id": f"s{n}"} for n in range(5)])

    ended = node("run", file, "--first", 2, "--wait", "--poll", "0.5")

    assert ended.code == 0, ended.err
    assert sorted(executions(file.parent)) == ["s0", "s1"]


def test_the_backend_can_be_chosen_on_the_command_line(node):
    file = node.write("e", [{"id": "a"}], execution={"backend": "local"})

    ended = node("run", file, "--backend", "slurm", "--wait", "--poll", "0.5")

    assert ended.code == 0, ended.err
    assert node("show", "a", "-f", file, "--json").json["slurm"]["element"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_of_wait_detaches_and_cancels_nothing(node, number):
    rows = [{"id": f"s{n}", "sleep": 8} for n in range(3)]
    file = node.write("e", rows, execution={"n_workers": 3})
    process = node.start("run", file, "--wait", "--poll", "0.5")
    wait_for(lambda: len(executions(file.parent)) == 3)

    process.send_signal(number)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 3
    assert "detached: the array jobs go on" in err
    assert f"ensemble run --wait -f {file}" in err
    assert "Traceback" not in err
    assert node.states() == ["RUNNING"] * 3

    attached = node("run", file, "--wait", "--poll", "0.5")
    assert attached.code == 0, attached.err
    assert "attached to array jobs that an earlier run has submitted" in attached.err
    assert attached.out.startswith("3 complete")
    assert sorted(executions(file.parent)) == ["s0", "s1", "s2"]


def test_an_unanswered_submission_is_found_again(node):
    """``sbatch`` that times out while its job is taken: the next run finds it (nextflow#970)."""
    node.cluster.configure(MessageTimeout="3")
    slow = node.cluster.root / "slow"
    slow.mkdir(exist_ok=True)
    (slow / "sbatch").write_text(f'#!/bin/sh\nsleep 2\nexec {shutil.which("sbatch")} "$@"\n')
    (slow / "sbatch").chmod(0o755)
    file = node.write("e", [{"id": "a", "sleep": 1}, {"id": "b"}], execution={"n_workers": 2})
    process = node.start("run", file, path=f"{slow}:/usr/local/bin:/usr/bin:/bin")
    wait_for(lambda: list(file.parent.rglob("attempt-1")))
    node.cluster.pause("slurmctld")
    wait_for(lambda: "code=" in "".join(p.read_text() for p in file.parent.rglob("answer")), 60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    node.cluster.resume("slurmctld")

    assert process.returncode == 3, err
    assert "repeat the command" in err
    ended = node("run", file, "--wait", "--poll", "0.5")

    assert ended.code == 0, ended.err
    assert sorted(executions(file.parent)) == ["a", "b"]
    (name,) = {script.parent.name for script in file.parent.rglob("job.sh")}
    queue = node.cluster.admin("squeue", "-h", "-t", "all", "-o", "%F %j")
    assert len({line for line in queue.splitlines() if line.endswith(f" {name}")}) == 1


def test_a_killed_wait_loses_nothing(node):
    rows = [{"id": "once", "what": "raise once", "sleep": 3}, {"id": "good"}]
    file = node.write("e", rows)
    process = node.start("run", file, "--wait")
    wait_for(lambda: executions(file.parent))
    process.kill()
    process.communicate(timeout=30)

    attached = node("run", file, "--wait", "--poll", "0.5")

    assert attached.code == 0, attached.err
    assert executions(file.parent).count("good") == 1
    assert executions(file.parent).count("once") == 2


def test_a_killed_worker_is_submitted_again(node):
    file = node.write("e", [{"id": "a", "sleep": 6}, {"id": "b"}], execution={"n_workers": 2})
    process = node.start("run", file, "--wait", "--poll", "0.5")
    wait_for(lambda: "a" in executions(file.parent))
    before = node("show", "a", "-f", file, "--json").json
    (worker,) = workers_of(before["chunk"])
    os.kill(worker, signal.SIGKILL)

    out, err = process.communicate(timeout=90)

    assert process.returncode == 0, err
    assert "2 complete" in out
    assert executions(file.parent).count("a") == 2
    assert executions(file.parent).count("b") == 1
    after = node("show", "a", "-f", file, "--json").json
    assert after["slurm"]["job"] != before["slurm"]["job"]


def workers_of(chunk):
    """Return the process ids of the workers that run a chunk."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "push-worker" in words and any(f"/{chunk}." in word for word in words):
                found.append(int(folder.name))
    return found


def test_an_element_cancelled_from_outside_is_given_up(node):
    file = node.write("e", [{"id": "a", "sleep": 60}, {"id": "b"}], execution={"n_workers": 2})
    process = node.start("run", file, "--wait", "--poll", "0.5")
    wait_for(lambda: "a" in executions(file.parent))
    element = node("show", "a", "-f", file, "--json").json["slurm"]
    node.cluster.answer(f"scancel {element['job']}_{element['element']}")

    out, err = process.communicate(timeout=90)

    assert process.returncode == 1, err
    assert "gave up chunk" in err
    assert "cancelled" in err
    assert "1 unfinished of 2" in out
    assert counts_of(node, file)["pending"] == 1


def test_a_model_that_cannot_be_used_costs_no_try(node):
    model = """
        import os

        if "SLURM_JOB_ID" in os.environ:
            raise RuntimeError("compute nodes lack a library")

        def simulate(run):
            return {"values": None}
    """
    file = node.write("e", [{"id": "a"}], model=model)

    ended = node("run", file, "--wait", "--poll", "0.5")

    assert ended.code == 2, ended.err
    assert "compute nodes lack a library" in ended.err
    shown = node("show", "a", "-f", file, "--json").json
    assert (shown["status"], shown["tries"]) == ("pending", 0)


def test_show_and_logs_name_the_element_and_its_log(node):
    file = node.write("e", [{"id": "bad", "what": "raise"}], max_attempts=1)
    assert node("run", file, "--wait", "--poll", "0.5").code == 1

    shown = node("show", "bad", "-f", file).out
    record = node("show", "bad", "-f", file, "--json").json["slurm"]
    logs = node("logs", "bad", "-f", file)

    assert f"{record['job']}_{record['element']}" in shown
    assert record["log"] in shown
    assert Path(record["log"]).is_file()
    assert record["log"] in logs.err
    assert "no luck with bad" in logs.out


def test_nothing_to_do_asks_for_no_job(node):
    file = node.write("e", [{"id": "a"}])
    assert node("run", file, "--wait", "--poll", "0.5").code == 0

    again = node("run", file)

    assert again.code == 0, again.err
    assert again.out.startswith("1 complete")
    assert len(executions(file.parent)) == 1
    assert json.loads(node("status", file, "--json").out)["slurm"] is None


def test_paths_name_the_login_node_s_own_variables(slurm):
    slurm.reset()
    scratch = slurm.shared / "scr atch"
    slurm.answer(f"mkdir -p '{scratch}'")
    node = LoginNode(slurm, {"SCRATCH": str(scratch), "MINE": "runs"})
    file = node.write(
        "variables",
        [{"id": "a"}, {"id": "b"}],
        output="$SCRATCH/out",
        control="${SCRATCH}/$MINE",
        execution={"remote_root": "$SCRATCH/jobs", "n_workers": 1},
    )
    checked = node("check", file)
    assert checked.code == 0, checked.out
    assert f"remote_root {scratch}/jobs" in checked.out
    assert not list(scratch.iterdir())
    ended = node("run", file, "--wait", "--poll", "0.5")
    assert ended.code == 0, ended.err
    assert node("status", file, "--json").json["output"] == f"{scratch}/out"
    assert {path.name for path in scratch.iterdir()} == {"out", "runs", "jobs"}
    assert "$SCRATCH" not in {path.name for path in file.parent.iterdir()}
