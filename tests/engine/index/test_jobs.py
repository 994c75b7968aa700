from __future__ import annotations

import re
from typing import Any

import pytest

from airflow_ensemble.engine.errors import Fenced, OutputIndexError, UsageError
from airflow_ensemble.engine.index.interface import (
    ChunkInfo,
    ElementInfo,
    EnsembleKey,
    JobInfo,
    OutputIndex,
)
from airflow_ensemble.engine.simulation import INTERRUPTIONS, Reason, Status
from tests.engine.index.cases import (
    at_once,
    dispatched,
    finished,
    ids_of,
    limited,
    recipe,
    started,
)


def prepared(index: OutputIndex, chunks: list[ChunkInfo], **values: Any) -> JobInfo:
    submissions = [(chunk.id, chunk.submission) for chunk in chunks]
    given = {"place": "hpc", "parent": "/scratch/ensembles/e", **values}
    return index.prepare_job(chunks[0].batch, submissions, **given)


# --- entering a job -----------------------------------------------------------------------------


def test_a_job_is_entered_once(index: OutputIndex, key: EnsembleKey) -> None:
    chunks = dispatched(index, key, *range(6), n_chunks=3)
    batch = chunks[0].batch
    job = prepared(index, chunks, prefix="footprints")
    assert re.fullmatch(rf"footprints-{batch}-0-[0-9a-f]{{6}}", job.name)
    assert job == JobInfo(job.name, batch, "hpc", f"/scratch/ensembles/e/{job.name}")
    assert prepared(index, chunks, prefix="footprints") == job
    # A retry finds it however it would name it, and with whatever else it would put beside.
    assert prepared(index, chunks[:1], place="other", parent="/x/", prefix="y") == job
    assert index.jobs(key) == index.jobs(key, batch) == [job]
    assert index.elements(job=job.name) == [
        ElementInfo(job, i, chunk.id, 1) for i, chunk in enumerate(chunks)
    ]


def test_jobs_of_a_batch_are_numbered_in_order(index: OutputIndex, key: EnsembleKey) -> None:
    chunks = dispatched(index, key, *range(12), n_chunks=12)
    made = [prepared(index, [chunk]) for chunk in chunks]
    assert [int(job.name.split("-")[2]) for job in made] == list(range(12))
    assert index.jobs(key) == made
    other = dispatched(index, key, "another", batch_key="other")
    theirs = prepared(index, other)
    assert theirs.name.split("-")[2] == "0"
    assert index.jobs(key) == [*made, theirs]
    assert index.jobs(key, other[0].batch) == [theirs]
    assert index.jobs(index.define(recipe("f"))) == []


def test_a_folder_has_one_slash(index: OutputIndex, key: EnsembleKey) -> None:
    job = prepared(index, dispatched(index, key, 1), parent="/scratch/")
    assert job.folder == f"/scratch/{job.name}"


def test_what_cannot_be_a_job_is_refused(index: OutputIndex, key: EnsembleKey) -> None:
    chunks = dispatched(index, key, 1, 2, n_chunks=2)
    batch = chunks[0].batch
    with pytest.raises(UsageError, match="at least one chunk"):
        index.prepare_job(batch, [], place="hpc", parent="/x")
    with pytest.raises(UsageError, match="unknown is not in this output index: register"):
        index.prepare_job("unknown", [("c", 1)], place="hpc", parent="/x")
    second = prepared(index, chunks[1:])
    with pytest.raises(OutputIndexError, match=f"submission 1 of chunk .* job {second.name}"):
        prepared(index, chunks)
    # Nothing of the refused one is left.
    assert index.jobs(key) == [second]
    assert index.elements(chunk=chunks[0].id) == []
    with pytest.raises(UsageError, match="job 'j' is not in this output index"):
        index.begin_attempt("j", 1.0)
    with pytest.raises(UsageError, match="job 'j' is not in this output index"):
        index.note_submitted("j", "1")


def test_preparing_at_once_makes_one_job(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    chunks = dispatched(index, key, *range(40), n_chunks=40)
    found = at_once(location, 8, lambda one, _: prepared(one, chunks))
    assert len({job.name for job in found}) == 1
    assert index.jobs(key) == [found[0]]
    assert [e.chunk for e in index.elements(job=found[0].name)] == [c.id for c in chunks]


def test_parts_of_a_batch_prepared_at_once_share_no_chunk(
    location: str, index: OutputIndex
) -> None:
    key = index.define(recipe())
    chunks = dispatched(index, key, *range(24), n_chunks=24)
    found = at_once(
        location, 8, lambda one, n: [prepared(one, [chunks[i]]) for i in range(n % 4, 24, 4)]
    )
    assert found[:4] == found[4:]
    jobs = index.jobs(key)
    assert len(jobs) == 24
    assert [int(job.name.split("-")[2]) for job in jobs] == list(range(24))
    assert sorted(e.chunk for job in jobs for e in index.elements(job=job.name)) == [
        chunk.id for chunk in chunks
    ]


# --- submitting it ------------------------------------------------------------------------------


def test_each_attempt_has_a_deadline(index: OutputIndex, key: EnsembleKey) -> None:
    job = prepared(index, dispatched(index, key, 1))
    assert (job.attempt, job.deadline) == (0, 0.0)
    first = index.begin_attempt(job.name, 300.0)
    assert first.attempt == 1
    assert first.deadline == pytest.approx(index.now() + 300.0, abs=5.0)
    second = index.begin_attempt(job.name, 1000.0, after=1)
    assert second.attempt == 2
    assert second.deadline > first.deadline
    assert index.jobs(key) == [second]


def test_an_attempt_is_not_begun_over_anothers(index: OutputIndex, key: EnsembleKey) -> None:
    job = prepared(index, dispatched(index, key, 1))
    index.begin_attempt(job.name, 300.0, after=0)
    with pytest.raises(Fenced, match="attempt 1 has been begun by another process since attempt 0"):
        index.begin_attempt(job.name, 300.0, after=0)
    assert index.jobs(key)[0].attempt == 1


def test_of_attempts_begun_at_once_one_is(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    job = prepared(index, dispatched(index, key, 1))

    def begin(one: OutputIndex, _: int) -> bool:
        try:
            return one.begin_attempt(job.name, 300.0, after=0).attempt == 1
        except Fenced:
            return False

    assert sum(at_once(location, 8, begin)) == 1
    assert index.jobs(key)[0].attempt == 1


def test_the_first_id_stays(index: OutputIndex, key: EnsembleKey) -> None:
    job = prepared(index, dispatched(index, key, 1))
    index.begin_attempt(job.name, 300.0)
    done = index.note_submitted(job.name, "4711")
    assert done.job_id == "4711"
    assert done.submitted == pytest.approx(index.now(), abs=5.0)
    assert index.note_submitted(job.name, "4712") == done
    # What is submitted is not submitted again.
    assert index.begin_attempt(job.name, 300.0) == done
    assert index.begin_attempt(job.name, 300.0, after=0) == done
    assert index.jobs(key) == [done]
    assert [e.job for e in index.elements(job=job.name)] == [done]


def test_of_ids_noted_at_once_all_see_one(location: str, index: OutputIndex) -> None:
    key = index.define(recipe())
    job = prepared(index, dispatched(index, key, 1))
    found = at_once(location, 8, lambda one, n: one.note_submitted(job.name, str(100 + n)))
    assert len(set(found)) == 1
    assert index.jobs(key) == [found[0]]


# --- how elements end ---------------------------------------------------------------------------


def test_the_first_end_stays(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, 1)[0]
    job = prepared(index, [chunk])
    index.end_element(chunk.id, 1, "node-failure", "node n7 \0went away")
    index.end_element(chunk.id, 1, "vanished")
    (element,) = index.elements(job=job.name)
    assert (element.end, element.detail) == ("node-failure", "node n7 \ufffdwent away")
    with pytest.raises(UsageError, match=f"submission 2 of chunk {chunk.id} belongs to no job"):
        index.end_element(chunk.id, 2, "vanished")


def test_elements_of_a_batch_are_those_that_count(index: OutputIndex, key: EnsembleKey) -> None:
    chunks = dispatched(index, key, *range(4), n_chunks=4)
    batch = chunks[0].batch
    first = prepared(index, chunks)
    index.settle(chunks[3].id)
    again = index.resubmit(chunks[1].id)
    # Resubmitted, but in no job yet: its older submission no longer counts.
    assert [e.chunk for e in index.elements(batch=batch)] == [chunks[0].id, chunks[2].id]
    second = prepared(index, [again])
    assert [
        (e.job.name, e.element, e.chunk, e.submission) for e in index.elements(batch=batch)
    ] == [
        (first.name, 0, chunks[0].id, 1),
        (first.name, 2, chunks[2].id, 1),
        (second.name, 0, chunks[1].id, 2),
    ]
    assert len(index.elements(job=first.name)) == 4
    assert index.elements(batch=batch, job=second.name) == index.elements(job=second.name)
    assert index.elements(batch="unknown") == []
    with pytest.raises(ValueError, match="elements of what"):
        index.elements()


def test_the_elements_of_a_chunk_are_its_history(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, 1)[0]
    names = []
    for end in ("out-of-memory", "out-of-memory", "preempted"):
        names.append(prepared(index, [chunk]).name)
        index.end_element(chunk.id, chunk.submission, end, f"by {end}")
        chunk = index.resubmit(chunk.id)
    assert [(e.job.name, e.submission, e.end) for e in index.elements(chunk=chunk.id)] == [
        (names[0], 1, "out-of-memory"),
        (names[1], 2, "out-of-memory"),
        (names[2], 3, "preempted"),
    ]


def test_a_job_need_not_run_a_chunk(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, 1)[0]
    prepared(index, [chunk])
    pseudo = (f"{chunk.batch}-collect", 1)
    job = index.prepare_job(chunk.batch, [pseudo], place="hpc", parent="/x")
    assert index.prepare_job(chunk.batch, [pseudo], place="hpc", parent="/x") == job
    assert [e.chunk for e in index.elements(job=job.name)] == [pseudo[0]]
    assert [e.chunk for e in index.elements(batch=chunk.batch)] == [chunk.id]


# --- charging what ran --------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Reason.TIME_LIMIT, Reason.OUT_OF_MEMORY, Reason.CANCELLED])
def test_a_charge_keeps_the_rest_with_the_chunk(index: OutputIndex, reason: Reason) -> None:
    key = index.define(limited(3))
    chunk = dispatched(index, key, "ran", "waits", "done")[0]
    ran, _, done = index.assignments(chunk.id)
    index.record(key, [started(ran), finished(done)])
    assert index.charge(chunk.id, reason=reason, detail="slurmstepd said so") == 1
    assert index.charge(chunk.id, reason=reason, detail="again") == 0
    info = {i.simulation.id: i for i in index.simulations(key)}
    is_interruption = reason in INTERRUPTIONS
    assert (info["ran"].tries, info["ran"].interruptions) == (not is_interruption, is_interruption)
    assert (info["ran"].reason, info["ran"].detail) == (reason, "slurmstepd said so")
    is_final = reason is Reason.CANCELLED
    assert info["ran"].status is (Status.FAILED if is_final else Status.DISPATCHED)
    assert (info["waits"].status, info["waits"].tries) == (Status.DISPATCHED, 0)
    assert info["done"].status is Status.COMPLETE
    assert index.chunk(chunk.id).state == "open"
    expected = ["waits"] if is_final else ["ran", "waits"]
    assert ids_of(index.assignments(chunk.id)) == expected
    # What the dead execution may still have written of its end does not count a second time.
    assert index.record(key, [finished(ran, Reason.ERROR)]) == 0
    assert [a.reason for a in index.attempts(key, "ran")] == [reason]
    # What goes on is not charged again.
    again = index.resubmit(chunk.id)
    assert (again.submission, again.unfinished) == (2, len(expected))
    assert len(index.attempts(key, "ran")) == 1


def test_a_completion_found_after_a_charge_counts(index: OutputIndex, key: EnsembleKey) -> None:
    chunk = dispatched(index, key, 1)[0]
    (one,) = index.assignments(chunk.id)
    index.record(key, [started(one)])
    index.charge(chunk.id, reason=Reason.NODE_FAILURE)
    assert index.record(key, [finished(one)]) == 1
    assert index.counts(key).complete == 1


@pytest.mark.parametrize("method", ["resubmit", "settle"])
def test_the_reason_of_an_end_is_kept(index: OutputIndex, method: str) -> None:
    key = index.define(limited(1))
    chunk = dispatched(index, key, "ran")[0]
    (ran,) = index.assignments(chunk.id)
    index.record(key, [started(ran)])
    getattr(index, method)(chunk.id, reason=Reason.PREEMPTED, detail="requeued elsewhere")
    (attempt,) = index.attempts(key, "ran")
    assert (attempt.reason, attempt.detail) == (Reason.PREEMPTED, "requeued elsewhere")
    info = index.simulation(key, "ran")
    assert info is not None
    assert (info.tries, info.interruptions) == (0, 1)
    assert info.status is (Status.DISPATCHED if method == "resubmit" else Status.PENDING)


def test_interruptions_end_too(index: OutputIndex) -> None:
    key = index.define(limited(1, max_interruptions=2))
    chunk = dispatched(index, key, "ran")[0]
    for _ in range(2):
        index.record(key, [started(one) for one in index.assignments(chunk.id)])
        chunk = index.resubmit(chunk.id, reason=Reason.NODE_FAILURE)
    info = index.simulation(key, "ran")
    assert info is not None
    assert (info.status, info.reason) == (Status.FAILED, Reason.NODE_FAILURE)
    assert (chunk.submission, chunk.unfinished, chunk.state) == (2, 0, "settled")


def test_charges_at_once_count_once(location: str, index: OutputIndex) -> None:
    key = index.define(limited(3))
    chunk = dispatched(index, key, *range(30))[0]
    index.record(key, [started(one) for one in index.assignments(chunk.id)])
    charged = at_once(location, 6, lambda one, _: one.charge(chunk.id))
    assert sorted(charged) == [0, 0, 0, 0, 0, 30]
    assert {info.tries for info in index.simulations(key)} == {1}


def test_the_end_of_an_older_submission_changes_nothing(index: OutputIndex) -> None:
    key = index.define(limited(3))
    chunk = dispatched(index, key, 1, 2)[0]
    second = index.resubmit(chunk.id, submission=1)
    assert second.submission == 2
    index.record(key, [started(one) for one in index.assignments(chunk.id)])
    before = list(index.simulations(key))
    assert index.charge(chunk.id, submission=1) == 0
    assert index.settle(chunk.id, submission=1) == 0
    assert index.resubmit(chunk.id, submission=1) == second
    assert list(index.simulations(key)) == before
    assert index.charge(chunk.id, submission=2) == 2
    assert index.settle(chunk.id, submission=2) == 2


def test_a_submission_that_ended_is_resubmitted_once(location: str, index: OutputIndex) -> None:
    key = index.define(limited(3))
    chunk = dispatched(index, key, *range(30))[0]
    index.record(key, [started(one) for one in index.assignments(chunk.id)])

    def resubmit(one: OutputIndex, _: int) -> JobInfo:
        return prepared(one, [one.resubmit(chunk.id, submission=1)])

    assert len(set(at_once(location, 6, resubmit))) == 1
    assert index.chunk(chunk.id).submission == 2
    assert {one.attempt for one in index.assignments(chunk.id)} == {2}
    assert {info.tries for info in index.simulations(key)} == {1}


def test_charging_an_unknown_chunk_is_refused(index: OutputIndex) -> None:
    with pytest.raises(UsageError, match="'nothing' is not in this output index"):
        index.charge("nothing")
