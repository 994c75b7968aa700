"""Variables and home folders in the paths of an ensemble file.

``$NAME``, ``${NAME}`` and a leading ``~`` or ``~user`` stand for what the side knows by these names
on which the path is used: this machine, a cluster, a container. Nothing else is expanded, and what
was put in is not read again. ``$$`` is a dollar sign.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Protocol
from urllib.parse import quote

from airflow_ensemble.engine.ensemble.schema import Place, refuse
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.storage import uri_scheme

#: The name that stands for one's own home folder; ``~user`` for another's.
HOME = "~"

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(
    rf"\A(?P<home>~[^/]*)|\$(?:(?P<dollar>\$)|(?P<plain>{_NAME})|\{{(?P<braced>{_NAME})\}}|(?P<stray>))"
)
_WAY_OUT = "write the path out ($$ stands for a dollar sign)"


class Side(Protocol):
    """Where a path is used, and what stands there for variables and home folders."""

    @property
    def name(self) -> str:
        """Return it as the end of a sentence: ``here``, ``on user@host``."""

    def look_up(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return what stands for variables, ``~`` and ``~user``; what is not known is left out."""


class _ThisMachine:
    """The machine and the environment of this process."""

    name = "here"

    def look_up(self, names: Sequence[str]) -> Mapping[str, str]:
        """See :meth:`Side.look_up`."""
        found = {name: _home(name) if name[0] == HOME else os.environ.get(name) for name in names}
        return {name: value for name, value in found.items() if value is not None}


class _Container:
    """A container that does not run yet: nothing is known there."""

    name = "in a container"

    def look_up(self, names: Sequence[str]) -> Mapping[str, str]:
        """See :meth:`Side.look_up`."""
        return {}


HERE: Side = _ThisMachine()
CONTAINER: Side = _Container()


def expand(text: str, place: Place, side: Side = HERE) -> str:
    """Return a path, or a URI, with everything put in that it refers to.

    :param text: as it was written.
    :param place: where it stands.
    :param side: where it is used.
    :raises UsageError: naming a variable or home folder that is not known there or is empty, a
        dollar sign that is neither, or characters that no path can have.
    """
    if "\0" in text or not is_utf8(text):
        refuse(place, "a path in UTF-8, without NUL characters", text)
    names = references(text, place)
    values = side.look_up(names) if names else {}
    for name in names:
        _check_value(name, values.get(name), place, side)
    # The path of a file:// URI is decoded later.
    encode: Callable[[str], str] = quote if uri_scheme(text) == "file" else str
    return substitute(text, {name: encode(values[name]) for name in names})


def references(text: str, place: Place) -> list[str]:
    """Return what a text refers to: names of variables, ``~``, ``~user``.

    :raises UsageError: on a dollar sign before anything else.
    """
    found = list(_REFERENCE.finditer(text))
    for match in found:
        if match["stray"] is not None:
            raise UsageError(
                f"{place}: {text[match.start() :][:20]!r} is not expanded: only $NAME, ${{NAME}} "
                f"and a leading ~ are; {_WAY_OUT}"
            )
    return [name for match in found if (name := _named(match))]


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Return a text with values in the place of what it refers to.

    :param values: of all that :func:`references` returned.
    """
    return _REFERENCE.sub(lambda match: values.get(_named(match), "$"), text)


def _named(match: re.Match[str]) -> str:
    return match["home"] or match["plain"] or match["braced"] or ""


def _home(name: str) -> str | None:
    try:
        if name == HOME:
            return os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
        return pwd.getpwnam(name[1:]).pw_dir
    except KeyError:
        return None


def _check_value(name: str, value: str | None, place: Place, side: Side) -> None:
    if value is None:
        _refuse(name, "is not known" if name[0] == HOME else "is not set", place, side)
    if not value:
        _refuse(name, "is empty", place, side)
    if not is_utf8(value):
        _refuse(name, "is not UTF-8 text", place, side)


def is_utf8(text: str) -> bool:
    """Return whether a text, such as an environment variable's, has no undecodable bytes in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(name: str, why: str, place: Place, side: Side) -> NoReturn:
    if name[0] == HOME:
        raise UsageError(
            f"{place} begins with the home folder {name}, which {why} {side.name}: write the path "
            f"out (./{name} is a folder of that name)"
        )
    raise UsageError(
        f"{place} names the variable {name}, which {why} {side.name}: set it, or {_WAY_OUT}"
    )
