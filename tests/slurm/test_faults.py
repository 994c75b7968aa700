"""Faults between here and the cluster, with real daemons: every simulation ends in one true state.

``make test`` runs each kind once; ``make test-faults`` runs the slow ones, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from airflow_ensemble.engine import batch
from airflow_ensemble.engine.index.interface import JobInfo
from airflow_ensemble.engine.upkeep import rebuild
from airflow_ensemble.slurm.errors import ClusterError
from airflow_ensemble.slurm.runner import Runner
from airflow_ensemble.slurm.settling import settler
from tests.services.daemons import processes_with
from tests.services.slurm import SlurmCluster, accounting_template, can_limit_memory
from tests.slurm.driving import (
    PLACE,
    Rig,
    open_gate,
    trace,
    until,
    write_cluster_ensemble,
)
from tests.slurm.meddling import MeddledRunner, at_sbatch

IDS = [f"simulation-{number}" for number in range(6)]
ROWS = [{"id": id} for id in IDS]
GATED = [{"id": id, "gated": True} for id in IDS]


@pytest.fixture
def cluster(slurm: SlurmCluster) -> SlurmCluster:
    slurm.reset()
    return slurm


def later(seconds: float, act: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def element_state(slurm: SlurmCluster, element: str) -> str:
    return slurm.answer(f"squeue --me -h -r -t all -o '%i %T' | sed -n 's/^{element} //p'")


def kill_element(slurm: SlurmCluster, element: int) -> None:
    """Kill every process of an array element: its script, its worker, its simulations."""
    ours = set(processes_with("SLURM_CONF", str(slurm.slurm_conf)))
    for pid in sorted(ours & set(processes_with("SLURM_ARRAY_TASK_ID", str(element)))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- the submission


def test_nothing_wrong(cluster: SlurmCluster, tmp_path: Path) -> None:
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, ROWS)) as rig:
        rig.submit()
        assert rig.follow() == {}
        rig.check()


def test_a_controller_that_is_frozen_during_sbatch_has_the_job(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """sbatch says "Socket timed out", and the job runs: it is adopted."""
    cluster.configure(MessageTimeout="3")
    answers: list[object] = []

    def freeze(work: Callable[[], object]) -> object:
        cluster.pause("slurmctld")
        later(5, lambda: cluster.resume("slurmctld"))
        answers.append(work())
        return answers[0]

    file = write_cluster_ensemble(cluster, tmp_path, ROWS)
    with Rig(cluster, file, wrap=at_sbatch(freeze)) as rig:
        (job,) = submit_until_known(rig)
        assert "Socket timed out" in Path(job.folder, "attempt-1", "answer").read_text()
        assert rig.follow() == {}
        rig.check()


def submit_until_known(rig: Rig, seconds: float = 60) -> list[JobInfo]:
    """Submit, again after every error that says so, as a task that is tried again does."""
    end = time.monotonic() + seconds
    while True:
        try:
            return rig.submit()
        except ClusterError:
            assert time.monotonic() < end
            time.sleep(0.5)


@pytest.mark.parametrize(
    "seconds", [0.0, *(pytest.param(one, marks=pytest.mark.faults) for one in (0.05, 0.3))]
)
def test_a_connection_that_breaks_during_sbatch(
    cluster: SlurmCluster, tmp_path: Path, seconds: float
) -> None:
    cluster.configure(MessageTimeout="3")

    def cut(work: Callable[[], object]) -> object:
        cluster.pause("slurmctld")
        timer = later(1, cluster.drop_connections)
        later(1 + seconds, lambda: cluster.resume("slurmctld"))
        try:
            return work()
        finally:
            timer.join()

    file = write_cluster_ensemble(cluster, tmp_path, ROWS)
    with Rig(cluster, file, wrap=at_sbatch(cut)) as rig:
        submit_until_known(rig)
        assert rig.follow() == {}
        rig.check()


@pytest.mark.faults
def test_a_controller_that_is_stopped_for_half_a_minute_during_the_submission(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    def stop(work: Callable[[], object]) -> object:
        cluster.stop("slurmctld")
        later(30, lambda: cluster.start("slurmctld"))
        return work()

    file = write_cluster_ensemble(cluster, tmp_path, ROWS)
    with Rig(cluster, file, wrap=at_sbatch(stop)) as rig:
        submit_until_known(rig, 100)
        assert rig.follow() == {}
        rig.check()


def die(cluster: SlurmCluster, file: Path, operation: int, moment: str) -> list[str]:
    """Submit in a process that dies at an operation; return what it did until then."""
    cluster.answer("mkdir -p root")
    task = {
        "file": str(file),
        "shared": str(cluster.shared),
        "login": dataclasses.asdict(cluster.login()),
        "operation": operation,
        "moment": moment,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.slurm.dying"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="session")
def operations(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a submission does on the cluster, in order."""
    slurm.reset()
    file = write_cluster_ensemble(slurm, tmp_path_factory.mktemp("undisturbed"), ROWS)
    return die(slurm, file, 0, "never")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_submitter_killed_around_sbatch(
    operations: list[str], cluster: SlurmCluster, tmp_path: Path, moment: str
) -> None:
    (number,) = [n for n, what in enumerate(operations, 1) if what == "run sbatch"]
    killed_and_tried_again(cluster, tmp_path, number, moment)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_submitter_killed_at_any_operation(
    operations: list[str], slurm: SlurmCluster, tmp_path: Path
) -> None:
    assert len(operations) > 5
    for number in range(1, len(operations) + 1):
        for moment in ("before", "after"):
            slurm.reset()
            killed_and_tried_again(slurm, tmp_path / f"{number}-{moment}", number, moment)


def killed_and_tried_again(
    cluster: SlurmCluster, folder: Path, operation: int, moment: str
) -> None:
    file = write_cluster_ensemble(cluster, folder, ROWS)
    done = die(cluster, file, operation, moment)
    assert len(done) == operation
    with Rig(cluster, file) as rig:
        submit_until_known(rig)
        assert rig.follow() == {}
        rig.check()
    half_staged = [path for path in (cluster.shared / "root").rglob(".*") if path.is_dir()]
    assert len(half_staged) <= 1, half_staged


# --- daemons that are away


@pytest.mark.parametrize(
    "fault",
    ["killed", *(pytest.param(one, marks=pytest.mark.faults) for one in ("frozen", "stopped"))],
)
def test_a_controller_that_is_away_during_polling(
    cluster: SlurmCluster, tmp_path: Path, fault: str
) -> None:
    cluster.configure(MessageTimeout="3")
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, GATED)) as rig:
        rig.submit()
        rig.running(2)
        cluster.wait_until_saved()

        def away() -> None:
            act = {"frozen": cluster.pause, "killed": cluster.kill, "stopped": cluster.stop}[fault]
            act("slurmctld")
            open_gate(cluster)
            time.sleep(6 if fault == "killed" else 30)
            cluster.resume("slurmctld")
            cluster.start("slurmctld")

        assert rig.follow(away) == {}
        rig.check()


def test_accounting_that_is_down_for_the_whole_run(cluster: SlurmCluster, tmp_path: Path) -> None:
    cluster.stop("slurmdbd")
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, ROWS)) as rig:
        rig.submit()
        assert rig.follow() == {}
        rig.check()


def test_an_ssh_server_that_is_killed_while_its_jobs_run(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, GATED)) as rig:
        rig.submit()
        rig.running(2)

        def away() -> None:
            cluster.kill("sshd")
            open_gate(cluster)
            time.sleep(3)
            cluster.start("sshd")

        assert rig.follow(away) == {}
        rig.check()


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_a_controller_that_has_forgotten_the_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    """A killed slurmctld knows nothing of its last seconds, and gives the job's id away again."""
    state, earlier = cluster.root / "state", tmp_path / "state"
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, GATED)) as rig:
        cluster.admin("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")
        cluster.wait_until_saved()
        shutil.copytree(state, earlier)
        (job,) = rig.submit()
        cluster.kill("slurmctld")
        # On a busy machine more than the last seconds go by: it has them written down by then.
        shutil.rmtree(state)
        shutil.copytree(earlier, state)
        cluster.start("slurmctld")
        assert cluster.run(f"squeue -h -j {job.job_id}").returncode != 0
        cluster.admin("scontrol", "update", "nodename=ALL", "state=resume", check=False)
        other = cluster.answer("sbatch --parsable -J another --array=0-1 --wrap 'exit 1'")
        assert other == job.job_id
        open_gate(cluster)
        assert rig.follow(timeout=300) == {}
        assert "vanished" in rig.ends()
        assert rig.counts.complete == len(IDS)


# --- elements that end


def test_an_element_killed_with_its_simulations(cluster: SlurmCluster, tmp_path: Path) -> None:
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, GATED)) as rig:
        rig.submit()
        rig.running(2)
        begun = set(trace(cluster))
        kill_element(cluster, 0)
        open_gate(cluster)
        assert rig.follow() == {}
        rig.check(arrays=2, repeated=begun)
        assert "failed" in rig.ends()


def test_an_element_cancelled_from_outside_while_it_runs(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Somebody wanted that: it is given up, and what it had left is there for the next run."""
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, GATED)) as rig:
        (job,) = rig.submit()
        rig.running(2)
        begun = set(trace(cluster))
        cluster.answer(f"scancel {job.job_id}_0")
        later(3, lambda: open_gate(cluster))
        (reason,) = rig.follow().values()
        assert "CANCELLED" in reason
        assert (rig.counts.complete, rig.counts.pending) == (3, 3)
        rig.check_arrays(1)
        rig.key = "two"
        rig.submit()
        assert rig.follow() == {}
        rig.check(arrays=2, repeated=begun)


def test_an_element_cancelled_from_outside_while_it_waits(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Slurm forgets it without a trace."""
    file = write_cluster_ensemble(cluster, tmp_path, GATED, execution={"array_parallelism": 1})
    with Rig(cluster, file) as rig:
        (job,) = rig.submit()
        rig.running(1)
        cluster.answer(f"scancel {job.job_id}_1")
        open_gate(cluster)
        given_up = rig.follow()
        if given_up:
            rig.key = "two"
            rig.submit()
            assert rig.follow() == {}
        rig.check(arrays=2)


def test_an_element_that_is_requeued(cluster: SlurmCluster, tmp_path: Path) -> None:
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, GATED)) as rig:
        (job,) = rig.submit()
        rig.running(2)
        begun = set(trace(cluster))
        cluster.answer(f"scontrol requeue {job.job_id}_0")
        until(lambda: element_state(cluster, f"{job.job_id}_0") == "PENDING", "the requeue")
        open_gate(cluster)
        assert rig.follow() == {}
        rig.check(repeated=begun)


@pytest.mark.faults
def test_an_element_that_is_preempted(cluster: SlurmCluster, tmp_path: Path) -> None:
    file = write_cluster_ensemble(cluster, tmp_path, GATED, execution={"nodelist": "n2"})
    with Rig(cluster, file) as rig:
        (job,) = rig.submit(n_chunks=1)
        rig.running(1)
        begun = set(trace(cluster))
        cluster.answer("sbatch -o /dev/null -J urgent -p urgent -w n2 --exclusive --wrap true")
        until(lambda: element_state(cluster, f"{job.job_id}_0") == "PENDING", "the preemption")
        open_gate(cluster)
        assert rig.follow() == {}
        rig.check(repeated=begun)


def test_an_element_that_is_held(cluster: SlurmCluster, tmp_path: Path) -> None:
    """A person must release it: it is cancelled, and the reason is told."""
    file = write_cluster_ensemble(cluster, tmp_path, GATED, execution={"array_parallelism": 1})
    with Rig(cluster, file) as rig:
        (job,) = rig.submit()
        rig.running(1)
        cluster.admin("scontrol", "hold", f"{job.job_id}_1")
        open_gate(cluster)
        (reason,) = rig.follow().values()
        assert "JobHeldAdmin" in reason
        assert (rig.counts.complete, rig.counts.pending) == (3, 3)
        assert element_state(cluster, f"{job.job_id}_1") in ("CANCELLED", "")


@pytest.mark.faults
@pytest.mark.parametrize("requeue", [True, False], ids=["requeued", "final"])
def test_a_node_that_fails(cluster: SlurmCluster, tmp_path: Path, requeue: bool) -> None:
    options = {"nodelist": "n2", **({} if requeue else {"no-requeue": True})}
    file = write_cluster_ensemble(cluster, tmp_path, GATED, execution=options)
    with Rig(cluster, file) as rig:
        rig.submit()
        rig.running(2)
        begun = set(trace(cluster))

        def fail() -> None:
            cluster.kill("slurmd-n2")
            cluster.kill_steps()
            kill_element(cluster, 0)
            kill_element(cluster, 1)
            cluster.admin("scontrol", "update", "nodename=n2", "state=down", "reason=test")
            time.sleep(3)
            cluster.start("slurmd-n2")
            cluster.admin("scontrol", "update", "nodename=n2", "state=resume", check=False)
            open_gate(cluster)

        assert rig.follow(fail) == {}
        rig.check(arrays=1 if requeue else 3, repeated=begun)
        assert ("node-failure" in rig.ends()) is not requeue


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_time_limit_that_is_hit(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The worker is told before; the next submission has twice the time.

    Slurm looks at limits every 30 s: it tells the first 18 to 48 s after the start, the next after
    66 at the earliest.
    """
    rows: list[Mapping[str, object]] = [{"id": "long", "sleep": 56}, *ROWS[:2]]
    policies = {"time-limit": {"time": 2}}
    file = write_cluster_ensemble(
        cluster, tmp_path, rows, execution={"time": "00:01:00", "policies": policies}
    )
    with Rig(cluster, file) as rig:
        rig.submit(n_chunks=1)
        assert rig.follow(timeout=400) == {}
        rig.check(arrays=2, repeated={"long"})
        (attempt,) = rig.control.index.attempts(rig.control.key, "long")
        assert attempt.reason.value == "time-limit"


@pytest.mark.skipif(not can_limit_memory(), reason="Slurm 22.05 says so by cgroup v1 alone")
def test_memory_that_runs_out(tmp_path: Path) -> None:
    rows = [{"id": "large", "megabytes": 300}]
    policies = {"out-of-memory": {"memory": 8}}
    with SlurmCluster(database=accounting_template(), memory_limits=True) as cluster:
        file = write_cluster_ensemble(
            cluster, tmp_path, rows, execution={"mem": "100M", "policies": policies}
        )
        with Rig(cluster, file) as rig:
            rig.submit()
            assert rig.follow() == {}
            rig.check(arrays=2, repeated={"large"})
            (attempt,) = rig.control.index.attempts(rig.control.key, "large")
            assert attempt.reason.value == "out-of-memory"


# --- files


def test_a_disk_that_is_full(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Nothing is submitted, nothing is left half staged, and the same call works later."""
    assert os.geteuid() == 0, "a small file system can be mounted by root alone"
    cluster.answer("mkdir -p root")
    root = cluster.shared / "root"
    owner = cluster.answer("id -u")
    mount = ["mount", "-t", "tmpfs", "-o", f"size=64k,uid={owner},mode=755", "tmpfs", str(root)]
    subprocess.run(mount, check=True)
    try:
        with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, ROWS)) as rig:
            with pytest.raises(Exception, match=r"(?i)no space|disk|full") as caught:
                rig.submit()
            assert str(root) in str(caught.value)
            assert [path for path in root.rglob("*") if path.is_file()] == []
            rig.check_arrays(0)
            subprocess.run(["mount", "-o", "remount,size=64m", str(root)], check=True)
            rig.submit()
            assert rig.follow() == {}
            rig.check()
    finally:
        cluster.cancel_all()
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_a_result_line_that_is_torn(cluster: SlurmCluster, tmp_path: Path) -> None:
    """A worker dies in the middle of a line; what stands before it counts, the rest does not."""
    rows = [{"id": id, "gated": number > 0} for number, id in enumerate(IDS)]
    file = write_cluster_ensemble(cluster, tmp_path, rows)
    with Rig(cluster, file) as rig:
        rig.submit(n_chunks=1)
        rig.running(2)
        begun = set(trace(cluster)) - {IDS[0]}
        kill_element(cluster, 0)
        (segment,) = (cluster.shared / "output" / ".ensemble" / "outcomes").rglob("*.jsonl")
        with segment.open("a") as torn:
            torn.write('{"kind": "finished", "id": "simulation-3", "status": "comp')
        open_gate(cluster)
        assert rig.follow() == {}
        rig.check(arrays=2, repeated=begun)
    elsewhere = file.with_name("another-index.yaml")
    elsewhere.write_text(file.read_text().replace("/control", "/another-control"))
    with Rig(cluster, elsewhere) as rig:
        assert rebuild(rig.control) == len(IDS)


def test_results_that_appear_late(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The cluster's file system shows them here three seconds after the job's end."""
    ended: list[float] = []

    def hide(name: str, argument: str, work: Callable[[], object]) -> object:
        if name == "list" and ".ensemble/outcomes" in argument:
            if not ended and len(trace(cluster)) == len(IDS):
                ended.append(time.monotonic())
            if not ended or time.monotonic() < ended[0] + 3:
                return []
        return work()

    def wrap(inner: Runner) -> Runner:
        return MeddledRunner(inner, hide)

    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, ROWS), wrap=wrap) as rig:
        rig.submit()
        assert rig.follow() == {}
        assert ended
        rig.check()


# --- whoever drives


def test_a_driver_that_is_gone_while_its_array_runs(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The next one leaves what runs to it, and settles what has ended."""
    file = write_cluster_ensemble(cluster, tmp_path, GATED)
    with Rig(cluster, file) as first:
        first.submit()
        first.running(2)
    with Rig(cluster, file) as rig:
        settlers = {"slurm": settler(lambda place: rig.cluster if place == PLACE else None)}
        registration = batch.register(
            rig.control, "two", settlers=settlers, driver_alive=lambda _: False
        )
        assert (registration.elsewhere, registration.pending) == (len(IDS), 0)
        open_gate(cluster)
        until(lambda: cluster.answer("squeue --me -h") == "", "the array to end")

        def settled() -> bool:
            batch.reconcile(rig.control, settlers=settlers, driver_alive=lambda _: False)
            return rig.counts.unfinished == 0

        until(settled, "reconcile to settle it")
        rig.check()


def test_a_driver_that_is_gone_and_an_element_that_died(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    file = write_cluster_ensemble(cluster, tmp_path, GATED)
    with Rig(cluster, file) as first:
        first.submit()
        first.running(2)
        begun = set(trace(cluster))
    kill_element(cluster, 0)
    open_gate(cluster)
    until(lambda: cluster.answer("squeue --me -h") == "", "the array to end")
    with Rig(cluster, file) as rig:
        settlers = {"slurm": settler(lambda place: rig.cluster if place == PLACE else None)}

        def settled() -> bool:
            batch.reconcile(rig.control, settlers=settlers, driver_alive=lambda _: False)
            return rig.counts.dispatched + rig.counts.running == 0

        until(settled, "reconcile to settle it")
        assert rig.counts.complete + rig.counts.pending == len(IDS)
        rig.key = "two"
        rig.submit()
        assert rig.follow() == {}
        rig.check(arrays=2, repeated=begun)


# --- sites


@pytest.mark.parametrize(
    "seconds", [600, pytest.param(-600, marks=pytest.mark.faults)], ids=["ahead", "behind"]
)
def test_a_cluster_whose_clock_is_ten_minutes_off(tmp_path: Path, seconds: int) -> None:
    with (
        SlurmCluster(database=accounting_template(), clock_ahead=seconds) as cluster,
        Rig(cluster, write_cluster_ensemble(cluster, tmp_path, GATED)) as rig,
    ):
        rig.submit()
        rig.running(2)
        begun = set(trace(cluster))
        kill_element(cluster, 0)
        open_gate(cluster)
        assert rig.follow() == {}
        rig.check(arrays=2, repeated=begun)


def test_no_accounting_and_a_queue_that_forgets_at_once(
    slurm_without_accounting: SlurmCluster, tmp_path: Path
) -> None:
    """Results alone say that all is done."""
    cluster = slurm_without_accounting
    cluster.reset()
    cluster.configure(MinJobAge="2")
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, ROWS)) as rig:
        rig.submit()
        until(lambda: len(trace(cluster)) == len(IDS), "all to begin")
        until(lambda: cluster.answer("squeue --me -h -t all") == "", "the queue to forget")
        assert rig.follow() == {}
        rig.check(arrays=0)


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_no_accounting_a_killed_element_and_a_queue_that_forgets(
    slurm_without_accounting: SlurmCluster, tmp_path: Path
) -> None:
    """Nobody says how it ended; its worker's last sign of life must be two minutes old."""
    cluster = slurm_without_accounting
    cluster.reset()
    cluster.configure(MinJobAge="2")
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, GATED)) as rig:
        rig.submit()
        rig.running(2)
        begun = set(trace(cluster))
        kill_element(cluster, 0)
        open_gate(cluster)
        until(lambda: cluster.answer("squeue --me -h -t all") == "", "the queue to forget")
        assert rig.follow(timeout=300) == {}
        assert "vanished" in rig.ends()
        assert rig.counts.complete == len(IDS)
        assert {id for id, count in trace(cluster).items() if count > 1} <= begun
