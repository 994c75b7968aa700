"""Where the output index is: what the ensemble file may say, and what it comes to.

The file names a place, never a secret: a password belongs in an environment variable, an Airflow
connection or ``~/.pgpass``. No message of this module repeats a DSN.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from airflow_ensemble.engine.ensemble.paths import expand, is_utf8
from airflow_ensemble.engine.ensemble.schema import Place, read_text, refuse
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.storage import uri_scheme

FORMS = "sqlite, a path, env:NAME, conn:ID, or a postgresql:// DSN without password"

_REFERENCE = re.compile(r"(env|conn):(.*)", re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONNECTION = re.compile(r"[\w.-]+", re.ASCII)
_POSTGRES = re.compile(r"postgres(ql)?(\+\w+)?")
_PASSWORD = re.compile(r"\bpassword\s*=", re.IGNORECASE)


def read_index_spec(value: Any, place: Place) -> str:
    """Return what the file says of the index, if it is of a known form and holds no secret.

    In a path, variables and ``~`` are put in.

    :raises UsageError: when it is not; a DSN is not repeated in the message.
    """
    text = read_text(value, place, expected=FORMS).strip()
    if _PASSWORD.search(text) or (uri_scheme(text) and _has_password(text)):
        raise UsageError(
            f"{place} holds a password: leave it out (~/.pgpass), or name an environment variable "
            "that holds the DSN (env:NAME) or an Airflow connection (conn:ID)"
        )
    if uri_scheme(text):
        if not _POSTGRES.fullmatch(uri_scheme(text)):
            raise UsageError(f"{place} must be {FORMS}; '{uri_scheme(text)}://' is none of them")
        return text
    reference = _REFERENCE.fullmatch(text)
    if reference:
        pattern = _VARIABLE if reference.group(1) == "env" else _CONNECTION
        if not pattern.fullmatch(reference.group(2)):
            refuse(place, FORMS, text)
        return text
    found = expand(text, place)
    if uri_scheme(found) or is_reference(found):
        raise UsageError(
            f"{place}: the variable at the beginning of {text!r} holds no path: a DSN is named as "
            "env:NAME, without a dollar sign"
        )
    return found


def is_reference(spec: str) -> bool:
    """Return whether a spec names a variable or a connection that is looked up when needed."""
    return _REFERENCE.fullmatch(spec) is not None


def locate_index(
    spec: str,
    folder: Path,
    control: Path,
    place: Place,
    resolve_connection: Callable[[str], str] | None = None,
) -> str:
    """Return the location that a spec comes to: an absolute path, or a ``postgresql://`` DSN.

    :param spec: from :func:`read_index_spec`.
    :param folder: of the ensemble file; relative paths start here.
    :param control: of the ensemble; ``sqlite`` lies in it.
    :param resolve_connection: turns an Airflow connection id into a database URI.
    :raises UsageError: when the variable or the connection cannot be resolved.
    """
    if spec == "sqlite":
        return str(control / "index.sqlite")
    reference = _REFERENCE.fullmatch(spec)
    if reference is None:
        return _absolute(spec, folder, place)
    kind, name = reference.groups()
    if kind == "env":
        found = os.environ.get(name, "").strip()
        if not found:
            raise UsageError(
                f"{place} names the environment variable {name}, which is not set: "
                "export it with the DSN or the path of the index"
            )
        if not is_utf8(found):
            raise UsageError(
                f"{place} names the environment variable {name}, which is not UTF-8 text"
            )
        # What a variable holds is no longer expanded, a home folder apart.
        return _absolute(expand(found.replace("$", "$$"), place), folder, place)
    if resolve_connection is None:
        raise UsageError(
            f"{place} names the Airflow connection {name!r}, which only Airflow can look up; on "
            "the command line use env:NAME or a path: --set index=env:NAME"
        )
    return _absolute(resolve_connection(name), folder, place)


def _absolute(text: str, folder: Path, place: Place) -> str:
    scheme = uri_scheme(text)
    if _POSTGRES.fullmatch(scheme):
        return "postgresql" + text[len(scheme) :]
    if scheme:
        raise UsageError(f"{place} leads to a '{scheme}://' database: use PostgreSQL or a path")
    return os.path.abspath(folder / text)  # noqa: PTH100 (keeps symbolic links)


def _has_password(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:
        return True
