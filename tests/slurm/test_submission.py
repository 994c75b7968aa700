"""A submission happens once: killed at each phase, answered late, wrongly or not at all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_ensemble.engine.errors import Interrupted
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import JobInfo, OutputIndex
from airflow_ensemble.slurm.answers import Answer
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.errors import OutcomeUnknown, SlurmRefused, SlurmUnavailable
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.runner import Completed
from airflow_ensemble.slurm.submission import submit_once
from tests.engine.index.cases import dispatched, recipe
from tests.services.slurm import SlurmCluster
from tests.slurm.fake_slurm import FakeSlurm

TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
NO_CONTROLLER = (
    "sbatch: error: Batch job submission failed: "
    "Unable to contact slurm controller (connect failure)"
)
NO_ANSWER = NO_CONTROLLER.replace("connect", "receive")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


@pytest.fixture
def client(fake: FakeSlurm) -> SlurmClient:
    return SlurmClient(fake.runner())


@pytest.fixture
def location(tmp_path: Path) -> str:
    return str(tmp_path / "index.sqlite")


@pytest.fixture
def index(location: str) -> Iterator[OutputIndex]:
    opened = open_index(location, create=True)
    yield opened
    opened.close()


def staged(index: OutputIndex, folder: Path, body: str = "exec sleep 3") -> JobInfo:
    """Return a job of two elements whose folder and script are there."""
    chunks = dispatched(index, index.define(recipe()), 1, 2, n_chunks=2)
    pairs = [(one.id, one.submission) for one in chunks]
    job = index.prepare_job(chunks[0].batch, pairs, place="local", parent=str(folder))
    Path(job.folder).mkdir(parents=True)
    script = f"#!/bin/sh\n#SBATCH --job-name={job.name}\n#SBATCH --array=0-1\n"
    Path(job.folder, "job.sh").write_text(f"{script}#SBATCH --output=/dev/null\n{body}\n")
    return job


@pytest.fixture
def job(index: OutputIndex, tmp_path: Path) -> JobInfo:
    return staged(index, tmp_path / "remote")


def submit(
    index: OutputIndex, client: SlurmClient, job: JobInfo, patience: float = 20.0
) -> JobInfo:
    return submit_once(index, client, job, patience=patience, pause=0.1)


def attempts(job: JobInfo) -> int:
    return len(list(Path(job.folder).glob("attempt-*")))


def test_a_job_is_submitted_and_noted(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    done = submit(index, client, job)
    assert (done.job_id, done.attempt) == ("1", 1)
    assert submit(index, client, job) == done
    assert fake.jobs == ["1"]
    assert len(fake.calls("sbatch")) == 1
    assert fake.calls("squeue") == []


def test_nextflow_970_a_job_that_ran_despite_socket_timed_out_is_adopted(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    fake.once("sbatch", f"create; echo {TIMED_OUT!r} >&2; exit 1")
    assert submit(index, client, job).job_id == "1"
    assert fake.jobs == ["1"]


def test_toil_5459_a_timed_out_sbatch_is_not_submitted_twice(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    # The job turns up only in the third answer of the queue.
    fake.once("sbatch", f"echo {TIMED_OUT!r} >&2; (sleep 1; create) >/dev/null 2>&1 & exit 1")
    assert submit(index, client, job).job_id == "1"
    assert len(fake.calls("sbatch")) == 1
    assert fake.jobs == ["1"]


def test_aiida_3404_of_two_jobs_the_older_counts_and_the_other_is_cancelled(
    index: OutputIndex,
    client: SlurmClient,
    fake: FakeSlurm,
    job: JobInfo,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake.once("sbatch", f"create; create; echo {TIMED_OUT!r} >&2; exit 1")
    assert submit(index, client, job).job_id == "1"
    assert fake.jobs == ["1"]
    assert fake.calls("scancel") == ["2"]
    assert "was submitted more than once: 1 counts, 2 is cancelled" in caplog.text


def test_data_designer_915_an_ambiguous_attempt_ends_by_its_deadline(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    fake.once("sbatch", f"echo {TIMED_OUT!r} >&2; exit 1")
    began = time.monotonic()
    done = submit(index, client, job, patience=2)
    assert (done.job_id, done.attempt) == ("1", 2)
    assert 2 < time.monotonic() - began < 10


@pytest.mark.parametrize("failing", ["squeue", "sacct"])
def test_a_lookup_that_is_not_answered_is_no_absence(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo, failing: str
) -> None:
    fake.once("sbatch", f"echo {NO_ANSWER!r} >&2; exit 1")
    fake.always(failing, "echo 'Unable to contact' >&2; exit 1")
    with pytest.raises(SlurmUnavailable, match="it is not known whether attempt 1 was submitted"):
        submit(index, client, job, patience=1)
    assert len(fake.calls("sbatch")) == 1
    fake.restore(failing)
    assert submit(index, client, job, patience=1).attempt == 2


def test_an_absence_before_the_deadline_counts_for_nothing(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    fake.once("sbatch", f"echo {TIMED_OUT!r} >&2; exit 1")
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    with pytest.raises(Interrupted, match="stopped while its submission was not settled"):
        submit_once(index, client, job, patience=60, pause=0.1, stop=stop)
    assert len(fake.calls("squeue")) > 3
    assert len(fake.calls("sbatch")) == 1


def test_without_accounting_the_queue_alone_tells_an_absence(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    fake.always("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    fake.once("sbatch", f"echo {TIMED_OUT!r} >&2; exit 1")
    assert submit(index, client, job, patience=1).attempt == 2
    assert len(fake.calls("sacct")) == 1


def test_a_job_that_left_the_queue_is_found_by_its_marker(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    fake.once("sbatch", f"touch started-77_0 started-77_1; echo {TIMED_OUT!r} >&2; exit 1")
    assert submit(index, client, job).job_id == "77"


def test_a_refusal_leaves_no_attempt_open(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    text = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    fake.once("sbatch", f"echo {text!r} >&2; exit 1")
    with pytest.raises(SlurmRefused, match=r"Invalid partition name.*set another 'partition'"):
        submit(index, client, job)
    assert fake.calls("squeue") == []
    # Once the site has mended it, the same job can be submitted, without waiting for a deadline.
    began = time.monotonic()
    assert submit(index, client, job).attempt == 2
    assert time.monotonic() - began < 5


def test_a_site_that_takes_no_job_now_is_asked_again(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    text = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    fake.once("sbatch", f"echo {text!r} >&2; exit 1")
    assert submit(index, client, job).attempt == 2
    assert fake.jobs == ["1"]


def test_a_missing_folder_is_named(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    Path(job.folder, "job.sh").unlink()
    Path(job.folder).rmdir()
    with pytest.raises(SlurmRefused, match=re.escape(f"folder {job.folder} is missing")):
        submit(index, client, job)
    assert fake.calls("sbatch") == []


def test_the_connection_breaks_in_the_middle_of_sbatch(
    index: OutputIndex, fake: FakeSlurm, job: JobInfo
) -> None:
    class Breaking(LocalRunner):
        broken = False

        def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> Completed:
            done = super().run(script, input=input, timeout=timeout)
            if "sbatch --parsable" in script and not self.broken:
                self.broken = True
                raise OutcomeUnknown("the connection broke")
            return done

    done = submit(index, SlurmClient(Breaking(fake.environment)), job)
    assert (done.job_id, done.attempt) == ("1", 1)
    assert fake.jobs == ["1"]


def test_the_account_s_variables_do_not_override_the_script(
    index: OutputIndex, fake: FakeSlurm, job: JobInfo
) -> None:
    fake.once("sbatch", f"env >{fake.state}/environment; create; echo $id")
    given = {"SBATCH_ARRAY_INX": "0-999", "SBATCH_OUTPUT": "/x", "SBATCH_ACCOUNT": "mine"}
    submit(index, SlurmClient(LocalRunner({**fake.environment, **given})), job)
    seen = (fake.state / "environment").read_text()
    assert "SBATCH_ACCOUNT=mine" in seen
    assert "SBATCH_ARRAY_INX" not in seen
    assert "SBATCH_OUTPUT" not in seen
    assert "SLURM_TIME_FORMAT" not in seen


def shown(job: JobInfo, marks: str, id: str = "1_[0-1]") -> str:
    """Return a script for squeue that shows one job under other names."""
    marks = marks.format(name=job.name, folder=job.folder)
    return f"cat <<'END'\n{id}|PENDING|1|N/A|N/A|0|0||{marks}\nEND"


@pytest.mark.parametrize(
    "marks",
    [
        "u1-{name}|None|{folder}|{folder}/job.sh|(null)",
        "batch|None|{folder}|(null)|(null)",
        "batch|None|/|(null)|ensemble/e/{name}",
    ],
)
def test_case_09_a_lost_answer_is_found_whatever_the_site_calls_the_job(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo, marks: str
) -> None:
    fake.once("sbatch", f"create; echo {TIMED_OUT!r} >&2; exit 1")
    fake.always("squeue", shown(job, marks))
    assert submit(index, client, job).job_id == "1"
    assert len(fake.calls("sbatch")) == 1


def test_a_job_of_a_similar_name_is_neither_adopted_nor_cancelled(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    theirs = "{name}-plot|None|{folder}|{folder}/plot.sh|after {name}2"
    fake.once("sbatch", f"echo {TIMED_OUT!r} >&2; exit 1")
    fake.once("sbatch", "echo 9")
    fake.always("squeue", shown(job, theirs, id="5"))
    done = submit(index, client, job, patience=1)
    assert (done.job_id, done.attempt) == ("9", 2)
    assert fake.calls("scancel") == []


def test_a_wrapper_of_sbatch_that_prints_a_cost_does_not_choose_the_job(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    fake.once("sbatch", "echo '*** this job may cost ***'; echo 42; create; echo $id")
    assert submit(index, client, job).job_id == "1"
    assert fake.calls("scancel") == []


# --- killed at each phase, with a real SIGKILL


def start_submitting(
    fake: FakeSlurm, location: str, job: JobInfo, phase: str, reached: Path
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.slurm.submitting"),
            *(location, job.name, "20", phase, str(reached)),
        ],
        env={**os.environ, **fake.environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_when(reached: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not reached.exists():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize(
    ("phase", "sbatch", "attempt"),
    [
        ("before", "create; echo $id", 2),
        ("never", "touch REACHED; sleep 1; create; echo $id", 1),
        ("never", "create; touch REACHED; sleep 1; echo $id", 1),
        ("after", "create; echo $id", 1),
    ],
    ids=["before-sbatch", "before-it-submits", "before-it-answers", "before-it-is-noted"],
)
def test_aiida_3183_killed_at_any_moment_it_is_submitted_once(
    index: OutputIndex,
    client: SlurmClient,
    fake: FakeSlurm,
    job: JobInfo,
    location: str,
    tmp_path: Path,
    phase: str,
    sbatch: str,
    attempt: int,
) -> None:
    reached = tmp_path / "reached"
    fake.always("sbatch", sbatch.replace("REACHED", str(reached)))
    kill_when(reached, start_submitting(fake, location, job, phase, reached))
    done = submit(index, client, job)
    assert (done.job_id, done.attempt) == ("1", attempt)
    assert fake.jobs == ["1"]
    assert len(fake.calls("sbatch")) == 1


def test_aiida_3183_killed_together_with_all_that_it_had_started_there(
    index: OutputIndex,
    client: SlurmClient,
    fake: FakeSlurm,
    job: JobInfo,
    location: str,
    tmp_path: Path,
) -> None:
    """A login node that falls over leaves a folder without an answer, and a job."""
    reached, pid = tmp_path / "reached", tmp_path / "pid"
    fake.once("sbatch", f"create; echo $$ >{pid}; touch {reached}; sleep 60")
    process = start_submitting(fake, location, job, "never", reached)
    kill_when(reached, process)
    # timeout(1) leads a process group of its own; the shell above it leads the session.
    sbatch = int(pid.read_text())
    session = os.getsid(sbatch)
    os.killpg(os.getpgid(sbatch), signal.SIGKILL)
    os.killpg(session, signal.SIGKILL)
    done = submit(index, client, job)
    assert (done.job_id, done.attempt) == ("1", 1)
    assert fake.jobs == ["1"]


def test_a_job_that_turns_up_after_its_deadline_is_cancelled(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    fake.once("sbatch", f"echo {TIMED_OUT!r} >&2; exit 1")
    fake.once("sbatch", "create; create; echo $id")
    done = submit(index, client, job, patience=1)
    assert (done.job_id, done.attempt) == ("2", 2)
    assert fake.jobs == ["2"]


def test_two_that_find_different_jobs_do_not_cancel_each_other_s(
    index: OutputIndex, fake: FakeSlurm, job: JobInfo
) -> None:
    """Another process notes job 2 while this one adopts job 1: job 2 counts, and lives."""

    class Beaten(SlurmClient):
        def find(self, name: str) -> list[str] | None:
            found = super().find(name)
            index.note_submitted(name, "2")
            return found

    fake.once("sbatch", f"create; create; echo {TIMED_OUT!r} >&2; exit 1")
    assert submit(index, Beaten(fake.runner()), job).job_id == "2"
    assert fake.jobs == ["2"]


def test_a_slow_submitter_finds_its_attempt_fenced(
    index: OutputIndex, client: SlurmClient, fake: FakeSlurm, job: JobInfo
) -> None:
    """One that sleeps between intent and sbatch while another submits must not submit, too."""

    class Sleeping(SlurmClient):
        def submit(self, folder: str, attempt: int, *, limit: float = 150.0) -> Answer:
            if attempt == 1:
                assert submit(index, client, job).attempt == 2
            return super().submit(folder, attempt, limit=limit)

    done = submit(index, Sleeping(fake.runner()), job)
    assert (done.job_id, done.attempt) == ("1", 2)
    assert len(fake.calls("sbatch")) == 1


def test_toil_5459_many_at_once_submit_one_job(
    index: OutputIndex, fake: FakeSlurm, job: JobInfo, location: str
) -> None:
    fake.always("sbatch", "sleep 0.3; create; echo $id")

    def work(_number: int) -> JobInfo:
        mine = open_index(location)
        try:
            return submit(mine, SlurmClient(fake.runner()), job)
        finally:
            mine.close()

    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(work, range(6)))
    assert len(found) == 1
    assert fake.jobs == [next(iter(found)).job_id]


# --- with a real Slurm


@pytest.fixture
def cluster(slurm: SlurmCluster) -> SlurmCluster:
    slurm.reset()
    return slurm


def test_nextflow_970_with_a_real_controller_that_freezes_during_sbatch(
    cluster: SlurmCluster, index: OutputIndex
) -> None:
    job = staged(index, cluster.shared / "jobs")
    cluster.pause("slurmctld")
    thaw = threading.Timer(13, cluster.resume, ["slurmctld"])
    thaw.start()
    done = submit(index, SlurmClient(LocalRunner(cluster.environment)), job, patience=60)
    thaw.join()
    answer = Path(job.folder, "attempt-1", "answer").read_text()
    assert "Socket timed out" in answer
    assert done.attempt == 1
    names = cluster.admin("squeue", "-h", "-t", "all", "-o", "%F", "-n", job.name).split()
    assert set(names) == {done.job_id}


def test_a_real_controller_that_is_down_for_a_while_gets_one_job(
    cluster: SlurmCluster, index: OutputIndex
) -> None:
    job = staged(index, cluster.shared / "jobs")
    cluster.stop("slurmctld")
    start = threading.Timer(3, cluster.start, ["slurmctld"])
    start.start()
    done = submit(index, SlurmClient(LocalRunner(cluster.environment)), job, patience=14)
    start.join()
    names = cluster.admin("squeue", "-h", "-t", "all", "-o", "%F", "-n", job.name).split()
    assert set(names) == {done.job_id}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--partition=nowhere", "Invalid partition name.*set another 'partition'"),
        ("--account=nobody", "Invalid account.*set another 'account'"),
        ("--time=soon", "Invalid --time.*set 'time' as minutes"),
        ("--array=0-100000", "Invalid job array.*MaxArraySize: use fewer chunks"),
        ("--constraint=gold", "Invalid feature.*no node of the partition"),
        ("--no-such-option", "unrecognized option.*correct that option"),
    ],
)
def test_a_real_refusal_says_what_the_site_answered_and_what_to_change(
    slurm: SlurmCluster, index: OutputIndex, option: str, said: str
) -> None:
    job = staged(index, slurm.shared / "jobs")
    script = Path(job.folder, "job.sh")
    script.write_text(
        script.read_text().replace("#SBATCH --output", f"#SBATCH {option}\n#SBATCH --output")
    )
    with pytest.raises(SlurmRefused, match=said):
        submit(index, SlurmClient(LocalRunner(slurm.environment)), job)
    assert slurm.admin("squeue", "-h", "-t", "all", "-n", job.name) == ""


def test_a_controller_that_was_not_reached_is_asked_again_at_once(
    fake: FakeSlurm, client: SlurmClient, index: OutputIndex, job: JobInfo
) -> None:
    """Nothing was sent, so that there is nothing to wait for until the deadline."""
    fake.once("sbatch", f"echo {NO_CONTROLLER!r} >&2; exit 1")
    began = time.monotonic()
    done = submit(index, client, job, patience=60)
    assert time.monotonic() - began < 20
    assert (done.attempt, len(fake.jobs)) == (2, 1)
