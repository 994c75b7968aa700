"""``ensemble-worker.pyz``: the workers in one file that any Python from 3.9 on runs.

The file holds the engine and the models' adapters as plain source. Equal sources give equal bytes,
so that a copy on a cluster can be recognised by its checksum. Standard library only.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from airflow_ensemble.engine.errors import UsageError

NAME = "ensemble-worker.pyz"

_PACKAGE = Path(__file__).absolute().parents[1]
_PARTS = ("engine", "models")
_SUFFIXES = frozenset({".py", ".sql"})
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = b"""\
import sys

from airflow_ensemble.engine.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_bundle(target: Path) -> Path:
    """Write the worker bundle, replacing an older one in one step.

    :param target: the file to write, or a folder that gets ``ensemble-worker.pyz``.
    :return: the file's path.
    :raises UsageError: when this package itself runs from an archive.
    """
    if not _PACKAGE.is_dir():
        raise UsageError(f"{_PACKAGE} is inside an archive: copy that archive instead")
    path = target / NAME if target.is_dir() else target
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("xb") as stream:
            stream.write(_SHEBANG)
            _write_archive(stream)
        aside.chmod(0o755)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def sources() -> Iterator[tuple[str, Path]]:
    """Yield every file of the bundle, by its name there, in order."""
    yield "airflow_ensemble/__init__.py", _PACKAGE / "__init__.py"
    for part in _PARTS:
        for path in sorted((_PACKAGE / part).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                yield f"airflow_ensemble/{path.relative_to(_PACKAGE).as_posix()}", path


def _write_archive(stream: object) -> None:
    # Stored, not deflated: the bytes then do not depend on this machine's zlib.
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        _add(archive, "__main__.py", _MAIN)
        for name, path in sources():
            _add(archive, name, path.read_bytes())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # Unix, wherever it is written
    archive.writestr(entry, data)
