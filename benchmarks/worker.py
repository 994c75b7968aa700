"""Throughput of a push worker on no-op Python simulations, 2 processes, outcomes recorded.

    .venv/bin/python benchmarks/worker.py [--small]

Ours is the whole life of ``push-worker`` on a chunk file: start, a working directory, a started and
an outcome record for each simulation, end. Peers write one line per result and their start is not
counted. They run in this interpreter, or in the one that ENSEMBLE_BENCH_PYTHON names.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from airflow_ensemble.engine import segment, storage
from airflow_ensemble.engine.chunk import Assignment, Chunk, write_chunk
from airflow_ensemble.engine.recipe import Recipe, Settings
from airflow_ensemble.engine.simulation import Simulation

FOLDER = Path(__file__).resolve().parent
PROCESSES = 2
BAR = 3000
PEERS = {
    "joblib (loky)": ("joblib", "joblib", 1.0),
    "Parsl HighThroughputExecutor": ("parsl", "parsl", 0.25),
    "gmat-sweep local pool": ("gmat_sweep", "gmat_sweep", 0.25),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tenth of it")
    n = 4_000 if parser.parse_args().small else 40_000
    with tempfile.TemporaryDirectory(prefix="bench-worker-") as folder:
        ours = n / push_worker_seconds(Path(folder), n)
        print(f"{'push worker':32} {ours:9,.0f} /s   (bar: {BAR:,})", flush=True)
        for name, (peer, module, share) in PEERS.items():
            rate = peer_rate(Path(folder), peer, module, int(n * share))
            if rate is None:
                print(f"{name:32} {'not installed':>12}")
            else:
                print(f"{name:32} {rate:9,.0f} /s   ours is {ours / rate:.2f} times that")
    return 0


def push_worker_seconds(folder: Path, n: int) -> float:
    """Return the seconds that a push worker needs for a chunk of no-op simulations."""
    (folder / "noop.py").write_text("def simulate(run):\n    pass\n")
    recipe = Recipe(
        "bench", Settings(model="noop:simulate"), str(folder / "output"), code=(str(folder),)
    )
    assignments = tuple(Assignment(Simulation(f"s{k}", {"x": k}), 1) for k in range(n))
    path = write_chunk(folder, Chunk("uuid", "bench", "bench-0000", 1, recipe, assignments))
    command = [sys.executable, "-m", "airflow_ensemble.engine", "push-worker", str(path)]
    began = time.perf_counter()
    subprocess.run([*command, "--cpus", str(PROCESSES)], check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    assert count_outcomes(recipe) == n
    return seconds


def count_outcomes(recipe: Recipe) -> int:
    root = storage.open_root(recipe.output)
    names = [name for name, _ in root.list(storage.segments_prefix(recipe.hash8))]
    return sum(
        1 for name in names for _ in segment.outcomes(segment.parse(root.read(name)).records)
    )


def peer_seconds(folder: Path, name: str, module: str, n: int) -> float | None:
    """Return the seconds that a peer needs, None when it is not installed."""
    python = os.environ.get("ENSEMBLE_BENCH_PYTHON", sys.executable)
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
        return None
    done = subprocess.run(
        [python, str(FOLDER / "peers.py"), name, str(n), str(folder / f"{name}.jsonl")],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"},
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def peer_rate(folder: Path, peer: str, module: str, n: int) -> float | None:
    seconds = peer_seconds(folder, f"{peer}-noop", module, n)
    return None if seconds is None else n / seconds


if __name__ == "__main__":
    sys.exit(main())
