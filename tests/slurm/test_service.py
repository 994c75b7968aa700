"""The private cluster of the tests does what the tests of the backend rely on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.leftovers import VARIABLE
from tests.services.daemons import processes_with
from tests.services.slurm import SlurmCluster


@pytest.fixture
def cluster(slurm: SlurmCluster) -> SlurmCluster:
    slurm.reset()
    return slurm


def ssh(cluster: SlurmCluster, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", *cluster.ssh_options, "127.0.0.1", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def states(cluster: SlurmCluster, job: str) -> set[str]:
    return set(cluster.answer(f"squeue -h -r -t all -j {job} -o %T").split())


def wait_for(cluster: SlurmCluster, job: str, *words: str, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while (now := states(cluster, job)) != set(words):
        assert time.monotonic() < deadline, f"job {job} is {now}, not {words}"
        time.sleep(0.1)


def test_an_array_submitted_over_ssh_runs_as_the_account(cluster: SlurmCluster) -> None:
    before = cluster.ssh_connections
    script = f"cd {cluster.shared} && sbatch --parsable --array=0-7 --wrap 'id -un'"
    job = ssh(cluster, script).stdout.strip()
    wait_for(cluster, job, "COMPLETED")
    outputs = sorted(cluster.shared.glob("slurm-*.out"))
    assert [one.read_text() for one in outputs] == [f"{cluster.user}\n"] * 8
    assert cluster.ssh_connections == before + 1


def test_sftp_reaches_the_shared_folder(cluster: SlurmCluster) -> None:
    done = subprocess.run(
        ["sftp", *_for_sftp(cluster.ssh_options), "127.0.0.1"],
        input=f"mkdir {cluster.shared}/made\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (cluster.shared / "made").is_dir(), done.stderr


def _for_sftp(options: list[str]) -> list[str]:
    changed = ["-P" if one == "-p" else one for one in options]
    at = changed.index("-l")
    return [*changed[:at], "-o", f"User={changed[at + 1]}", *changed[at + 2 :]]


def test_accounting_knows_the_job_and_its_comment(cluster: SlurmCluster) -> None:
    job = cluster.answer("sbatch --parsable --comment=ensemble/a/b --wrap true")
    wait_for(cluster, job, "COMPLETED")
    deadline = time.monotonic() + 20
    command = f"sacct -X -n -P -j {job} -o State,Comment"
    while (row := cluster.answer(command)) != "COMPLETED|ensemble/a/b":
        assert time.monotonic() < deadline, row
        time.sleep(0.2)


def test_a_site_without_accounting_says_so(slurm_without_accounting: SlurmCluster) -> None:
    slurm_without_accounting.reset()
    done = slurm_without_accounting.run("sacct")
    assert done.returncode == 1
    assert "accounting storage is disabled" in done.stderr


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ("--account=nobody", "Invalid account or account/partition combination"),
        ("--partition=nowhere", "invalid partition specified"),
        ("--partition=tiny --time=5", "Requested time limit is invalid"),
        ("--partition=tiny --nodes=2", "Node count specification invalid"),
    ],
)
def test_what_cannot_run_is_refused(cluster: SlurmCluster, options: str, answer: str) -> None:
    done = cluster.run(f"sbatch {options} --wrap true")
    assert done.returncode == 1
    assert answer in done.stderr


def test_the_urgent_partition_preempts(cluster: SlurmCluster) -> None:
    job = cluster.answer("sbatch --parsable -w n2 --wrap 'sleep 60'")
    wait_for(cluster, job, "RUNNING")
    cluster.answer("sbatch -p urgent --exclusive -w n2 --wrap true")
    wait_for(cluster, job, "PENDING")
    assert cluster.answer(f"squeue -h -j {job} -o %r") == "BeginTime"


def test_a_frozen_controller_takes_the_job_and_does_not_say_so(cluster: SlurmCluster) -> None:
    cluster.configure(MessageTimeout="3")
    cluster.pause("slurmctld")
    done = cluster.run("sbatch --parsable --job-name=phantom --wrap true")
    cluster.resume("slurmctld")
    assert done.returncode == 1
    assert "Socket timed out" in done.stderr
    names = "squeue -h -t all -o %j"
    deadline = time.monotonic() + 20
    while cluster.answer(names).split().count("phantom") != 1:
        assert time.monotonic() < deadline, cluster.answer(names)
        time.sleep(0.2)


def test_the_interpreters_run_for_the_account(cluster: SlurmCluster) -> None:
    assert (
        cluster.answer(f"{cluster.python39} -c 'import sys; print(sys.version_info[:2])'")
        == "(3, 9)"
    )
    assert cluster.answer(f"{cluster.python_with_models} -c 'import xarray; print(1)'") == "1"


def test_requests_are_counted(cluster: SlurmCluster) -> None:
    cluster.answer("sbatch --wrap true")
    submitted, asked = cluster.rpcs()["REQUEST_SUBMIT_BATCH_JOB"], cluster.user_rpcs()
    cluster.answer("sbatch --array=0-9 --wrap true")
    assert cluster.rpcs()["REQUEST_SUBMIT_BATCH_JOB"] == submitted + 1
    assert cluster.user_rpcs() == asked + 1


@pytest.mark.parametrize("daemon", ["slurmctld", "slurmdbd", "slurmd-n2", "sshd"])
def test_a_killed_daemon_comes_back(cluster: SlurmCluster, daemon: str) -> None:
    job = cluster.answer("sbatch --parsable --wrap 'sleep 1'")
    cluster.wait_until_saved()
    cluster.kill(daemon)
    cluster.start(daemon)
    assert ssh(cluster, "true").returncode == 0
    wait_for(cluster, job, "COMPLETED")


def test_dropping_the_connections_leaves_the_server(cluster: SlurmCluster) -> None:
    command = ["ssh", *cluster.ssh_options, "127.0.0.1", "echo ready; exec sleep 30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"ready\n"
        assert cluster.drop_connections() >= 1
        assert session.wait(10) != 0
    assert ssh(cluster, "true").returncode == 0


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SlurmCluster, str]]:
    monkeypatch.setenv(VARIABLE, "a-cluster-of-its-own")
    with SlurmCluster(accounting=False, nodes=1) as other:
        yield other, "a-cluster-of-its-own"


def test_clusters_stand_side_by_side_and_leave_nothing(
    cluster: SlurmCluster, second: tuple[SlurmCluster, str]
) -> None:
    other, mark = second
    job = other.answer("sbatch --parsable --job-name=there --wrap 'sleep 60'")
    wait_for(other, job, "RUNNING")
    assert "there" not in cluster.answer("squeue -h -t all -o %j")
    assert processes_with(VARIABLE, mark)
    other.kill("slurmd")
    other.close()
    assert processes_with(VARIABLE, mark) == []
    assert not other.root.exists()
