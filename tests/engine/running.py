"""Helpers for tests that run simulations in real processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airflow_ensemble.engine.chunk import Assignment, Chunk, write_chunk
from airflow_ensemble.engine.pool.processes import Processes
from airflow_ensemble.engine.pool.task import Began, Ended
from airflow_ensemble.engine.recipe import Recipe, Settings
from airflow_ensemble.engine.simulation import Resources, Simulation
from tests.engine import misbehaving

#: Seconds after which a test gives up.
PATIENCE = 60.0
ONE_CORE = Resources()


def recipe_of(output: Path | str, **options: Any) -> Recipe:
    """Return a recipe whose model is :mod:`tests.engine.misbehaving`, unless said otherwise."""
    names = {"model", "command", "products", "parameters", "seed", "model_version"}
    settings = {name: options.pop(name) for name in names & options.keys()}
    if "command" not in settings:
        settings.setdefault("model", misbehaving.MODEL)
    options.setdefault("code", (misbehaving.CODE,))
    return Recipe("tests", Settings(**settings), str(output), **options)


def assignments_of(
    whats: Iterable[str | Mapping[str, Any]], resources: Resources = ONE_CORE
) -> list[Assignment]:
    """Return one first attempt for each parameter set; a text is what to ``do``."""
    return [
        Assignment(
            Simulation(f"s{n}", {"do": what} if isinstance(what, str) else what, resources), 1
        )
        for n, what in enumerate(whats)
    ]


def collect(pool: Processes) -> dict[str, Ended]:
    """Wait until nothing is left, and return what came of each simulation."""
    ended: dict[str, Ended] = {}
    began: set[str] = set()
    give_up = time.monotonic() + PATIENCE
    while pool.is_busy:
        assert time.monotonic() < give_up, f"still busy: {pool.running}"
        for event in pool.wait(1.0):
            id = event.assignment.simulation.id
            if isinstance(event, Began):
                began.add(id)
            else:
                assert id not in ended, f"{id} ended twice"
                ended[id] = event
    return ended


def write_chunk_file(folder: Path, recipe: Recipe, assignments: Iterable[Assignment]) -> Path:
    """Write a chunk file as a dispatch does."""
    chunk = Chunk("index-uuid", "batch", "batch-0000", 1, recipe, tuple(assignments))
    return write_chunk(folder, chunk)


def processes_with(text: str) -> list[int]:
    """Return the living processes with a text in their environment or command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            words = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in words and state not in "ZX":
            found.append(int(entry.name))
    return found


def wait_until_gone(text: str, seconds: float = 5.0) -> list[int]:
    """Return the processes with a text that are still there after a while; none is good."""
    give_up = time.monotonic() + seconds
    while (found := processes_with(text)) and time.monotonic() < give_up:
        time.sleep(0.05)
    return found
