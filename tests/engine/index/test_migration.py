"""Indexes that older versions made open with this one, and nothing in them is lost."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from airflow_ensemble.engine.errors import IndexMismatch
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import OutputIndex, Scope
from airflow_ensemble.engine.index.statements import Statements
from airflow_ensemble.engine.simulation import Reason, Status
from tests.engine.index.cases import at_once, finished, ids_of, recipe, sims

HERE = Path(__file__).parent


@pytest.fixture
def old_location(new_location: Callable[[], str]) -> str:
    """Return the location of an index as version 1 has left it."""
    location = new_location()
    if "://" not in location:
        with sqlite3.connect(location) as connection:
            connection.executescript((HERE / "version_1.sqlite.sql").read_text(encoding="utf-8"))
        connection.close()
        return location
    import psycopg

    with psycopg.connect(location, autocommit=True) as server:
        server.execute((HERE / "version_1.postgres.sql").read_bytes())
    return location


def test_an_index_of_version_1_goes_on(old_location: str) -> None:
    index = open_index(old_location)
    (key,) = index.ensembles()
    assert index.define(recipe()) == key
    assert [info.simulation for info in index.simulations(key)] == sims(*range(6))
    counts = index.counts(key)
    assert (counts.complete, counts.dispatched, counts.running, counts.pending) == (1, 1, 1, 3)
    assert index.offsets(key) == {"a.jsonl": 77}
    assert [attempt.reason for attempt in index.attempts(key, "2")] == [Reason.ERROR]
    (batch,) = index.open_batches(key)
    chunk = index.chunks(batch.id)[0]
    two, four = index.assignments(chunk.id)
    assert index.record(key, [finished(two), finished(four)]) == 2
    more = index.dispatch(key, batch.id, backend="slurm", n_chunks=1)[-1]
    assert ids_of(index.assignments(more.id)) == ["1", "3", "5"]
    job = index.prepare_job(batch.id, [(more.id, 1)], place="hpc", parent="/x")
    index.begin_attempt(job.name, 300.0)
    index.note_submitted(job.name, "4711")
    index.close()
    # Opened a second time there is nothing to migrate.
    index = open_index(old_location)
    assert [job.job_id for job in index.jobs(key)] == ["4711"]
    complete = Scope(statuses=[Status.COMPLETE])
    assert [info.simulation.id for info in index.simulations(key, complete)] == ["0", "2", "4"]
    index.close()


def test_openers_at_once_migrate_it_once(old_location: str) -> None:
    def look(index: OutputIndex, _: int) -> tuple[int, int]:
        (key,) = index.ensembles()
        return index.counts(key).total, len(index.jobs(key))

    assert at_once(old_location, 8, look) == [(6, 0)] * 8


def test_version_1_refuses_what_a_later_version_has_migrated(
    old_location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index(old_location).close()
    real = Statements.migrations
    monkeypatch.setattr(Statements, "migrations", lambda self: {1: real(self)[1]})
    with pytest.raises(IndexMismatch, match=r"schema version 3.*knows up to 1: upgrade"):
        open_index(old_location)


def test_a_new_index_equals_a_migrated_one(
    old_location: str, new_location: Callable[[], str]
) -> None:
    fresh = new_location()
    open_index(fresh, create=True).close()
    open_index(old_location).close()
    assert columns(old_location) == columns(fresh)


def test_the_script_of_a_released_version_stays_as_it_was() -> None:
    folder = resources.files("airflow_ensemble.engine.index") / "sql" / "schema"
    text = (folder / "0001_initial.sql").read_bytes()
    assert hashlib.sha256(text).hexdigest() == (
        "3695e0dca43962e91b60620fe67bd61208849f0957010ed949552f6947dcec7f"
    )


def columns(location: str) -> list[tuple[str, ...]]:
    """Return table, column and type of everything in an index."""
    if "://" in location:
        text = (
            "SELECT table_name, column_name, data_type, column_default, is_nullable "
            "FROM information_schema.columns WHERE table_schema = 'airflow_ensemble' "
            "UNION ALL SELECT tablename, indexname, indexdef, '', '' FROM pg_indexes "
            "WHERE schemaname = 'airflow_ensemble' ORDER BY 1, 2"
        )
        import psycopg

        with psycopg.connect(location) as server:
            return server.execute(text).fetchall()
    with sqlite3.connect(location) as connection:
        found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")
        return found.fetchall()
