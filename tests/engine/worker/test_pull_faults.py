"""A fleet of pull workers on PostgreSQL: whatever dies, nothing is lost and nothing counts twice.

Several worker processes each time. ``make test`` runs each fault once, ``make test-faults`` all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_ensemble.engine import storage
from airflow_ensemble.engine.errors import IndexUnavailable
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index import postgres as postgres_index
from airflow_ensemble.engine.index.postgres import PostgresDatabase
from airflow_ensemble.engine.recipe import Limits, ProductSpec
from airflow_ensemble.engine.simulation import Reason, Simulation, Status
from tests.engine.running import PATIENCE, processes_with, wait_until_gone
from tests.engine.worker.pulling import Bench, wait_for
from tests.services.postgres import PASSWORD, PostgresServer
from tests.services.s3 import S3Server

#: Seconds; long enough for a busy machine, short enough to wait for.
LEASE = 4.0
#: Seconds that a stopped worker may take with the database out of reach. Kubernetes leaves 30.
STOP_BAR = 20.0

Worker = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def mark(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """Mark all processes of a test, and see that none and no scratch directory is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("ENSEMBLE_TEST_MARK", mark)
    monkeypatch.setenv("ENSEMBLE_SCRATCH", str(tmp_path / "scratch"))
    yield mark
    assert wait_until_gone(mark) == []


class Fleet(Bench):
    """Several workers for one ensemble."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        super().__init__(folder, server.new_database())
        self.server = server
        self.workers: list[Worker] = []

    def launch(
        self, number: int, *options: str, command: str = "pull-worker", **environment: str
    ) -> list[Worker]:
        """Start workers with a short lease; :meth:`close` ends them."""
        arguments = ("--lease", str(LEASE), *options)
        new = [self.start(*arguments, command=command, **environment) for _ in range(number)]
        self.workers += new
        return new

    def finish(self, workers: list[Worker], code: int = 0) -> list[str]:
        """Wait for workers, and return what each said."""
        said = [worker.communicate(timeout=2 * PATIENCE)[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [code] * len(workers), said
        assert not any("Traceback" in text or PASSWORD in text for text in said), said
        return said

    def check(self, repeated: int = 0) -> None:
        """Everything is complete, by one outcome each.

        :param repeated: how many executions a fault may have cost.
        """
        infos = self.simulations()
        assert [info.status for info in infos] == [Status.COMPLETE] * len(infos)
        executions = self.executions
        assert set(executions.values()) == {1}, "an attempt was executed twice"
        assert {id for id, _ in executions} == {info.simulation.id for info in infos}
        assert len(infos) <= executions.total() <= len(infos) + repeated
        for info in infos:
            # What counts is the last attempt, and it was executed.
            assert executions[info.simulation.id, info.attempt] == 1
            failed = {a.attempt for a in self.index.attempts(self.key, info.simulation.id)}
            assert info.attempt not in failed
            assert len(failed) == info.tries + info.interruptions
        winners = Counter(r.outcome.id for r in self.outcomes if r.outcome.is_complete)
        assert set(winners) == {info.simulation.id for info in infos}

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait(PATIENCE)
            if worker.stderr is not None:
                worker.stderr.close()
        self.index.close()


@pytest.fixture
def fleet(postgres: PostgresServer, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, postgres)
    yield fleet
    fleet.close()


@pytest.fixture
def own_server(mark: str) -> Iterator[PostgresServer]:
    """A server that a test may stop; its processes do not count as the test's."""
    os.environ.pop("ENSEMBLE_TEST_MARK")
    with PostgresServer(durable=True) as server:
        os.environ["ENSEMBLE_TEST_MARK"] = mark
        yield server


@pytest.fixture
def own_fleet(own_server: PostgresServer, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, own_server)
    yield fleet
    if own_server.is_stopped:
        own_server.start()
    fleet.close()


# --- without a fault ------------------------------------------------------------------------------


def test_without_a_fault_nothing_runs_twice(fleet: Fleet) -> None:
    fleet.register(*[fleet.tracing(0.02)] * 120)
    fleet.finish(fleet.launch(4))
    fleet.check(repeated=0)
    shares = Counter(r.outcome.token.partition("-")[0] for r in fleet.outcomes)
    assert len(shares) >= 2


# --- workers that die -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(1, marks=pytest.mark.faults, id="one"),
        pytest.param(2, id="half"),
        pytest.param(4, marks=pytest.mark.faults, id="all"),
    ],
)
def test_killed_workers_cost_what_they_ran(fleet: Fleet, number: int) -> None:
    fleet.register(*[fleet.tracing(0.1)] * 60)
    workers = fleet.launch(4)
    wait_for(lambda: fleet.executions.total() >= 15)
    for worker in workers[:number]:
        worker.kill()
    fleet.finish(workers[:number], -signal.SIGKILL)
    fleet.finish([*workers[number:], *fleet.launch(number)])
    # Each had one that ran, and perhaps one whose end it had not told yet.
    fleet.check(repeated=2 * number)
    lost = [
        a for i in fleet.simulations() for a in fleet.index.attempts(fleet.key, i.simulation.id)
    ]
    assert {a.reason for a in lost} <= {Reason.LOST}
    assert len(lost) <= 2 * number


def test_a_sleeper_whose_simulation_ended_meanwhile_changes_nothing(fleet: Fleet) -> None:
    """Its outcome is complete, and late: the attempt that runs elsewhere by then is the one."""
    fleet.register(fleet.tracing(1.0))
    (sleeper,) = fleet.launch(1)
    wait_for(lambda: fleet.counts.running == 1)
    os.kill(sleeper.pid, signal.SIGSTOP)
    time.sleep(LEASE + 1)
    (other,) = fleet.launch(1)
    wait_for(lambda: fleet.executions["s0", 2] == 1)
    other.send_signal(signal.SIGSTOP)  # its own outcome is to come after the sleeper's
    os.kill(sleeper.pid, signal.SIGCONT)
    (said,) = fleet.finish([sleeper], 3)
    other.send_signal(signal.SIGCONT)
    assert "lease" in said or "no contact" in said
    late = [r for r in fleet.outcomes if r.outcome.attempt == 1]
    assert fleet.index.record(fleet.key, late) == 0
    fleet.finish([other])
    fleet.check(repeated=1)
    assert [a.reason for a in fleet.index.attempts(fleet.key, "s0")] == [Reason.LOST]


@pytest.mark.parametrize("cpus", [1, pytest.param(2, marks=pytest.mark.faults)])
def test_a_poison_simulation_fails_and_the_others_complete(fleet: Fleet, cpus: int) -> None:
    """It kills its worker at once each time; someone starts another worker, as Kubernetes does."""
    others = [fleet.tracing(0.05)] * 12
    poison = {"do": "kill_worker", "trace": str(fleet.trace)}
    fleet.register(poison, *others, limits=Limits(max_attempts=3 * cpus))
    codes: list[int] = []
    give_up = time.monotonic() + 2 * PATIENCE
    while fleet.counts.unfinished:
        assert time.monotonic() < give_up, codes
        (worker,) = fleet.launch(1, "--cpus", str(cpus), "--failed-ok")
        codes.append(worker.wait(PATIENCE))
    assert codes.count(-signal.SIGKILL) >= 3 * cpus
    infos = {info.simulation.id: info for info in fleet.simulations()}
    ill = infos.pop("s0")
    assert (ill.status, ill.reason, ill.tries) == (Status.FAILED, Reason.LOST, 3 * cpus)
    assert {info.status for info in infos.values()} == {Status.COMPLETE}
    executions = fleet.executions
    assert set(executions.values()) == {1}
    assert sum(n for (id, _), n in executions.items() if id == "s0") == codes.count(-signal.SIGKILL)
    # Each death may have cost what ran beside it, or was not yet known to have ended.
    rest = sum(n for (id, _), n in executions.items() if id != "s0")
    assert len(infos) <= rest <= len(infos) + cpus * codes.count(-signal.SIGKILL)


# --- the database ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [2, pytest.param(20, marks=pytest.mark.faults)])
def test_a_database_that_crashed_and_stayed_away_costs_nothing(
    own_fleet: Fleet, own_server: PostgresServer, seconds: int
) -> None:
    own_fleet.register(*[own_fleet.tracing(0.3)] * 60)
    workers = own_fleet.launch(3, "--lease", "60")
    wait_for(lambda: own_fleet.executions.total() >= 10)
    own_server.stop(crash=True)
    time.sleep(seconds)
    own_server.start()
    own_fleet.finish(workers)
    own_fleet.check(repeated=0)


@pytest.mark.faults
def test_a_database_that_was_set_back_costs_executions_and_nothing_else(fleet: Fleet) -> None:
    """As by a failover to a standby that lags: the last outcomes are gone from the index."""
    fleet.register(*[fleet.tracing()] * 4)
    (worker,) = fleet.launch(1, command="serve")
    wait_for(lambda: fleet.counts.complete == 4)
    (info,) = fleet.index.workers(fleet.key)
    fleet.server.execute(
        "UPDATE airflow_ensemble.simulations SET status = 'running', result_generation = NULL, "
        f"worker = '{info.id}' WHERE position < 2",
        fleet.location.rpartition("/")[2],
    )
    wait_for(lambda: fleet.counts.complete == 4)
    fleet.check(repeated=2)
    assert fleet.executions.total() == 6
    worker.terminate()
    (said,) = fleet.finish([worker], 3)
    assert "has forgotten what became of 2 simulations" in said


@pytest.mark.timeout(300)
def test_workers_wait_for_a_connection_and_go_on(mark: str, tmp_path: Path) -> None:
    os.environ.pop("ENSEMBLE_TEST_MARK")
    with PostgresServer(settings={"max_connections": "6"}) as server:
        os.environ["ENSEMBLE_TEST_MARK"] = mark
        fleet = Fleet(tmp_path, server)
        fleet.register(*[fleet.tracing(0.2)] * 60)
        fleet.index.close()
        said = fleet.finish(fleet.launch(10))
        fleet.index = open_index(fleet.location)
        fleet.check(repeated=0)
        assert sum("has no connection left, trying again" in text for text in said) >= 2
        fleet.close()


def test_a_worker_that_gets_no_connection_says_what_to_do(
    own_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_index, "CROWDED_PATIENCE", 1.0)
    held: list[PostgresDatabase] = []

    def connect_to_all() -> None:
        while len(held) < 200:
            held.append(PostgresDatabase(own_fleet.location, patience=0.5))
            held[-1].read(lambda session: session.rows("clock"))

    with pytest.raises(IndexUnavailable, match=r"raise the server's max_connections") as refusal:
        connect_to_all()
    assert len(held) > 50
    assert PASSWORD not in str(refusal.value)
    for database in held:
        database.close()


def test_two_registrations_during_a_drain_lose_nothing(fleet: Fleet) -> None:
    fleet.register(*[fleet.tracing(0.05)] * 60)
    workers = fleet.launch(3)
    wait_for(lambda: fleet.executions.total() >= 5)
    barrier = threading.Barrier(2)
    totals: list[int] = []

    def register(first: int) -> None:
        index = open_index(fleet.location)
        table = [Simulation(f"s{n}", fleet.tracing(0.05)) for n in range(first, first + 60)]
        barrier.wait(30)
        totals.append(index.register(fleet.key, table, batch_key=f"more{first}").total)
        index.close()

    threads = [threading.Thread(target=register, args=(first,)) for first in (30, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert totals == [60, 60]
    fleet.finish(workers)
    fleet.finish(fleet.launch(1))  # should the first three have been done before
    assert len(fleet.simulations()) == 110
    fleet.check(repeated=0)


@pytest.mark.parametrize("seconds", [600, -600])
def test_the_databases_clock_decides(fleet: Fleet, seconds: int) -> None:
    """What Python sees, because libfaketime breaks the sleep of Python 3.11."""
    (fleet.folder / "clock").mkdir()
    (fleet.folder / "clock" / "sitecustomize.py").write_text(
        f"import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n"
    )
    fleet.register(*[fleet.tracing(0.2)] * 40)
    path = f"{fleet.folder / 'clock'}:{os.environ.get('PYTHONPATH', '')}"
    fleet.finish([*fleet.launch(1), *fleet.launch(1, PYTHONPATH=path)])
    fleet.check(repeated=0)
    shifted = [
        info
        for info in fleet.simulations()
        if info.started is not None and abs(info.started - fleet.index.now()) > 300
    ]
    assert shifted, "the one with the other clock ran nothing"
    assert len(shifted) < 40
    assert all(abs(info.updated - fleet.index.now()) < 120 for info in fleet.simulations())


# --- the object store -----------------------------------------------------------------------------


@pytest.mark.faults
def test_an_object_store_that_refuses_every_tenth_put(fleet: Fleet, flaky_s3: S3Server) -> None:
    root = flaky_s3.make_bucket()
    rows = [{"x": n} for n in range(90)]
    command = ("/bin/sh", "-c", f"echo {{id}} {{attempt}} 0 >> {fleet.trace}; echo {{x}} > out.txt")
    fleet.register(*rows, output=root, command=command, products=(ProductSpec("p", "out.txt"),))
    fleet.finish(fleet.launch(3, "--lease", "60"))
    fleet.check(repeated=0)
    results = list(fleet.index.results(fleet.key))
    assert len(results) == 90
    output = storage.open_root(root)
    for result in results:
        (product,) = result.products
        assert product.path is not None
        assert output.read(product.path).decode() == f"{result.params['x']}\n"


# --- stopping -------------------------------------------------------------------------------------


def hang(fleet: Fleet, nap: str = "4321") -> dict[str, Any]:
    return {"do": "hang_in_program", "nap": f"{nap}{os.getpid()}"}


def test_a_stopped_worker_hands_back_at_once_what_others_take(fleet: Fleet) -> None:
    """Not after the lease: that is as long as a minute."""
    fleet.register(*[fleet.tracing(0.3)] * 20)
    first, second = fleet.launch(2, "--lease", "600")
    wait_for(lambda: len(fleet.index.workers(fleet.key)) == 2 and fleet.executions.total() >= 4)
    began = time.monotonic()
    first.terminate()
    fleet.finish([first], 3)
    assert time.monotonic() - began < 10
    assert len(fleet.index.workers(fleet.key)) == 1
    fleet.finish([second])
    fleet.check(repeated=1)
    assert {info.tries for info in fleet.simulations()} == {0}


@pytest.mark.parametrize("is_frozen", [False, pytest.param(True, marks=pytest.mark.faults)])
def test_a_worker_stops_in_time_without_a_database(
    own_fleet: Fleet, own_server: PostgresServer, is_frozen: bool
) -> None:
    own_fleet.register(*[hang(own_fleet)] * 2)
    (worker,) = own_fleet.launch(1, "--lease", "600", "--cpus", "2")
    wait_for(lambda: own_fleet.counts.running == 2)
    own_server.pause() if is_frozen else own_server.stop()
    time.sleep(1.0)
    began = time.monotonic()
    worker.terminate()
    try:
        said = worker.communicate(timeout=PATIENCE)[1]
        lasted = time.monotonic() - began
    finally:
        own_server.resume() if is_frozen else own_server.start()
    assert worker.returncode == 3, said
    assert lasted < STOP_BAR
    assert "out of reach" in said
    # All the same the segment knows: it can be read into the index.
    assert [r.outcome.reason for r in own_fleet.outcomes] == [Reason.INTERRUPTED] * 2
    assert own_fleet.index.record(own_fleet.key, own_fleet.outcomes) == 2
    assert [(i.tries, i.interruptions) for i in own_fleet.simulations()] == [(0, 1)] * 2


@pytest.fixture
def container(fleet: Fleet) -> Iterator[Callable[..., psutil.Process]]:
    """Return what starts a worker as the first process of a process namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs the right to make a process namespace")
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> psutil.Process:
        words = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
        started.append(fleet.start(*options, command="serve", before=words))
        outside = psutil.Process(started[-1].pid)
        wait_for(lambda: outside.children() and "serve" in outside.children()[0].cmdline())
        return outside.children()[0]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE)


def test_the_first_process_of_a_container_stops_and_reaps(
    fleet: Fleet, container: Callable[..., psutil.Process]
) -> None:
    """Nothing is ended by a signal there that it does not handle, and every orphan is its child."""
    what = hang(fleet, "765")
    fleet.register(what)
    worker = container("--lease", "600")
    wait_for(lambda: fleet.counts.running == 1 and processes_with(str(what["nap"])))
    for _ in range(3):  # as a person with `kubectl exec` might
        enter = ["nsenter", "-t", str(worker.pid), "-p", "-m"]
        subprocess.run([*enter, "sh", "-c", "(sleep 0.3 &)"], check=True)
    time.sleep(0.1)
    assert len(worker.children()) >= 3
    wait_for(lambda: len(worker.children()) == 1)
    began = time.monotonic()
    worker.terminate()
    worker.wait(PATIENCE)
    assert time.monotonic() - began < 10
    assert wait_until_gone(str(what["nap"])) == []
    assert fleet.counts.pending == 1
    assert fleet.index.workers(fleet.key) == []
