"""The output index's PostgreSQL side: one database, any number of machines.

The tables stand in the schema ``airflow_ensemble``. A connection keeps session state (search path,
the stage tables of a registration): behind PgBouncer, use session pooling.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from airflow_ensemble.engine.bell import wait_readable
from airflow_ensemble.engine.errors import (
    IndexReadOnly,
    IndexUnavailable,
    OutputIndexError,
    UsageError,
)
from airflow_ensemble.engine.index.database import Database, Session
from airflow_ensemble.engine.index.statements import Statements

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds for which a server that cannot be reached is tried again.
PATIENCE = 20.0
#: Seconds for which one that has no connection left is.
CROWDED_PATIENCE = 120.0
_BATCH = 20_000
#: Seconds within which all workers whose connection broke look for a new one.
_RECONNECT = 1.0
#: Seconds for which :meth:`PostgresDatabase.close` waits for another thread's statement.
_CLOSE_LIMIT = 2.0
_DEFAULTS = {
    "connect_timeout": "5",
    "application_name": "airflow-ensemble",
    # A server that vanished without a word is noticed within half a minute.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
# Compiling pays for analytical queries only. Rows are looked up by key, in memory or on solid-state
# disks. No statement here may hold locks while its client is gone.
_SETTINGS = (
    "SET search_path TO airflow_ensemble",
    "SET jit TO off",
    "SET random_page_cost TO 1.1",
    "SET client_min_messages TO warning",
    "SET idle_in_transaction_session_timeout TO '60s'",
)
# What others that end will mend.
_CROWDED = ("too many clients", "remaining connection slots", "too many connections")
_MORE_CONNECTIONS = (
    "every worker holds one connection: start fewer workers, or raise the server's max_connections"
)
# What a role is told that may not make the schema.
_NO_OWNER = ("denied for database",)
# What no later try can mend.
_REFUSALS = ("authentication failed", "does not exist", "no password supplied", "pg_hba.conf")


class PostgresSession(Session):
    """Statements on the one connection of a :class:`PostgresDatabase`."""

    def __init__(self, connection: psycopg.Connection[Any], statements: Statements) -> None:
        self._connection = connection
        self.statements = statements

    def execute(self, text: str, parameters: dict[str, Any]) -> tuple[list[tuple[Any, ...]], int]:
        """Run one statement; return its rows, and how many rows it changed."""
        cursor = self._connection.execute(text.encode(), parameters)
        return cursor.fetchall() if cursor.description else [], cursor.rowcount


class PostgresDatabase(Database):
    """An index in a PostgreSQL database.

    :param dsn: ``postgresql://…``; never shown in messages.
    :param patience: seconds for which an unreachable server is tried again.
    :raises UsageError: when psycopg is not installed, or the address is malformed.
    """

    locks_rows = True

    def __init__(self, dsn: str, *, patience: float = PATIENCE) -> None:
        self._psycopg = _import_psycopg()
        self.statements = Statements("postgres", pyformat=True)
        self._patience = patience
        self._give_up_at = float("inf")
        self._turn = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._channel = ""
        self._has_news = False
        self._parameters = self._parse(dsn)

    @property
    def place(self) -> str:
        """Return host, port and database, without user and password."""
        values = self._parameters
        host = values.get("host") or values.get("hostaddr") or "local socket"
        return (
            f"PostgreSQL at {host}:{values.get('port') or 5432}, database "
            f"{values.get('dbname') or values.get('user') or 'default'!r}"
        )

    def transact(self, work: Callable[[Session], T], *, repeat: bool = True) -> T:
        """Run ``work`` in one transaction; again after a deadlock or a lost connection."""

        def whole(connection: psycopg.Connection[Any]) -> T:
            connection.execute("BEGIN")
            result = work(PostgresSession(connection, self.statements))
            connection.execute("COMMIT")
            return result

        return self._persist(whole, repeat)

    def read(self, work: Callable[[Session], T]) -> T:
        """Run ``work``, which only reads; every statement sees what is committed."""
        return self._persist(
            lambda connection: work(PostgresSession(connection, self.statements)), True
        )

    def load(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
        """Copy rows into a temporary table. No transaction is open while ``rows`` is read."""
        text = f"COPY pg_temp.{table} ({', '.join(columns)}) FROM STDIN".encode()
        source = iter(rows)
        total = 0
        while batch := list(islice(source, _BATCH)):
            self._persist(_copier(text, batch), False)
            total += len(batch)
        return total

    def may_write(self) -> bool:
        """Return whether this role may change the tables, and this server takes changes at all."""
        text = (
            "SELECT has_table_privilege('simulations', 'UPDATE') "
            "AND current_setting('transaction_read_only') = 'off'"
        )
        return bool(self.read(lambda session: session.execute(text, {}))[0][0][0])

    def await_news(self, ensemble: int, seconds: float, wake: int) -> bool:
        """Listen on this connection until somebody announces the ensemble."""
        with self._turn:
            try:
                return self._await_news(f"airflow_ensemble_{ensemble}", seconds, wake)
            except self._psycopg.Error:
                self._drop()
        # Whatever was announced since, nobody has heard it. Not all at the same moment.
        wait_readable([wake], min(seconds, random.uniform(0, _RECONNECT)))
        return True

    def _await_news(self, channel: str, seconds: float, wake: int) -> bool:
        connection = self._connected()
        if self._channel != channel:
            connection.execute(f"UNLISTEN *; LISTEN {channel}".encode())
            self._channel = channel
            return True  # what was announced before, nobody has heard
        deadline = time.monotonic() + seconds
        while not self._hears(connection):
            left = deadline - time.monotonic()
            if left <= 0 or wake in wait_readable([connection.fileno(), wake], left):
                return False
        return True

    def _hears(self, connection: psycopg.Connection[Any]) -> bool:
        """Take what has arrived, and tell whether there was an announcement since the last call."""
        connection.pgconn.consume_input()
        while connection.pgconn.notifies():
            self._has_news = True
        found, self._has_news = self._has_news, False
        return found

    def hurry(self, patience: float) -> None:
        """Give a server that is out of reach up after so many seconds, this try included."""
        self._give_up_at = time.monotonic() + patience

    def close(self) -> None:
        """Close the connection, unless another thread's statement does not come back."""
        if self._turn.acquire(timeout=_CLOSE_LIMIT):
            try:
                self._drop()
            finally:
                self._turn.release()

    def _persist(self, work: Callable[[psycopg.Connection[Any]], T], repeat: bool) -> T:
        began = time.monotonic()
        delay = 0.05
        with self._turn:
            while True:
                try:
                    return work(self._connected())
                except self._psycopg.Error as error:
                    deadline = min(began + self._patience_with(error), self._give_up_at)
                    self._recover(error, repeat, time.monotonic() + delay > deadline)
                except BaseException:
                    self._roll_back()
                    raise
                # Not all clients of a restarted server at the same moment.
                time.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, 2.0)

    def _recover(self, error: psycopg.Error, repeat: bool, is_late: bool) -> None:
        """Return when the work may run again; raise what the caller should see if it may not."""
        errors = self._psycopg.errors
        was_connected = self._connection is not None
        if isinstance(error, (errors.DeadlockDetected, errors.SerializationFailure)):
            self._roll_back()
            if is_late:
                self._give_up(error, IndexUnavailable)
            return
        if isinstance(error, errors.ReadOnlySqlTransaction) or self._is_lost(error):
            self._drop()
            if any(words in str(error) for words in _REFUSALS):
                self._give_up(
                    error, UsageError, "check the connection's user, password and database"
                )
            if is_late or (was_connected and not repeat):
                advice = _MORE_CONNECTIONS if _is_crowded(error) else ""
                self._give_up(error, IndexUnavailable, advice)
            why = "has no connection left" if _is_crowded(error) else "cannot be reached"
            log.warning("the output index (%s) %s, trying again", self.place, why)
            return
        self._roll_back()
        if isinstance(error, errors.InsufficientPrivilege):
            self._give_up(error, IndexReadOnly, _missing_right(error))
        if isinstance(error, (self._psycopg.OperationalError, errors.UndefinedTable)):
            self._give_up(error, IndexUnavailable)
        self._give_up(error, OutputIndexError)

    def _patience_with(self, error: psycopg.Error) -> float:
        return max(self._patience, CROWDED_PATIENCE) if _is_crowded(error) else self._patience

    def _is_lost(self, error: psycopg.Error) -> bool:
        if self._connection is None:
            return isinstance(error, self._psycopg.OperationalError)
        return self._connection.closed

    def _give_up(
        self,
        error: psycopg.Error,
        kind: type[OutputIndexError] | type[UsageError],
        advice: str = "",
    ) -> NoReturn:
        text = " ".join(str(error).split())
        password = self._parameters.get("password")
        if password:
            text = text.replace(str(password), "***")
        advice = advice or "nothing is half done: the same call may simply be repeated"
        # The cause is left out: a driver's message must not carry the address along.
        raise kind(f"the output index ({self.place}) cannot be used: {text}; {advice}") from None

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is not None and self._connection.closed:
            self._drop()
        if self._connection is None:
            connection = self._psycopg.connect(
                "",
                autocommit=True,
                # Plans are to follow the tables' size, and poolers do not know prepared statements.
                prepare_threshold=None,
                **{**_DEFAULTS, **self._parameters},
            )
            try:
                for setting in _SETTINGS:
                    connection.execute(setting.encode())
            except BaseException:
                connection.close()
                raise
            connection.add_notify_handler(self._on_news)
            self._connection = connection
        return self._connection

    def _on_news(self, _: object) -> None:
        """Keep an announcement that came with the answer to a statement."""
        self._has_news = True

    def _roll_back(self) -> None:
        if self._connection is None:
            return
        try:
            if self._connection.info.transaction_status.name != "IDLE":
                self._connection.execute("ROLLBACK")
        except self._psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._channel = ""

    def _parse(self, dsn: str) -> dict[str, Any]:
        try:
            return dict(self._psycopg.conninfo.conninfo_to_dict(dsn))
        except self._psycopg.Error:
            raise UsageError(
                "the output index's address is no PostgreSQL address: expected "
                "postgresql://user@host:port/database"
            ) from None


def _missing_right(error: psycopg.Error) -> str:
    if any(words in str(error) for words in _NO_OWNER):
        return "CREATE SCHEMA airflow_ensemble AUTHORIZATION <user> lets the user work"
    return (
        "this role may only read, or not even that: GRANT USAGE ON SCHEMA airflow_ensemble and "
        "SELECT ON ALL TABLES IN it let it read, owning the schema lets it work"
    )


def _is_crowded(error: psycopg.Error) -> bool:
    return any(words in str(error) for words in _CROWDED)


def _copier(text: bytes, batch: list[Sequence[Any]]) -> Callable[[psycopg.Connection[Any]], None]:
    def copy_batch(connection: psycopg.Connection[Any]) -> None:
        with connection.cursor() as cursor, cursor.copy(text) as copy:
            for row in batch:
                copy.write_row(row)

    return copy_batch


def _import_psycopg() -> Any:
    try:
        import psycopg
        import psycopg.conninfo
        import psycopg.errors
    except ImportError as error:
        raise UsageError(
            "an output index in PostgreSQL needs psycopg: pip install "
            f"'airflow-provider-ensemble[postgres]' ({error})"
        ) from error
    return psycopg
