"""An index that may only be read is read in whole, and nothing is made beside it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_ensemble.engine.errors import (
    IndexMismatch,
    IndexMissing,
    IndexReadOnly,
    IndexUnavailable,
    UsageError,
)
from airflow_ensemble.engine.index import open_index, sqlite_reading
from airflow_ensemble.engine.index.output_index import DatabaseIndex
from airflow_ensemble.engine.index.sqlite_reading import (
    ALONE,
    COPIED,
    TOGETHER,
    SqliteReader,
    State,
    choose_way,
)
from tests.engine.index.cases import recipe, sims

HERE = Path(__file__).parent
THERE, EMPTY = (1, 4096, 5), (2, 0, 5)


@pytest.mark.parametrize(
    ("state", "in_wal_mode", "way"),
    [
        ((THERE, None, None, None), True, ALONE),
        ((THERE, EMPTY, None, None), True, ALONE),
        ((THERE, None, THERE, None), True, ALONE),
        ((THERE, THERE, THERE, None), True, TOGETHER),
        # A writer that has just come, or has just put everything into the file.
        ((THERE, EMPTY, THERE, None), True, TOGETHER),
        ((THERE, THERE, None, None), True, COPIED),
        ((THERE, None, None, None), False, TOGETHER),
        ((THERE, None, None, THERE), False, TOGETHER),
    ],
)
def test_the_way_to_read(state: State, in_wal_mode: bool, way: str) -> None:
    assert choose_way(state, in_wal_mode=in_wal_mode) == way


def test_the_log_of_another_machine_is_not_read_in_place() -> None:
    def way(*state: tuple[int, int, int] | None, in_wal_mode: bool = True) -> str:
        return choose_way(state, in_wal_mode=in_wal_mode, on_other_machine=True)

    assert way(THERE, THERE, THERE, None) == COPIED
    assert way(THERE, None, None, None) == ALONE
    assert way(THERE, None, None, None, in_wal_mode=False) == TOGETHER


@pytest.fixture
def closed(sqlite_path: Path) -> Path:
    """An index with three simulations that its writer has closed."""
    index = open_index(sqlite_path, create=True)
    index.register(index.define(recipe()), sims(1, 2, 3), batch_key="b")
    index.close()
    assert names(sqlite_path) == [sqlite_path.name]
    return sqlite_path


def add(path: Path, *ids: int, kill: bool = False) -> None:
    """Register simulations in a process of its own, which may be killed then."""
    end = "os.kill(os.getpid(), 9)" if kill else "index.close()"
    text = (
        "import os; from airflow_ensemble.engine.index import open_index\n"
        "from tests.engine.index.cases import recipe, sims\n"
        f"index = open_index({str(path)!r})\n"
        f"index.register(index.define(recipe()), sims(*{ids!r}), batch_key='more')\n{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=HERE.parents[2], check=False)
    assert done.returncode == (-9 if kill else 0)


def reader(path: Path) -> DatabaseIndex:
    return DatabaseIndex(SqliteReader(path), read_only=True)


def total(index: DatabaseIndex) -> int:
    (key,) = index.ensembles()
    assert len(list(index.simulations(key))) == index.counts(key).total
    return index.counts(key).total


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir())


def test_a_closed_index_is_read_and_nothing_is_made(closed: Path) -> None:
    index = reader(closed)
    assert total(index) == 3
    assert not index.may_write
    assert names(closed) == [closed.name]
    index.close()


def test_what_a_writer_has_just_written_is_read(closed: Path) -> None:
    writer = open_index(closed)
    key = writer.define(recipe())
    writer.register(key, sims(4), batch_key="c")
    index = reader(closed)
    assert total(index) == 4
    writer.register(key, sims(5), batch_key="d")
    assert total(index) == 5
    index.close()
    writer.close()


@pytest.mark.parametrize("kept", [("-wal", "-shm"), ("-wal",)])
def test_what_a_killed_writer_left_is_read(
    closed: Path, tmp_path_factory: pytest.TempPathFactory, kept: tuple[str, ...]
) -> None:
    add(closed, 4, 5, kill=True)
    copy = tmp_path_factory.mktemp("copy") / closed.name
    for ending in ("", *kept):
        shutil.copyfile(f"{closed}{ending}", f"{copy}{ending}")
    files = names(copy)
    content = [Path(f"{copy}{ending}").read_bytes() for ending in ("", "-wal")]
    index = reader(copy)
    assert total(index) == 5
    index.close()
    assert names(copy) == files
    assert [Path(f"{copy}{ending}").read_bytes() for ending in ("", "-wal")] == content


def test_a_copy_that_cannot_be_made_is_said(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(closed, 4, kill=True)
    Path(f"{closed}-shm").unlink()

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UsageError, match=r"left by a writer.*No space left.*`ensemble status`"):
        reader(closed)


def test_a_transaction_that_was_broken_off_is_rolled_back_in_the_copy(closed: Path) -> None:
    connection = sqlite3.connect(closed, isolation_level=None)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    text = (
        "import os, sqlite3\n"
        f"c = sqlite3.connect({str(closed)!r}, isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('DELETE FROM simulations')\n"
        "c.execute('CREATE TABLE big AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 "
        "FROM n WHERE x < 5000) SELECT randomblob(200) FROM n'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", text], check=False)
    assert names(closed) == [closed.name, f"{closed.name}-journal"]
    index = reader(closed)
    assert total(index) == 3
    index.close()
    assert names(closed) == [closed.name, f"{closed.name}-journal"]


def test_an_index_without_a_log_is_read_beside_its_writer(closed: Path) -> None:
    writer = sqlite3.connect(closed, isolation_level=None)
    writer.execute("PRAGMA journal_mode = DELETE")
    index = reader(closed)
    assert total(index) == 3
    writer.execute("DELETE FROM simulations WHERE id = '3'")
    assert total(index) == 2
    index.close()
    writer.close()


def test_a_writer_that_comes_later_is_noticed(closed: Path) -> None:
    index = reader(closed)
    assert total(index) == 3
    add(closed, 4, 5)
    assert names(closed) == [closed.name]
    assert total(index) == 5
    index.close()


def test_a_writer_that_comes_while_it_is_read_is_noticed(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = reader(closed)
    execute, pending = sqlite_reading.SqliteSession.execute, [(4, 5)]

    def slow(self, text, parameters):  # type: ignore[no-untyped-def]
        found = execute(self, text, parameters)
        if pending and "simulations" in text:
            add(closed, *pending.pop())
        return found

    monkeypatch.setattr(sqlite_reading.SqliteSession, "execute", slow)
    assert total(index) == 5
    assert not pending
    index.close()


def test_a_file_that_never_rests_is_given_up(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = reader(closed)
    changes = iter(range(1000))
    monkeypatch.setattr(sqlite_reading, "_state_of", lambda path: (next(changes), None, None, None))
    with pytest.raises(IndexUnavailable, match="is written all the time"):
        index.ensembles()
    index.close()


def test_nothing_is_ever_written(closed: Path) -> None:
    index = reader(closed)
    (key,) = index.ensembles()
    for write in (
        lambda: index.define(recipe(seed=2)),
        lambda: index.register(key, sims(9), batch_key="x"),
        index.expire,
    ):
        with pytest.raises(
            IndexReadOnly, match=r"index.sqlite may only be read from here"
        ) as error:
            write()
        assert error.value.exit_code == 2
    assert total(index) == 3
    index.close()


def test_an_older_schema_waits_for_somebody_who_may_write(sqlite_path: Path) -> None:
    connection = sqlite3.connect(sqlite_path)
    connection.executescript((HERE / "version_1.sqlite.sql").read_text(encoding="utf-8"))
    connection.close()
    content = sqlite_path.read_bytes()
    with pytest.raises(IndexReadOnly, match=r"has schema version 1, .* brings it forward") as error:
        reader(sqlite_path)
    assert error.value.exit_code == 2
    assert sqlite_path.read_bytes() == content
    open_index(sqlite_path).close()
    reader(sqlite_path).close()


def test_what_is_no_index(sqlite_path: Path) -> None:
    with pytest.raises(IndexMissing, match="there is no output index at"):
        reader(sqlite_path)
    sqlite_path.touch()
    with pytest.raises(IndexMissing, match="there is no output index at"):
        reader(sqlite_path)
    sqlite_path.write_bytes(b"this is a text\n" * 500)
    with pytest.raises(IndexMismatch, match="no intact SQLite file"):
        reader(sqlite_path)


@pytest.fixture
def unreadable(closed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def refuse(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    return closed


def test_what_may_not_even_be_read_is_named(unreadable: Path) -> None:
    with pytest.raises(UsageError, match=r"index.sqlite cannot be read \(Permission denied\)"):
        reader(unreadable)


def test_who_may_write_reads_as_before(closed: Path) -> None:
    index = open_index(closed, read_only=True)
    assert index.may_write
    index.define(recipe())
    index.close()
