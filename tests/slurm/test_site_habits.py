"""Sites that rename jobs and rewrite what else is said of them: on a real Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_ensemble.engine.index.interface import JobInfo
from airflow_ensemble.slurm.batches import resubmit
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.decision import Over
from airflow_ensemble.slurm.settling import cancel_chunk, settle
from airflow_ensemble.slurm.states import End, Phase, View
from tests.services.slurm import SlurmCluster
from tests.slurm.driving import SHORT, Rig, trace, until, write_cluster_ensemble

ROWS = [{"id": f"s{number}"} for number in range(4)]
#: What a site's plug-in does with every job; each leaves something else to know ours by.
HABITS = {
    "a prefix": 'job.name = "u1001-" .. job.name',
    "one name for all, no comment": 'job.name = "job"; job.comment = ""',
    "another folder": 'job.name = "job"; job.work_dir = "/tmp"; job.comment = "p7 " .. job.comment',
    "another partition": 'job.name = "job"; job.partition = "urgent"; job.comment = nil',
}
PLUGIN = """
function slurm_job_submit(job, parts, uid)
  {habit}
  slurm.log_user("42")
  return slurm.SUCCESS
end
function slurm_job_modify(job, rec, parts, uid) return slurm.SUCCESS end
return slurm.SUCCESS
"""


@pytest.fixture
def cluster(slurm: SlurmCluster) -> SlurmCluster:
    slurm.reset()
    return slurm


def rewrite(cluster: SlurmCluster, habit: str) -> None:
    """Let the site do with each job what the text says, until it is reset."""
    (cluster.slurm_conf.parent / "job_submit.lua").write_text(PLUGIN.format(habit=habit))
    cluster.configure(JobSubmitPlugins="lua")


def held_back(cluster: SlurmCluster, seconds: float) -> Callable[[], None]:
    """Drain the nodes, and return what waits for some time and lets them go on."""
    cluster.admin("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")

    def go_on() -> None:
        time.sleep(seconds)
        cluster.admin("scontrol", "update", "nodename=ALL", "state=resume")

    return go_on


@pytest.mark.parametrize("habit", HABITS)
def test_case_09_a_site_that_rewrites_jobs_gets_each_of_them_once(
    cluster: SlurmCluster, tmp_path: Path, habit: str
) -> None:
    rewrite(cluster, HABITS[habit])
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, ROWS)) as rig:
        resume = held_back(cluster, SHORT.lag + 6)
        (job,) = rig.submit()
        shown = cluster.answer("squeue --me -h -o %j")
        assert shown != job.name
        assert rig.cluster.client.find(job.name) == [job.job_id]
        assert rig.follow(resume) == {}
        assert rig.counts.complete == len(ROWS)
        assert set(rig.ends()) == {"completed"}
        assert set(trace(cluster).values()) == {1}
        known = map(int, cluster.answer("squeue --me -h -t all -o %F").split())
        assert {id for id in known if id >= int(job.job_id or 0)} == {int(job.job_id or 0)}


def test_a_job_that_is_renamed_while_it_waits_is_cancelled_by_its_id(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, ROWS)) as rig:
        held_back(cluster, 0)
        (job,) = rig.submit(n_chunks=1)
        cluster.admin("scontrol", "update", f"JobId={job.job_id}", "JobName=renamed")
        theirs = cluster.answer(f"sbatch --parsable --hold -J {job.name}-plot --wrap true")
        (chunk,) = rig.control.index.chunks(rig.batch)
        cancel_chunk(rig.control, rig.cluster, chunk.id)
        assert cluster.answer("squeue --me -h -o %A") == theirs


def test_a_job_of_another_that_has_our_id_is_not_cancelled(cluster: SlurmCluster) -> None:
    theirs = cluster.answer("sbatch --parsable --hold -J theirs --array=0-1 --wrap true")
    job = JobInfo("ens-b-0-abcdef", "b", "local", "/x", 1, 0.0, theirs, time.time())
    client = SlurmClient(make_runner(cluster.login()))
    assert client.poll([job]).view(job, 0).phase is Phase.UNKNOWN
    client.cancel([f"{theirs}_0"])
    assert cluster.answer("squeue --me -h -r -o %T").split() == ["PENDING", "PENDING"]


def test_a_site_that_leaves_no_mark_at_all_is_said_and_not_asked_for_ever(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    with Rig(cluster, write_cluster_ensemble(cluster, tmp_path, ROWS)) as rig:
        held_back(cluster, 0)
        rig.submit(n_chunks=1)
        (chunk,) = rig.control.index.chunks(rig.batch)
        found = []
        for submission in (1, 2, 3):
            over = Over(End.VANISHED, "nobody knows it", View(Phase.UNKNOWN), submission)
            found.append(settle(rig.control, rig.cluster, chunk.id, over))
            if found[-1].next == "retry":
                resubmit(rig.control, rig.cluster, chunk.id)
        assert [one.next for one in found] == ["retry", "retry", "give-up"]
        assert "3 times in a row, so nothing more is submitted" in found[-1].message
        until(lambda: cluster.answer("squeue --me -h -o %A") == "", "all to be cancelled")
