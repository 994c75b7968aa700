"""The seam between the output index and a database.

:class:`Database` is all that SQLite and PostgreSQL must provide: short transactions and bulk
loading. What the index means is written once, above it.
"""

from __future__ import annotations

import logging
import uuid as uuids
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from airflow_ensemble.engine.bell import wait_readable
from airflow_ensemble.engine.errors import IndexMismatch, IndexMissing, IndexReadOnly
from airflow_ensemble.engine.index.statements import Statements

log = logging.getLogger(__name__)

T = TypeVar("T")


class Session(ABC):
    """An open transaction: runs statements by name."""

    statements: Statements

    @abstractmethod
    def execute(self, text: str, parameters: dict[str, Any]) -> tuple[list[tuple[Any, ...]], int]:
        """Run one statement; return its rows, and how many rows it changed."""

    def rows(
        self, name: str, scope: Sequence[str] = (), /, **parameters: Any
    ) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return self.execute(self.statements.text(name, scope), parameters)[0]

    def row(self, name: str, /, **parameters: Any) -> tuple[Any, ...] | None:
        """Run a statement and return its first row, or None."""
        rows = self.rows(name, **parameters)
        return rows[0] if rows else None

    def run(self, name: str, scope: Sequence[str] = (), /, **parameters: Any) -> int:
        """Run a statement and return how many rows it changed."""
        return self.execute(self.statements.text(name, scope), parameters)[1]

    def announce(self, ensemble: int) -> None:
        """Have whoever waits for news of an ensemble look, once this transaction is through."""
        self.rows("announce", ensemble=ensemble)

    def script(self, name: str) -> None:
        """Run the statements of a script."""
        for text in self.statements.script(name):
            self.execute(text, {})


class Database(ABC):
    """A connection that can be lost and found again. Safe for use by several threads, in turns."""

    statements: Statements
    #: Whether rows must be locked one by one, because transactions write side by side.
    locks_rows: bool

    @abstractmethod
    def transact(self, work: Callable[[Session], T], *, repeat: bool = True) -> T:
        """Run ``work`` in one writing transaction and return what it returns.

        :param repeat: whether ``work`` may run again after a lost connection. It must then be
            harmless after a commit whose answer was lost.
        :raises IndexUnavailable: when the database cannot be reached, after bounded retries.
        """

    @abstractmethod
    def read(self, work: Callable[[Session], T]) -> T:
        """Run ``work``, which only reads, without keeping writers out."""

    @abstractmethod
    def load(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
        """Load rows into a temporary table of this connection, in batches; return their number."""

    def await_news(self, ensemble: int, seconds: float, wake: int) -> bool:
        """Wait until somebody announces an ensemble, ``wake`` can be read or the time is over.

        :return: whether to look; a database that cannot tell has no news.
        """
        wait_readable([wake], seconds)
        return False

    def may_write(self) -> bool:
        """Return whether transactions can change anything."""
        return True

    @abstractmethod
    def hurry(self, patience: float) -> None:
        """Give a database that is out of reach up after so many seconds, calls under way too."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Return where the index is, for messages, without any secret."""


def prepare(database: Database, *, create: bool, uuid: str | None) -> str:
    """Check that this is the expected index, make or migrate its schema, and return its uuid.

    :raises IndexMismatch: when there is none, it is another one, or a newer version made it.
    """
    known = database.read(_read_meta)
    if not known and not create:
        raise IndexMissing(
            f"there is no output index at {database.place}: `ensemble register` or `ensemble run` "
            "makes one; a worker that should find one here does not share the index's storage: "
            "use PostgreSQL"
        )
    migrations = database.statements.migrations()
    if int(known.get("schema", 0)) < max(migrations):
        known = _brought_forward(database, migrations, known.get("schema", "0"))
    if int(known["schema"]) > max(migrations):
        raise IndexMismatch(
            f"the output index at {database.place} has schema version {known['schema']}; this "
            f"version of airflow-provider-ensemble knows up to {max(migrations)}: upgrade it"
        )
    if uuid is not None and known["uuid"] != uuid:
        raise IndexMismatch(
            f"the output index at {database.place} has uuid {known['uuid']}, expected {uuid}: "
            "this worker does not share the index; use PostgreSQL"
        )
    return str(known["uuid"])


def _brought_forward(
    database: Database, migrations: dict[int, list[str]], version: str
) -> dict[str, str]:
    try:
        return database.transact(lambda session: _migrate(session, migrations, database.place))
    except IndexReadOnly as error:
        if not int(version):
            raise
        raise IndexReadOnly(
            f"the output index at {database.place} has schema version {version}, this version of "
            f"airflow-provider-ensemble reads {max(migrations)}, and it may only be read from here:"
            " `ensemble status` by somebody who may write it brings it forward"
        ) from error


def _read_meta(session: Session) -> dict[str, str]:
    if not session.rows("meta_exists"):
        return {}
    return dict(session.rows("meta_read"))


def _migrate(session: Session, migrations: dict[int, list[str]], place: str) -> dict[str, str]:
    session.script("begin_create")
    known = _read_meta(session)
    version = int(known.get("schema", 0))
    if not known:
        session.run("meta_create")
        session.run("meta_write", name="uuid", value=uuids.uuid4().hex)
    for number in sorted(migrations):
        if number <= version:
            continue
        log.info("output index at %s: schema version %d", place, number)
        for text in migrations[number]:
            session.execute(text, {})
        session.run("meta_write", name="schema", value=str(number))
    session.script("statistics")
    return _read_meta(session)
