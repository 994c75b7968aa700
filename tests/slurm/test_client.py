"""The client against a fake of Slurm's commands, and against a real Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from airflow_ensemble.engine.index.interface import JobInfo
from airflow_ensemble.slurm.client import SlurmClient, Snapshot, element_id, judge
from airflow_ensemble.slurm.commands import poll_text
from airflow_ensemble.slurm.errors import OutcomeUnknown, SlurmRefused, SlurmUnavailable
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.parsing import group_rows, parse_accounting, parse_queue
from airflow_ensemble.slurm.runner import Completed
from airflow_ensemble.slurm.states import End, Phase, View
from tests.services.slurm import SlurmCluster
from tests.slurm.fake_slurm import FakeSlurm
from tests.slurm.recorded import recorded

DISABLED = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


@pytest.fixture
def client(fake: FakeSlurm) -> SlurmClient:
    return SlurmClient(fake.runner())


def a_job(id: str = "11", name: str = "ens-b-0-abcdef") -> JobInfo:
    return JobInfo(name, "b", "local", "/x", 1, 0.0, id, time.time())


def queue(*lines: str) -> str:
    """Return a script for squeue: each line holds id, state and maybe exit status and reason."""
    shown = []
    for line in lines:
        id, word, *rest = line.split(" ")
        status, reason = rest or ("0", "None")
        shown.append(f"{id}|{word}|1700000000|N/A|N/A|{status}|0|n1|ens-b-0-abcdef|{reason}")
    return "cat <<'END'\n" + "\n".join(shown) + "\nEND"


def accounts(*lines: str, submitted: int = 1700000000) -> str:
    """Return a script for sacct: each line holds id, state (underscores for spaces) and code."""
    shown = []
    for line in lines:
        id, word, code = line.split(" ")
        word = word.replace("_by_", " by ")
        shown.append(f"{id}|{word}|{code}|{submitted}|Unknown|Unknown|n1|ens-b-0-abcdef")
    return "cat <<'END'\n" + "\n".join(shown) + "\nEND"


def phases(snapshot: Snapshot, job: JobInfo, count: int) -> list[str]:
    return [snapshot.view(job, element).phase.value for element in range(count)]


# --- one poll


def test_submitit_1759_one_poll_is_one_command_and_one_squeue(fake: FakeSlurm) -> None:
    class Counting(LocalRunner):
        commands = 0

        def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> Completed:
            self.commands += 1
            return super().run(script, input=input, timeout=timeout)

    runner = Counting(fake.environment)
    jobs = [a_job(str(number), f"ens-b-{number}-abcdef") for number in range(1, 301)]
    fake.always("squeue", "seq 1 300 | sed 's/.*/&_[0-9]|PENDING|1|N|N|0|0||ens-b-&-abcdef|x/'")
    snapshot = SlurmClient(runner).poll(jobs)
    assert {snapshot.view(job, 9).phase for job in jobs} == {Phase.PENDING}
    assert runner.commands == 1
    assert len(fake.calls("squeue")) == 1
    assert fake.calls("sacct") == []


def test_a_poll_of_nothing_asks_nobody(client: SlurmClient, fake: FakeSlurm) -> None:
    assert client.poll([]).answered
    assert fake.calls("squeue") == []


def test_submitit_1_5_exact_rows_override_ranges(client: SlurmClient, fake: FakeSlurm) -> None:
    fake.always("squeue", "exit 1")
    fake.always(
        "sacct",
        accounts("11_2 FAILED 1:0", "11_4 COMPLETED 0:0", "11_[2-5] PENDING 0:0"),
    )
    snapshot = client.poll([a_job()])
    assert phases(snapshot, a_job(), 7) == [
        *("unknown", "unknown", "ended", "pending", "ended", "pending", "unknown")
    ]
    assert snapshot.queue is None
    assert not snapshot.answered
    assert "squeue did not answer (exit code 1)" in snapshot.problems[0]


def test_snakemake_2_7_elements_are_told_apart_though_raw_ids_look_alike(
    client: SlurmClient, fake: FakeSlurm
) -> None:
    fake.always("squeue", ":")
    fake.always("sacct", accounts("11_0 COMPLETED 0:0", "11_1 FAILED 3:0", "11_2 COMPLETED 0:0"))
    views = [client.poll([a_job()]).view(a_job(), element) for element in range(3)]
    assert [view.end for view in views] == [End.COMPLETED, End.FAILED, End.COMPLETED]
    assert views[1].exit_code == 3


def test_nextflow_193_what_nobody_shows_is_unknown_and_never_over(
    client: SlurmClient, fake: FakeSlurm
) -> None:
    fake.always("squeue", ":")
    snapshot = client.poll([a_job()])
    assert phases(snapshot, a_job(), 2) == ["unknown", "unknown"]
    assert snapshot.answered


def test_parsl_1588_an_exit_code_is_no_state(client: SlurmClient, fake: FakeSlurm) -> None:
    fake.always("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    fake.always("sacct", "echo 'Connection refused' >&2; exit 1")
    snapshot = client.poll([a_job()])
    assert (snapshot.queue, snapshot.accounting, snapshot.answered) == (None, None, False)
    assert len(snapshot.problems) == 2
    assert phases(snapshot, a_job(), 1) == ["unknown"]


def test_submitit_1660_a_job_id_used_before_is_another_s(
    client: SlurmClient, fake: FakeSlurm
) -> None:
    fake.always("squeue", ":")
    fake.always("sacct", "echo '11_0|COMPLETED|0:0|1|1|1|n1|somebody-else'")
    assert phases(client.poll([a_job()]), a_job(), 1) == ["unknown"]


@pytest.mark.parametrize(
    "marks",
    [
        "u1001-ens-b-0-abcdef|None|/x/ens-b-0-abcdef|(null)|(null)",
        "batch|None|/|/x/ens-b-0-abcdef/job.sh|(null)",
        "batch|None|/|(null)|project 7, ensemble/e/ens-b-0-abcdef",
    ],
)
def test_case_09_the_id_that_sbatch_answered_is_followed_whatever_the_site_calls_it(
    client: SlurmClient, fake: FakeSlurm, marks: str
) -> None:
    fake.always("squeue", f"echo '11_[0-1]|PENDING|1|N/A|N/A|0|0||{marks}'")
    assert phases(client.poll([a_job()]), a_job(), 2) == ["pending", "pending"]
    assert client.find("ens-b-0-abcdef") == ["11"]
    assert fake.calls("sacct")[0].startswith("-X -n -P --name=ens-b-0-abcdef")


def test_a_job_that_bears_no_mark_of_ours_is_neither_adopted_nor_cancelled(
    client: SlurmClient, fake: FakeSlurm, caplog: pytest.LogCaptureFixture
) -> None:
    shown = "ens-b-0-abcdef-plot|None|/x/ens-b-0-abcdef|/x/ens-b-0-abcdef/plot.sh|(null)"
    fake.always("squeue", f"echo '11|RUNNING|1|1|N/A|0|0|n1|{shown}'")
    assert client.find("ens-b-0-abcdef") == []
    theirs = "theirs|None|/home/me|/home/me/job.sh|(null)"
    fake.always("squeue", f"echo '11|RUNNING|1|1|N/A|0|0|n1|{theirs}'")
    view = client.poll([a_job()]).view(a_job(), 0)
    assert view.phase is Phase.UNKNOWN
    assert view.reason == "the job that is shown as 11 bears no mark of ours"
    client.cancel(["11_0", "12_0"])
    assert fake.calls("scancel") == ["12_[0]"]
    assert "not cancelled, for the id is another job's now: 11" in caplog.text


def test_only_lines_of_our_jobs_come_back(fake: FakeSlurm) -> None:
    runner = LocalRunner(fake.environment)
    fake.always("squeue", "seq 1 3000 | sed 's/.*/&_0|RUNNING|1|1|N|0|0|n|x-&|None/'; echo Motd")
    text = poll_text([""], ask_accounting="missing", age=60)
    lines = runner.run(text, input=b"- 7,2999\n").out.splitlines()
    assert [line.partition("|")[0] for line in lines if line and "@@" not in line] == [
        "7_0", "2999_0", "Motd",
    ]  # fmt: skip


def test_filters_of_the_account_do_not_keep_a_job_from_being_cancelled(fake: FakeSlurm) -> None:
    fake.always("scancel", '[ -z "$SCANCEL_STATE$SCANCEL_NAME" ] || exit 1')
    given = {"SCANCEL_STATE": "PENDING", "SCANCEL_NAME": "x"}
    SlurmClient(LocalRunner({**fake.environment, **given})).cancel(["7"])
    assert fake.calls("scancel") == ["7"]


@pytest.mark.parametrize(
    "given", [{"SBATCH_CLUSTERS": "far"}, {"SBATCH_CLUSTERS": "x", "SLURM_CLUSTERS": "far"}]
)
def test_questions_go_to_the_cluster_to_which_the_account_s_jobs_go(
    fake: FakeSlurm, given: dict[str, str]
) -> None:
    fake.always("squeue", f'[ "$SLURM_CLUSTERS" = far ] && {queue("11_0 RUNNING")}')
    runner = LocalRunner({**fake.environment, **given})
    assert phases(SlurmClient(runner).poll([a_job()]), a_job(), 1) == ["running"]


def test_data_designer_913_a_requeued_run_is_alive(client: SlurmClient, fake: FakeSlurm) -> None:
    fake.always("squeue", queue("11_0 PENDING 0 BeginTime"))
    fake.always("sacct", accounts("11_0 NODE_FAIL 0:0", submitted=1699999000))
    job = a_job()
    client._missing.add(job.name)
    view = client.poll([job]).view(job, 0)
    assert (view.phase, view.reason) == (Phase.PENDING, "BeginTime")


def test_an_element_that_is_missing_is_asked_of_accounting_next(
    client: SlurmClient, fake: FakeSlurm
) -> None:
    job = a_job()
    fake.always("squeue", queue("11_1 RUNNING"))
    fake.always("sacct", accounts("11_0 CANCELLED_by_1000 0:15", "11_1 RUNNING 0:0"))
    assert phases(client.poll([job]), job, 2) == ["unknown", "running"]
    assert fake.calls("sacct") == []
    view = client.poll([job]).view(job, 0)
    assert (view.end, view.reason, view.signal) == (End.CANCELLED, "by 1000", 15)


def test_submitit_1720_accounting_that_is_off_is_asked_once(
    client: SlurmClient, fake: FakeSlurm
) -> None:
    fake.always("squeue", ":")
    fake.always("sacct", DISABLED)
    for _ in range(3):
        snapshot = client.poll([a_job()])
        assert snapshot.answered
        assert snapshot.problems == ()
    assert len(fake.calls("sacct")) == 1


def test_snakemake_207_accounting_that_is_down_is_no_state_and_comes_back(
    client: SlurmClient, fake: FakeSlurm
) -> None:
    fake.always("squeue", ":")
    fake.always("sacct", "echo 'sacct: error: Connection refused' >&2; exit 1")
    snapshot = client.poll([a_job()])
    assert not snapshot.answered
    assert "Connection refused" in snapshot.problems[0]
    fake.always("sacct", accounts("11_0 TIMEOUT 0:0"))
    assert client.poll([a_job()]).view(a_job(), 0).end is End.TIME_LIMIT


def test_parsl_3814_ids_go_to_sacct_in_bounded_batches(
    client: SlurmClient, fake: FakeSlurm
) -> None:
    fake.always("squeue", ":")
    jobs = [a_job(str(number), f"ens-b-{number}-abcdef") for number in range(1000, 1450)]
    client.poll(jobs)
    calls = fake.calls("sacct")
    assert [call.count(",1") for call in calls] == [199, 199, 49]
    assert all("-S now-" in call for call in calls)


def test_very_many_jobs_fit_into_a_command(client: SlurmClient, fake: FakeSlurm) -> None:
    fake.always("squeue", "echo '5000_0|RUNNING|1|1|N/A|0|0|n1|' | tr -d '\\n'; echo 'x-5000|None'")
    jobs = [a_job(str(number), f"x-{number}") for number in range(1, 20001)]
    assert client.poll(jobs).view(jobs[4999], 0).phase is Phase.RUNNING
    assert " -n " not in fake.calls("squeue")[0]


def test_nextflow_807_and_7237_a_job_of_another_cluster_is_asked_for_there(
    client: SlurmClient, fake: FakeSlurm
) -> None:
    here, there = a_job("1"), a_job("11;hpc-2")
    fake.always("squeue", f"case \"$*\" in *'-M hpc-2'*) {queue('11_0 RUNNING')}\n;; esac")
    snapshot = client.poll([here, there])
    assert snapshot.view(there, 0).phase is Phase.RUNNING
    assert snapshot.view(here, 0).phase is Phase.UNKNOWN
    assert element_id(there, 4) == "11_4;hpc-2"
    client.cancel([element_id(there, 4), "7"])
    assert sorted(fake.calls("scancel")) == ["-M hpc-2 11_[4]", "7"]


def test_the_account_s_own_filters_do_not_count(fake: FakeSlurm) -> None:
    fake.always("squeue", f'[ -z "$SQUEUE_PARTITION" ] && {queue("11_0 RUNNING")}')
    runner = LocalRunner({**fake.environment, "SQUEUE_PARTITION": "other"})
    assert phases(SlurmClient(runner).poll([a_job()]), a_job(), 1) == ["running"]


def test_a_poll_that_hangs_is_given_up(fake: FakeSlurm) -> None:
    class Impatient(LocalRunner):
        def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> Completed:
            return super().run(script, input=input, timeout=min(timeout, 1.0))

    fake.always("squeue", "exec sleep 3")
    with pytest.raises(OutcomeUnknown):
        SlurmClient(Impatient(fake.environment)).poll([a_job()])


@pytest.mark.parametrize(
    ("queued", "accounted", "expected"),
    [
        ("COMPLETING", "FAILED", "FAILED"),
        ("COMPLETING", "RUNNING", "COMPLETING"),
        ("RUNNING", "FAILED", "RUNNING"),
        ("PENDING", "CANCELLED", "PENDING"),
        ("COMPLETED", "RUNNING", "COMPLETED"),
        (None, "RUNNING", "RUNNING"),
        (None, "COMPLETED", "COMPLETED"),
    ],
)
def test_what_the_two_say_together(queued: str | None, accounted: str, expected: str) -> None:
    def view(word: str) -> View:
        return parse_accounting(f"1|{word}|0:0|5|5|5|n|x")[0].view()

    found = judge(view(queued) if queued else None, view(accounted), queue_answered=True)
    assert found.word == expected
    if queued is None and accounted == "RUNNING":
        assert found.phase is Phase.UNKNOWN


@pytest.mark.parametrize("case", ["requeued", "preempted", "node-failure", "held-after-requeue"])
def test_snakemake_109_recorded_requeues_are_alive(case: str) -> None:
    said = [one for one in recorded(case) if one.code == 0]
    queues = [one.out for one in said if "-O 'JobArrayID" in one.command]
    books = [one.out for one in said if "-o JobID,State,ExitCode,Submit" in one.command]
    snapshot = Snapshot(
        0.0, group_rows(parse_queue(queues[-1])), group_rows(parse_accounting(books[-1])), True
    )
    name = "again" if case == "requeued" else "wrap"
    view = snapshot.view(a_job("1", name), 0)
    assert view.restarts == 1
    assert view.phase is (Phase.BLOCKED if case == "held-after-requeue" else Phase.PENDING)


# --- the other questions


def test_find_needs_answers_from_both(client: SlurmClient, fake: FakeSlurm) -> None:
    assert client.find("ens-b-0-abcdef") == []
    fake.always("sacct", accounts("9_1 COMPLETED 0:0", "10_[0-3] PENDING 0:0"))
    assert client.find("ens-b-0-abcdef") == ["9", "10"]
    fake.always("squeue", "exit 1")
    assert client.find("ens-b-0-abcdef") == ["9", "10"]
    assert client.find("another") is None


def test_clusterjob_22_a_site_that_allows_no_wide_window(
    client: SlurmClient, fake: FakeSlurm
) -> None:
    fake.once("sacct", "echo 'Too wide of a date range in query' >&2; exit 1")
    assert client.find("x") == []
    assert len(fake.calls("sacct")) == 2


def test_cancel_puts_elements_together(client: SlurmClient, fake: FakeSlurm) -> None:
    client.cancel([])
    client.cancel(["1_3", "1_1", "1_2", "2", "2_7", "3_9", "1_5"])
    assert fake.calls("scancel") == ["1_[1-3,5] 2 3_[9]"]
    fake.always(
        "scancel",
        "echo 'scancel: error: Kill job error on job id 1: "
        "Job/step already completing or completed' >&2; exit 1",
    )
    client.cancel(["1_3"])


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Unable to contact slurm controller (connect failure)", SlurmUnavailable),
        ("Kill job error on job id 1: Access/permission denied", SlurmRefused),
    ],
)
def test_a_cancel_that_fails_says_so(
    client: SlurmClient, fake: FakeSlurm, said: str, error: type[Exception]
) -> None:
    fake.always("scancel", f"echo 'scancel: error: {said}' >&2; exit 1")
    with pytest.raises(error, match="scancel on this machine was"):
        client.cancel(["1_3"])


def test_the_end_of_a_log(client: SlurmClient, tmp_path: Path) -> None:
    path = tmp_path / "a log; of 1"
    path.write_text("0123456789")
    assert client.tail(str(path), 4) == "6789"
    assert client.tail(str(tmp_path / "none")) == ""


def test_a_site_is_asked_once(client: SlurmClient, fake: FakeSlurm) -> None:
    site = client.site()
    assert (site.version, site.cluster, site.max_array_size) == ((26, 5, 4), "fake", 1001)
    assert client.site() is site
    assert client.site("/no/python").python == ""
    assert client.site(max_age=60) is site
    assert client.site(max_age=0) is not site


def test_a_place_without_slurm(tmp_path: Path) -> None:
    runner = LocalRunner({"PATH": str(_plain_bin(tmp_path))})
    with pytest.raises(SlurmRefused, match=r"no usable Slurm.*add their folder to PATH"):
        SlurmClient(runner).site()


def test_a_controller_that_is_down(client: SlurmClient, fake: FakeSlurm) -> None:
    fake.always("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmUnavailable, match="Try again when slurmctld is up"):
        client.site()


def _plain_bin(folder: Path) -> Path:
    """Return a folder with the system's plain programs, but none of Slurm's."""
    target = folder / "plain"
    target.mkdir()
    for name in ("cat", "date", "env", "sed", "timeout", "id", "wc"):
        found = next(
            path for path in (Path("/usr/bin") / name, Path("/bin") / name) if path.exists()
        )
        (target / name).symlink_to(found)
    return target


# --- a real Slurm


def submitted(cluster: SlurmCluster, name: str, array: str, command: str, *options: str) -> JobInfo:
    script = " ".join(options)
    text = f"sbatch --parsable -J {name} -o /dev/null --array={array} {script} --wrap '{command}'"
    return a_job(cluster.answer(text), name)


def real(cluster: SlurmCluster) -> SlurmClient:
    """Return a client that is the cluster's account, over SSH where that is ready."""
    from airflow_ensemble.slurm.connecting import make_runner

    return SlurmClient(make_runner(cluster.login()))


def until(
    client: SlurmClient,
    job: JobInfo,
    elements: Sequence[int],
    condition: Callable[[list[View]], bool],
    patience: float = 30,
) -> list[View]:
    deadline = time.monotonic() + patience
    while not condition(views := _views(client, job, elements)):
        assert time.monotonic() < deadline, views
        time.sleep(0.3)
    return views


def _views(client: SlurmClient, job: JobInfo, elements: Sequence[int]) -> list[View]:
    snapshot = client.poll([job])
    return [snapshot.view(job, element) for element in elements]


def all_ended(views: list[View]) -> bool:
    return all(view.phase is Phase.ENDED for view in views)


@pytest.fixture
def cluster(slurm: SlurmCluster) -> SlurmCluster:
    slurm.reset()
    return slurm


def test_galaxy_6832_and_desispec_2744_exit_codes_are_read_from_a_real_slurm(
    cluster: SlurmCluster,
) -> None:
    client = real(cluster)
    job = submitted(cluster, "codes", "0-3", "exit $SLURM_ARRAY_TASK_ID")
    views = until(client, job, range(4), all_ended)
    assert [view.exit_code for view in views] == [0, 1, 2, 3]
    assert [view.end for view in views] == [End.COMPLETED, *[End.FAILED] * 3]
    assert client.find("codes") == [job.job_id]


def test_aiida_4288_what_polls_of_a_real_slurm_cost(cluster: SlurmCluster) -> None:
    client = real(cluster)
    job = submitted(cluster, "many", "0-99", "sleep 60", "--hold")
    connections, requests = cluster.ssh_connections, cluster.user_rpcs()
    for _ in range(10):
        views = _views(client, job, range(100))
        assert {view.phase for view in views} == {Phase.BLOCKED}
    assert cluster.user_rpcs() - requests <= 3 * 10
    assert cluster.ssh_connections - connections == 1
    client.cancel([str(job.job_id)])


def test_elements_cancelled_on_a_real_slurm(cluster: SlurmCluster) -> None:
    client = real(cluster)
    job = submitted(cluster, "cancelled", "0-4%1", "sleep 60")
    until(client, job, [0], lambda views: views[0].phase is Phase.RUNNING)
    client.cancel([element_id(job, 0), element_id(job, 3)])
    (view,) = until(client, job, [0], all_ended)
    assert view.end is End.CANCELLED
    # It waited when it was cancelled: nothing is left of it, and both have answered.
    client.poll([job]).view(job, 3)
    snapshot = client.poll([job])
    assert snapshot.view(job, 3).phase is Phase.UNKNOWN
    assert snapshot.answered
    client.cancel([str(job.job_id)])
    client.cancel([str(job.job_id)])


def test_a_real_requeue_is_a_new_run(cluster: SlurmCluster) -> None:
    client = real(cluster)
    job = submitted(cluster, "again", "0", "sleep 60", "--requeue")
    (before,) = until(client, job, [0], lambda views: views[0].phase is Phase.RUNNING)
    cluster.answer(f"scontrol requeue {job.job_id}_0")
    (after,) = until(client, job, [0], lambda views: views[0].phase is Phase.PENDING)
    assert after.restarts == 1
    assert (after.submitted or 0) > (before.submitted or 0)
    client.cancel([str(job.job_id)])


def test_a_real_site(cluster: SlurmCluster) -> None:
    site = real(cluster).site(cluster.python39)
    assert site.version >= (22, 5)
    assert site.cluster == "ensemble"
    assert site.accounting
    assert site.python.startswith("3.9.")
    assert abs(site.clock_skew) < 5


def test_snakemake_38_a_real_slurm_without_accounting(
    slurm_without_accounting: SlurmCluster,
) -> None:
    slurm_without_accounting.reset()
    client = real(slurm_without_accounting)
    assert not client.site().accounting
    job = submitted(slurm_without_accounting, "plain", "0-1", "exit $SLURM_ARRAY_TASK_ID")
    views = until(client, job, range(2), all_ended)
    assert [view.exit_code for view in views] == [0, 1]
    assert client.poll([job]).answered
    assert client.find("nothing") == []
