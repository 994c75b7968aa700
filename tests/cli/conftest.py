"""The command line in this process and in others, and pictures of what it could change."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.cli import main
from tests.ensembles import write_ensemble


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capfd) -> Cli:
    """Run a command in this process."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Ended(code, said.out, said.err)

    return run


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a process of its own, with its output in pipes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "airflow_ensemble", *map(str, arguments)]
    return subprocess.Popen(command, **{**pipes, **options})


def write_command_ensemble(
    folder: Path, rows: Sequence[Mapping[str, Any]], command: Sequence[str], **keys: Any
) -> Path:
    """Write an ensemble whose model is a command with one product, a text file."""
    products = {"values": {"glob": "*.txt"}}
    file = write_ensemble(folder, rows, products=products, **keys)
    values = json.loads(file.read_text())
    del values["model"]
    file.write_text(json.dumps({**values, "command": list(command)}))
    return file


def picture(folder: Path) -> dict[str, Any]:
    """Return all that is in a folder: files byte by byte, databases row by row."""
    seen: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "__pycache__" in name or name.endswith(("-wal", "-shm")):
            continue
        if path.suffix == ".sqlite":
            seen[name] = dump(path)
        else:
            seen[name] = path.read_bytes() if path.is_file() else None
    return seen


def dump(database: Path) -> list[str]:
    """Return the content of an SQLite database as SQL."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return list(connection.iterdump())
    except sqlite3.DatabaseError:
        return [database.read_bytes().hex()]
    finally:
        connection.close()


def processes_of(folder: Path) -> list[int]:
    """Return the processes that name a folder on their command line or work inside it."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            inside = str((process / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in words or inside.startswith(str(folder)):
            found.append(int(process.name))
    return found
