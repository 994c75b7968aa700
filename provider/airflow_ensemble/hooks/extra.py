"""The extra of a connection, as a person wrote it."""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import Connection

from airflow_ensemble.engine.ensemble.written import read_number


def read_extra(connection: Connection) -> dict[str, Any]:
    """Return a connection's extra, whose numbers print as they were written.

    An account ``1e5`` or a release ``1.10`` may well stand there without quotation marks.
    """
    if not connection.extra_dejson:  # it also sees to it that logs hold no secret of it
        return {}
    read: dict[str, Any] = json.loads(
        connection.extra or "", parse_int=read_number, parse_float=read_number
    )
    return read


def is_text(value: object) -> bool:
    """Return whether a value of an extra is a text, or a number that may be meant as one."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)
