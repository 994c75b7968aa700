"""Status of 1,000,000 simulations, and `ensemble run` with all of 100,000 complete."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_ensemble.engine.batch import register
from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.ensemble.table import read_table
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex, Scope
from airflow_ensemble.engine.recipe import ProductSpec, Recipe, Settings
from airflow_ensemble.engine.segment import Finished
from airflow_ensemble.engine.simulation import Outcome, Product, ProductStatus, Reason, Simulation
from airflow_ensemble.engine.standing import take_standing
from benchmarks.register import write_table
from tests.services.postgres import PostgresServer

ENSEMBLE = """
name: again
model: model:simulate
simulations: again.csv
products: [p]
output: output
index: env:BENCHMARK_INDEX
execution: {code: [.]}
"""


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    clock = time.perf_counter()
    answer = work()
    return time.perf_counter() - clock, answer


def best(work: Callable[[], Any], times: int = 3) -> float:
    return min(timed(work)[0] for _ in range(times))


def define(index: OutputIndex, name: str) -> EnsembleKey:
    settings = Settings(model="m:f", products=(ProductSpec("p"),))
    return index.define(Recipe(name, settings, f"/output/{name}"))


def finish(index: OutputIndex, key: EnsembleKey, batch: str, share: int = 1) -> str:
    """Complete one of ``share`` chunks; every hundredth fails, every tenth is empty."""
    chunk = index.dispatch(key, batch, backend="local", n_chunks=share)[0]
    records: list[Finished] = []
    for i, one in enumerate(index.assignments(chunk.id)):
        status = ProductStatus.COMPLETE_EMPTY if i % 10 == 1 else ProductStatus.COMPLETE
        products = (
            Product("p", status, f"a/p/00/{one.simulation.id}.nc", 1, "sha256:" + "0" * 64),
        )
        reason = Reason.INVALID if share > 1 and i % 100 == 0 else None
        outcome = Outcome(
            one.simulation.id, one.attempt, "t", reason, products=() if reason else products,
            started=1.0, duration=1.0, host="host",
        )  # fmt: skip
        records.append(Finished(outcome))
        if len(records) == 5000:
            index.record(key, records)
            records.clear()
    index.record(key, records)
    return chunk.id


def status_of_many(location: str, n: int) -> dict[str, float]:
    index = open_index(location, create=True)
    key = define(index, "many")
    table = (Simulation(f"r{i:07d}", {"x": i, "y": 0.5 * i}) for i in range(n))
    index.register(key, table, batch_key="all")
    found = {"all pending": best(lambda: index.counts(key))}
    tenth = (Simulation(f"r{i:07d}", {"x": i, "y": 0.5 * i}) for i in range(0, n, 10))
    batch = index.register(key, tenth, batch_key="tenth").batch
    chunk = finish(index, key, batch, share=2)
    fresh = open_index(location)
    found["all states, new connection"] = timed(lambda: fresh.counts(key))[0]
    fresh.close()
    found["all states"] = best(lambda: index.counts(key))
    found["all states, of a batch"] = best(lambda: index.counts(key, Scope(batch=batch)))
    found["all states, of a chunk"] = best(lambda: index.counts(key, Scope(chunk=chunk)))
    whole = (Simulation(f"r{i:07d}", {"x": i, "y": 0.5 * i}) for i in range(n))
    found["all states, of a table"], standing = timed(lambda: take_standing(index, key, whole))
    counts = index.counts(key)
    assert standing.counts == counts
    assert standing.is_whole
    assert counts.total == n
    assert counts.failed
    assert counts.empty
    assert counts.dispatched
    index.close()
    return found


def run_again(location: str, folder: Path, n: int) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(dir=folder))
    table = folder / "again.csv"
    write_table(table, n)
    (folder / "model.py").write_text("def simulate(run):\n    return {}\n")
    (folder / "ensemble.yaml").write_text(ENSEMBLE)
    environment = {**os.environ, "BENCHMARK_INDEX": location}
    os.environ["BENCHMARK_INDEX"] = location
    with open_control(load(folder / "ensemble.yaml"), create=True) as control:
        first = register(control, "first")
        finish(control.index, control.key, first.batch)
    command = [sys.executable, "-m", "airflow_ensemble", "run", str(folder / "ensemble.yaml")]
    reading, _ = timed(lambda: sum(1 for _ in read_table(table)))
    again, done = timed(lambda: subprocess.run(command, env=environment, capture_output=True))
    assert done.returncode == 0, done.stderr.decode()
    return {"reading the table alone": reading, "a whole `ensemble run` again": again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tenth of the simulations")
    small = parser.parse_args().small
    n = 100_000 if small else 1_000_000
    print(f"status of {n:,}, and `run` with all of {n // 10:,} complete, {os.cpu_count()} cores")
    print(f"{'':30}{'SQLite, s':>12}{'PostgreSQL, s':>15}")
    with tempfile.TemporaryDirectory() as name, PostgresServer(durable=True) as server:
        folder = Path(name)
        places = (str(folder / "index.sqlite"), server.new_database())
        for work in (
            lambda place: status_of_many(place, n),
            lambda place: run_again(place, folder, n // 10),
        ):
            sqlite, postgres = (work(place) for place in places)
            for what, seconds in sqlite.items():
                print(f"{what:30}{seconds:12.3f}{postgres[what]:15.3f}", flush=True)


if __name__ == "__main__":
    main()
