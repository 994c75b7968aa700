"""An index with one ensemble, and pull workers for it as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_ensemble.engine import segment, storage
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, OutputIndex, Scope
from airflow_ensemble.engine.segment import Finished
from airflow_ensemble.engine.simulation import Simulation, Status
from tests.engine.running import PATIENCE, recipe_of


class Bench:
    """An index with one ensemble, and pull workers for it."""

    def __init__(self, folder: Path, location: str) -> None:
        self.folder = folder
        self.location = location
        self.trace = folder / "trace"
        self.index: OutputIndex = open_index(location, create=True)
        self.key: EnsembleKey

    def register(
        self, *whats: str | Mapping[str, Any], output: str | None = None, **options: Any
    ) -> None:
        self.recipe = recipe_of(output or self.folder / "output", **options)
        self.key = self.index.define(self.recipe)
        rows = [{"do": what} if isinstance(what, str) else what for what in whats]
        simulations = [Simulation(f"s{n}", row) for n, row in enumerate(rows)]
        self.index.register(self.key, simulations, batch_key=uuid.uuid4().hex)

    def tracing(self, seconds: float = 0.0) -> dict[str, Any]:
        return {"do": "trace", "trace": str(self.trace), "seconds": seconds}

    @property
    def traced(self) -> Counter[str]:
        if not self.trace.exists():
            return Counter()
        return Counter(line.split()[0] for line in self.trace.read_text().splitlines())

    @property
    def executions(self) -> Counter[tuple[str, int]]:
        """Count the executions of each simulation's each attempt."""
        if not self.trace.exists():
            return Counter()
        words = [line.split() for line in self.trace.read_text().splitlines()]
        return Counter((id, int(attempt)) for id, attempt, _ in words)

    def start(
        self,
        *options: str,
        command: str = "pull-worker",
        before: Sequence[str] = (),
        **environment: str,
    ) -> subprocess.Popen[str]:
        words = [
            *before,
            sys.executable,
            "-m",
            "airflow_ensemble.engine",
            command,
            "--name",
            "tests",
        ]
        return subprocess.Popen(
            [*words, *options],
            env={**os.environ, "ENSEMBLE_INDEX": self.location, **environment},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str) -> tuple[int, str]:
        with self.start(*options) as worker:
            said = worker.communicate(timeout=PATIENCE)[1]
        return worker.returncode, said

    @property
    def counts(self) -> Counts:
        return self.index.counts(self.key)

    def simulations(self, *statuses: Status) -> Sequence[Any]:
        return list(self.index.simulations(self.key, Scope(statuses=statuses or None)))

    @property
    def outcomes(self) -> list[Finished]:
        root = storage.open_root(self.recipe.output)
        names = [name for name, _ in root.list(storage.segments_prefix(self.recipe.hash8))]
        return [
            r for name in names for r in segment.outcomes(segment.parse(root.read(name)).records)
        ]


def wait_for(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)
