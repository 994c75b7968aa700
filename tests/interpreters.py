"""The Python interpreters of this machine that a worker must run on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

#: Minor versions of Python 3 on which a worker is promised to run.
SUPPORTED = range(9, 14)


@lru_cache(maxsize=1)
def interpreters() -> dict[str, str]:
    """Return one working interpreter for each supported version: ``{"3.9": path, …}``."""
    found = {f"3.{sys.version_info.minor}": sys.executable}
    for minor in SUPPORTED:
        for path in _candidates(minor):
            if f"3.{minor}" not in found and _starts(path):
                found[f"3.{minor}"] = str(path)
    return dict(sorted(found.items(), key=lambda item: int(item[0][2:])))


def _candidates(minor: int) -> Iterator[Path]:
    """Yield where a version may lie: on PATH, or where pyenv and uv keep theirs."""
    name = f"python3.{minor}"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield Path(folder) / name
    kept = (
        Path(os.environ.get("PYENV_ROOT", "~/.pyenv")) / "versions",
        Path("~/.local/share/uv/python"),
    )
    for folder in kept:
        yield from sorted(folder.expanduser().glob(f"*3.{minor}.*/bin/{name}"))


def _starts(path: Path) -> bool:
    # pyenv's shims are there for versions that are not chosen, and do not start.
    if not path.is_file():
        return False
    return subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
