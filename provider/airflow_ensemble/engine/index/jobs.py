"""Array jobs of a cluster: the intent to submit, what became of it, and how each element ended."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

from airflow_ensemble.engine.errors import Fenced, OutputIndexError, UsageError
from airflow_ensemble.engine.index import rows
from airflow_ensemble.engine.index.database import Session
from airflow_ensemble.engine.index.interface import ElementInfo, JobInfo


def prepare(
    session: Session,
    batch: str,
    chunks: Sequence[tuple[str, int]],
    place: str,
    parent: str,
    prefix: str,
) -> JobInfo:
    """Enter the intent to submit chunks as one array, or find the job that has the first."""
    if not chunks:
        raise UsageError(f"batch {batch}: an array job needs at least one chunk")
    # The batch's row is locked: whoever prepares a job of the same batch waits for this one.
    if session.row("batch_find", batch=batch) is None:
        raise UsageError(f"batch {batch} is not in this output index: register it first")
    known = _job_of(session, *chunks[0])
    if known is not None:
        return find(session, known)
    elements = json.dumps(list(chunks))
    taken = session.row("element_taken", elements=elements)
    if taken is not None:
        raise OutputIndexError(
            f"submission {taken[1]} of chunk {taken[0]} belongs to job {taken[2]}: it cannot be "
            "submitted with another"
        )
    (number,) = session.row("job_next", batch=batch) or (0,)
    name = f"{prefix}-{batch}-{number}-{secrets.token_hex(3)}"
    folder = f"{parent.rstrip('/')}/{name}"
    session.run("job_insert", name=name, batch=batch, number=number, place=place, folder=folder)
    session.run("element_insert", job=name, elements=elements)
    return JobInfo(name, batch, place, folder)


def _job_of(session: Session, chunk: str, submission: int) -> str | None:
    row = session.row("job_of_chunk", chunk=chunk, submission=submission)
    return None if row is None else str(row[0])


def find(session: Session, name: str) -> JobInfo:
    """Return one job."""
    row = session.row("job_one", job=name)
    if row is None:
        raise UsageError(f"job {name!r} is not in this output index")
    return rows.job_info(row)


def begin_attempt(session: Session, name: str, deadline: float, after: int | None) -> JobInfo:
    """Count one attempt more, unless the job has its id."""
    job = find(session, name)
    if job.job_id is not None:
        return job
    if after is not None and job.attempt != after:
        raise Fenced(
            f"job {name}: attempt {job.attempt} has been begun by another process since attempt "
            f"{after}: look again what became of it"
        )
    session.run("job_begin", job=name, deadline=deadline)
    return find(session, name)


def note_submitted(session: Session, name: str, job_id: str) -> JobInfo:
    """Note the cluster's id; the first one stays."""
    session.run("job_submitted", job=name, job_id=job_id)
    return find(session, name)


def elements(
    session: Session, batch: str | None, job: str | None, chunk: str | None
) -> list[ElementInfo]:
    """Return elements of a batch's open chunks, of a job or of a chunk."""
    given = {"batch": batch, "job": job, "chunk": chunk}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        raise ValueError("elements of what? give batch, job or chunk")
    scope = [f"scope_element_{name}" for name in given]
    return [rows.element_info(row) for row in session.rows("element_list", scope, **given)]


def end_element(session: Session, chunk: str, submission: int, end: str, detail: str) -> None:
    """Note how an element ended; the first note stays."""
    noted = session.run(
        "element_end", chunk=chunk, submission=submission, ending=end, detail=rows.clean(detail)
    )
    if not noted and _job_of(session, chunk, submission) is None:
        raise UsageError(
            f"submission {submission} of chunk {chunk} belongs to no job of this output index"
        )
