"""The output index: one interface, SQLite and PostgreSQL behind it."""

from __future__ import annotations

from pathlib import Path

from airflow_ensemble.engine.errors import IndexUnavailable, IndexUnreachable, UsageError
from airflow_ensemble.engine.index.interface import OutputIndex

_POSTGRES = ("postgresql://", "postgres://")


def open_index(
    location: str | Path,
    *,
    create: bool = False,
    uuid: str | None = None,
    read_only: bool = False,
) -> OutputIndex:
    """Open an output index.

    :param location: an absolute path (SQLite) or a ``postgresql://`` DSN.
    :param create: make the index when there is none; only ``init`` and ``register`` may.
    :param uuid: the uuid that batches and chunks carry; None accepts any index.
    :param read_only: nothing will be written, so that the right to read is enough.
    :raises IndexMismatch: when there is no index, or it is another one, unreadable or too new.
    :raises IndexUnreachable: when the database cannot be reached, after bounded retries.
    """
    try:
        return _open(location, create, uuid, read_only)
    except IndexUnavailable as error:
        raise IndexUnreachable(str(error)) from error


def _open(location: str | Path, create: bool, uuid: str | None, read_only: bool) -> OutputIndex:
    from airflow_ensemble.engine.index.output_index import DatabaseIndex

    text = str(location)
    if text.startswith(_POSTGRES):
        from airflow_ensemble.engine.index.postgres import PostgresDatabase

        server = PostgresDatabase(text)
        return DatabaseIndex(server, create=create, uuid=uuid, read_only=read_only)
    path = Path(text)
    if "://" in text or not path.is_absolute():
        raise UsageError(
            f"the output index {text.split('@')[-1]!r} is neither an absolute path nor a "
            "postgresql:// address"
        )
    from airflow_ensemble.engine.index.sqlite import SqliteDatabase, may_write
    from airflow_ensemble.engine.index.sqlite_reading import SqliteReader

    if read_only and not may_write(path):
        return DatabaseIndex(SqliteReader(path), uuid=uuid, read_only=True)
    return DatabaseIndex(SqliteDatabase(path, create=create), create=create, uuid=uuid)
