"""The whole session must leave no process behind, whatever its tests started and killed."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

VARIABLE = "ENSEMBLE_TEST_SESSION"
#: Python's own helpers, which end with this process.
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
PATIENCE = 15.0


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> Iterator[None]:
    """Mark all that this session starts, and look for it in the end."""
    mark = uuid.uuid4().hex
    os.environ[VARIABLE] = mark
    yield
    deadline = time.monotonic() + PATIENCE
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == [], "these processes outlived the tests that started them"


def marked_processes(mark: str) -> list[str]:
    """Return the command lines of the processes whose environment bears the mark."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
        is_ours = f"{VARIABLE}={mark}".encode() in environment
        if is_ours and not any(helper in command for helper in HELPERS):
            found.append(f"{process.name}: {command[:200]}")
    return found
