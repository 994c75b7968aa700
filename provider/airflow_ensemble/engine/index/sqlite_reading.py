"""An SQLite index for those who may only read it, and on file systems that are read-only.

SQLite reads a file in WAL mode beside its writers only if it can have ``-wal`` and ``-shm`` beside
it. A reader who made these would lock the file's owner out, so that nothing is made here: they are
used where they are; where there are none, the file alone holds everything; and where what a killed
writer left cannot be read in place, a private copy is.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from airflow_ensemble.engine.errors import IndexUnavailable, UsageError
from airflow_ensemble.engine.index.database import Database, Session
from airflow_ensemble.engine.index.sqlite import (
    NETWORK_FILE_SYSTEMS,
    PATIENCE,
    SqliteSession,
    check_exists,
    check_version,
    explained,
    file_system_of,
    refuse_writing,
)
from airflow_ensemble.engine.index.statements import Statements

T = TypeVar("T")

#: How often to begin anew while the files change.
_TRIES = 20
#: The file itself and what SQLite keeps beside it.
_WAL, _JOURNAL = "-wal", "-journal"
_FILES = ("", _WAL, "-shm", _JOURNAL)
#: Where the header says how the file is written, and what it says there for WAL mode.
_WRITE_VERSION, _WAL_MODE = 18, 2

#: What tells that each of these has changed: inode, size and time of change, if it is there.
State = Sequence["tuple[int, int, int] | None"]


class SqliteReader(Database):
    """An index in a file that is only read.

    :param path: where it is.
    :raises IndexMissing: when there is none.
    :raises IndexMismatch: when it is no SQLite file.
    :raises UsageError: when it cannot be read either.
    """

    locks_rows = False

    def __init__(self, path: Path) -> None:
        check_version(sqlite3.sqlite_version_info)
        check_exists(path)
        self.statements = Statements("sqlite", pyformat=False)
        self._path = path
        self._turn = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        #: What the files were when they were opened; None where SQLite keeps watch itself.
        self._seen: State | None = None

    @property
    def place(self) -> str:
        """Return the file's path."""
        return str(self._path)

    def may_write(self) -> bool:
        """Return that nothing can be written."""
        return False

    def read(self, work: Callable[[Session], T]) -> T:
        """Run ``work``; once more when the files were written meanwhile and nobody watched."""
        with self._turn, explained(self._path):
            for _ in range(_TRIES):
                if self._connection is None or self._has_changed():
                    self._open()
                assert self._connection is not None
                try:
                    result = work(SqliteSession(self._connection, self.statements))
                except sqlite3.DatabaseError:
                    if not self._has_changed():
                        raise
                    continue
                if not self._has_changed():
                    return result
        raise IndexUnavailable(
            f"the output index {self._path} is written all the time, and cannot be read in between "
            "without the right to write beside it: try again later"
        )

    def transact(self, work: Callable[[Session], T], *, repeat: bool = True) -> T:
        """Refuse."""
        raise refuse_writing(self._path)

    def load(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
        """Refuse."""
        raise refuse_writing(self._path)

    def hurry(self, patience: float) -> None:
        """Do nothing: a file is never out of reach."""

    def close(self) -> None:
        """Close the file, and remove the copy if there is one."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._copy is not None:
                self._copy.cleanup()
                self._copy = None

    def _has_changed(self) -> bool:
        return self._seen is not None and self._seen != _state_of(self._path)

    def _open(self) -> None:
        """Open the file in the way that needs the least and misses nothing."""
        self.close()
        self._seen = _state_of(self._path)
        way = choose_way(
            self._seen,
            in_wal_mode=_is_in_wal_mode(self._path),
            on_other_machine=file_system_of(self._path) in NETWORK_FILE_SYSTEMS,
        )
        if way == ALONE:
            self._connection = _connect(self._path, "mode=ro&immutable=1")
        elif way == COPIED or not self._join_writers():
            self._connection = _connect(self._make_copy(), "mode=rw")

    def _join_writers(self) -> bool:
        """Open the file as one of many who use it; return whether that can be done."""
        try:
            self._connection = _connect(self._path, "mode=ro")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise
            return False
        self._seen = None
        return True

    def _make_copy(self) -> Path:
        """Copy the file, and what belongs to it, to where it can be put in order."""
        self._copy = tempfile.TemporaryDirectory(prefix="ensemble-index-")
        copy = Path(self._copy.name) / "index.sqlite"
        try:
            for ending in ("", _WAL, _JOURNAL):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(_beside(self._path, ending), _beside(copy, ending))
        except OSError as error:
            raise UsageError(
                f"the output index {self._path} was left by a writer that did not end well, and "
                f"cannot be copied to be read ({error.strerror}: {error.filename}): who may write "
                "it puts it in order by `ensemble status`"
            ) from error
        return copy


# --- ways to read a file --------------------------------------------------------------------------

#: All is in the file, and nobody writes now.
ALONE = "alone"
#: Beside writers, in order with them.
TOGETHER = "together"
#: As a copy, because a writer has left what is not in the file yet.
COPIED = "copied"


def choose_way(state: State, *, in_wal_mode: bool, on_other_machine: bool = False) -> str:
    """Return how files in a state can be read where nothing may be made beside them.

    :param on_other_machine: whether a writer may be on another one, whose memory is not shared.
    """
    _, log, memory, _ = state
    if not in_wal_mode or (log is not None and memory is not None and not on_other_machine):
        return TOGETHER
    return COPIED if log is not None and log[1] else ALONE


def _state_of(path: Path) -> State:
    return tuple(_state_of_one(_beside(path, ending)) for ending in _FILES)


def _state_of_one(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_in_wal_mode(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            header = file.read(_WRITE_VERSION + 1)
    except OSError as error:
        raise UsageError(
            f"the output index {path} cannot be read ({error.strerror}): check the rights of the "
            "file and of its folder"
        ) from error
    return len(header) > _WRITE_VERSION and header[_WRITE_VERSION] == _WAL_MODE


def _connect(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=PATIENCE,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")  # it is opened by this
    except BaseException:
        connection.close()
        raise
    return connection


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
