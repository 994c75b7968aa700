"""A batch from registration to verdict on a real Slurm, on its login node and over SSH."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.engine import batch
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index.interface import ElementInfo, JobInfo, Scope
from airflow_ensemble.engine.simulation import Reason
from airflow_ensemble.slurm import batches
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.decision import Deadlines, Over
from airflow_ensemble.slurm.errors import SlurmRefused
from airflow_ensemble.slurm.remote_root import open_output
from airflow_ensemble.slurm.settling import Settled, cancel_chunk, reach, settle, settler
from airflow_ensemble.slurm.staging import StagingRefused
from airflow_ensemble.slurm.states import End, Phase, View
from airflow_ensemble.slurm.watch import ClusterWatch, News, Watched
from tests.ensembles import write_ensemble
from tests.services.slurm import SlurmCluster
from tests.slurm.driving import until

DEADLINES = Deadlines(lag=8.0, late_results=4.0, late_failure=1.0, blocked=3.0)
ENDED = View(Phase.ENDED, "TIMEOUT", End.TIME_LIMIT)
MODEL = """
    import json
    import os
    import sys
    import time
    from pathlib import Path

    def simulate(run):
        shared = Path(run.params["shared"])
        with (shared / "trace").open("a") as file:
            file.write(f"{run.id} {run.attempt}\\n")
        what = run.params.get("what")
        if what == "fail once" and run.attempt == 1:
            raise ValueError("the first time fails")
        if what == "fail":
            raise ValueError(f"no luck with {run.id}")
        if what == "wait":
            time.sleep(600)
        path = run.workdir / "values.json"
        path.write_text(json.dumps({"id": run.id, "version": sys.version_info[:2]}))
        return {"values": path}
"""


def new_prefix() -> str:
    """Return what job names begin with that no other test uses."""
    return f"b{uuid.uuid4().hex[:8]}"


class Bench:
    """An ensemble, its control side, and the cluster. A context manager."""

    def __init__(self, slurm: SlurmCluster, folder: Path, kind: str) -> None:
        self.slurm, self.folder, self.kind = slurm, folder, kind
        self.prefix = new_prefix()
        self._stack = ExitStack()
        slurm.answer("mkdir -p root")

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def open(self, rows: Sequence[Mapping[str, Any]], **keys: Any) -> Bench:
        """Open an ensemble with these rows; again, with other keys, as a retry would."""
        self._stack.close()
        execution = {
            "python": self.slurm.python39,
            "job-name": self.prefix,
            **keys.pop("execution", {}),
        }
        self.file = write_ensemble(
            self.folder,
            rows,
            model=MODEL,
            output=str(self.slurm.shared / "output"),
            control=str(self.folder / "control"),
            parameters={"shared": str(self.slurm.shared)},
            execution=execution,
            **keys,
        )
        ensemble = load(self.file)
        if self.kind == "here":
            self.cluster = Cluster.local(ensemble, self.slurm.environment)
        else:
            runner = self._stack.enter_context(make_runner(self.slurm.login()))
            root = str(self.slurm.shared / "root")
            self.cluster = Cluster(SlurmClient(runner), "hpc", root)
        output = open_output(ensemble.output, self.cluster.client.runner)
        control = open_control(ensemble, create=True, root=output)
        self.control: Control = self._stack.enter_context(control)
        self.watch = ClusterWatch(self.cluster.client)
        return self

    def dispatch(self, n_chunks: int = 2) -> Any:
        """Register and dispatch, as often as one likes."""
        self.batch = batch.register(self.control, "one").batch
        return batch.dispatch(self.control, self.batch, backend="slurm", n_chunks=n_chunks)

    def submit(self, n_chunks: int = 2) -> list[JobInfo]:
        """Register, dispatch and submit."""
        return batches.submit(self.control, self.cluster, self.dispatch(n_chunks))

    def elements(self) -> list[ElementInfo]:
        return self.control.index.elements(batch=self.batch)

    def wait(self, element: ElementInfo, seconds: float = 90) -> News:
        """Look until an element is over."""
        one = dataclasses.replace(Watched.of(element, self.control), deadlines=DEADLINES)
        give_up = time.monotonic() + seconds
        while True:
            news = self.watch.look([one], lambda _: self.control)[one.key]
            if news.over is not None:
                return news
            assert time.monotonic() < give_up, news.text
            time.sleep(0.3)

    def settle(self, element: ElementInfo) -> Settled:
        """Wait for an element and settle it."""
        over = self.wait(element).over
        assert over is not None
        return settle(self.control, self.cluster, element.chunk, over)

    def drive(self) -> None:
        """Do what a driver does, until every chunk is done."""
        for element in self.elements():
            settled = self.settle(element)
            while settled.next == "again":
                batches.resubmit(self.control, self.cluster, element.chunk)
                settled = self.settle(self.control.index.elements(chunk=element.chunk)[-1])
            assert settled.next == "done", settled.message

    def trace(self) -> list[str]:
        path = self.slurm.shared / "trace"
        return sorted(path.read_text().splitlines()) if path.exists() else []

    def names(self) -> list[str]:
        """Return id and name of each array that Slurm has been given under our prefix."""
        text = self.slurm.admin("squeue", "-h", "-r", "-t", "all", "-o", "%F %j")
        return sorted({line for line in text.splitlines() if f" {self.prefix}-" in line})

    def script(self, job: JobInfo) -> str:
        return (Path(job.folder) / "job.sh").read_text()


@pytest.fixture(params=["here", "ssh"])
def bench(request: pytest.FixtureRequest, slurm: SlurmCluster, tmp_path: Path) -> Iterator[Bench]:
    slurm.reset()
    with Bench(slurm, tmp_path, request.param) as made:
        yield made


@pytest.fixture
def ssh_bench(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Bench]:
    slurm.reset()
    with Bench(slurm, tmp_path, "ssh") as made:
        yield made


def rows(count: int, **keys: Any) -> list[dict[str, Any]]:
    return [{"id": f"s{number}", **keys} for number in range(count)]


def test_the_whole_cycle(bench: Bench) -> None:
    table = [*rows(4), {"id": "again", "what": "fail once"}, {"id": "never", "what": "fail"}]
    bench.open(table, max_attempts=2)
    (job,) = bench.submit()
    bench.drive()
    counts = bench.control.index.counts(bench.control.key, Scope(batch=bench.batch))
    assert (counts.complete, counts.failed, counts.unfinished) == (5, 1, 0)
    assert counts.reasons == {Reason.ERROR.value: 1}
    assert bench.trace() == [
        "again 1", "again 2", "never 1", "never 2", "s0 1", "s1 1", "s2 1", "s3 1"
    ]  # fmt: skip
    ends = {
        element.end
        for chunk in bench.control.index.chunks(bench.batch)
        for element in bench.control.index.elements(chunk=chunk.id)
    }
    assert ends <= {"completed", "failed"}
    assert bench.elements() == []
    (result, *_) = bench.control.index.results(bench.control.key)
    assert result.products[0].path is not None
    product = json.loads(bench.control.root.read(result.products[0].path))
    assert product == {"id": "s0", "version": [3, 9]}
    assert job.place == bench.cluster.place
    assert bench.submit() == []


def test_bundle_and_code_are_uploaded_once(ssh_bench: Bench) -> None:
    root = ssh_bench.slurm.shared / "root"
    ssh_bench.open(rows(1))
    ssh_bench.submit()
    before = {path: path.stat().st_mtime_ns for part in ("bundles", "code") for path in
              (root / part).rglob("*")}  # fmt: skip
    assert {path.name for path in before} >= {"ensemble-worker.pyz", "model.py"}
    ssh_bench.drive()
    batch.register(ssh_bench.control, "two", skip_existing=False)
    ssh_bench.open(rows(1))
    found = batch.register(ssh_bench.control, "two", skip_existing=False).batch
    chunks = batch.dispatch(ssh_bench.control, found, backend="slurm", n_chunks=1)
    batches.submit(ssh_bench.control, ssh_bench.cluster, chunks)
    after = {path: path.stat().st_mtime_ns for part in ("bundles", "code") for path in
             (root / part).rglob("*")}  # fmt: skip
    assert after == before


def test_each_resource_class_is_one_array(bench: Bench) -> None:
    table = [{"id": f"s{n}", "cores_per_task": 1 + n % 2, "memory": "100M"} for n in range(8)]
    bench.open(table, execution={"array_parallelism": 2})
    jobs = bench.submit(n_chunks=6)
    scripts = [bench.script(job) for job in jobs]
    assert ["#SBATCH --array=0-2%2" in text for text in scripts] == [True, True]
    wanted = {
        tuple(line for line in text.splitlines() if "cpus-per-task" in line or "--mem" in line)
        for text in scripts
    }
    assert wanted == {
        (f"#SBATCH --cpus-per-task={cores}", "#SBATCH --mem=100M") for cores in (1, 2)
    }
    assert len(bench.names()) == 2
    assert batches.render_scripts(
        bench.control, bench.cluster, bench.control.index.chunks(bench.batch)
    ) == sorted(scripts, key=lambda text: scripts.index(text))
    bench.drive()
    assert bench.control.index.counts(bench.control.key).complete == 8


def test_submitit_1624_arrays_split_only_where_the_site_forces_it(ssh_bench: Bench) -> None:
    ssh_bench.open(rows(7))
    real = ssh_bench.cluster.client.site()
    small = dataclasses.replace(real, max_array_size=3)
    ssh_bench.cluster.client.site = lambda *_, **__: small  # type: ignore[method-assign]
    assert batches.allowed_chunks(ssh_bench.control, ssh_bench.cluster, 7) == 3
    assert batches.allowed_chunks(ssh_bench.control, ssh_bench.cluster, 7, map_limit=2) == 2
    jobs = ssh_bench.submit(n_chunks=7)
    sizes = [len(ssh_bench.control.index.elements(job=job.name)) for job in jobs]
    assert sizes == [3, 3, 1]
    full = dataclasses.replace(real, max_submit=10, queued=8)
    ssh_bench.cluster.client.site = lambda *_, **__: full  # type: ignore[method-assign]
    assert batches.allowed_chunks(ssh_bench.control, ssh_bench.cluster, 7) == 2


class Died(BaseException):
    """The process is gone."""


def dying(step: int) -> Callable[..., Any]:
    """Return a wrapper that ends the process before its n-th remote command, or after it."""
    count = [0]

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] * 2 - 1 == step:
                raise Died
            result = real(*args, **kwargs)
            if count[0] * 2 == step:
                raise Died
            return result

        return run

    return wrap


@pytest.mark.parametrize("first", range(1, 17, 5))
def test_a_submit_that_died_at_any_command_goes_on(ssh_bench: Bench, first: int) -> None:
    for step in range(first, first + 5):
        ssh_bench.slurm.reset()
        ssh_bench.slurm.answer("mkdir -p root")
        shutil.rmtree(ssh_bench.folder / "control", ignore_errors=True)
        ssh_bench.prefix = new_prefix()
        ssh_bench.open(rows(2))
        runner = ssh_bench.cluster.client.runner
        real = runner.run
        runner.run = dying(step)(real)  # type: ignore[method-assign]
        try:
            ssh_bench.submit()
            ended = True
        except Died:
            ended = False
        runner.run = real  # type: ignore[method-assign]
        (job,) = batches.submit(
            ssh_bench.control, ssh_bench.cluster, ssh_bench.dispatch(), patience=3.0
        )
        names = ssh_bench.names()
        assert names == [f"{job.job_id} {job.name}"], f"died at step {step}"
        leftovers = [p for p in (ssh_bench.slurm.shared / "root").rglob(".*") if p.is_dir()]
        assert leftovers == []
        if ended:
            return


def test_a_refused_submission_can_be_mended(ssh_bench: Bench) -> None:
    ssh_bench.open(rows(2), execution={"partition": "nowhere"})
    with pytest.raises(SlurmRefused, match=r"(?i)invalid partition"):
        ssh_bench.submit()
    assert ssh_bench.names() == []
    ssh_bench.open(rows(2))
    (job,) = ssh_bench.submit()
    assert "nowhere" not in ssh_bench.script(job)
    ssh_bench.drive()
    assert ssh_bench.control.index.counts(ssh_bench.control.key).complete == 2


def test_a_missing_remote_root_submits_nothing(ssh_bench: Bench) -> None:
    ssh_bench.open(rows(2), execution={"remote_root": str(ssh_bench.slurm.shared / "missing")})
    with pytest.raises(StagingRefused, match="make it there, or name another"):
        ssh_bench.submit()
    assert ssh_bench.names() == []
    assert not (ssh_bench.slurm.shared / "missing").exists()


def test_another_connection_cannot_go_on_with_a_job(ssh_bench: Bench) -> None:
    ssh_bench.open(rows(1), execution={"partition": "nowhere"})
    with pytest.raises(SlurmRefused):
        ssh_bench.submit()
    other = dataclasses.replace(ssh_bench.cluster, place="other")
    with pytest.raises(UsageError, match="was begun at 'hpc': go on with that connection"):
        batches.submit(ssh_bench.control, other, ssh_bench.dispatch())


def test_a_worker_that_refuses_is_given_up_with_its_words(ssh_bench: Bench) -> None:
    ssh_bench.open(rows(2), model_version="2", execution={"setup": ["echo ready", "cd /nowhere"]})
    ssh_bench.submit(n_chunks=1)
    (element,) = ssh_bench.elements()
    news = ssh_bench.wait(element)
    assert news.over is not None
    assert (news.over.end, news.over.detail) == (End.UNUSABLE, "set-up line failed: cd /nowhere")
    assert "ready" in news.log_tail
    settled = settle(ssh_bench.control, ssh_bench.cluster, element.chunk, news.over)
    assert settled.next == "give-up"
    assert "set-up line failed: cd /nowhere" in settled.message
    info = ssh_bench.control.index.simulation(ssh_bench.control.key, "s0")
    assert info is not None
    assert (info.tries, info.interruptions) == (0, 0)


def test_a_time_limit_is_known_before_it_hits_and_its_factors_compound(ssh_bench: Bench) -> None:
    execution = {
        "time": "00:00:20", "mem": "100M", "stop_before_end": 4,
        "policies": {"time-limit": {"time": 1.5, "memory": 2}},
    }  # fmt: skip
    ssh_bench.open(rows(1, what="wait"), execution=execution)
    (job,) = ssh_bench.submit(n_chunks=1)
    assert "#SBATCH --signal=B:USR1@4" in ssh_bench.script(job)
    (element,) = ssh_bench.elements()
    index = ssh_bench.control.index
    for time_limit, memory in (("00:00:30", "200M"), ("00:00:45", "400M")):
        # As if it had hit: a real one takes a minute.
        over = Over(End.TIME_LIMIT, "TIMEOUT", dataclasses.replace(ENDED))
        cancel_chunk(ssh_bench.control, ssh_bench.cluster, element.chunk)
        assert settle(ssh_bench.control, ssh_bench.cluster, element.chunk, over).next == "retry"
        job = batches.resubmit(ssh_bench.control, ssh_bench.cluster, element.chunk)
        assert f"#SBATCH --time={time_limit}" in ssh_bench.script(job)
        assert f"#SBATCH --mem={memory}" in ssh_bench.script(job)
    assert batches.resubmit(ssh_bench.control, ssh_bench.cluster, element.chunk) == job
    assert [e.end for e in index.elements(chunk=element.chunk)] == [
        "time-limit", "time-limit", None
    ]  # fmt: skip
    stale = Over(End.FAILED, "late news", ENDED, submission=1)
    assert settle(ssh_bench.control, ssh_bench.cluster, element.chunk, stale).next == "again"
    assert index.elements(chunk=element.chunk)[-1].end is None


def test_a_resubmission_that_died_goes_on_as_itself(ssh_bench: Bench) -> None:
    ssh_bench.open([{"id": "s0", "what": "fail once"}])
    ssh_bench.submit(n_chunks=1)
    (element,) = ssh_bench.elements()
    assert ssh_bench.settle(element).next == "again"
    # As if the process had died here: the index has the new submission, but there is no job yet.
    ssh_bench.control.index.resubmit(element.chunk, submission=1)
    job = batches.resubmit(ssh_bench.control, ssh_bench.cluster, element.chunk)
    (again,) = ssh_bench.elements()
    assert (again.job, again.submission) == (job, 2)
    assert ssh_bench.settle(again).next == "done"
    over = Over(End.COMPLETED, "", ENDED, submission=2)
    assert settle(ssh_bench.control, ssh_bench.cluster, element.chunk, over).next == "done"
    assert len(ssh_bench.names()) == 2
    assert ssh_bench.trace() == ["s0 1", "s0 2"]


def test_a_preview_needs_no_index(bench: Bench) -> None:
    bench.open(rows(1), execution={"n_workers": 5})
    ensemble = bench.control.ensemble
    shown = batches.preview(ensemble, bench.cluster, [("", 90), ("cores_per_task=4", 10)])
    assert [(one.n_elements, one.resource_class) for one in shown] == [
        (4, ""), (1, "cores_per_task=4")
    ]  # fmt: skip
    assert "#SBATCH --array=0-3\n" in shown[0].script
    assert "#SBATCH --cpus-per-task=4\n" in shown[1].script
    assert list((bench.slurm.shared / "root").iterdir()) == []


def test_cancelling_reaches_simulations_and_elements(bench: Bench) -> None:
    bench.open(rows(4, what="wait"), execution={"cpus-per-task": 2})
    bench.submit()
    until(lambda: len(bench.trace()) == 4, "four simulations to run")
    first, second = bench.elements()
    tell = reach(bench.control, bench.cluster)
    ids = [
        info.simulation.id
        for info in bench.control.index.simulations(bench.control.key, Scope(chunk=first.chunk))
    ]
    assert batch.cancel(bench.control, Scope(ids=[ids[0]]), tell) == 1
    cancel_file = Path(first.job.folder) / f"{first.chunk}.cancel"
    assert cancel_file.read_text() == f"{ids[0]}\n"
    assert batch.cancel(bench.control, Scope(chunk=second.chunk), tell) == 2
    assert bench.settle(second).next == "done"
    states = bench.slurm.admin("squeue", "-h", "-r", "-t", "all", "-o", "%K %T")
    assert "0 RUNNING" in states
    cancel_chunk(bench.control, bench.cluster, first.chunk)
    settled = bench.settle(first)
    assert settled.next == "give-up"
    assert (settled.counts.failed, settled.counts.unfinished) == (1, 1)


def test_a_batch_whose_driver_is_gone(ssh_bench: Bench) -> None:
    ssh_bench.open([*rows(1), {"id": "wait", "what": "wait"}])
    (job,) = ssh_bench.submit()
    quick, slow = sorted(ssh_bench.elements(), key=lambda e: e.element)
    ssh_bench.wait(quick)
    settlers = {"slurm": settler(lambda place: ssh_bench.cluster if place == "hpc" else None)}
    control = ssh_bench.control
    abandoned = batch.reconcile(control, driver_alive=lambda _: False, settlers=settlers)
    assert abandoned.settled == [(quick.chunk, 0)]
    nowhere = {"slurm": settler(lambda place: None)}
    assert batch.reconcile(control, force=True, settlers=nowhere).settled == []
    assert batch.reconcile(control, driver_alive=lambda _: True, settlers=settlers).settled == []
    assert batch.reconcile(control, force=True, settlers=settlers).settled == []
    ssh_bench.slurm.answer(f"scancel {job.job_id}")
    until(lambda: batch.reconcile(control, force=True, settlers=settlers).settled
          == [(slow.chunk, 1)], "the cancelled element to be settled")  # fmt: skip
    assert control.index.counts(control.key).pending == 1


def test_a_batch_that_was_never_submitted_is_given_back(ssh_bench: Bench) -> None:
    ssh_bench.open(rows(2), execution={"partition": "nowhere"})
    with pytest.raises(SlurmRefused):
        ssh_bench.submit(n_chunks=1)
    settlers = {"slurm": settler(lambda place: ssh_bench.cluster)}
    control = ssh_bench.control
    element = control.index.elements(batch=ssh_bench.batch)[0]
    assert element.job.job_id is None
    deadline = control.index.jobs(control.key)[0].deadline
    given_back = batch.reconcile(control, force=True, settlers=settlers).settled
    assert given_back == ([(element.chunk, 2)] if control.index.now() > deadline else [])


def test_own_deadlines_end_what_lives(ssh_bench: Bench) -> None:
    ssh_bench.open(rows(1, what="wait"), execution={"run_deadline": 2})
    ssh_bench.submit(n_chunks=1)
    (element,) = ssh_bench.elements()
    one = Watched.of(element, ssh_bench.control)
    assert one.deadlines.run == 2
    until(lambda: ssh_bench.trace() == ["s0 1"], "it to run")
    news = None
    while news is None or news.over is None:
        time.sleep(0.5)
        news = ssh_bench.watch.look([one], lambda _: ssh_bench.control)[one.key]
    assert news.over.end is End.RUN_DEADLINE
    settled = settle(ssh_bench.control, ssh_bench.cluster, element.chunk, news.over)
    assert settled.next == "retry"
    assert "RUNNING" not in ssh_bench.slurm.admin("squeue", "-h", "-r", "-o", "%T")
    info = ssh_bench.control.index.simulation(ssh_bench.control.key, "s0")
    assert info is not None
    assert (info.tries, info.interruptions) == (0, 1)


def test_products_are_collected_on_the_cluster(ssh_bench: Bench) -> None:
    ssh_bench.open(rows(2))
    ssh_bench.submit()
    ssh_bench.drive()
    results = list(ssh_bench.control.index.results(ssh_bench.control.key))
    target = str(ssh_bench.slurm.shared / "all.nc")
    arguments = (ssh_bench.control, ssh_bench.cluster, ssh_bench.batch, results, target)
    job = batches.submit_collection(*arguments)
    assert batches.submit_collection(*arguments) == job
    (element,) = ssh_bench.control.index.elements(job=job.name)
    lone = dataclasses.replace(Watched.of(element, ssh_bench.control), chunk=None)
    news = None
    while news is None or news.over is None:
        time.sleep(0.5)
        news = ssh_bench.watch.look([lone], lambda _: None)[lone.key]
    assert news.over.end is End.UNUSABLE  # this Python has no xarray
    assert "cannot collect products: it has no xarray" in news.over.detail
    chunk = batches.collection_chunk(ssh_bench.batch)
    ssh_bench.control.index.end_element(chunk, element.submission, news.over.end.value)
    assert batches.submit_collection(*arguments).name != job.name
