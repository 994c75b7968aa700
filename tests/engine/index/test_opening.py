from __future__ import annotations

import builtins
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from airflow_ensemble.engine.errors import IndexMismatch, UsageError
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import OutputIndex
from airflow_ensemble.engine.index.statements import Statements
from tests.engine.index.cases import recipe, sims


def test_only_create_makes_an_index(new_location: Callable[[], str]) -> None:
    location = new_location()
    with pytest.raises(IndexMismatch, match="there is no output index at"):
        open_index(location)
    made = open_index(location, create=True)
    again = open_index(location)
    assert again.uuid == made.uuid
    assert len(made.uuid) == 32
    made.close()
    again.close()


def test_another_index_is_refused(location: str, index: OutputIndex) -> None:
    open_index(location, uuid=index.uuid).close()
    with pytest.raises(IndexMismatch, match="does not share the index; use PostgreSQL") as refusal:
        open_index(location, uuid="f" * 32)
    assert index.uuid in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_first_creations_at_once_make_one_index(new_location: Callable[[], str]) -> None:
    import threading

    location = new_location()
    found: list[str | BaseException] = []

    def create() -> None:
        try:
            opened = open_index(location, create=True)
            found.append(opened.uuid)
            opened.define(recipe())
            opened.close()
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1, found


def test_a_newer_schema_is_refused(
    location: str, index: OutputIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(monkeypatch, 4, ["CREATE TABLE new_in_four (x INTEGER)"])
    open_index(location).close()
    monkeypatch.undo()
    with pytest.raises(IndexMismatch, match=r"schema version 4.*knows up to 3: upgrade"):
        open_index(location)


def test_an_older_schema_is_migrated_once_and_keeps_its_rows(
    location: str, index: OutputIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = index.define(recipe())
    index.register(key, sims(1, 2), batch_key="b")
    add_version(
        monkeypatch,
        4,
        [
            "ALTER TABLE simulations ADD COLUMN cost DOUBLE PRECISION NOT NULL DEFAULT 7",
            "CREATE INDEX simulations_cost ON simulations (cost)",
        ],
    )
    for _ in range(2):
        opened = open_index(location, uuid=index.uuid)
        assert [i.simulation for i in opened.simulations(key)] == sims(1, 2)
        database: Any = opened._database  # type: ignore[attr-defined]
        rows = database.read(
            lambda session: session.execute("SELECT SUM(cost) FROM simulations", {})[0]
        )
        assert rows == [(14.0,)]
        opened.close()


def test_a_migration_that_fails_leaves_the_index_as_it_was(
    location: str, index: OutputIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(monkeypatch, 4, ["CREATE TABLE half (x INTEGER)", "CREATE TABLE half (x INTEGER)"])
    with pytest.raises(Exception, match="half"):
        open_index(location)
    monkeypatch.undo()
    opened = open_index(location)
    opened.define(recipe())
    opened.close()


def test_an_address_that_is_neither_is_refused() -> None:
    for location in ("relative/index.sqlite", "mysql://user:secret@host/db", "s3://bucket/x"):
        with pytest.raises(UsageError, match="neither an absolute path nor a postgresql") as error:
            open_index(location)
        assert "secret" not in str(error.value)


def test_only_the_standard_library_is_imported_for_sqlite() -> None:
    script = (
        "import sys; from airflow_ensemble.engine.index import open_index, postgres;"
        "from airflow_ensemble.engine.index import output_index, sqlite;"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in "
        "('psycopg', 'numpy', 'yaml', 'fsspec', 'airflow', 'rich')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("psycopg"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"airflow-provider-ensemble\[postgres\]"):
        open_index("postgresql://user@host/db")


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_statement_is_whole(dialect: str) -> None:
    statements = Statements(dialect, pyformat=dialect == "postgres")
    from importlib import resources

    folder = resources.files("airflow_ensemble.engine.index") / "sql"
    names = [f.name[:-4] for part in ("common", dialect) for f in (folder / part).iterdir()]
    assert len(names) > 80
    for name in names:
        text = statements.text(name)
        assert "@" not in text, name
        assert "--" not in text, name
    with pytest.raises(LookupError, match="no SQL file nothing"):
        statements.text("nothing")


def test_percent_signs_and_casts_survive_translation() -> None:
    pyformat = Statements("postgres", pyformat=True)
    assert ":n_chunks" in Statements("sqlite", pyformat=False).text("dispatch_move")
    assert "%% %(n_chunks)s" in pyformat.text("dispatch_move")
    assert pyformat._ready("SELECT a::text, :b -- no :c", ()) == "SELECT a::text, %(b)s"


def add_version(monkeypatch: pytest.MonkeyPatch, number: int, script: Sequence[str]) -> None:
    real = Statements.migrations
    monkeypatch.setattr(Statements, "migrations", lambda self: {**real(self), number: list(script)})


def test_sqlite_is_new_enough_here() -> None:
    assert sqlite3.sqlite_version_info >= (3, 35, 0)
