"""What simulations may do to a pool, with real processes."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.engine.errors import EnsembleError, ModelError
from airflow_ensemble.engine.pool import spool
from airflow_ensemble.engine.pool.processes import Processes
from airflow_ensemble.engine.pool.task import Ended
from airflow_ensemble.engine.recipe import ProductSpec
from airflow_ensemble.engine.simulation import ProductStatus, Reason, Resources
from tests.engine.running import (
    assignments_of,
    collect,
    processes_with,
    recipe_of,
    wait_until_gone,
)


@pytest.fixture
def nap() -> str:
    """A number of seconds to sleep that finds this test's processes again."""
    return f"{random.randint(10_000_000, 99_999_999)}"


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Mark all processes of a test, and see that none and no scratch directory is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("ENSEMBLE_TEST_MARK", mark)
    scratch = tmp_path / "scratch"
    monkeypatch.setenv("ENSEMBLE_SCRATCH", str(scratch))
    yield mark
    assert wait_until_gone(mark) == []
    assert not scratch.exists() or list(scratch.iterdir()) == []


@contextmanager
def pool_of(tmp_path: Path, *, cpus: int = 1, **options: Any) -> Iterator[Processes]:
    with Processes(recipe_of(tmp_path / "output", **options), token="t", cpus=cpus) as pool:
        yield pool


def run(tmp_path: Path, *whats: str | Mapping[str, Any], **options: Any) -> list[Ended]:
    """Run simulations and return what came of each, in their order."""
    with pool_of(tmp_path, **options) as pool:
        pool.submit(assignments_of(whats))
        ended = collect(pool)
    return [ended[f"s{n}"] for n in range(len(whats))]


# --- faults ---------------------------------------------------------------------------------------

FAULTS = [
    ("raise", Reason.ERROR, "ValueError: no convergence"),
    ("sys_exit", Reason.ERROR, "sys.exit(0)"),
    ("invalid", Reason.INVALID, "no met for this hour"),
    ("memory_error", Reason.OUT_OF_MEMORY, "MemoryError"),
    ("segfault", Reason.CRASHED, "SIGSEGV"),
    ("abort", Reason.CRASHED, "SIGABRT"),
    ("kill_itself", Reason.CRASHED, "SIGKILL"),
    ("os_exit", Reason.CRASHED, "exit status 0"),
    ("hang", Reason.TIMEOUT, "time limit of 1 s"),
    ("garbage", Reason.CRASHED, "garbage"),
    ("garbage_without_end", Reason.CRASHED, "garbage"),
    ("forge", Reason.CRASHED, "garbage"),
    ("close_everything", Reason.CRASHED, "exit status"),
]


@pytest.mark.parametrize(("fault", "reason", "detail"), FAULTS)
def test_a_fault_costs_exactly_its_own_simulation(
    tmp_path: Path, fault: str, reason: Reason, detail: str
) -> None:
    # One process, so that the neighbours run just before and just after the fault.
    before, bad, after = run(tmp_path, "complete", fault, "complete", time_limit=1.0)

    assert before.reason is None
    assert after.reason is None
    assert bad.reason is reason
    assert detail in bad.detail


def test_a_simulation_that_cuts_itself_off_is_ended_though_it_has_no_time_limit(
    tmp_path: Path,
) -> None:
    bad, after = run(tmp_path, "close_everything_and_hang", "complete")

    assert bad.reason is Reason.CRASHED
    assert "closed its process's pipe" in bad.detail
    assert after.reason is None


def test_faults_among_many_short_simulations_hit_no_other(tmp_path: Path) -> None:
    # So short that simulations are sent ahead: a dying process holds some that never began.
    bad = [fault for fault, _, _ in FAULTS if fault != "hang"]
    whats = [bad[n // 10 % len(bad)] if n % 10 == 7 else "complete" for n in range(240)]
    reasons = {fault: reason for fault, reason, _ in FAULTS}

    ended = run(tmp_path, *whats, cpus=2)

    assert [e.reason for e in ended] == [reasons.get(what) for what in whats]


@pytest.mark.parametrize("fault", ["alarm", "close_streams", "leave_directory", "lock_workdir"])
def test_what_one_simulation_leaves_behind_does_not_hurt_the_next(
    tmp_path: Path, fault: str
) -> None:
    bad, after = run(tmp_path, fault, {"do": "sleep", "seconds": 0.4})

    assert bad.reason is None
    assert after.reason is None


def test_output_of_a_simulation_after_streams_were_closed_is_still_kept(tmp_path: Path) -> None:
    _, after = run(tmp_path, "close_streams", "complete")

    assert after.log is not None
    assert after.log.read() == b"s1 is fine\n"


def test_a_thread_that_stays_does_not_keep_the_process(tmp_path: Path) -> None:
    began = time.monotonic()
    assert run(tmp_path, "thread", "complete")[1].reason is None
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("fault", ["fork_and_return", "fork_and_raise"])
def test_a_fork_that_returns_into_the_worker_does_not_run_on(tmp_path: Path, fault: str) -> None:
    trace = tmp_path / "trace"
    following: dict[str, Any] = {"do": "trace", "trace": str(trace)}

    first, *others = run(tmp_path, fault, *[following] * 5)

    assert first.reason is None
    assert [e.reason for e in others] == [None] * 5
    assert [line.split()[0] for line in trace.read_text().splitlines()] == [
        *("s1", "s2", "s3", "s4", "s5")
    ]


# --- process trees --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("background", None),
        ("background_session", None),
        ("daemon", None),
        ("daemon_then_die", Reason.CRASHED),
        ("daemon_then_hang", Reason.TIMEOUT),
        ("hang_in_program", Reason.TIMEOUT),
    ],
)
def test_nothing_that_a_simulation_started_outlives_it(
    tmp_path: Path, nap: str, fault: str, reason: Reason | None
) -> None:
    with pool_of(tmp_path, time_limit=1.0) as pool:
        pool.submit(assignments_of([{"do": fault, "nap": nap}, "complete"]))
        ended: dict[str, Ended] = {}
        while "s0" not in ended:
            ended.update(
                (e.assignment.simulation.id, e) for e in pool.wait(1.0) if isinstance(e, Ended)
            )
            assert pool.is_busy or ended
        # At the moment at which its end is told, while the pool goes on.
        assert processes_with(nap) == []
        ended.update(collect(pool))

    assert ended["s0"].reason is reason
    assert ended["s1"].reason is None


def test_a_killed_warden_takes_the_simulations_with_it(tmp_path: Path, mark: str, nap: str) -> None:
    with pool_of(tmp_path) as pool:
        pool.submit(assignments_of([{"do": "sleep", "seconds": 1000}]))
        while not pool.running:
            pool.wait(1.0)
        os.kill(pool._crew._warden._process.pid, 9)
        with pytest.raises(EnsembleError, match="warden"):
            collect(pool)
        assert wait_until_gone(mark) == []


# --- memory ---------------------------------------------------------------------------------------


def test_more_memory_than_declared_is_out_of_memory(tmp_path: Path) -> None:
    greedy = assignments_of([{"do": "eat_memory", "mebibytes": 300}], Resources(memory=150))
    modest = assignments_of(["complete"] * 2, Resources(memory=150))[1:]
    with pool_of(tmp_path) as pool:
        pool.submit([*greedy, *modest])
        ended = collect(pool)

    assert ended["s0"].reason is Reason.OUT_OF_MEMORY
    assert "declared 150 MiB" in ended["s0"].detail
    assert ended["s1"].reason is None


# --- logs -----------------------------------------------------------------------------------------


def test_a_flood_is_cut_and_its_beginning_kept(tmp_path: Path) -> None:
    flood, after = run(tmp_path, {"do": "flood", "mebibytes": 100}, "complete")

    assert flood.reason is None
    assert flood.log is not None
    text = flood.log.read()
    assert text.startswith(b"first line\n")
    assert b"output truncated" in text[-200:]
    assert len(text) < spool.MAX_LOG + 1000
    assert after.log is not None
    assert after.log.read() == b"s1 is fine\n"


def test_disk_stays_bounded_while_a_simulation_floods(tmp_path: Path) -> None:
    peak = 0
    with pool_of(tmp_path) as pool:
        pool.submit(assignments_of([{"do": "flood", "mebibytes": 200}]))
        while pool.is_busy:
            pool.wait(0.01)
            # The spool is an unlinked file: ask the descriptor, not the folder.
            sizes = [
                entry.stat().st_size
                for entry in Path("/proc/self/fd").iterdir()
                if "ensemble-" in str(os.path.realpath(entry))
            ]
            peak = max([peak, *sizes])

    assert 0 < peak <= spool.MAX_LOG


def test_each_log_holds_its_own_simulation_only(tmp_path: Path) -> None:
    ended = run(tmp_path, *["complete"] * 200, cpus=2)

    for n, end in enumerate(ended):
        assert end.log is not None
        assert end.log.read() == f"s{n} is fine\n".encode()


def test_a_traceback_is_in_the_log(tmp_path: Path) -> None:
    (bad,) = run(tmp_path, "raise")

    assert bad.log is not None
    text = bad.log.read().decode()
    assert "Traceback" in text
    assert "do_raise" in text


def test_a_crash_leaves_its_stack_in_the_log(tmp_path: Path) -> None:
    (bad,) = run(tmp_path, "segfault")

    assert bad.log is not None
    assert "do_segfault" in bad.log.read().decode()


# --- cores and order ------------------------------------------------------------------------------


def test_simulations_never_occupy_more_cores_than_the_worker_has(tmp_path: Path) -> None:
    nap = {"do": "sleep", "seconds": 0.2}
    wide = assignments_of([nap] * 4, Resources(tasks=2))
    narrow = assignments_of([nap] * 10)[4:]
    busiest = 0
    with pool_of(tmp_path, cpus=3) as pool:
        pool.submit([a for pair in zip(wide, narrow) for a in pair] + narrow[4:])
        while pool.is_busy:
            pool.wait(1.0)
            busiest = max(busiest, sum(task.cores for task in pool.running))

    assert busiest == 3


def test_a_simulation_larger_than_the_worker_is_invalid_and_names_both(tmp_path: Path) -> None:
    with pool_of(tmp_path, cpus=2) as pool:
        pool.submit(assignments_of(["complete"], Resources(tasks=2, cores_per_task=4)))
        ended = collect(pool)

    assert ended["s0"].reason is Reason.INVALID
    assert "8 cores" in ended["s0"].detail
    assert "has 2" in ended["s0"].detail


def test_numeric_libraries_are_told_how_many_cores_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pool_of(tmp_path, cpus=3) as pool:
        pool.submit(assignments_of(["threads_setting"], Resources(cores_per_task=3)))
        log = collect(pool)["s0"].log

    assert log is not None
    assert log.read() == b"3 3\n"


def test_the_model_is_imported_once_per_process(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    run(tmp_path, *[{"do": "trace", "trace": str(trace)}] * 20, cpus=2)

    assert len({line.split()[2] for line in trace.read_text().splitlines()}) <= 2


def test_a_long_simulation_does_not_hold_up_those_sent_ahead(tmp_path: Path) -> None:
    # The short ones make the pool send ahead; then a long one sits before some of them.
    whats: list[str | Mapping[str, Any]] = ["complete"] * 400
    whats[300] = {"do": "sleep", "seconds": 3}
    ends: dict[str, float] = {}
    began = time.monotonic()
    with pool_of(tmp_path, cpus=2) as pool:
        pool.submit(assignments_of(whats))
        while pool.is_busy:
            for event in pool.wait(1.0):
                if isinstance(event, Ended):
                    ends[event.assignment.simulation.id] = time.monotonic() - began

    last_short = max(end for id, end in ends.items() if id != "s300")
    assert len(ends) == 400
    assert ends["s300"] > 3
    assert last_short < ends["s300"] - 1


def test_tasks_taken_back_at_any_moment_run_exactly_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Recalls all the time: most of them cross a result on its way.
    monkeypatch.setattr("airflow_ensemble.engine.pool.pace.HOLD_UP", 0.0003)
    trace = tmp_path / "trace"
    ended = run(tmp_path, *[{"do": "trace", "trace": str(trace)}] * 1500, cpus=2)

    assert {e.reason for e in ended} == {None}
    ran = sorted(line.split()[0] for line in trace.read_text().splitlines())
    assert ran == sorted(f"s{n}" for n in range(1500))


# --- stopping -------------------------------------------------------------------------------------


def test_stopping_ends_what_runs_and_forgets_the_rest(tmp_path: Path, nap: str) -> None:
    with pool_of(tmp_path, cpus=2) as pool:
        pool.submit(assignments_of([{"do": "hang_in_program", "nap": nap}] * 5))
        while len(processes_with(nap)) < 2:
            pool.wait(0.05)
        pool.stop(Reason.INTERRUPTED, "the night is over")
        ended = collect(pool)
        assert processes_with(nap) == []

    assert sorted(ended) == ["s0", "s1"]
    assert {e.reason for e in ended.values()} == {Reason.INTERRUPTED}


def test_cancelling_reaches_running_and_waiting_ones_and_no_other(tmp_path: Path) -> None:
    nap = {"do": "sleep", "seconds": 0.3}
    with pool_of(tmp_path) as pool:
        pool.submit(assignments_of([{"do": "sleep", "seconds": 1000}, nap, nap]))
        while not pool.running:
            pool.wait(0.05)
        pool.cancel({"s0", "s1"}, Reason.CANCELLED, "by hand")
        ended = collect(pool)

    assert [ended[f"s{n}"].reason for n in range(3)] == [Reason.CANCELLED, Reason.CANCELLED, None]


def test_cancelling_one_that_was_sent_ahead_spares_the_one_before_it(tmp_path: Path) -> None:
    whats: list[str | Mapping[str, Any]] = ["complete"] * 100
    whats += [{"do": "sleep", "seconds": 0.5}] + ["complete"] * 100
    reasons: dict[str, Reason | None] = {}
    with pool_of(tmp_path) as pool:
        pool.submit(assignments_of(whats))
        is_cancelled = False
        while pool.is_busy:
            for event in pool.wait(1.0):
                if isinstance(event, Ended):
                    reasons[event.assignment.simulation.id] = event.reason
            if not is_cancelled and [task.id for task in pool.running] == ["s100"]:
                pool.cancel({"s101", "s150"}, Reason.CANCELLED, "by hand")
                is_cancelled = True

    cancelled = {id for id, reason in reasons.items() if reason is Reason.CANCELLED}
    assert is_cancelled
    assert cancelled == {"s101", "s150"}
    assert set(reasons.values()) == {Reason.CANCELLED, None}
    assert len(reasons) == 201


def test_waking_ends_a_wait_from_another_thread(tmp_path: Path) -> None:
    with pool_of(tmp_path) as pool:
        threading.Timer(0.1, pool.wake).start()
        began = time.monotonic()
        pool.wait(20.0)
        assert time.monotonic() - began < 5


# --- last words ------------------------------------------------------------------------------

ENDED = "sh ended with exit status 1"
LAST_WORDS = [
    ("echo No space left on device >&2; exit 1", f"{ENDED}: No space left on device"),
    ("echo out; echo err >&2; exit 1", f"{ENDED}: out\nerr"),
    ("printf 'srun: fatal: no node\\n\\n  \\n' >&2; exit 1", f"{ENDED}: srun: fatal: no node"),
    ("exit 1", ENDED),
    ("printf ' 1%%\\r99%%\\033[31m!\\000\\377' >&2; exit 1", f"{ENDED}: 99%!\ufffd\ufffd"),
    ("echo STOP 900 >&2; kill -SEGV $$", "sh was killed by SIGSEGV: STOP 900"),
    (
        "echo nothing to do",
        "product 'p': no file matches 'out' after the command ended; it said last: nothing to do",
    ),
    (
        "echo step 17; exec sleep 100",
        "it ran longer than its time limit of 2 s; it said last: step 17",
    ),
]


@pytest.mark.parametrize(("script", "detail"), LAST_WORDS, ids=[script for script, _ in LAST_WORDS])
def test_the_detail_of_a_command_is_what_it_said_last(
    tmp_path: Path, script: str, detail: str
) -> None:
    command, products = ("sh", "-c", script), (ProductSpec("p", "out"),)
    (bad,) = run(tmp_path, {}, command=command, products=products, time_limit=2.0)

    assert bad.detail == detail


def test_the_last_words_of_a_flood_are_its_last(tmp_path: Path) -> None:
    script = f"head -c {spool.MAX_LOG + 1000} /dev/zero | tr '\\0' x; echo; echo the end; exit 1"
    (bad,) = run(tmp_path, {}, command=("sh", "-c", script))

    assert bad.detail == "sh ended with exit status 1: the end"


def test_the_note_of_a_kept_directory_is_no_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_SCRATCH", str(tmp_path / "kept"))
    monkeypatch.setenv("ENSEMBLE_KEEP_WORKDIR", "1")
    (bad,) = run(tmp_path, {}, command=("sh", "-c", "echo diverged; exit 1"))

    assert bad.detail == "sh ended with exit status 1: diverged"
    assert bad.log is not None
    assert "is kept" in bad.log.read().decode()


def test_what_a_model_printed_before_its_process_died_is_told(tmp_path: Path) -> None:
    bad, after = run(tmp_path, "print_and_exit", "raise")

    assert bad.detail == "its process ended with exit status 9 before it was done: STOP 9"
    assert after.detail == "ValueError: no convergence"


# --- models that cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("def other(run): pass", "has no 'simulate'"),
        ("simulate = 7", "is a int, not a function"),
        ("def simulate(): pass", "must take one argument"),
        ("import os; os._exit(5)", "exit status 5"),
        ("import os; print('so long'); os.kill(os.getpid(), 11)", "SIGSEGV"),
    ],
)
def test_a_model_that_cannot_be_loaded_charges_nothing(
    tmp_path: Path, source: str, message: str
) -> None:
    name = f"model_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(source)
    with pool_of(tmp_path, model=f"{name}:simulate", code=(str(tmp_path),)) as pool:
        pool.submit(assignments_of(["complete"] * 3))
        with pytest.raises(ModelError, match=message):
            collect(pool)
        assert pool.abandon(Reason.INTERRUPTED, "") == []


def test_parameters_larger_than_a_pipe_arrive(tmp_path: Path) -> None:
    whats = [{"do": "complete", "long": "x" * 300_000} for _ in range(20)]

    assert {e.reason for e in run(tmp_path, *whats, cpus=2)} == {None}


def test_failed_products_are_named_when_a_process_dies(tmp_path: Path) -> None:
    (bad,) = run(tmp_path, "kill_itself", products=(ProductSpec("footprint"),))

    assert [(p.name, p.status) for p in bad.products] == [("footprint", ProductStatus.FAILED)]


def test_the_working_directory_of_a_failure_is_kept_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    monkeypatch.setenv("ENSEMBLE_SCRATCH", str(kept))
    monkeypatch.setenv("ENSEMBLE_KEEP_WORKDIR", "1")
    good, bad, dead = run(tmp_path, "complete", "raise", "kill_itself")

    assert good.reason is None
    assert sorted(path.name for path in kept.glob("ensemble-*/*")) == ["s1.1", "s2.1"]
    for end in (bad, dead):
        assert end.log is not None
        assert "is kept" in end.log.read().decode()
