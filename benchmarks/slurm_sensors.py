"""What chunk sensors on Slurm cost Airflow: each of them, and while hundreds of them wait.

    .venv/bin/python benchmarks/slurm_sensors.py [--small]

A whole Airflow with PostgreSQL and a private Slurm behind an SSH server, on this machine. First as
many empty deferrable tasks as chunks of one simulation that does nothing: seconds and CPU seconds
of all of Airflow, for each task. Then chunks whose elements wait in the queue: what the triggerer
costs and asks for while 50 sensors are deferred, and while 500 are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from local_airflow import COMPONENTS, Client, LocalAirflow, exit_on_signals, wait_until

from tests.airflow.slurm_runs import make_place
from tests.services.postgres import PostgresServer
from tests.services.slurm import SlurmCluster, accounting_template

MODEL = """
    def simulate(run):
        return {"values": None}
"""
WAIT = "group.wait_for_chunk"
#: What the poller asks slurmctld for, once each poll.
POLL = "REQUEST_JOB_USER_INFO"


@dataclass
class Bench:
    """What the measurements need.

    :param folder: scratch.
    :param cluster: the private Slurm.
    :param airflow: the running Airflow.
    :param client: of its API.
    """

    folder: Path
    cluster: SlurmCluster
    airflow: LocalAirflow
    client: Client


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="8 sensors, then 4 and 16 that wait for half a minute"
    )
    is_small = parser.parse_args().small
    count = 8 if is_small else 40
    exit_on_signals()
    with started(count) as bench:
        compare_with_empty(bench, count)
        few, many, seconds = (4, 16, 30) if is_small else (50, 500, 120)
        print(
            f"\n{'deferred sensors':18}{'polls a minute':>16}{'CPU s a minute':>16}{'MB':>7}"
            f"{'SSH connections':>17}"
        )
        print_waiting(bench, few, few, seconds)
        print_waiting(bench, many - few, many, seconds)
    return 0


@contextmanager
def started(count: int) -> Iterator[Bench]:
    """Start the servers, and Airflow with the DAGs of this benchmark."""
    with (
        tempfile.TemporaryDirectory(prefix="ensemble-bench-") as name,
        PostgresServer() as server,
        SlurmCluster(database=accounting_template()) as cluster,
    ):
        folder = Path(name)
        environment = {
            "BENCHMARK_COUNT": str(count),
            "AIRFLOW_CONN_HPC": cluster.airflow_connection(poll_interval=10),
        }
        dsn = server.new_database().replace("postgresql://", "postgresql+psycopg2://")
        dags = Path(__file__).resolve().parent / "dags"
        airflow = LocalAirflow(folder / "home", dags, dsn=dsn, environment=environment)
        with airflow, airflow.client() as client:
            for dag in ("empty_deferrables", "sensors"):
                client.await_dag(dag)
                client.unpause(dag)
            yield Bench(folder, cluster, airflow, client)


# --- each sensor ----------------------------------------------------------------------------------


def compare_with_empty(bench: Bench, count: int) -> None:
    print(f"{count} mapped tasks of each kind, 2 at once; the second run of each")
    print(f"{'':32}{'wall s per task':>17}{'CPU s per task':>16}{'SSH connections':>17}")
    for number in range(2):
        begun = airflow_cpu(bench)
        tasks = run(bench, "empty_deferrables", "empty", {})
        empty = (wall(tasks), airflow_cpu(bench) - begun)
        path = write(bench, f"noops{number}", count)
        begun, connections = airflow_cpu(bench), bench.cluster.ssh_connections
        tasks = run(bench, "sensors", WAIT, {"ensemble": str(path), "n_workers": count})
        ours = (wall(tasks), airflow_cpu(bench) - begun)
        connections = bench.cluster.ssh_connections - connections
    for label, (seconds, cpu), opened in (
        ("empty deferrable task", empty, 0),
        ("chunk of one empty simulation", ours, connections),
    ):
        print(f"{label:32}{seconds / count:17.2f}{cpu / count:16.2f}{opened:17}")
    print("the chunks' run holds three tasks more: register, submit and collect")


def run(bench: Bench, dag: str, task: str, conf: dict[str, Any]) -> list[dict[str, Any]]:
    id = bench.client.trigger(dag, conf)
    if bench.client.await_run(dag, id, 1800) != "success":
        raise SystemExit(f"the run of {dag} failed")
    return bench.client.tasks(dag, id, task)


def wall(tasks: list[dict[str, Any]]) -> float:
    begin = min(moment(task["queued_when"]) for task in tasks)
    return max(moment(task["end_date"]) for task in tasks) - begin


def write(bench: Bench, name: str, count: int, **execution: Any) -> Path:
    """Write an ensemble of as many empty simulations."""
    rows = [{"id": f"s{number}"} for number in range(count)]
    options = {"python": bench.cluster.python39, "mem": "100M", **execution}
    return make_place(bench.cluster, bench.folder / name, rows, model=MODEL, execution=options).file


def moment(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


# --- many that wait -------------------------------------------------------------------------------


def print_waiting(bench: Bench, more: int, count: int, seconds: float) -> None:
    """Let more sensors wait for elements that do not start, and measure the triggerer."""
    path = write(bench, f"waiting{count}", more, begin="now+10hours")
    id = bench.client.trigger("sensors", {"ensemble": str(path), "n_workers": more})
    wait_until(lambda: deferred(bench, id) == more, 3600, f"{more} sensors to be deferred")
    triggerer = process(bench, "triggerer")
    polls, cpu, began = bench.cluster.rpcs().get(POLL, 0), cpu_of(triggerer), time.monotonic()
    connections = bench.cluster.ssh_connections
    time.sleep(seconds)
    minutes = (time.monotonic() - began) / 60
    polls = bench.cluster.rpcs().get(POLL, 0) - polls
    connections = bench.cluster.ssh_connections - connections
    memory = sum(one.memory_info().rss for one in family(triggerer)) / 1e6
    print(
        f"{count:<18}{polls / minutes:16.1f}{(cpu_of(triggerer) - cpu) / minutes:16.2f}"
        f"{memory:7.0f}{connections:17}",
        flush=True,
    )


def deferred(bench: Bench, id: str) -> int:
    tasks = bench.client.tasks("sensors", id, WAIT)
    failed = [task for task in tasks if task["state"] == "failed"]
    if failed:
        raise SystemExit(f"{len(failed)} sensors have failed")
    return sum(task["state"] == "deferred" for task in tasks)


# --- processes ------------------------------------------------------------------------------------


def process(bench: Bench, component: str) -> psutil.Process:
    """Return a component's process, from its pid file."""
    record = json.loads((bench.airflow.home / "run" / f"{component}.pid").read_text())
    return psutil.Process(record["pid"])


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def airflow_cpu(bench: Bench) -> float:
    """Return the CPU seconds of all of Airflow so far, ended tasks included."""
    return sum(cpu_of(process(bench, component)) for component in COMPONENTS)


def cpu_of(process: psutil.Process) -> float:
    """Return the CPU seconds of a process, its children, and those that it has seen end."""
    return sum(sum(one.cpu_times()[:4]) for one in family(process))


if __name__ == "__main__":
    sys.exit(main())
