from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import pytest

from airflow_ensemble.engine.errors import (
    EnsembleError,
    IndexMismatch,
    IndexReadOnly,
    IndexUnavailable,
    UsageError,
)
from airflow_ensemble.engine.index import open_index, sqlite
from airflow_ensemble.engine.index.output_index import DatabaseIndex
from airflow_ensemble.engine.index.sqlite import SqliteDatabase, check_version, explain
from tests.engine.index.cases import recipe, sims

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb /home/local xfs rw 0 0
10.0.0.1@o2ib:/scratch /scratch lustre rw 0 0
me@host:/ /mnt/with\\040space fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/index.sqlite", "nfs4"),
        ("/home/local/index.sqlite", "xfs"),
        ("/homely/index.sqlite", "ext4"),
        ("/scratch/a/b/c", "lustre"),
        ("/mnt/with space/x", "fuse.sshfs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert sqlite.file_system_of(Path(path), mounts) == kind
    assert sqlite.file_system_of(Path(path), tmp_path / "none") == ""


def journal(path: Path) -> str:
    connection = sqlite3.connect(path)
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    return str(mode)


def test_network_file_systems_get_no_wal_and_a_warning(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_index(sqlite_path, create=True).close()
    assert journal(sqlite_path) == "wal"
    assert not caplog.records
    monkeypatch.setattr(sqlite, "file_system_of", lambda path: "nfs4")
    with caplog.at_level(logging.WARNING):
        index = open_index(sqlite_path)
    assert "network file system (nfs4): use PostgreSQL" in caplog.text
    key = index.define(recipe())
    assert index.register(key, sims(1), batch_key="b").new == 1
    index.close()
    assert journal(sqlite_path) == "delete"


def test_an_old_sqlite_is_refused() -> None:
    check_version((3, 35, 0))
    with pytest.raises(UsageError, match=r"SQLite is 3\.34\.1, the output index needs 3\.35\.0"):
        check_version((3, 34, 1))


@pytest.mark.parametrize("content", [b"this is a text file, not a database\n" * 40, b"x" * 5000])
def test_a_file_that_is_no_database_is_refused(sqlite_path: Path, content: bytes) -> None:
    sqlite_path.write_bytes(content)
    with pytest.raises(IndexMismatch, match=r"no intact SQLite file.*ensemble rebuild"):
        open_index(sqlite_path, create=True)
    assert sqlite_path.read_bytes() == content


def test_a_damaged_database_is_refused(sqlite_path: Path) -> None:
    index = open_index(sqlite_path, create=True)
    key = index.define(recipe())
    index.register(key, sims(*range(2000)), batch_key="b")
    index.close()
    size = sqlite_path.stat().st_size
    with sqlite_path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))

    def read() -> None:
        list(open_index(sqlite_path).simulations(key))

    with pytest.raises(IndexMismatch, match="no intact SQLite file"):
        read()


def test_a_database_of_another_program_is_not_an_index(sqlite_path: Path) -> None:
    connection = sqlite3.connect(sqlite_path)
    connection.execute("CREATE TABLE notes (x)")
    connection.close()
    with pytest.raises(IndexMismatch, match="there is no output index"):
        open_index(sqlite_path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        open_index(tmp_path, create=True)


def test_folders_are_made_only_with_create(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "index.sqlite"
    with pytest.raises(IndexMismatch):
        open_index(path)
    assert not path.parent.exists()
    open_index(path, create=True).close()
    assert path.is_file()


def test_names_with_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "100% odd? name#1" / "index.sqlite"
    open_index(path, create=True).close()
    assert path.is_file()


def test_a_lock_that_is_never_released_is_named(sqlite_path: Path) -> None:
    index = open_index(sqlite_path, create=True)
    key = index.define(recipe())
    index.close()
    holder = sqlite3.connect(sqlite_path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waiting = DatabaseIndex(SqliteDatabase(sqlite_path, create=False, patience=0.2))
    with pytest.raises(IndexUnavailable, match="stayed locked"):
        waiting.define(recipe(time_limit=3))
    assert waiting.counts(key).total == 0
    holder.execute("ROLLBACK")
    holder.close()
    waiting.define(recipe(time_limit=3))
    waiting.close()


@pytest.mark.parametrize(
    ("text", "kind", "advice"),
    [
        ("locking protocol", IndexMismatch, "cannot lock files"),
        ("disk I/O error", IndexMismatch, "cannot lock files"),
        ("attempt to write a readonly database", IndexReadOnly, "check the rights"),
        ("unable to open database file", UsageError, "check the rights"),
        ("database is locked", IndexUnavailable, "another process holds it"),
        ("database or disk is full", IndexUnavailable, "free some space"),
        ("database disk image is malformed", IndexMismatch, "ensemble rebuild"),
    ],
)
def test_failures_say_what_to_do(text: str, kind: type[EnsembleError], advice: str) -> None:
    found = explain(sqlite3.OperationalError(text), Path("/somewhere/index.sqlite"))
    assert type(found) is kind
    assert advice in str(found)
    assert "/somewhere/index.sqlite" in str(found)


def test_an_error_inside_a_transaction_leaves_nothing(sqlite_path: Path) -> None:
    index = open_index(sqlite_path, create=True)
    assert isinstance(index, DatabaseIndex)

    def work(session: object) -> None:
        session.run("meta_write", name="half", value="done")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index._database.transact(work)
    assert "half" not in dict(index._database.read(lambda s: s.rows("meta_read")))
    index.close()
