"""Slurm's view as rows and records, from answers that are given."""

from __future__ import annotations

from airflow_ensemble.cli.slurm.jobs import (
    SlurmView,
    as_record,
    render_slurm_view,
    summarise_slurm_view,
    view_jobs,
)
from airflow_ensemble.cli.slurm.running import describe_jobs
from airflow_ensemble.cli.slurm.waiting import describe
from airflow_ensemble.cli.slurm.whereabouts import Whereabouts
from airflow_ensemble.engine.index.interface import ElementInfo, JobInfo
from airflow_ensemble.slurm.decision import Over
from airflow_ensemble.slurm.states import End, Phase, View
from airflow_ensemble.slurm.watch import News

JOB = JobInfo("ens-b-0-abc", "b", "local", "/scratch/b", attempt=1, job_id="12")
LOST = JobInfo("ens-b-1-def", "b", "local", "/scratch/c", attempt=1)
VIEWS = {
    0: View(Phase.RUNNING, "RUNNING", reason="None"),
    1: View(Phase.PENDING, "PENDING", reason="Resources"),
    2: View(Phase.BLOCKED, "PENDING", reason="DependencyNeverSatisfied"),
    3: View(Phase.UNKNOWN),
}


class Answers:
    """Stands for a snapshot of the queue."""

    def view(self, job, element):
        assert job.job_id is not None
        return VIEWS[element]


def element(number, job=JOB, end=None):
    return ElementInfo(job, number, f"b-{number:04d}", 1, end)


def test_elements_are_counted_by_slurms_word_and_reason():
    elements = [*map(element, range(4)), element(4, end="failed"), element(0, job=LOST)]

    first, second = view_jobs(elements, Answers())

    assert first.states == {"RUNNING": 1, "PENDING": 2, "unknown": 1, "failed": 1}
    assert first.reasons == {"Resources": 1, "DependencyNeverSatisfied": 1}
    assert first.elements == 5
    assert (second.job, second.states) == (LOST, {"not submitted": 1})


def test_without_an_answer_every_element_is_unknown():
    (job,) = view_jobs([element(0), element(1)], None)

    assert (job.states, job.reasons) == ({"unknown": 2}, {})


def test_the_view_as_table_record_and_few_words():
    view = SlurmView(view_jobs([element(0), element(1), element(2)], Answers()))

    text = render_slurm_view(view)
    assert text.splitlines()[1].split()[:3] == ["12", "ens-b-0-abc", "3"]
    assert "2 PENDING, 1 RUNNING" in text
    assert "1 DependencyNeverSatisfied, 1 Resources" in text
    record = as_record(view)
    assert record["answered"]
    assert record["jobs"][0]["folder"] == "/scratch/b"
    assert (
        summarise_slurm_view(view)
        == "Slurm: 2 PENDING, 1 RUNNING (1 DependencyNeverSatisfied, 1 Resources)"
    )


def test_a_missing_view_says_why():
    view = SlurmView(view_jobs([element(0)], None), "squeue did not answer here")

    assert "Slurm's own view is missing: squeue did not answer here" in render_slurm_view(view)
    assert as_record(view)["problem"] == "squeue did not answer here"
    assert summarise_slurm_view(view) == ""
    assert as_record(None) is None


def test_what_is_over_is_no_news_of_the_queue():
    over = Over(End.COMPLETED, "done", VIEWS[0])
    news = [
        News(VIEWS[0], 1, ""),
        News(VIEWS[1], 1, ""),
        News(VIEWS[0], 0, "", over),
        News(VIEWS[3], 1, ""),
    ]

    assert describe(news) == "Slurm: 1 PENDING (Resources), 1 RUNNING"
    assert describe([]) == ""


def test_submitted_jobs_are_named():
    text = describe_jobs([("12", 40, "/scratch/b"), ("13", 1, "/scratch/c")])

    assert text.splitlines()[0] == "submitted 41 array elements"
    assert text.splitlines()[2].split() == ["12", "40", "/scratch/b"]


def test_whereabouts_as_slurms_commands_take_them():
    alive = Whereabouts("12", "ens", 3, "local", "/scratch/b/logs/3.log", None, "")
    ended = Whereabouts("12", "ens", 3, "local", "/l", "time-limit", "TIMEOUT on n1")
    waiting = Whereabouts(None, "ens", 3, "local", "/l", None, "")

    assert alive.title == "12_3"
    assert ended.title == "12_3: time-limit, TIMEOUT on n1"
    assert waiting.title == "not submitted yet (ens)"
