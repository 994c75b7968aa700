"""Loads the SQL files and writes their parameters in a driver's style.

One statement or short script per file. ``:name`` is a parameter. ``@name`` is replaced by the text
of the file of that name: that is how statements common to both databases use what differs between
them. A database's own folder goes before ``common``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

_COMMENT = re.compile(r"--[^\n]*")
_FRAGMENT = re.compile(r"@([a-z_]+)")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")
_STATEMENT_END = re.compile(r";\s*(?:\n|$)")
_MIGRATION = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class Statements:
    """The statements of one database.

    :param dialect: the folder of what only this database understands.
    :param pyformat: write parameters as ``%(name)s``; else they stay ``:name``.
    """

    def __init__(self, dialect: str, *, pyformat: bool) -> None:
        self._dialect = dialect
        self._pyformat = pyformat
        self._known: dict[tuple[str, tuple[str, ...]], str] = {}

    def text(self, name: str, scope: Sequence[str] = ()) -> str:
        """Return a statement ready for the driver.

        :param name: the file's name without its ending.
        :param scope: names of the conditions that ``@scope`` stands for.
        """
        key = (name, tuple(scope))
        if key not in self._known:
            self._known[key] = self._ready(self._read(name), scope)
        return self._known[key]

    def script(self, name: str) -> list[str]:
        """Return the statements of a short script; none when the file holds only comments."""
        return self._split(self._read(name))

    def migrations(self) -> dict[int, list[str]]:
        """Return the schema's scripts by the version that each leads to."""
        found = {}
        for file in (resources.files(__package__) / "sql" / "schema").iterdir():
            match = _MIGRATION.fullmatch(file.name)
            if match:
                found[int(match[1])] = self._split(file.read_text(encoding="utf-8"))
        return found

    def _split(self, script: str) -> list[str]:
        parts = _STATEMENT_END.split(self._ready(script, ()))
        return [part.strip() for part in parts if part.strip()]

    def _ready(self, text: str, scope: Sequence[str]) -> str:
        text = self._expand(_COMMENT.sub("", text), scope)
        if self._pyformat:
            text = _PARAMETER.sub(r"%(\1)s", text.replace("%", "%%"))
        return text.strip()

    def _expand(self, text: str, scope: Sequence[str]) -> str:
        def replacement(match: re.Match[str]) -> str:
            names = scope if match[1] == "scope" else [match[1]]
            return " ".join(
                self._expand(_COMMENT.sub("", self._read(name)), ()).strip() for name in names
            )

        return _FRAGMENT.sub(replacement, text)

    def _read(self, name: str) -> str:
        folder = resources.files(__package__) / "sql"
        for part in (self._dialect, "common"):
            file = folder / part / f"{name}.sql"
            if file.is_file():
                return file.read_text(encoding="utf-8")
        raise LookupError(f"no SQL file {name}.sql for {self._dialect}")
