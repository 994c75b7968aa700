"""The output index's SQLite side: one file, one machine."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from airflow_ensemble.engine.errors import (
    IndexMismatch,
    IndexMissing,
    IndexReadOnly,
    IndexUnavailable,
    UsageError,
)
from airflow_ensemble.engine.index.database import Database, Session
from airflow_ensemble.engine.index.statements import Statements

log = logging.getLogger(__name__)

T = TypeVar("T")

#: UPDATE … FROM came with 3.33, RETURNING and MATERIALIZED with 3.35.
OLDEST = (3, 35, 0)
#: Seconds to wait for another process's transaction.
PATIENCE = 30.0
_BATCH = 5000
_MOUNTS = Path("/proc/mounts")
#: Types of file systems on which other machines may work as well.
NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p"),
        *("fuse.sshfs", "fuse.s3fs"),
    )
)


class SqliteSession(Session):
    """Statements on the one connection of a :class:`SqliteDatabase`."""

    def __init__(self, connection: sqlite3.Connection, statements: Statements) -> None:
        self._connection = connection
        self.statements = statements

    def execute(self, text: str, parameters: dict[str, Any]) -> tuple[list[tuple[Any, ...]], int]:
        """Run one statement; return its rows, and how many rows it changed."""
        # A cursor's own count knows only statements that begin with INSERT, UPDATE or DELETE.
        before = self._connection.total_changes
        rows = self._connection.execute(text, parameters).fetchall()
        return rows, self._connection.total_changes - before


class SqliteDatabase(Database):
    """An index in a file.

    :param path: where it is.
    :param create: make the file when it is absent.
    :raises IndexMismatch: when it is absent and not to be made, or is no SQLite file.
    :raises UsageError: when this machine's SQLite is too old, or the folder cannot be used.
    """

    locks_rows = False

    def __init__(self, path: Path, *, create: bool, patience: float = PATIENCE) -> None:
        check_version(sqlite3.sqlite_version_info)
        self.statements = Statements("sqlite", pyformat=False)
        self._path = path
        self._turn = threading.RLock()
        self._check_file(create)
        with explained(self._path):
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}",
                uri=True,
                timeout=patience,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._configure(patience)
            except BaseException:
                self._connection.close()
                raise

    @property
    def place(self) -> str:
        """Return the file's path."""
        return str(self._path)

    def transact(self, work: Callable[[Session], T], *, repeat: bool = True) -> T:
        """Run ``work`` in one transaction that keeps other writers out."""
        with self._turn, explained(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(SqliteSession(self._connection, self.statements))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return result

    def read(self, work: Callable[[Session], T]) -> T:
        """Run ``work``, which only reads."""
        with self._turn, explained(self._path):
            return work(SqliteSession(self._connection, self.statements))

    def load(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
        """Load rows into a temporary table. No transaction is open while ``rows`` is read."""
        marks = ", ".join("?" * len(columns))
        text = f"INSERT INTO temp.{table} ({', '.join(columns)}) VALUES ({marks})"
        source = iter(rows)
        total = 0
        while batch := list(islice(source, _BATCH)):
            with self._turn, explained(self._path):
                self._connection.execute("BEGIN")
                self._connection.executemany(text, batch)
                self._connection.execute("COMMIT")
            total += len(batch)
        return total

    def hurry(self, patience: float) -> None:
        """Do nothing: a file is never out of reach, and nobody holds its lock for long."""

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._connection.close()

    def _check_file(self, create: bool) -> None:
        if self._path.is_dir():
            raise UsageError(f"the output index {self._path} is a folder: name a file")
        if create:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"the output index {self._path} cannot be made: {error}"
                ) from error
        else:
            check_exists(self._path)

    def _configure(self, patience: float) -> None:
        kind = file_system_of(self._path)
        is_shared = kind in NETWORK_FILE_SYSTEMS
        if is_shared:
            log.warning(
                "the output index %s is on a network file system (%s): use PostgreSQL when more "
                "than one machine works on it",
                self._path,
                kind,
            )
        self._set_journal("DELETE" if is_shared else "WAL", patience)
        # Outcome segments can rebuild what a power failure takes; a crash of the process takes
        # nothing.
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if is_shared else 'NORMAL'}")
        self._connection.execute("PRAGMA cache_size = -65536")

    def _set_journal(self, mode: str, patience: float) -> None:
        # Changing the mode does not wait for other connections by itself.
        (current,) = self._connection.execute("PRAGMA journal_mode").fetchone()
        if current == mode.lower():
            return
        deadline = time.monotonic() + patience
        while True:
            try:
                self._connection.execute(f"PRAGMA journal_mode = {mode}").fetchall()
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise what tells a person what to do about a failure of SQLite.

    :param path: of the index.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise explain(error, path) from error


def check_exists(path: Path) -> None:
    """Refuse an index that is not there.

    :raises IndexMissing: naming who makes one.
    :raises UsageError: when the folder may not be looked into.
    """
    try:
        is_there = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_there = False
    except OSError as error:
        raise UsageError(
            f"the output index {path} cannot be read ({error.strerror}): check the rights of the "
            "file and of its folder"
        ) from error
    if not is_there:
        raise IndexMissing(
            f"there is no output index at {path}: `ensemble register` or `ensemble run` "
            "makes one; a worker that should find one here does not share the index's storage: "
            "use PostgreSQL"
        )


def may_write(path: Path) -> bool:
    """Return whether this process may write an index: the file, and beside it."""
    as_effective = os.access in os.supports_effective_ids
    return os.access(path, os.W_OK, effective_ids=as_effective) and os.access(
        path.parent, os.W_OK | os.X_OK, effective_ids=as_effective
    )


def refuse_writing(path: Path, text: str = "") -> IndexReadOnly:
    """Return the error of those who may only read.

    :param text: what SQLite says.
    """
    said = f" ({text})" if text else ""
    return IndexReadOnly(
        f"the output index {path} may only be read from here{said}: to change anything in it, "
        "check the rights of the file and of its folder"
    )


def check_version(version: tuple[int, int, int]) -> None:
    """Refuse an SQLite that lacks what the statements need.

    :raises UsageError: naming both versions.
    """
    if version < OLDEST:
        have, need = (".".join(map(str, numbers)) for numbers in (version, OLDEST))
        raise UsageError(
            f"this Python's SQLite is {have}, the output index needs {need}: use a newer Python, "
            "or PostgreSQL"
        )


def explain(error: sqlite3.DatabaseError, path: Path) -> Exception:
    """Return the error that tells a person what to do about a failure of SQLite."""
    text = str(error)
    if any(word in text for word in ("not a database", "malformed", "encrypted")):
        return IndexMismatch(
            f"the output index {path} is no intact SQLite file ({text}): put it aside and run "
            "`ensemble rebuild`, which reads the outcomes again"
        )
    if any(word in text for word in ("locking protocol", "disk I/O error")):
        return IndexMismatch(
            f"the output index {path} cannot be used ({text}): its file system cannot lock files; "
            "put the index on a local disk, or use PostgreSQL"
        )
    cannot_open = "unable to open" in text
    if "readonly" in text or (cannot_open and path.exists() and not may_write(path)):
        return refuse_writing(path, text)
    if cannot_open or "authorization" in text:
        return UsageError(
            f"the output index {path} cannot be opened ({text}): check the rights of the file and "
            "of its folder"
        )
    if "locked" in text or "busy" in text:
        return IndexUnavailable(
            f"the output index {path} stayed locked for longer than the time-out ({text}): another "
            "process holds it; if none does, its file system cannot lock: use PostgreSQL"
        )
    if "full" in text:
        return IndexUnavailable(f"the output index {path} cannot grow ({text}): free some space")
    if isinstance(error, sqlite3.OperationalError) and "interrupted" in text:
        return IndexUnavailable(f"the output index {path}: {text}")
    return error


def file_system_of(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system that holds ``path``; ``''`` when it is not known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    kinds = {}
    for line in lines:
        fields = line.split(" ")
        if len(fields) > 2:
            kinds[fields[1].replace("\\040", " ")] = fields[2]
    real = path.resolve()
    for folder in (real, *real.parents):
        if str(folder) in kinds:
            return kinds[str(folder)]
    return ""
