"""An ensemble on the tests' cluster, driven over SSH as a login node's ``run --wait`` drives it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_ensemble.cli.progress import Progress
from airflow_ensemble.cli.slurm.waiting import ArrayWait
from airflow_ensemble.engine import batch
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index.interface import (
    Counts,
    ElementInfo,
    JobInfo,
    Scope,
    batch_id,
)
from airflow_ensemble.slurm import batches
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.decision import Deadlines
from airflow_ensemble.slurm.login import Login
from airflow_ensemble.slurm.remote_root import open_output
from airflow_ensemble.slurm.runner import Runner
from airflow_ensemble.slurm.watch import Watched
from tests.ensembles import write_ensemble
from tests.services.slurm import SlurmCluster

PLACE = "tests"
#: Leaves a line when it begins; waits for the file ``gate`` and takes memory if told to.
MODEL = """
    import json
    import time
    from pathlib import Path

    def simulate(run):
        shared = Path(run.params["shared"])
        with (shared / "trace").open("a") as file:
            file.write(f"{run.id} {run.attempt}\\n")
        taken = bytearray(run.params.get("megabytes", 0) << 20)
        while run.params.get("gated") and not (shared / "gate").exists():
            time.sleep(0.05)
        time.sleep(run.params.get("sleep", 0))
        path = run.workdir / "values.json"
        path.write_text(json.dumps({"id": run.id}))
        return {"values": path}
"""
#: Short enough for a test, and longer than accounting lags here.
SHORT = Deadlines(lag=8.0, late_results=5.0, late_failure=3.0, blocked=4.0)


def write_cluster_ensemble(
    slurm: SlurmCluster, folder: Path, rows: Sequence[Mapping[str, Any]], **keys: Any
) -> Path:
    """Write an ensemble that runs on the cluster under Python 3.9; control lies in ``folder``."""
    execution = {
        "backend": "slurm",
        "python": slurm.python39,
        "job-name": f"t{uuid.uuid4().hex[:8]}",
        **keys.pop("execution", {}),
    }
    parameters = {"shared": str(slurm.shared), **keys.pop("parameters", {})}
    return write_ensemble(
        folder,
        rows,
        model=MODEL,
        output=str(slurm.shared / "output"),
        control=str(folder / "control"),
        parameters=parameters,
        execution=execution,
        **keys,
    )


def trace(slurm: SlurmCluster) -> Counter[str]:
    """Return how often each simulation was begun on the cluster."""
    path = slurm.shared / "trace"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.split()[0] for line in lines)


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for it; fail when it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.1)


def open_gate(slurm: SlurmCluster) -> None:
    """Let the gated simulations go on."""
    slurm.answer("touch gate")


@contextlib.contextmanager
def opened(
    file: Path, login: Login, shared: Path, wrap: Callable[[Runner], Runner] = lambda runner: runner
) -> Iterator[tuple[Control, Cluster]]:
    """Open an ensemble whose output and jobs lie on a cluster.

    :param file: of :func:`write_cluster_ensemble`.
    :param shared: the cluster's folder, with a folder ``root`` in it.
    :param wrap: what to put around the runner.
    """
    ensemble = load(file)
    with wrap(make_runner(login)) as runner:
        cluster = Cluster(SlurmClient(runner), PLACE, str(shared / "root"))
        root = open_output(ensemble.output, runner)
        with open_control(ensemble, create=True, root=root) as control:
            yield control, cluster


def submit_batch(
    control: Control, cluster: Cluster, key: str = "one", n_chunks: int = 2
) -> list[JobInfo]:
    """Register the table, dispatch and submit; safe to call again."""
    found = batch.register(control, key).batch
    chunks = batch.dispatch(control, found, backend="slurm", n_chunks=n_chunks)
    return batches.submit(control, cluster, chunks)


class Rig:
    """One ensemble, its index here, and the cluster there. A context manager.

    :param slurm: the cluster; must have been reset.
    :param file: of :func:`write_cluster_ensemble`.
    :param wrap: what to put around the runner.
    :param deadlines: how long to wait for what.
    """

    def __init__(
        self,
        slurm: SlurmCluster,
        file: Path,
        *,
        wrap: Callable[[Runner], Runner] = lambda runner: runner,
        deadlines: Deadlines = SHORT,
    ) -> None:
        self.slurm = slurm
        self.deadlines = deadlines
        self.key = "one"
        slurm.answer("mkdir -p root")
        self._opened = opened(file, slurm.login(), slurm.shared, wrap)
        self.control, self.cluster = self._opened.__enter__()

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.__exit__(None, None, None)

    @property
    def batch(self) -> str:
        """Return the id of the batch."""
        key = self.control.key
        return batch_id(key.name, key.settings_hash, self.key)

    # What a user does

    def submit(self, n_chunks: int = 2) -> list[JobInfo]:
        """Register, dispatch and submit; safe to call again."""
        return submit_batch(self.control, self.cluster, self.key, n_chunks)

    def running(self, count: int) -> Rig:
        """Wait until so many simulations have begun."""
        until(lambda: len(trace(self.slurm)) >= count, f"{count} simulations to begin")
        return self

    def follow(
        self, fault: Callable[[], None] | None = None, timeout: float = 120
    ) -> dict[str, str]:
        """Wait for the batch to its end, while a fault does its work beside.

        :param fault: runs in a thread of its own; what it raises is raised here.
        :return: why chunks were given up, by their ids.
        """
        stop = threading.Event()
        timer = threading.Timer(timeout, stop.set)
        timer.start()
        try:
            with _beside(fault):
                wait = _Wait(
                    self.control,
                    self.cluster,
                    Scope(batch=self.batch),
                    Progress(),
                    stop,
                    0.5,
                )
                wait.deadlines = self.deadlines
                return dict(wait.follow([self.batch]))
        finally:
            timer.cancel()

    # What came of it

    @property
    def counts(self) -> Counts:
        """Return the batch's simulations by status."""
        return self.control.index.counts(self.control.key)

    def jobs(self) -> list[JobInfo]:
        """Return the jobs of the batch, as the index has them."""
        return self.control.index.jobs(self.control.key)

    def arrays(self) -> Counter[str]:
        """Return how many arrays Slurm has had of each name of ours, from all that it knows."""
        text = self.slurm.answer("squeue --me -h -r -t all -o '%F|%j'")
        names = Counter(line.partition("|")[2] for line in set(text.splitlines()))
        prefix = self.control.ensemble.execution["job-name"]
        return Counter({name: n for name, n in names.items() if name.startswith(prefix)})

    def ends(self) -> list[str | None]:
        """Return how the submissions ended, oldest first."""
        return [
            element.end
            for chunk in self.control.index.chunks(self.batch)
            for element in self.control.index.elements(chunk=chunk.id)
        ]

    def check(self, *, arrays: int = 1, repeated: Collection[str] = ()) -> None:
        """Every simulation is complete, its product is there once, and no array was there twice.

        :param arrays: jobs that there must have been.
        :param repeated: simulations that may have been begun more often than once.
        """
        results = list(self.control.index.results(self.control.key))
        assert self.counts.complete == self.counts.total == len(results)
        for result in results:
            (product,) = result.products
            assert product.path is not None
            assert json.loads(self.control.root.read(product.path))["id"] == result.id
        again = {id for id, count in trace(self.slurm).items() if count > 1}
        assert again <= set(repeated)
        self.check_arrays(arrays)

    def check_arrays(self, count: int) -> None:
        """Each job of the index was submitted once, and nothing else was."""
        arrays = self.arrays()
        assert set(arrays.values()) <= {1}, arrays
        assert len(arrays) == count
        assert set(arrays) <= {job.name for job in self.jobs() if job.job_id is not None}


class _Wait(ArrayWait):
    deadlines = SHORT

    def _watched(self, element: ElementInfo) -> Watched:
        return dataclasses.replace(Watched.of(element, self.control), deadlines=self.deadlines)


@contextlib.contextmanager
def _beside(work: Callable[[], None] | None) -> Iterator[None]:
    """Do some work in a thread while the body runs; raise here what it raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if work is not None:
                work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(60)
    if errors:
        raise errors[0]
