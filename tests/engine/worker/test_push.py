"""Push workers as real processes: one chunk file each."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_ensemble.engine import segment, storage
from airflow_ensemble.engine.evidence import Evidence, find_evidence
from airflow_ensemble.engine.recipe import ProductSpec, Recipe
from airflow_ensemble.engine.segment import Finished, Header, Started
from airflow_ensemble.engine.simulation import ProductStatus, Reason
from tests.engine.running import (
    PATIENCE,
    assignments_of,
    processes_with,
    recipe_of,
    wait_until_gone,
    write_chunk_file,
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
    monkeypatch.setenv("ENSEMBLE_SCRATCH", str(tmp_path / "scratch"))
    yield mark
    assert wait_until_gone(mark) == []
    assert list((tmp_path / "scratch").glob("*")) == []


class Bench:
    """One chunk and the workers that run it."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.trace = tmp_path / "trace"
        self.recipe: Recipe = recipe_of(tmp_path / "output")
        self.chunk = tmp_path / "none"

    def write(self, *whats: str | Mapping[str, Any], **options: Any) -> Path:
        self.recipe = recipe_of(self.folder / "output", **options)
        self.chunk = write_chunk_file(self.folder / "chunks", self.recipe, assignments_of(whats))
        return self.chunk

    def tracing(self, seconds: float = 0.0) -> dict[str, Any]:
        return {"do": "trace", "trace": str(self.trace), "seconds": seconds}

    @property
    def traced(self) -> list[str]:
        return [line.split()[0] for line in self.trace.read_text().splitlines()]

    def start(self, *options: str, cpus: int = 2, **popen: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "airflow_ensemble.engine", "push-worker", str(self.chunk)]
        return subprocess.Popen(
            [*command, "--cpus", str(cpus), *options],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **popen,
        )

    def run(self, *options: str, cpus: int = 2) -> tuple[int, str]:
        with self.start(*options, cpus=cpus) as worker:
            _, said = worker.communicate(timeout=PATIENCE)
        return worker.returncode, said

    @property
    def segments(self) -> list[Path]:
        folder = self.folder / "output" / storage.OUTCOMES / self.recipe.hash8
        return sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)

    @property
    def records(self) -> list[Header | Started | Finished]:
        return [r for path in self.segments for r in segment.parse(path.read_bytes()).records]

    @property
    def outcomes(self) -> list[Finished]:
        return list(segment.outcomes(self.records))

    @property
    def reasons(self) -> dict[str, Reason | None]:
        return {record.outcome.id: record.outcome.reason for record in self.outcomes}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def wait_for(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)


# --- the ordinary ---------------------------------------------------------------------------------


def test_a_segment_tells_everything(bench: Bench) -> None:
    bench.write("complete", "raise", products=(ProductSpec("p", optional=True),))
    code, said = bench.run()

    assert code == 1
    header, *records = bench.records
    assert isinstance(header, Header)
    assert (header.ensemble, header.writer, header.index) == ("tests", "batch-0000", "index-uuid")
    started = {r.id: r for r in records if isinstance(r, Started)}
    finished = {r.outcome.id: r for r in bench.outcomes}
    assert started.keys() == finished.keys() == {"s0", "s1"}
    good, bad = finished["s0"].outcome, finished["s1"].outcome
    assert good.is_complete
    assert good.products[0].status is ProductStatus.COMPLETE_EMPTY
    assert (bad.reason, bad.attempt) == (Reason.ERROR, 1)
    assert finished["s1"].params == {"do": "raise"}
    assert good.token == started["s0"].token == f"{header.token}-1"
    assert f"{bad.host}" in said
    assert "1 complete (1 empty), 1 failed (1 error)" in said.splitlines()[-1]


def test_the_exit_code_is_1_when_every_simulation_failed(bench: Bench) -> None:
    bench.write("raise", "kill_itself")

    assert bench.run()[0] == 1


def test_the_log_of_a_failure_is_kept_and_named(bench: Bench) -> None:
    bench.write("complete", "raise")
    _, said = bench.run()

    logs = {record.outcome.id: record.outcome.log for record in bench.outcomes}
    assert logs["s0"] is None
    assert logs["s1"] is not None
    assert logs["s1"] in said
    text = (bench.folder / "output" / logs["s1"]).read_text()
    assert "ValueError: no convergence" in text
    assert "attempt 1" in text.splitlines()[0]
    warning = next(line for line in said.splitlines() if "WARNING" in line)
    assert re.search(r"s1 failed \(attempt 1 on \S+, batch-0000, \d+\.\d+ s\): error: ", warning)


def test_all_logs_are_packed_on_request(bench: Bench) -> None:
    bench.write(*["complete"] * 30, logs="all")
    bench.run()

    root = storage.open_root(bench.recipe.output)
    for record in bench.outcomes:
        name, _, place = (record.outcome.log or "").partition("#")
        offset, _, length = place.partition(":")
        text = root.read(name, int(offset), int(length)).decode()
        assert f"{record.outcome.id} is fine\n" in text
        assert text.startswith(f"[{record.outcome.id}, ")
        assert text.endswith(" s]\n")
    assert len(list(root.list(f"{bench.recipe.hash8}/logs"))) == 1


def test_records_are_in_the_file_while_the_worker_runs(bench: Bench) -> None:
    bench.write("complete", {"do": "sleep", "seconds": 1000})
    with bench.start(cpus=1) as worker:
        wait_for(lambda: sum(isinstance(r, Started) for r in bench.records) == 2)
        assert bench.reasons == {"s0": None}
        worker.terminate()


def test_nothing_opens_the_index_or_needs_airflow(bench: Bench) -> None:
    bench.write("complete")
    command = [sys.executable, "-X", "importtime", "-m", "airflow_ensemble.engine", "push-worker"]
    done = subprocess.run([*command, str(bench.chunk)], capture_output=True, text=True)

    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"airflow", "sqlite3", "psycopg", "numpy", "xarray", "pandas", "fsspec"}


# --- resuming -------------------------------------------------------------------------------------


def test_a_worker_killed_half_way_leaves_nothing_and_is_resumed(
    bench: Bench, mark: str, nap: str
) -> None:
    bench.write(*[bench.tracing()] * 3, {"do": "hang_in_program", "nap": nap}, bench.tracing())
    with bench.start(cpus=1) as worker:
        wait_for(lambda: processes_with(nap))
        worker.kill()
    assert wait_until_gone(mark) == []
    assert wait_until_gone(nap) == []
    # The next execution finds a torn line, as if the death had come while it was written.
    with bench.segments[0].open("ab") as stream:
        stream.write(b'{"record":"outcome","id":"s4","atte')
    bench.write(*[bench.tracing()] * 3, {"do": "hang_in_program", "nap": nap}, bench.tracing())
    with bench.start(cpus=2) as worker:
        wait_for(lambda: "s4" in bench.traced)
        worker.send_signal(signal.SIGTERM)
        said = worker.communicate()[1]

    assert "torn" in said
    assert sorted(bench.traced) == ["s0", "s1", "s2", "s4"]
    assert len(bench.segments) == 2


def test_a_finished_chunk_runs_nothing_and_remembers_its_failures(bench: Bench) -> None:
    bench.write(bench.tracing(), "raise")
    assert bench.run()[0] == 1
    assert bench.run()[0] == 1
    assert bench.traced == ["s0"]
    assert len(bench.outcomes) == 2


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGTERM, Reason.INTERRUPTED), (signal.SIGUSR1, Reason.TIME_LIMIT)],
)
def test_an_interrupted_simulation_is_run_again_by_the_same_chunk(
    bench: Bench, number: signal.Signals, reason: Reason
) -> None:
    bench.write(bench.tracing(2.0))
    with bench.start() as worker:
        wait_for(bench.trace.exists)
        worker.send_signal(number)
        assert worker.wait(PATIENCE) == 3
    assert bench.reasons == {"s0": reason}

    assert bench.run()[0] == 0
    assert bench.traced == ["s0", "s0"]


# --- one execution at a time ----------------------------------------------------------------------


def test_a_second_worker_on_the_same_chunk_leaves_with_a_message(bench: Bench) -> None:
    bench.write(bench.tracing(), {"do": "sleep", "seconds": 1000})
    lock = bench.chunk.with_name(bench.chunk.name + ".lock")
    with bench.start() as first:
        wait_for(bench.trace.exists)
        assert find_evidence(lock) is Evidence.ALIVE
        code, said = bench.run()
        first.terminate()

    assert code == 3
    assert "another worker" in said
    assert "Traceback" not in said
    assert find_evidence(lock) is Evidence.ENDED
    assert bench.traced == ["s0"]


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_whole_trees_and_records_them(
    bench: Bench, nap: str, number: signal.Signals
) -> None:
    bench.write(*[{"do": "hang_in_program", "nap": nap}] * 4)
    with bench.start() as worker:
        wait_for(lambda: len(processes_with(nap)) == 2)
        began = time.monotonic()
        worker.send_signal(number)
        assert worker.wait(PATIENCE) == 3
        assert time.monotonic() - began < 5
        assert processes_with(nap) == []

    assert list(bench.reasons.values()) == [Reason.INTERRUPTED] * 2
    assert number.name in bench.outcomes[0].outcome.detail


def test_the_end_of_a_whole_job_is_no_crash_of_its_simulations(bench: Bench, nap: str) -> None:
    bench.write(*[{"do": "hang_in_program", "nap": nap}] * 2)
    with bench.start() as worker:
        wait_for(lambda: len(processes_with(nap)) == 2)
        # As scancel does: everything in the job gets the signal, in no order.
        for process in reversed(psutil.Process(worker.pid).children(recursive=True)):
            process.terminate()
        worker.terminate()
        assert worker.wait(PATIENCE) == 3

    assert bench.reasons == {"s0": Reason.INTERRUPTED, "s1": Reason.INTERRUPTED}


def test_a_job_that_nears_its_time_limit_says_so(bench: Bench, nap: str) -> None:
    hang = {"do": "hang_in_program", "nap": nap}
    bench.write(bench.tracing(), hang, hang, bench.tracing())
    with bench.start(cpus=2) as worker:
        wait_for(lambda: len(processes_with(nap)) == 2)
        began = time.monotonic()
        worker.send_signal(signal.SIGUSR1)
        # The job's end follows, as it does when the site ends the job: it is no reason of its own.
        worker.send_signal(signal.SIGTERM)
        said = worker.communicate(timeout=PATIENCE)[1]
        assert time.monotonic() - began < 5
    assert worker.returncode == 3
    assert processes_with(nap) == []

    assert bench.reasons == {"s0": None, "s1": Reason.TIME_LIMIT, "s2": Reason.TIME_LIMIT}
    detail = "its job's time limit is near: the worker got SIGUSR1"
    assert {r.outcome.detail for r in bench.outcomes if r.outcome.reason} == {detail}
    assert f"stopped before its end: {detail}" in said.splitlines()[-1]


def test_a_signal_before_the_first_start_charges_nobody(bench: Bench) -> None:
    slow = bench.folder / "slow"
    slow.mkdir()
    (slow / "slow.py").write_text("import time; time.sleep(3600)\ndef simulate(run): pass\n")
    bench.write({}, model="slow:simulate", code=(str(slow),))
    with bench.start() as worker:
        wait_for(lambda: bench.segments)
        worker.send_signal(signal.SIGUSR1)
        assert worker.wait(PATIENCE) == 3
    assert bench.outcomes == []


def test_the_end_of_standard_input_stops_it_on_request(bench: Bench, nap: str) -> None:
    bench.write({"do": "hang_in_program", "nap": nap})
    with bench.start("--stop-with-stdin", stdin=subprocess.PIPE) as worker:
        wait_for(lambda: processes_with(nap))
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(PATIENCE) == 3

    assert bench.reasons == {"s0": Reason.INTERRUPTED}


def test_cancelled_simulations_are_killed_and_the_others_go_on(bench: Bench) -> None:
    bench.write({"do": "sleep", "seconds": 1000}, bench.tracing(0.1), bench.tracing(2.5))
    cancel = bench.chunk.with_name("batch-0000.cancel")
    with bench.start(cpus=1) as worker:
        wait_for(lambda: any(isinstance(r, Started) for r in bench.records))
        cancel.write_text("s0\nunknown\n")
        wait_for(lambda: "s2" in (bench.traced if bench.trace.exists() else []))
        cancel.write_text("s0\nunknown\n*\n")
        assert worker.wait(PATIENCE) == 1

    assert bench.reasons == {"s0": Reason.CANCELLED, "s1": None, "s2": Reason.CANCELLED}


# --- what cannot be used --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nowhere:simulate"}, "nowhere"),
        ({"command": ("no-such-program",)}, "no-such-program"),
    ],
)
def test_an_unusable_model_charges_no_attempt(
    bench: Bench, options: dict[str, Any], message: str
) -> None:
    bench.write("complete", **options)
    code, said = bench.run()

    assert code == 2
    assert message in said.splitlines()[-1]
    assert [type(record) for record in bench.records] == [Header]


def test_a_corrupt_chunk_is_refused_before_anything_is_written(bench: Bench) -> None:
    bench.write("complete")
    bench.chunk.write_text(bench.chunk.read_text().replace("complete", "completely"))
    code, said = bench.run()

    assert code == 2
    assert str(bench.chunk) in said
    assert "checksum" in said
    assert not (bench.folder / "output").exists()


def test_an_output_root_of_another_ensemble_is_refused(bench: Bench) -> None:
    bench.write("complete")
    storage.open_root(bench.recipe.output).claim_owner("other", bench.recipe.settings)
    code, said = bench.run()

    assert code == 2
    assert "'other'" in said


def test_an_output_root_that_is_a_file_is_refused(bench: Bench) -> None:
    bench.write("complete")
    (bench.folder / "output").write_text("not a folder")
    code, said = bench.run()

    assert code == 2
    assert "output" in said
    assert "Traceback" not in said


# --- the kernel's out-of-memory killer ------------------------------------------------------------

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(
    not os.access(MEMORY_GROUPS, os.W_OK) or not (MEMORY_GROUPS / "cgroup.procs").exists(),
    reason="needs the right to make a memory control group; the evidence itself is tested apart",
)
@pytest.mark.parametrize("as_command", [False, True])
def test_the_kernels_killer_is_recognised(bench: Bench, as_command: bool) -> None:
    group = MEMORY_GROUPS / f"ensemble-test-{uuid.uuid4().hex}"
    group.mkdir()
    eat = "import os\nheld = [bytearray(os.urandom(1 << 20)) for _ in range(400)]"
    if as_command:
        bench.write({}, {}, command=(sys.executable, "-c", eat))
    else:
        bench.write({"do": "eat_memory", "mebibytes": 400, "seconds": 0}, "complete")
    try:
        (group / "memory.limit_in_bytes").write_text(str(200 << 20))

        def enter() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

        with bench.start(cpus=1, preexec_fn=enter) as worker:
            assert worker.wait(PATIENCE) == 1
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text().strip())
        group.rmdir()

    assert bench.reasons["s0"] is Reason.OUT_OF_MEMORY
    if not as_command:
        assert bench.reasons["s1"] is None
