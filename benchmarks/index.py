"""Drain an ensemble through the index alone: claims and records per second, no simulation runs.

Each client is a process that claims a batch of simulations, records that they started and that they
completed, and claims again. The floor is one client that updates as many rows of the same table
twice by primary key, in batches of the same size, with no index but that key.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import EnsembleKey
from airflow_ensemble.engine.recipe import ProductSpec, Recipe, Settings
from airflow_ensemble.engine.segment import Finished, Started
from airflow_ensemble.engine.simulation import Outcome, Product, ProductStatus, Simulation
from tests.services.postgres import PostgresServer

BATCH = 200


def prepare(location: str, n: int) -> EnsembleKey:
    index = open_index(location, create=True)
    key = index.define(Recipe("bench", Settings(model="m:f", products=(ProductSpec("p"),)), "/o"))
    table = (Simulation(f"r{i:07d}", {"x": i, "y": 0.5 * i}) for i in range(n))
    index.register(key, table, batch_key="b")
    index.close()
    return key


def drain(location: str, key: EnsembleKey, name: str, batch: int, start: Any) -> None:
    index = open_index(location)
    index.enlist(key, name, "host")
    start.wait()
    while claimed := index.claim(name, batch):
        now = time.time()
        records: list[Started | Finished] = []
        for one in claimed:
            id = one.simulation.id
            product = Product(
                "p", ProductStatus.COMPLETE, f"a/p/00/{id}.nc", 1, "sha256:" + "0" * 64
            )
            outcome = Outcome(
                id, one.attempt, name, products=(product,), started=now, duration=0.1, host="host"
            )
            records += [
                Started(id, one.attempt, name, now, "host"),
                Finished(outcome, one.generation, one.simulation.params),
            ]
        assert index.record(key, records, worker=name) == len(claimed)
    index.close()


def measure(location: str, n: int, clients: int, batch: int) -> float:
    key = prepare(location, n)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(clients + 1)
    workers = [
        context.Process(target=drain, args=(location, key, f"w{i}", batch, start))
        for i in range(clients)
    ]
    for worker in workers:
        worker.start()
    start.wait()
    clock = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - clock
    index = open_index(location)
    assert index.counts(key).complete == n
    index.close()
    return n / seconds


def floor(location: str, n: int, batch: int) -> float:
    import psycopg

    with psycopg.connect(location, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE floor (position BIGINT PRIMARY KEY, status TEXT, params TEXT)"
        )
        connection.execute(
            "INSERT INTO floor SELECT i, 'pending', '{\"x\":1}' FROM generate_series(1, %s) i",
            [n],
        )
        clock = time.perf_counter()
        for first in range(1, n + 1, batch):
            for status in ("dispatched", "complete"):
                connection.execute(
                    "UPDATE floor SET status = %s WHERE position >= %s AND position < %s",
                    [status, first, first + batch],
                )
        return n / (time.perf_counter() - clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="20,000 simulations")
    parser.add_argument("--batch", type=int, default=BATCH, help="simulations per claim")
    arguments = parser.parse_args()
    n, batch = 20_000 if arguments.small else 200_000, arguments.batch
    print(f"claim and record {n:,} simulations, {batch} per claim, {os.cpu_count()} cores")
    print(f"{'':12}{'clients':>8}{'per second':>12}{'to 2 clients':>14}{'to floor':>10}")
    with tempfile.TemporaryDirectory() as folder, PostgresServer(durable=True) as server:
        bare = floor(server.new_database(), n, batch)
        print(f"{'floor':12}{1:8}{bare:12,.0f}")
        for name in ("PostgreSQL", "SQLite"):
            two = 0.0
            for clients in (2, 8):
                location = f"{folder}/{clients}.sqlite"
                if name == "PostgreSQL":
                    location = server.new_database()
                rate = measure(location, n, clients, batch)
                two = two or rate
                print(
                    f"{name:12}{clients:8}{rate:12,.0f}{rate / two:14.2f}{rate / bare:10.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
