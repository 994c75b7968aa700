"""One batch from registration to verdict: register, dispatch, run its chunks, settle.

The index owns the truth; this module moves a batch along by it. Every function may be called again
after a crash at any point and goes on from what the index and the segments say.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from airflow_ensemble.engine.chunk import Chunk, cancel_path, lock_path, write_chunk
from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.ensemble.blocks import Remarks
from airflow_ensemble.engine.errors import EnsembleError, Interrupted, ModelError
from airflow_ensemble.engine.evidence import Evidence, LockHeld, find_evidence, hold_lock
from airflow_ensemble.engine.index.interface import (
    BatchInfo,
    ChunkInfo,
    Counts,
    Registration,
    Scope,
    SimulationInfo,
)
from airflow_ensemble.engine.ingest import ingest, refuse_forgotten_outcomes
from airflow_ensemble.engine.simulation import Status

log = logging.getLogger(__name__)

#: Seconds between two looks at the segments of a running chunk.
INGEST_INTERVAL = 1.0
#: Seconds that a worker has to stop its simulations after SIGTERM.
STOP_GRACE = 20.0
#: Seconds after which a batch whose driver cannot be asked counts as abandoned.
DRIVER_DEADLINE = 86_400.0
#: A chunk is given up (for a later try) after this many executions in a row that finished nothing.
MAX_FRUITLESS = 3
#: Failed simulations that a report names.
MAX_NAMED = 20

_WORKER_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)"
)

#: Says whether whoever drives a batch lives; None when it cannot be known.
DriverAlive = Callable[[BatchInfo], "bool | None"]
#: Settles the open chunks of a batch on a backend of its own; also told whether the batch's driver
#: is gone. Returns (chunk, simulations given back) of each chunk that it settled.
Settler = Callable[[Control, BatchInfo, bool], "list[tuple[str, int]]"]
#: Tells the workers of a backend which simulations (by chunk) are cancelled.
Reach = Callable[[Mapping[str, Sequence[str]]], None]

#: The backend whose workers run on this machine.
_LOCAL = "local"


@dataclass(frozen=True)
class ChunkReport:
    """What became of one chunk.

    :param chunk: its id.
    :param counts: its simulations by status.
    :param failures: the first failed ones.
    :param taken_over: simulations that another batch has taken since.
    :param ran: finished attempts that this call brought into the index.
    """

    chunk: str
    counts: Counts
    failures: Sequence[SimulationInfo]
    taken_over: int
    ran: int


@dataclass(frozen=True)
class Reconciled:
    """What dead runs and workers had left behind.

    :param counted: finished attempts that were read from segments.
    :param expired: simulations taken back from workers whose lease has ended.
    :param settled: (chunk, simulations given back) of each chunk that nobody would have finished.
    """

    counted: int
    expired: int
    settled: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Verdict:
    """Whether a batch is good enough, and why."""

    ok: bool
    message: str


# --- register and dispatch ------------------------------------------------------------------------


def register(
    control: Control,
    batch_key: str,
    *,
    skip_existing: bool | None = None,
    replace: bool = False,
    first: int | None = None,
    driver_alive: DriverAlive | None = None,
    settlers: Mapping[str, Settler] | None = None,
) -> Registration:
    """Register the ensemble's table of simulations under a batch key.

    Batches that died before are settled first, so that what they left undone is pending again.

    :param control: the opened ensemble.
    :param batch_key: names the batch; the same key finds the same batch again.
    :param skip_existing: overrides the ensemble file.
    :param replace: accept changed parameters of known ids, as a new generation of these.
    :param first: register only this many rows, as a canary.
    :param driver_alive: asks whether the driver of another batch lives.
    :param settlers: see :func:`reconcile`.
    :raises UsageError: on anything wrong with file, table or output root; nothing is changed then.
    """
    ensemble = control.ensemble
    control.root.check_writable()
    control.root.check_owner(ensemble.name, control.recipe.settings)
    if not control.is_known:
        refuse_forgotten_outcomes(control.root, control.recipe)
    key = control.index.define(control.recipe)
    reconcile(control, driver_alive=driver_alive, settlers=settlers)
    remarks = Remarks()
    registration = control.index.register(
        key,
        ensemble.read_simulations(first, remarks),
        batch_key=batch_key,
        skip_existing=ensemble.skip_existing if skip_existing is None else skip_existing,
        replace=replace,
    )
    for warning in remarks.warnings:
        log.warning("%s", warning)
    claim = control.root.claim_owner(ensemble.name, control.recipe.settings)
    if claim.message:
        log.warning("%s; new ones go to %s/", claim.message, control.recipe.hash8)
    return registration


def dispatch(
    control: Control,
    batch: str,
    *,
    backend: str = "local",
    n_chunks: int,
    max_chunk_size: int | None = None,
) -> list[ChunkInfo]:
    """Deal the batch's pending simulations to chunks; those that run here get their files.

    The chunk files of other backends are written where their workers are.

    :param control: the opened ensemble.
    :param batch: the batch's id, from its registration.
    :param backend: where the chunks go.
    :param n_chunks: at most this many for each resource class.
    :param max_chunk_size: at most this many simulations in one chunk.
    :return: the batch's chunks that are not settled; none when there is nothing to do.
    """
    chunks = control.index.dispatch(
        control.key, batch, backend=backend, n_chunks=n_chunks, max_chunk_size=max_chunk_size
    )
    live = [chunk for chunk in chunks if chunk.state == "open"]
    if backend == _LOCAL:
        for chunk in live:
            _ensure_chunk_file(control, chunk)
    return live


def driving(control: Control, batch: str) -> AbstractContextManager[None]:
    """Show, while the block runs, that this process drives the batch."""
    return hold_lock(_driver_lock(control, batch))


# --- one chunk ------------------------------------------------------------------------------------


def run_chunk(
    control: Control,
    chunk: str,
    *,
    cpus: int = 1,
    python: str | None = None,
    on_progress: Callable[[Counts], None] | None = None,
    stop: threading.Event | None = None,
) -> ChunkReport:
    """Run a chunk on this machine until every one of its simulations is terminal.

    First settles what an earlier try has left: an execution that still lives is waited for, the
    segments of a dead one are ingested, and only what is unfinished runs again, under a new
    attempt.

    :param control: the opened ensemble.
    :param chunk: the chunk's id.
    :param cpus: processes of the worker.
    :param python: the model's interpreter; default is the ensemble's, else this one.
    :param on_progress: called about once a second with the chunk's counts.
    :param stop: set it to stop; running simulations are then recorded as interrupted.
    :raises ModelError: when the model cannot be used at all; no attempt is charged.
    :raises Interrupted: when stopped, or when the worker was stopped from outside.
    :raises EnsembleError: when workers end without finishing anything; worth another try later.
    """
    stop = stop or threading.Event()
    runner = _ChunkRunner(control, chunk, on_progress, stop)
    with _driving_chunk(control, chunk, stop):
        runner.wait_for_live_execution()
        _run_submissions(control, chunk, runner, cpus, python)
        control.index.settle(chunk)
    return _report(control, chunk, runner.counted)


@contextmanager
def _driving_chunk(control: Control, chunk: str, stop: threading.Event) -> Iterator[None]:
    """Keep a second try of the same chunk waiting while one drives it."""
    path = control.batch_folder(control.index.chunk(chunk).batch) / f"{chunk}.driver"
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(hold_lock(path))
                break
            except LockHeld as error:
                log.info("chunk %s: waiting for another try (%s)", chunk, error)
            if stop.wait(INGEST_INTERVAL):
                raise Interrupted(f"chunk {chunk}: stopped while another try drives it")
        yield


def _run_submissions(
    control: Control, chunk: str, runner: _ChunkRunner, cpus: int, python: str | None
) -> None:
    fruitless = 0
    while control.index.chunk(chunk).unfinished:
        counted = runner.execute(_next_submission(control, chunk), cpus, python)
        fruitless = 0 if counted else fruitless + 1
        if fruitless >= MAX_FRUITLESS:
            raise EnsembleError(
                f"chunk {chunk}: {fruitless} workers in a row ended without finishing a "
                f"simulation; the last one said: {runner.last_words or 'nothing'}"
            )


def reopen_chunk(control: Control, chunk: str) -> int:
    """Give a chunk its failed simulations back, because a person cleared its task.

    :return: how many will run again; complete ones never do.
    """
    _cancel_file(control, control.index.chunk(chunk)).unlink(missing_ok=True)
    return control.index.reopen_chunk(chunk)


class _ChunkRunner:
    """The executions of one chunk that one call of :func:`run_chunk` drives."""

    def __init__(
        self,
        control: Control,
        chunk: str,
        on_progress: Callable[[Counts], None] | None,
        stop: threading.Event,
    ) -> None:
        self._control = control
        self._chunk = chunk
        self._on_progress = on_progress
        self._stop = stop
        self.counted = 0
        self.last_words = ""

    def wait_for_live_execution(self) -> None:
        """Bring the newest execution's records in, and wait for it if it lives."""
        info = self._control.index.chunk(self._chunk)
        path = chunk_path(self._control, info)
        self._ingest()
        while find_evidence(lock_path(path)) is Evidence.ALIVE:
            log.info("chunk %s: an earlier execution still runs, waiting for it", self._chunk)
            if self._stop.wait(INGEST_INTERVAL):
                raise Interrupted(f"chunk {self._chunk}: stopped while an earlier try still runs")
            self._ingest()
        self._ingest()

    def execute(self, path: Path, cpus: int, python: str | None) -> int:
        """Run a push worker over a chunk file; return the finished attempts that counted."""
        before = self.counted
        command = worker_command(self._control, path, cpus, python)
        log.debug("chunk %s: %s", self._chunk, " ".join(command))
        # stdin is the worker's life line: it ends with this process, however that dies.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            tail = _Tail(process)
            try:
                code = self._follow(process)
            except BaseException:
                _terminate(process)
                self._ingest()
                raise
            self.last_words = tail.finish()
        self._ingest()
        self._judge(code)
        return self.counted - before

    def _follow(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            if self._stop.is_set():
                raise Interrupted(f"chunk {self._chunk}: stopped; what is unfinished can run again")
            try:
                return process.wait(INGEST_INTERVAL)
            except subprocess.TimeoutExpired:
                self._ingest()

    def _ingest(self) -> None:
        self.counted += ingest(self._control, self._chunk)
        if self._on_progress:
            scope = Scope(chunk=self._chunk)
            self._on_progress(self._control.index.counts(self._control.key, scope))

    def _judge(self, code: int) -> None:
        if code == ModelError.exit_code:
            words = self.last_words.removeprefix("error: ")
            raise ModelError(words or f"chunk {self._chunk}: the worker refused it")
        if code == Interrupted.exit_code:
            raise Interrupted(
                f"chunk {self._chunk}: its worker was stopped before the end: {self.last_words}"
            )
        if code not in (0, 1):
            log.warning("chunk %s: its worker ended with code %d", self._chunk, code)


def worker_command(control: Control, path: Path, cpus: int, python: str | None = None) -> list[str]:
    """Return the argument list that runs a chunk file in the model's interpreter."""
    interpreter = python or str(control.ensemble.execution.get("python") or sys.executable)
    return [
        interpreter,
        *("-m", "airflow_ensemble.engine", "push-worker", str(path)),
        *("--cpus", str(cpus), "--stop-with-stdin"),
    ]


def chunk_path(control: Control, chunk: ChunkInfo) -> Path:
    """Return the path of the file of a chunk's newest submission."""
    return control.batch_folder(chunk.batch) / f"{chunk.id}.{chunk.submission}.jsonl"


def _next_submission(control: Control, chunk: str) -> Path:
    """Return the file to run: the newest submission if nobody ran it yet, else a new one."""
    info = control.index.chunk(chunk)
    path = chunk_path(control, info)
    if find_evidence(lock_path(path)) is Evidence.NOT_STARTED:
        return _ensure_chunk_file(control, info)
    return _ensure_chunk_file(control, control.index.resubmit(chunk))


def _ensure_chunk_file(control: Control, info: ChunkInfo) -> Path:
    path = chunk_path(control, info)
    if path.exists():
        return path
    chunk = Chunk(
        index=control.index.uuid,
        batch=info.batch,
        id=info.id,
        submission=info.submission,
        recipe=control.recipe,
        assignments=tuple(control.index.assignments(info.id)),
    )
    return write_chunk(path.parent, chunk)


def _report(control: Control, chunk: str, ran: int) -> ChunkReport:
    scope = Scope(chunk=chunk)
    counts = control.index.counts(control.key, scope)
    failed = Scope(chunk=chunk, statuses=(Status.FAILED,))
    failures = list(control.index.simulations(control.key, failed, limit=MAX_NAMED))
    taken_over = max(0, control.index.chunk(chunk).size - counts.total)
    return ChunkReport(chunk, counts, failures, taken_over, ran)


class _Tail:
    """Passes a worker's standard error on, and keeps its last line that matters."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        self._stream = process.stderr
        self._last = ""
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def finish(self) -> str:
        """Return the last line, once the stream has ended."""
        self._thread.join(timeout=5)
        return self._last

    def _pass_on(self) -> None:
        for line in self._stream:
            text = line.decode(errors="replace").rstrip()
            if text:
                level, self._last = parse_worker_line(text)
                log.log(level, "%s", self._last)


def parse_worker_line(line: str) -> tuple[int, str]:
    """Return the level and the message of a line of a worker's log.

    The time is left out: whoever logs the message again stamps it anew.
    """
    match = _WORKER_LINE.fullmatch(line)
    if match is None:
        return logging.INFO, line
    return getattr(logging, match[1]), match[2]


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- settling what others left --------------------------------------------------------------------


def reconcile(
    control: Control,
    *,
    driver_alive: DriverAlive | None = None,
    force: bool = False,
    settlers: Mapping[str, Settler] | None = None,
) -> Reconciled:
    """Ingest all segments, end leases that have run out, and settle what nobody will finish.

    :param control: the opened ensemble.
    :param driver_alive: asks whether a batch's driver lives, where the lock file cannot say.
    :param force: take drivers of whom nothing is known for dead, without waiting for the deadline.
    :param settlers: by backend, who settles its batches. Without one, batches of another backend
        than ``local`` are left alone: their workers cannot be seen from here.
    """
    counted = ingest(control)
    expired = control.index.expire()
    by_backend: Mapping[str, Settler] = {_LOCAL: _settle_local, **(settlers or {})}
    settled: list[tuple[str, int]] = []
    for batch in control.index.open_batches(control.key):
        settle = by_backend.get(batch.backend)
        if settle is None:
            log.info("batch %s: left to whoever reaches its %s jobs", batch.id, batch.backend)
            continue
        is_abandoned = not _has_driver(control, batch, driver_alive, force)
        settled += settle(control, batch, is_abandoned)
    return Reconciled(counted, expired, settled)


def _settle_local(control: Control, batch: BatchInfo, is_abandoned: bool) -> list[tuple[str, int]]:
    if not is_abandoned:
        return []
    return [
        (chunk.id, control.index.settle(chunk.id))
        for chunk in control.index.chunks(batch.id)
        if chunk.state == "open" and _is_over(control, chunk)
    ]


def _has_driver(
    control: Control, batch: BatchInfo, driver_alive: DriverAlive | None, force: bool
) -> bool:
    evidence = find_evidence(_driver_lock(control, batch.id))
    if evidence is not Evidence.NOT_STARTED:
        return evidence is Evidence.ALIVE
    known = driver_alive(batch) if driver_alive else None
    if known is not None:
        return known
    return not force and control.index.now() - batch.created < DRIVER_DEADLINE


def _is_over(control: Control, chunk: ChunkInfo) -> bool:
    return find_evidence(lock_path(chunk_path(control, chunk))) is not Evidence.ALIVE


def _driver_lock(control: Control, batch: str) -> Path:
    return control.batch_folder(batch) / "driver.lock"


def _cancel_file(control: Control, chunk: ChunkInfo) -> Path:
    return cancel_path(control.batch_folder(chunk.batch), chunk.id)


# --- cancel and judge -----------------------------------------------------------------------------


def cancel(control: Control, scope: Scope, reach: Reach | None = None) -> int:
    """Cancel unfinished simulations, and tell the push workers that run them.

    Pull workers learn it from the index with their next traffic.

    :param control: the opened ensemble.
    :param scope: which ones.
    :param reach: called once with the cancelled simulations of chunks that run elsewhere than on
        this machine, if there are any; None leaves their workers to find out in vain.
    :return: how many were cancelled.
    """
    cancelled = control.index.cancel(control.key, scope)
    by_chunk: dict[str, list[str]] = {}
    for id, chunk in cancelled:
        if chunk is not None:
            by_chunk.setdefault(chunk, []).append(id)
    far = {}
    for chunk, ids in by_chunk.items():
        if control.index.chunk_owner(chunk)[1].backend == _LOCAL:
            _write_cancel_file(control, control.index.chunk(chunk), ids)
        else:
            far[chunk] = ids
    if far and reach is not None:
        reach(far)
    elif far:
        log.warning("%d chunks run elsewhere: what they still compute will not count", len(far))
    return len(cancelled)


def _write_cancel_file(control: Control, chunk: ChunkInfo, ids: Sequence[str]) -> None:
    path = _cancel_file(control, chunk)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{id}\n" for id in ids))


def verdict(counts: Counts, max_failed: int | str = 0, absent: int = 0) -> Verdict:
    """Judge a batch, or a table, by its counts.

    :param counts: its simulations by status.
    :param max_failed: how many may fail: a number, or a percentage of all such as ``"5%"``.
    :param absent: further simulations of the table, which the index does not know as they are.
    """
    unfinished, total = counts.unfinished + absent, counts.total + absent
    summary = (
        f"{counts.complete} complete ({counts.empty} empty), {counts.failed} failed, "
        f"{unfinished} unfinished of {total}"
    )
    if unfinished:
        return Verdict(False, f"{summary}: not everything has run")
    allowed = allowed_failures(total, max_failed)
    if counts.failed > allowed:
        return Verdict(False, f"{summary}: at most {allowed} may fail (max_failed: {max_failed})")
    return Verdict(True, summary)


def allowed_failures(total: int, max_failed: int | str) -> int:
    """Return how many of ``total`` may fail; a percentage is rounded down."""
    if isinstance(max_failed, str):
        return int(total * float(max_failed.rstrip("%")) / 100)
    return max_failed
