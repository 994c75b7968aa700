"""Many pull workers on one PostgreSQL: shares, duplicates, database CPU, and what waiting costs.

    .venv/bin/python benchmarks/pull_fleet.py [--small]

First 64 ``serve`` workers wait and do nothing: how many transactions that costs the database. Then
one simulation is registered now and then: how long until one of them has begun it. Then, when all
have loaded the model, 50,000 no-op simulations are registered at once, and all drain them. Beside
that procrastinate's workers do as many no-op jobs from the same server, one process each, as ours.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_ensemble.engine import segment, storage
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import EnsembleKey, OutputIndex
from airflow_ensemble.engine.recipe import Recipe, Settings
from airflow_ensemble.engine.segment import Finished, Started
from airflow_ensemble.engine.simulation import TERMINAL, Simulation, Status
from tests.services.postgres import PostgresServer

FOLDER = Path(__file__).resolve().parent
MODEL = """\
import os
import time
from pathlib import Path

def simulate(run):
    time.sleep(run.params.get("seconds", 0))
    with open(Path(os.environ["BENCH_TRACE"]) / str(os.getpid()), "a") as trace:
        trace.write(f"{run.id}\\n")
"""
IDLE_SECONDS = 60.0
LATENCIES = 30
PATIENCE = 1800.0
UNFINISHED = frozenset(Status) - TERMINAL


@dataclass
class Bench:
    """An index on a server of its own, and where workers leave their traces."""

    folder: Path
    server: PostgresServer
    location: str
    index: OutputIndex
    key: EnsembleKey
    recipe: Recipe

    @property
    def database(self) -> str:
        return self.location.rpartition("/")[2]

    @property
    def executions(self) -> Counter[str]:
        """Count the executions of each simulation."""
        files = (self.folder / "trace").iterdir()
        return Counter(id for path in files for id in path.read_text().split())

    @property
    def records(self) -> Iterator[tuple[str, Started | Finished]]:
        """Yield what each worker wrote down."""
        root = storage.open_root(self.recipe.output)
        for name, _ in root.list(storage.segments_prefix(self.recipe.hash8)):
            for record in segment.parse(root.read(name)).records:
                if isinstance(record, (Started, Finished)):
                    yield name, record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="8 workers, 4,000 simulations")
    small = parser.parse_args().small
    workers, count = (8, 4_000) if small else (64, 50_000)
    idle, latencies = (10.0, 5) if small else (IDLE_SECONDS, LATENCIES)
    with (
        tempfile.TemporaryDirectory(prefix="bench-fleet-") as folder,
        PostgresServer(durable=True, settings={"max_connections": str(4 * workers + 30)}) as server,
    ):
        bench = prepare(Path(folder), server)
        with fleet(bench, workers):
            print_waiting(bench, workers, idle)
            print_latency(bench, latencies)
            warm_up(bench, workers)
            ours = print_drain(bench, workers, count)
        print_peer(bench, workers, count, ours)
        bench.index.close()
    return 0


def prepare(folder: Path, server: PostgresServer) -> Bench:
    (folder / "fleet_model.py").write_text(MODEL)
    (folder / "trace").mkdir()
    location = server.new_database()
    index = open_index(location, create=True)
    settings = Settings(model="fleet_model:simulate")
    recipe = Recipe("fleet", settings, str(folder / "output"), code=(str(folder),))
    return Bench(folder, server, location, index, index.define(recipe), recipe)


@contextmanager
def fleet(bench: Bench, workers: int) -> Iterator[None]:
    """Run ``serve`` workers as processes, one core each."""
    command = [sys.executable, "-m", "airflow_ensemble.engine", "serve", "--name", "fleet"]
    environment = {
        **os.environ,
        "ENSEMBLE_INDEX": bench.location,
        "BENCH_TRACE": str(bench.folder / "trace"),
        "ENSEMBLE_SCRATCH": str(bench.folder / "scratch"),
    }
    log = (bench.folder / "workers.log").open("wb")
    processes = [
        subprocess.Popen(command, env=environment, stderr=log, start_new_session=True)
        for _ in range(workers)
    ]
    try:
        wait_until(lambda: len(bench.index.workers(bench.key)) == workers)
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        codes = Counter(process.wait(120) for process in processes)
        log.close()
        print(f"{'exit codes of the workers':54} {dict(codes)}", flush=True)


# --- waiting --------------------------------------------------------------------------------------


def print_waiting(bench: Bench, workers: int, seconds: float) -> None:
    """Print what the database does for workers that have nothing to do."""
    wait_until(lambda: transactions(bench, 3.0) < 3.0 * workers)  # all have come to rest
    cpu, began = database_cpu(bench), time.monotonic()
    per_second = transactions(bench, seconds) / seconds
    share = (database_cpu(bench) - cpu) / (time.monotonic() - began)
    label = f"{workers} idle workers, transactions a second"
    print(f"{label:54} {per_second:9.1f}   ({per_second / workers:.2f} a worker)")
    print(f"{'  and CPU of the database':54} {100 * share:9.2f} % of a core", flush=True)


def transactions(bench: Bench, seconds: float) -> float:
    """Return how many transactions the workers cause in so many seconds."""
    text = (
        "SELECT xact_commit + xact_rollback FROM pg_stat_database "
        f"WHERE datname = '{bench.database}'"
    )
    # Backends tell of theirs when they next come to rest, at most once a second.
    (before,) = bench.server.execute(text)[0]
    time.sleep(seconds)
    (after,) = bench.server.execute(text)[0]
    return float(str(after)) - float(str(before))


def print_latency(bench: Bench, number: int) -> None:
    """Print how long a simulation that is registered alone waits for one of the idle workers."""
    found = [one_latency(bench, f"lone-{n}") for n in range(number)]
    for name, column in (("claimed", 0), ("begun, the model loaded if need be", 1)):
        times = [1000 * latency[column] for latency in found]
        label = f"registered to {name}, median"
        print(f"{label:54} {statistics.median(times):9.0f} ms   (longest {max(times):.0f})")


def one_latency(bench: Bench, id: str) -> tuple[float, float]:
    """Return the seconds from the end of a registration to the claim and to the start."""
    bench.index.register(bench.key, [Simulation(id, {"x": 1})], batch_key=id)
    registered = bench.index.now()
    claimed = None
    while (info := bench.index.simulation(bench.key, id)) and info.status in UNFINISHED:
        if info.status is not Status.PENDING and claimed is None:
            claimed = info.updated
        time.sleep(0.005)
    assert info is not None
    assert info.started is not None
    time.sleep(0.5)  # those that came in vain are at rest again
    began = info.started - registered
    return (began if claimed is None else claimed - registered), began


# --- working --------------------------------------------------------------------------------------


def warm_up(bench: Bench, workers: int) -> None:
    """Have every worker load the model."""
    table = [Simulation(f"w{n}", {"seconds": 1}) for n in range(4 * workers)]
    bench.index.register(bench.key, table, batch_key="warm-up")
    wait_until(lambda: bench.index.counts(bench.key).unfinished == 0, 0.5)


def print_drain(bench: Bench, workers: int, count: int) -> float:
    """Print how the workers shared the simulations; return the database's CPU for each."""
    table = (Simulation(f"s{n:06d}", {"x": n}) for n in range(count))
    before, known = database_cpu(bench), bench.executions.total()
    began = time.monotonic()
    bench.index.register(bench.key, table, batch_key="many")
    registered, register_cpu = time.monotonic(), database_cpu(bench) - before
    wait_until(lambda: bench.index.counts(bench.key).unfinished == 0, 0.5)
    ended, cpu = time.monotonic(), database_cpu(bench) - before
    assert bench.executions.total() - known == count, "executed more or less than once"
    shares = Counter(
        name
        for name, record in bench.records
        if isinstance(record, Finished) and record.outcome.id.startswith("s")
    )
    assert shares.total() == count, "recorded more or less than once"
    print(f"{'simulations drained a second':54} {count / (ended - registered):9,.0f}")
    print(f"{'executions and outcomes of each':54} {1:9}   ({count:,} simulations)")
    least = min(shares.values()) if len(shares) == workers else 0
    print(f"{'fewest, most for one worker':54} {least:9,}   {max(shares.values()):,}")
    mean = count / workers
    print(f"{'  to the mean':54} {least / mean:9.2f}   {max(shares.values()) / mean:.2f}")
    print(f"{'database CPU a simulation':54} {1e6 * cpu / count:9,.0f} µs", end="")
    print(f"   ({1e6 * register_cpu / count:,.0f} of it to register)", flush=True)
    assert registered > began
    return cpu / count


def print_peer(bench: Bench, workers: int, count: int, ours: float) -> None:
    """Print the same for procrastinate."""
    try:
        import procrastinate  # noqa: F401
    except ImportError:
        print(f"{'procrastinate':54} not installed")
        return
    location = bench.server.new_database()
    peer = [sys.executable, str(FOLDER / "queue_peer.py")]
    environment = {**os.environ, "BENCH_DSN": location}
    subprocess.run([*peer, "schema"], env=environment, check=True)
    before = database_cpu(bench)
    subprocess.run([*peer, "defer", str(count)], env=environment, check=True)
    deferred, began = database_cpu(bench) - before, time.monotonic()
    running = [subprocess.Popen([*peer, "work"], env=environment) for _ in range(workers)]
    codes = [process.wait(PATIENCE) for process in running]
    seconds, cpu = time.monotonic() - began, database_cpu(bench) - before
    assert codes == [0] * workers
    name = location.rpartition("/")[2]
    text = "SELECT COUNT(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
    assert bench.server.execute(text, name) == [(count,)]
    print(f"{'procrastinate, jobs a second, start included':54} {count / seconds:9,.0f}")
    print(f"{'  database CPU a job':54} {1e6 * cpu / count:9,.0f} µs", end="")
    print(f"   ({1e6 * deferred / count:,.0f} of it to defer)")
    print(f"{'  ours to that':54} {ours * count / cpu:9.2f}", flush=True)


# --- measuring ------------------------------------------------------------------------------------


def database_cpu(bench: Bench) -> float:
    """Return the CPU seconds of all processes of the server so far, ended ones included."""
    server = psutil.Process(bench.server.pid)
    family = [server, *server.children(recursive=True)]
    total = sum(server.cpu_times()[2:4])
    for process in family:
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def wait_until(condition: object, interval: float = 0.1) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit("it did not come to that")
        time.sleep(interval)


if __name__ == "__main__":
    sys.exit(main())
