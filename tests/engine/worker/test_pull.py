"""Pull workers as real processes, over both databases."""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_ensemble.engine.index.interface import Scope
from airflow_ensemble.engine.recipe import Limits
from airflow_ensemble.engine.simulation import Reason, Status
from tests.engine.running import PATIENCE, processes_with, wait_until_gone
from tests.engine.worker.pulling import Bench, wait_for
from tests.services.postgres import PostgresServer


@pytest.fixture
def nap() -> str:
    """A number of seconds to sleep that finds this test's processes again."""
    return f"{random.randint(10_000_000, 99_999_999)}"


@pytest.fixture(autouse=True)
def mark(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """Mark all processes of a test, and see that none and no scratch directory is left.

    The server is asked for so that it starts before there is a mark.
    """
    mark = uuid.uuid4().hex
    monkeypatch.setenv("ENSEMBLE_TEST_MARK", mark)
    monkeypatch.setenv("ENSEMBLE_SCRATCH", str(tmp_path / "scratch"))
    yield mark
    assert wait_until_gone(mark) == []
    assert list((tmp_path / "scratch").glob("*")) == []


@pytest.fixture(params=["sqlite", "postgres"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "sqlite":
        location = str(tmp_path / "index.sqlite")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        location = server.new_database()
    bench = Bench(tmp_path, location)
    yield bench
    bench.index.close()


def test_a_worker_drains_an_ensemble(bench: Bench) -> None:
    bench.register(*[bench.tracing()] * 50)
    code, said = bench.run("--cpus", "2")

    assert code == 0, said
    assert bench.counts.complete == 50
    assert set(bench.traced.values()) == {1}
    assert "50 complete" in said.splitlines()[-1]
    assert sorted(r.outcome.id for r in bench.outcomes) == sorted(bench.traced)


def test_two_workers_share_the_work_and_run_each_simulation_once(bench: Bench) -> None:
    bench.register(*[bench.tracing(0.05)] * 60)
    with bench.start() as first, bench.start() as second:
        codes = [worker.wait(PATIENCE) for worker in (first, second)]

    assert codes == [0, 0]
    assert set(bench.traced.values()) == {1}
    assert len(bench.traced) == 60
    workers = {r.outcome.token.partition("-")[0] for r in bench.outcomes}
    assert len(workers) == 2


def test_what_waits_behind_a_long_simulation_goes_to_others(bench: Bench, nap: str) -> None:
    """Quick ones make a worker claim ahead; what it then cannot run is for who is free."""
    bench.register(*["complete"] * 8, {"do": "sleep", "seconds": int(nap)}, *["complete"] * 12)
    with bench.start() as first:
        wait_for(lambda: bench.counts.running == 1)
        with bench.start() as second:
            wait_for(lambda: bench.counts.complete == 20)
            assert bench.counts.running == 1
            second.terminate()
            said = second.communicate(timeout=PATIENCE)[1]
        first.terminate()
        said += first.communicate(timeout=PATIENCE)[1]
    assert "Traceback" not in said, said


def test_failures_are_tried_again_up_to_the_limit_and_exit_with_1(bench: Bench) -> None:
    bench.register("raise", "kill_itself", "invalid", "complete", limits=Limits(max_attempts=2))
    code, _ = bench.run()

    assert code == 1
    assert (bench.counts.complete, bench.counts.failed) == (1, 3)
    attempts = Counter(r.outcome.id for r in bench.outcomes)
    assert attempts == {"s0": 2, "s1": 2, "s2": 1, "s3": 1}
    infos = {info.simulation.id: info for info in bench.simulations()}
    assert infos["s1"].reason is Reason.CRASHED
    assert infos["s1"].log is not None
    assert (bench.folder / "output" / infos["s1"].log).exists()


def test_running_is_visible_while_it_runs(bench: Bench) -> None:
    bench.register({"do": "sleep", "seconds": 1000}, {"do": "sleep", "seconds": 1000}, "complete")
    with bench.start("--cpus", "2") as worker:
        wait_for(lambda: bench.counts.running == 2)
        assert bench.counts.pending == 1
        worker.terminate()
        assert worker.wait(PATIENCE) == 3


def test_a_worker_whose_job_nears_its_time_limit_hands_everything_back(
    bench: Bench, nap: str
) -> None:
    bench.register(*[{"do": "hang_in_program", "nap": nap}] * 3)
    with bench.start("--cpus", "2") as worker:
        wait_for(lambda: len(processes_with(nap)) == 2)
        worker.send_signal(signal.SIGUSR1)
        assert worker.wait(PATIENCE) == 3

    assert processes_with(nap) == []
    assert bench.counts.pending == 3
    assert [(info.tries, info.interruptions) for info in bench.simulations()] == [
        (0, 1),
        (0, 1),
        (0, 0),
    ]
    assert {r.outcome.reason for r in bench.outcomes} == {Reason.TIME_LIMIT}


def test_a_stopped_worker_hands_everything_back_uncharged(bench: Bench, nap: str) -> None:
    bench.register(*[{"do": "hang_in_program", "nap": nap}] * 3)
    with bench.start("--cpus", "2") as worker:
        wait_for(lambda: len(processes_with(nap)) == 2)
        worker.terminate()
        assert worker.wait(PATIENCE) == 3

    assert processes_with(nap) == []
    assert bench.counts.pending == 3
    assert [info.tries for info in bench.simulations()] == [0, 0, 0]


def test_a_worker_that_slept_past_its_lease_is_fenced(bench: Bench, nap: str) -> None:
    bench.register({"do": "trace", "trace": str(bench.trace), "seconds": 6})
    with bench.start("--lease", "1.5") as sleeper:
        wait_for(lambda: bench.counts.running == 1)
        os.killpg(sleeper.pid, signal.SIGSTOP)
        time.sleep(2.0)
        with bench.start() as other:
            wait_for(lambda: bench.traced["s0"] == 2)
            os.killpg(sleeper.pid, signal.SIGCONT)
            began = time.monotonic()
            said = sleeper.communicate(timeout=PATIENCE)[1]
            assert sleeper.returncode == 3
            assert time.monotonic() - began < 5
            assert "no contact" in said or "lease" in said
            assert other.wait(PATIENCE) == 0

    # Once lost, once complete: the sleeper's own outcome changed nothing.
    (info,) = bench.simulations()
    assert (info.status, info.attempt, info.tries) == (Status.COMPLETE, 2, 1)
    assert [a.reason for a in bench.index.attempts(bench.key, "s0")] == [Reason.LOST]


def test_a_killed_worker_leaves_nothing_and_its_work_to_others(
    bench: Bench, mark: str, nap: str
) -> None:
    bench.register({"do": "hang_in_program", "nap": nap}, limits=Limits(max_attempts=1))
    with bench.start("--lease", "1") as worker:
        wait_for(lambda: processes_with(nap))
        worker.kill()
    assert wait_until_gone(mark) == []
    assert wait_until_gone(nap) == []
    with bench.start() as other:
        assert other.wait(PATIENCE) == 1

    (info,) = bench.simulations()
    assert info.reason is Reason.LOST


def test_a_cancelled_simulation_is_killed_and_the_worker_goes_on(bench: Bench, nap: str) -> None:
    bench.register({"do": "hang_in_program", "nap": nap}, bench.tracing())
    with bench.start("--lease", "3") as worker:
        wait_for(lambda: processes_with(nap))
        bench.index.cancel(bench.key, Scope(ids=["s0"]))
        assert worker.wait(PATIENCE) == 1

    assert processes_with(nap) == []
    assert bench.counts.complete == 1
    assert dict(bench.counts.reasons) == {"cancelled": 1}


def test_serve_waits_for_more(bench: Bench) -> None:
    bench.register(bench.tracing())
    with bench.start(command="serve") as worker:
        wait_for(lambda: bench.counts.complete == 1)
        bench.register(bench.tracing(), bench.tracing())
        wait_for(lambda: bench.counts.complete == 2)
        assert worker.poll() is None
        worker.terminate()
        assert worker.wait(PATIENCE) == 3


def test_an_unusable_model_charges_nothing_and_hands_back(bench: Bench) -> None:
    bench.register("complete", model="nowhere:simulate")
    code, said = bench.run()

    assert code == 2
    assert "nowhere" in said.splitlines()[-1]
    assert bench.counts.pending == 1
    assert bench.simulations()[0].tries == 0


def test_an_unknown_ensemble_is_named(bench: Bench) -> None:
    bench.register("complete")
    code, said = bench.run("--name", "other")

    assert code == 2
    assert "'other'" in said
    assert "tests" in said


def test_settings_are_chosen_by_the_beginning_of_their_hash(bench: Bench) -> None:
    bench.register(bench.tracing())
    older = bench.key
    bench.register(bench.tracing(), bench.tracing(), seed=7)
    code, said = bench.run("--settings", older.settings_hash[:10])

    assert code == 0, said
    assert bench.index.counts(older).complete == 1
    assert bench.counts.pending == 2
    code, said = bench.run("--settings", "0" * 8)
    assert code == 2
    assert older.settings_hash[:8] in said


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_worker_is_called_what_it_is_told(bench: Bench, by_variable: bool) -> None:
    bench.register({"do": "sleep", "seconds": 1000})
    options = [] if by_variable else ["--worker", "pod-3"]
    with bench.start(*options, ENSEMBLE_WORKER="pod-3" if by_variable else "other") as worker:
        wait_for(lambda: bench.counts.running == 1)
        (info,) = bench.index.workers(bench.key)
        assert info.host == "pod-3"
        assert info.id.startswith("pod-3.")
        worker.terminate()
        assert worker.wait(PATIENCE) == 3
    assert bench.index.workers(bench.key) == []


@pytest.mark.parametrize("name", ["a/b", "-x", "", " ", "a" * 129])
def test_a_name_that_is_no_file_name_is_refused(bench: Bench, name: str) -> None:
    bench.register("complete")
    code, said = bench.run(f"--worker={name}")
    if name:
        assert code == 2
        assert "--worker" in said
    else:  # an empty one is none
        assert code == 0


def test_the_verdict_may_be_someone_elses(bench: Bench) -> None:
    bench.register("complete", "raise", limits=Limits(max_attempts=1))
    code, said = bench.run("--failed-ok")

    assert code == 0, said
    assert (bench.counts.complete, bench.counts.failed) == (1, 1)
    assert bench.run()[0] == 1


def test_a_dismissed_worker_is_fenced_and_its_work_free_at_once(bench: Bench, nap: str) -> None:
    """A pod is known to have been killed for its memory; it may live on behind a cut network."""
    bench.register(*[{"do": "hang_in_program", "nap": nap}] * 2)
    with bench.start("--worker", "pod-0", "--lease", "6") as worker:
        wait_for(lambda: bench.counts.running == 1)
        assert bench.index.dismiss("pod-0", Reason.OUT_OF_MEMORY, "the pod was killed") >= 1
        assert bench.counts.pending == 2
        assert worker.wait(PATIENCE) == 3

    assert processes_with(nap) == []
    assert sorted((i.reason, i.tries) for i in bench.simulations() if i.reason) == [
        (Reason.OUT_OF_MEMORY, 1)
    ]
    assert bench.index.dismiss("pod-0", Reason.LOST, "once more") == 0


def test_another_index_is_refused(bench: Bench) -> None:
    bench.register("complete")
    code, said = bench.run("--uuid", str(uuid.uuid4()))

    assert code == 2
    assert "index" in said.splitlines()[-1]


def test_work_goes_on_while_the_database_is_away(postgres: PostgresServer, tmp_path: Path) -> None:
    with PostgresServer() as server:
        bench = Bench(tmp_path, server.new_database())
        bench.register(*[bench.tracing(0.3)] * 12)
        with bench.start("--cpus", "2") as worker:
            wait_for(lambda: bench.traced.total() >= 3)
            server.stop()
            before = bench.traced.total()
            wait_for(lambda: bench.traced.total() > before)
            server.start()
            assert worker.wait(PATIENCE) == 0, worker.stderr
        assert bench.counts.complete == 12
        assert set(bench.traced.values()) == {1}
        bench.index.close()
