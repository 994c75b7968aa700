"""Register 1,000,000 simulations, beside what loading the same rows costs at the least.

floor: read and validate the same CSV file and bulk-load the same columns into the same indexes.
bare: COPY or executemany of rows that are in memory already, into a table without indexes.
Every measurement is a process of its own, so that the peak memory is its own too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_ensemble.engine.ensemble.table import read_table
from airflow_ensemble.engine.index import open_index, rows
from airflow_ensemble.engine.recipe import ProductSpec, Recipe, Settings
from tests.services.postgres import PostgresServer

COLUMNS = (
    *("ensemble", "position", "id", "params", "digest", "resources", "resource_class"),
    *("time_limit", "priority", "status", "generation", "registered_by", "updated"),
)


def write_table(path: Path, n: int) -> None:
    with path.open("w") as file:
        file.write("id,time,longitude,latitude,altitude\n")
        for i in range(n):
            file.write(f"r{i:07d},2015-06-{i % 28 + 1:02d}T{i % 24:02d}:00,{-112 + i * 1e-6:.6f},")
            file.write(f"{40 + i % 977 * 1e-3:.3f},{5 + i % 50}\n")


def recipe() -> Recipe:
    return Recipe("bench", Settings(model="m:f", products=(ProductSpec("p"),)), "/output")


def register(location: str, table: Path) -> int:
    index = open_index(location, create=True)
    return index.register(index.define(recipe()), read_table(table), batch_key="bench").new


def full_rows(table: Path) -> Iterator[tuple[Any, ...]]:
    now = time.time()
    for n, simulation in enumerate(read_table(table)):
        row = rows.staged(n, simulation)
        yield (1, n, *row[1:], "pending", 1, "batch", now)


def floor(location: str, table: Path) -> int:
    open_index(location, create=True).close()
    return load(location, "simulations", COLUMNS, full_rows(table))


def bare(location: str, table: Path) -> tuple[float, float, int]:
    names = rows.STAGE
    ready = [rows.staged(n, simulation) for n, simulation in enumerate(read_table(table))]
    statement = (
        "CREATE TABLE bare (n BIGINT, id TEXT, params TEXT, digest TEXT, resources TEXT, "
        "resource_class TEXT, time_limit DOUBLE PRECISION, priority INTEGER)"
    )
    open_index(location, create=True).close()
    connect(location).execute(statement)
    clock, cpu = time.perf_counter(), cpu_seconds()
    number = load(location, "bare", names, iter(ready))
    return time.perf_counter() - clock, cpu_seconds() - cpu, number


def connect(location: str) -> Any:
    if location.startswith("postgresql"):
        import psycopg

        connection = psycopg.connect(location, autocommit=True)
        connection.execute("SET search_path TO airflow_ensemble")
        return connection
    import sqlite3

    return sqlite3.connect(location, isolation_level=None)


def load(location: str, table: str, columns: tuple[str, ...], ready: Iterator[Any]) -> int:
    connection = connect(location)
    number = 0
    if location.startswith("postgresql"):
        text = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with connection.cursor() as cursor, cursor.copy(text) as copy:
            for row in ready:
                copy.write_row(row)
                number += 1
        return number
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute("BEGIN")
    marks = ", ".join("?" * len(columns))
    text = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
    number = connection.executemany(text, ready).rowcount
    connection.execute("COMMIT")
    return int(number)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(work: Callable[[str, Path], Any], location: str, table: Path) -> dict[str, float]:
    clock, cpu = time.perf_counter(), cpu_seconds()
    answer = work(location, table)
    if isinstance(answer, tuple):
        seconds, used, number = answer
    else:
        seconds, used, number = time.perf_counter() - clock, cpu_seconds() - cpu, answer
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu": used, "peak": peak, "number": number}


def run_one(what: str, location: str, table: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", what, location, str(table)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="100,000 simulations")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, location, table = arguments.one
        work = {"register": register, "floor": floor, "bare": bare}[what]
        print(json.dumps(measure(work, location, Path(table))))
        return
    n = 100_000 if arguments.small else 1_000_000
    print(f"register {n:,} simulations from a CSV file, {os.cpu_count()} cores")
    print(f"{'':12}{'':10}{'seconds':>9}{'CPU':>7}{'peak MB':>9}{'to floor':>10}{'to bare':>9}")
    with tempfile.TemporaryDirectory() as folder, PostgresServer(durable=True) as server:
        table = Path(folder) / "table.csv"
        write_table(table, n)
        places: dict[str, Callable[[str], str]] = {
            "SQLite": lambda what: f"{folder}/{what}.sqlite",
            "PostgreSQL": lambda what: server.new_database(),
        }
        for name, place in places.items():
            found = {
                what: run_one(what, place(what), table) for what in ("bare", "floor", "register")
            }
            for what, one in found.items():
                assert one["number"] == n, (what, one)
                print(
                    f"{name:12}{what:10}{one['seconds']:9.2f}{one['cpu']:7.2f}{one['peak']:9.0f}"
                    f"{one['seconds'] / found['floor']['seconds']:10.2f}"
                    f"{one['seconds'] / found['bare']['seconds']:9.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
