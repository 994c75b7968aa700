"""What a mapped chunk costs Airflow beyond its simulations, beside an empty PythonOperator.

One run of one DAG holds both: so many mapped empty PythonOperators, then as many mapped chunks of
one simulation that does nothing. Airflow's database is PostgreSQL, the index SQLite, two tasks run
at once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from local_airflow import LocalAirflow, exit_on_signals

from tests.ensembles import write_ensemble
from tests.services.postgres import PostgresServer

MODEL = """
    def simulate(run):
        return {"values": None}
"""
TASKS = {"empty PythonOperator": "empty", "chunk of one empty simulation": "chunks.run_chunk"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="10 tasks of each kind, not 40")
    count = 10 if parser.parse_args().small else 40
    exit_on_signals()
    with (
        tempfile.TemporaryDirectory(prefix="ensemble-bench-") as folder,
        PostgresServer() as server,
    ):
        report(measure(Path(folder), server, count), count)
    return 0


def measure(folder: Path, server: PostgresServer, count: int) -> dict[str, list[dict[str, Any]]]:
    """Return the task instances of each kind, from the second run: the first warms up."""
    rows = [{"id": f"s{number}"} for number in range(count)]
    path = write_ensemble(folder / "ensemble", rows, model=MODEL, skip_existing=False)
    environment = {"BENCHMARK_COUNT": str(count), "BENCHMARK_ENSEMBLE": str(path)}
    dsn = server.new_database().replace("postgresql://", "postgresql+psycopg2://")
    dags = Path(__file__).resolve().parent / "dags"
    airflow = LocalAirflow(folder / "home", dags, dsn=dsn, environment=environment)
    with airflow, airflow.client() as client:
        client.await_dag("overhead")
        client.unpause("overhead")
        for _ in range(2):
            run = client.trigger("overhead")
            if client.await_run("overhead", run, 900) != "success":
                raise SystemExit("the run failed")
        return {kind: client.tasks("overhead", run, task) for kind, task in TASKS.items()}


def report(found: dict[str, list[dict[str, Any]]], count: int) -> None:
    print(f"{count} mapped tasks of each kind, 2 at once")
    print(f"{'':32}{'wall s per task':>16}{'s in a task':>14}")
    walls = []
    for kind, tasks in found.items():
        begin = min(moment(task["queued_when"]) for task in tasks)
        end = max(moment(task["end_date"]) for task in tasks)
        inside = sum(task["duration"] for task in tasks) / len(tasks)
        walls.append((end - begin) / len(tasks))
        print(f"{kind:32}{walls[-1]:16.2f}{inside:14.2f}")
    print(f"{'a chunk beyond an empty task':32}{walls[1] - walls[0]:16.2f} s")
    print(f"{'ratio':32}{walls[1] / walls[0]:16.2f}")


def moment(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


if __name__ == "__main__":
    sys.exit(main())
