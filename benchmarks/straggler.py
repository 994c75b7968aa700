"""The straggler test: 48 runs, every eighth takes 2 s, the others 0.25 s; 2 processes.

    .venv/bin/python benchmarks/straggler.py

Against ideal greedy list scheduling of the same order (whoever is free takes the next, at no cost),
and beside joblib. From the first simulation's start to the last one's end, as recorded.
"""

from __future__ import annotations

import heapq
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import PROCESSES, STRAGGLERS
from worker import peer_seconds

from airflow_ensemble.engine import segment, storage
from airflow_ensemble.engine.chunk import Assignment, Chunk, write_chunk
from airflow_ensemble.engine.recipe import Recipe, Settings
from airflow_ensemble.engine.simulation import Simulation


def main() -> int:
    ideal = greedy_makespan(STRAGGLERS, PROCESSES)
    print(f"{'ideal greedy list scheduling':32} {ideal:7.2f} s")
    with tempfile.TemporaryDirectory(prefix="bench-straggler-") as folder:
        ours = push_worker_makespan(Path(folder))
        over = (ours / ideal - 1) * 100
        print(f"{'push worker':32} {ours:7.2f} s   {over:.1f} % above ideal (bar: 5 %)", flush=True)
        theirs = peer_seconds(Path(folder), "joblib-naps", "joblib", len(STRAGGLERS))
        if theirs is None:
            print(f"{'joblib (loky)':32} not installed")
        else:
            over = (theirs / ideal - 1) * 100
            print(f"{'joblib (loky)':32} {theirs:7.2f} s   {over:.1f} % above ideal")
    return 0


def greedy_makespan(durations: list[float], processes: int) -> float:
    """Return when the last one ends if whoever is free takes the next."""
    free = [0.0] * processes
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def push_worker_makespan(folder: Path) -> float:
    (folder / "naps.py").write_text(
        "import time\ndef simulate(run):\n    time.sleep(run.params['seconds'])\n"
    )
    recipe = Recipe(
        "bench", Settings(model="naps:simulate"), str(folder / "output"), code=(str(folder),)
    )
    assignments = tuple(
        Assignment(Simulation(f"s{n}", {"seconds": seconds}), 1)
        for n, seconds in enumerate(STRAGGLERS)
    )
    path = write_chunk(folder, Chunk("uuid", "bench", "bench-0000", 1, recipe, assignments))
    command = [sys.executable, "-m", "airflow_ensemble.engine", "push-worker", str(path)]
    subprocess.run([*command, "--cpus", str(PROCESSES)], check=True, stderr=subprocess.DEVNULL)
    root = storage.open_root(recipe.output)
    ((name, _),) = root.list(storage.segments_prefix(recipe.hash8))
    outcomes = [r.outcome for r in segment.outcomes(segment.parse(root.read(name)).records)]
    return max(o.started + o.duration for o in outcomes) - min(o.started for o in outcomes)


if __name__ == "__main__":
    sys.exit(main())
