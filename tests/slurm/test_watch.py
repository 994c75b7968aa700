"""Many elements in one look: one poll, one reading of results, and no wrong answer in an outage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_ensemble.engine import batch
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index.interface import JobInfo
from airflow_ensemble.engine.ingest import ingest
from airflow_ensemble.slurm import watch as module
from airflow_ensemble.slurm.client import Snapshot
from airflow_ensemble.slurm.decision import Deadlines
from airflow_ensemble.slurm.errors import (
    AccessRefused,
    OutcomeUnknown,
    SlurmUnavailable,
    Unreachable,
)
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.states import End, Phase, View
from airflow_ensemble.slurm.watch import ClusterWatch, News, Watched
from tests.ensembles import write_ensemble

PENDING = View(Phase.PENDING, "PENDING", reason="Priority", submitted=0.0)
RUNNING = View(Phase.RUNNING, "RUNNING", nodes="n1", submitted=0.0, started=0.0)
FAILED = View(Phase.ENDED, "FAILED", End.FAILED, exit_code=1, submitted=0.0)
ABSENT = View(Phase.UNKNOWN)


class SaidSnapshot(Snapshot):
    """A snapshot that says of every element what it was told to."""

    said: Callable[[int], View]

    def view(self, job: JobInfo, element: int) -> View:
        return self.said(element)


class FakeClient:
    """Answers polls as told, counts them, and has this machine's files."""

    def __init__(self) -> None:
        self.runner = LocalRunner()
        self.polls = 0
        self.error: Exception | None = None
        self.views: dict[int, View] = {}
        self.view = RUNNING
        self.queue_answers = self.accounting_answers = True

    def poll(self, jobs: Sequence[JobInfo]) -> Snapshot:
        self.polls += 1
        if self.error is not None:
            raise self.error
        answered = self.queue_answers and self.accounting_answers
        problems = () if answered else ("squeue said no",)
        snapshot = SaidSnapshot(1000.0, {} if self.queue_answers else None, {}, answered, problems)
        object.__setattr__(snapshot, "said", lambda n: self.views.get(n, self.view))
        return snapshot


class Scene:
    """An ensemble whose chunks are elements of one job that exists in name only."""

    def __init__(self, control: Control, folder: Path, n_chunks: int) -> None:
        self.control = control
        self.client = FakeClient()
        self.time = 0.0
        self.ceiling = 0.0
        found = batch.register(control, "one").batch
        chunks = batch.dispatch(control, found, backend="slurm", n_chunks=n_chunks)
        pairs = [(chunk.id, chunk.submission) for chunk in chunks]
        job = control.index.prepare_job(found, pairs, place="p", parent=str(folder / "jobs"))
        control.index.begin_attempt(job.name, 60)
        self.job = control.index.note_submitted(job.name, "77")
        (Path(job.folder) / "logs").mkdir(parents=True)
        self.watched = [
            Watched.of(element, control) for element in control.index.elements(job=job.name)
        ]
        self.watch = self.anew()

    def anew(self, ceiling: float = 0.0) -> ClusterWatch:
        """Return a watch that remembers nothing."""
        self.watch = ClusterWatch(
            self.client,  # type: ignore[arg-type]
            ceiling=ceiling,
            clock=lambda: self.time,
        )
        return self.watch

    def look(self, after: float = 0.0) -> list[News]:
        """Look some seconds later."""
        self.time += after
        news = self.watch.look(self.watched, lambda _: self.control)
        return [news[one.key] for one in self.watched]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    file = write_ensemble(tmp_path, [{"id": f"s{n}"} for n in range(12)])
    with open_control(load(file), create=True) as control:
        yield Scene(control, tmp_path, 4)


def test_desispec_one_poll_and_one_reading_whatever_the_number(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str | None] = []

    def counting(ledger: Control, chunk: str | None = None, batch: str | None = None) -> int:
        read.append(batch)
        return ingest(ledger, chunk, batch)

    monkeypatch.setattr(module, "ingest", counting)
    news = scene.look()
    assert (scene.client.polls, read) == (1, [scene.job.batch])
    assert [one.unfinished for one in news] == [3, 3, 3, 3]
    assert news[2].text == "element 77_2: RUNNING on n1; 3 simulations unfinished"
    assert [one.over for one in news] == [None] * 4


@pytest.mark.parametrize("error", [Unreachable, OutcomeUnknown, SlurmUnavailable])
def test_an_outage_keeps_what_was_seen_last_and_says_so(
    scene: Scene, error: type[Exception]
) -> None:
    scene.look()
    scene.client.error = error("the line is dead")
    for _ in range(3):
        news = scene.look(after=10_000)
        assert [one.view for one in news] == [RUNNING] * 4
        assert news[0].over is None
        assert news[0].text.endswith(
            "as seen last, for the cluster did not answer: the line is dead"
        )
    scene.client.error = None
    scene.client.view = ABSENT
    assert scene.look(after=1)[0].over is None


def test_a_refusal_to_let_us_in_is_raised(scene: Scene) -> None:
    scene.client.error = AccessRefused("wrong key")
    with pytest.raises(AccessRefused):
        scene.look()


def test_finished_is_known_from_the_results_while_the_cluster_is_away(scene: Scene) -> None:
    scene.look()
    scene.client.error = Unreachable("away")
    scene.control.index.settle(scene.watched[0].chunk or "")
    first, second, *_ = scene.look()
    assert first.over is not None
    assert first.over.end is End.COMPLETED
    assert second.over is None


def test_an_end_comes_with_the_tail_of_its_log(scene: Scene) -> None:
    log = Path(scene.watched[1].log)
    log.write_text("x" * 9000 + "\nits last words: 'ü'\n")
    scene.client.views[1] = FAILED
    scene.client.views[2] = replace(FAILED, exit_code=2)
    Path(scene.watched[2].log).write_text("ERROR no model\nerror: no model named m\n")
    assert scene.look()[1].over is None
    first, second, third, _ = scene.look(after=10)
    assert (first.over, first.log_tail) == (None, "")
    assert second.over is not None
    assert (second.over.end, second.over.submission) == (End.FAILED, 1)
    assert second.log_tail.endswith("\nits last words: 'ü'\n")
    assert len(second.log_tail.encode()) == 4000
    assert third.over is not None
    assert (third.over.end, third.over.detail) == (End.UNUSABLE, "no model named m")


def test_a_log_that_is_missing_is_no_trouble(scene: Scene) -> None:
    scene.client.view = FAILED
    scene.look()
    assert [one.log_tail for one in scene.look(after=10)] == [""] * 4


def test_absence_counts_only_while_the_queue_answers(scene: Scene) -> None:
    scene.look()
    scene.client.view = ABSENT
    scene.client.queue_answers = False
    assert scene.look(after=1000)[0].view == RUNNING
    scene.client.queue_answers = True
    assert scene.look(after=1000)[0].over is None
    assert scene.look(after=299)[0].over is None
    news = scene.look(after=1)[0]
    assert news.over is not None
    assert news.over.end is End.VANISHED
    assert news.over.may_live


def test_an_element_that_comes_back_is_no_longer_absent(scene: Scene) -> None:
    scene.client.view = ABSENT
    scene.look()
    scene.client.view = RUNNING
    scene.look(after=200)
    scene.client.view = ABSENT
    assert scene.look(after=200)[0].over is None
    assert scene.look(after=200)[0].over is None
    assert scene.look(after=100)[0].over is not None


def test_a_fresh_lock_beside_the_chunk_is_life(scene: Scene) -> None:
    scene.client.view = ABSENT
    lock = Path(scene.job.folder) / f"{scene.watched[3].chunk}.1.jsonl.lock"
    lock.touch()
    scene.look()
    news = scene.look(after=301)
    assert [one.over is None for one in news] == [False, False, False, True]


def test_a_requeued_element_has_not_ended(scene: Scene) -> None:
    scene.client.view = replace(FAILED, word="NODE_FAIL", end=End.NODE_FAILURE)
    scene.look()
    scene.client.view = replace(PENDING, submitted=50.0, restarts=1)
    news = scene.look(after=59)[0]
    assert (news.view.phase, news.over) == (Phase.PENDING, None)
    scene.client.view = replace(FAILED, submitted=50.0, restarts=1)
    assert scene.look(after=5)[0].over is None
    assert scene.look(after=10)[0].over is not None


def test_results_that_cannot_be_read_decide_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError("stale file handle")

    monkeypatch.setattr(module, "ingest", fail)
    scene.client.view = FAILED
    scene.look()
    news = scene.look(after=500)[0]
    assert news.over is None
    assert "results cannot be read now: stale file handle" in news.text


def test_slurm_is_asked_less_often_while_results_tell(scene: Scene) -> None:
    scene.anew(ceiling=30.0)
    for _ in range(150):
        scene.look(after=2)
    assert scene.client.polls == 14
    scene.client.view = FAILED
    while scene.look(after=2)[0].over is None:
        assert scene.time < 400
    assert scene.time <= 300 + 30 + 12


def test_ends_that_results_have_settled_do_not_quicken_the_questions(scene: Scene) -> None:
    """In a large array some element has always just ended, and is over in the same look."""
    scene.anew(ceiling=30.0)
    for second in range(0, 300, 2):
        ended = second // 100
        scene.control.index.settle(scene.watched[ended].chunk or "")
        scene.client.views = {n: replace(FAILED, exit_code=1) for n in range(ended + 1)}
        news = scene.look(after=2)
        assert [one.over is not None for one in news] == [n <= ended for n in range(4)]
    assert scene.client.polls == 14


def test_a_job_without_a_chunk(scene: Scene) -> None:
    lone = replace(scene.watched[0], chunk=None)
    Path(lone.log).write_text("it was full\n")
    scene.client.view = FAILED
    news = scene.watch.look([lone], lambda _: None)[lone.key]
    assert news.unfinished is None
    assert news.over is not None
    assert (news.over.end, news.log_tail) == (End.FAILED, "it was full\n")


def test_what_is_watched_travels_as_json(scene: Scene) -> None:
    one = replace(scene.watched[0], deadlines=Deadlines(queue=5.0))
    assert Watched.from_dict(json.loads(json.dumps(one.as_dict()))) == one
    assert one.key == f"{scene.job.name}_0"
    assert one.id == "77_0"
