"""A site's habits, and another job's variables, change nothing: on a real Slurm."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest

from tests.cli.login_node import LoginNode, wait_for
from tests.ensembles import executions
from tests.services.slurm import SlurmCluster

#: What a step of a simulation prints: its rank, its CPUs and whether it is bound to a place.
PRINT = 'echo "$SLURM_PROCID $SLURM_CPUS_PER_TASK ${{OMPI_COMM_WORLD_RANK:-none}} $MINE"'


@pytest.fixture
def node(slurm: SlurmCluster) -> LoginNode:
    slurm.reset()
    return LoginNode(slurm)


def launching(node, rows, *, step=PRINT, execution=None):
    """Write an ensemble whose command is one ``srun``, and what it prints the product."""
    file = node.write("e", rows, products={"out": {"glob": "out.txt"}}, execution=execution or {})
    keys = json.loads(file.read_text())
    del keys["model"]
    keys["command"] = ["sh", "-c", f"srun sh -c {shlex.quote(step)} >out.txt"]
    file.write_text(json.dumps(keys))
    return file


def outputs(file):
    """Return the lines of each simulation's product, sorted, the shortest first."""
    found = (file.parent / "output").glob("*/out/**/*.txt")
    return sorted((sorted(path.read_text().splitlines()) for path in found), key=len)


INSIDE = {
    "salloc": "salloc -Q --ntasks=3 --mem-per-cpu=500 --hint=nomultithread",
    "a step": "srun --ntasks=1 --cpus-per-task=2 --mem=700 --cpu-bind=none",
    "a driver job": "sbatch --wait --ntasks=3 --mem=1500 -o driver.out drive.sh",
}


@pytest.mark.parametrize("case", INSIDE)
def test_snakemake_2230_inside_an_allocation_the_jobs_are_those_of_a_login_node(node, case):
    rows = [{"id": "a"}, {"id": "b", "tasks": 3, "cores_per_task": 2}]
    execution = {"mem-per-cpu": "600M", "cpus-per-task": 4, "time": "00:05:00"}
    file = launching(node, rows, execution=execution)
    driver = node.shared / "drive.sh"
    driver.write_text('#!/bin/sh\nexport OMPI_COMM_WORLD_RANK=1 MINE=kept\nexec "$@"\n')
    driver.chmod(0o755)
    launcher = INSIDE[case] if case == "a driver job" else f"{INSIDE[case]} ./drive.sh"

    node.inside(launcher, "run", "--wait", "--poll", 0.5, "-f", file)

    assert outputs(file) == [["0 1 none kept"], [f"{rank} 2 none kept" for rank in range(3)]]


def test_case_07_a_shell_that_says_how_many_tasks_there_are(node):
    node.environment.update(SLURM_NTASKS="3", SLURM_MEM_PER_CPU="100", SLURM_CPU_BIND="map_cpu:7")
    file = launching(node, [{"id": "a"}], execution={"mem": "600M"})

    ended = node("run", file, "--wait", "--poll", 0.5)

    assert ended.code == 0, ended.err
    assert outputs(file) == [["0 1 none "]]


def test_steps_have_the_worker_s_variables_where_a_job_has_not_the_account_s(node):
    step = 'echo "$ENSEMBLE_ID ${{MINE:-none}} $LOADED"'
    node.environment["MINE"] = "not wanted"
    execution = {"export": "NONE", "setup": "export LOADED=here"}
    file = launching(node, [{"id": "a"}], step=step, execution=execution)

    ended = node("run", file, "--wait", "--poll", 0.5)

    assert ended.code == 0, ended.err
    assert outputs(file) == [["a none here"]]


@pytest.mark.parametrize("memory", [{"mem": "2G"}, {"mem-per-cpu": "500M"}, {}])
def test_simulations_that_share_a_job_have_steps_side_by_side(node, memory):
    met = f"{node.shared}/met"
    step = (
        f"touch {met}.$ENSEMBLE_ID; for i in $(seq 300); do"
        f" [ $(ls {met}.* | wc -l) = 4 ] && exit; sleep 0.1; done; exit 1"
    )
    rows = [{"id": f"s{number}"} for number in range(4)]
    execution = {"n_workers": 1, "cpus-per-task": 4, **memory}
    file = launching(node, rows, step=step, execution=execution)

    ended = node("run", file, "--wait", "--poll", 0.5, "--set", "max_attempts=1")

    assert ended.code == 0, ended.err


#: What an account may have set, or a module: each would be obeyed by ``sbatch`` or its relatives.
SITE = {
    **{"SBATCH_MEM_PER_NODE": "100", "SBATCH_MEM_PER_CPU": "50", "SBATCH_TIMELIMIT": "1"},
    **{"SBATCH_PARTITION": "urgent", "SBATCH_ACCOUNT": "ocean", "SBATCH_HINT": "nomultithread"},
    **{"SBATCH_OUTPUT": "/dev/null", "SBATCH_ERROR": "stray.err", "SBATCH_INPUT": "/no/file"},
    **{"SBATCH_ARRAY_INX": "0-9", "SBATCH_JOB_NAME": "theirs", "SBATCH_WAIT": "1"},
    **{"SBATCH_EXPORT": "NONE", "SBATCH_EXCLUSIVE": "", "SBATCH_REQUEUE": "1"},
    **{"SBATCH_OPEN_MODE": "truncate", "SBATCH_SIGNAL": "KILL@60", "SBATCH_DEBUG": "1"},
    **{"SBATCH_DISTRIBUTION": "cyclic", "SBATCH_REQ_SWITCH": "1"},
    **{"SQUEUE_STATES": "CANCELLED", "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "jobid"},
    **{"SCANCEL_STATE": "SUSPENDED", "SCANCEL_NAME": "theirs", "SLURM_TIME_FORMAT": "relative"},
}


def test_aws_eda_223_what_the_file_says_wins_over_the_account_s_variables(node):
    node.environment.update(SITE)
    execution = {
        **{"mem": "2G", "time": "00:20:00", "account": "weather"},
        **{"hint": "multithread", "exclusive": False, "requeue": False, "switches": "2@5:00"},
    }
    file = node.write("e", [{"id": "a", "sleep": 60}], execution=execution)

    assert node("run", file).code == 0
    wait_for(lambda: node.states() == ["RUNNING"])
    job = node("show", "a", "-f", file, "--json").json["slurm"]["job"]
    said = node.cluster.admin("scontrol", "show", "job", job)

    for words in (
        *("MinMemoryNode=2G", "TimeLimit=00:20:00", "Account=weather", "Partition=urgent"),
        *("JobName=ens-", "ArrayTaskId=0", "StdIn=/dev/null", "OverSubscribe=OK"),
    ):
        assert words in said
    log = re.search(r"StdOut=(\S+)", said)[1]
    assert log.endswith("/logs/0.log")
    assert f"StdErr={log}" in said
    cancelled = node("cancel", "--all", "-f", file)
    assert cancelled.code == 0, cancelled.err
    wait_for(lambda: node.states() == [])


def test_what_neither_the_file_nor_a_simulation_says_stays_the_account_s(node):
    node.environment.update(SBATCH_MEM_PER_NODE="700", SBATCH_TIMELIMIT="7")
    own = node.write("own", [{"id": "a", "sleep": 60}])
    needed = node.write("needed", [{"id": "a", "sleep": 60, "memory": 900}])

    assert [node("run", file).code for file in (own, needed)] == [0, 0]

    jobs = [node("show", "a", "-f", f, "--json").json["slurm"]["job"] for f in (own, needed)]
    said = [node.cluster.admin("scontrol", "show", "job", job) for job in jobs]
    assert ["MinMemoryNode=700M" in said[0], "MinMemoryNode=900M" in said[1]] == [True, True]
    assert all("TimeLimit=00:07:00" in one for one in said)


#: What a site's own ``sbatch`` does before and after the real one.
WRAPPER = """#!/bin/sh
echo '*** Your project has used 81 % of its hours ***'; echo 1234567; echo
{} --job-name=site-job --comment=project-7 "$@" || exit
echo 'This job may cost'; echo 17 >&2
"""


def test_snakemake_375_a_site_that_wraps_sbatch_gets_each_job_once(node):
    folder = node.shared / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(WRAPPER.format(shutil.which("sbatch")))
    (folder / "sbatch").chmod(0o755)
    node.environment["PATH"] = f"{folder}:/usr/local/bin:/usr/bin:/bin"
    file = node.write(
        "e", [{"id": f"s{number}"} for number in range(4)], execution={"n_workers": 2}
    )

    ended = node("run", file, "--wait", "--poll", "0.5")

    assert ended.code == 0, ended.err
    shown = node.cluster.answer("squeue --me -h -t all -o '%F %j %k'").splitlines()
    wrapped = {line.split()[0] for line in shown if "site-job project-7" in line}
    assert wrapped == {node("show", "s0", "-f", file, "--json").json["slurm"]["job"]}
    assert sorted(executions(file.parent)) == [f"s{number}" for number in range(4)]
