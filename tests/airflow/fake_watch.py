"""Stand-ins for a cluster in unit tests: no Slurm, no SSH; the output index is a real one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_ensemble.engine.batch import dispatch, register
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index.interface import ElementInfo
from airflow_ensemble.hooks.slurm import SlurmSettings
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.login import Login
from airflow_ensemble.slurm.states import Phase, View
from airflow_ensemble.slurm.watch import News, Watched
from airflow_ensemble.triggers.cluster_poller import LedgerAddress
from tests.ensembles import write_ensemble

PENDING = News(View(Phase.PENDING, "PENDING"), 1, "pending (Priority)")


class FakeWatch:
    """Says of each element what the test has put down, and notes how it was asked."""

    def __init__(self) -> None:
        self.says: dict[str, News] = {}
        self.looks: list[list[str]] = []
        self.ledgers: list[Any] = []
        self.threads: set[int] = set()
        self.failures: list[BaseException] = []
        self.looked = threading.Semaphore(0)

    def look(
        self, watched: Sequence[Watched], ledger_of: Callable[[Watched], Any]
    ) -> dict[str, News]:
        """Answer, or fail with the next of ``failures``."""
        self.threads.add(threading.get_ident())
        self.looks.append([one.key for one in watched])
        try:
            if self.failures:
                raise self.failures.pop(0)
            self.ledgers = [ledger_of(one) for one in watched]
            return {one.key: self.says.get(one.key, PENDING) for one in watched}
        finally:
            self.looked.release()

    def await_looks(self, count: int) -> None:
        """Wait for so many further looks."""
        for _ in range(count):
            assert self.looked.acquire(timeout=10), f"only {len(self.looks)} looks"


@dataclass(frozen=True)
class FakeSettings(SlurmSettings):
    """Settings that lead to no cluster; what is cancelled is noted in ``cancelled``."""

    cancelled: list[list[str]] = field(default_factory=list, compare=False)
    failures: list[BaseException] = field(default_factory=list, compare=False)
    clusters: list[Any] = field(default_factory=list, compare=False)

    def cluster(self) -> Any:
        """Return an object that takes cancellations."""

        def cancel(ids: Sequence[str]) -> None:
            if self.failures:
                raise self.failures.pop(0)
            self.cancelled.append(list(ids))

        client = SimpleNamespace(runner=LocalRunner(), cancel=cancel)
        self.clusters.append(SimpleNamespace(client=client, place=self.conn_id))
        return self.clusters[-1]


def fake_settings(interval: float = 0.05, **options: Any) -> FakeSettings:
    """Return settings with a short interval."""
    values = {"conn_id": "fake", "login": Login(), "remote_root": "/nowhere", "defaults": {}}
    return FakeSettings(**{**values, "setup": (), "poll_interval": interval, **options})


def dispatched(folder: Path, chunks: int = 2, simulations: int = 4) -> Control:
    """Return an ensemble whose chunks stand in a real index as elements of a job ``77``."""
    rows = [{"id": f"s{n}"} for n in range(simulations)]
    control = open_control(load(write_ensemble(folder, rows)), create=True)
    batch = register(control, "unit/test/group").batch
    made = dispatch(control, batch, backend="slurm", n_chunks=chunks)
    pairs = [(chunk.id, chunk.submission) for chunk in made]
    job = control.index.prepare_job(batch, pairs, place="fake", parent="/nowhere")
    control.index.begin_attempt(job.name, 300)
    control.index.note_submitted(job.name, "77")
    return control


def elements(control: Control) -> list[ElementInfo]:
    """Return the elements of the one batch."""
    (batch,) = control.index.open_batches(control.key)
    return control.index.elements(batch=batch.id)


def address_of(control: Control) -> LedgerAddress:
    """Return where a control's results are entered."""
    return LedgerAddress(
        control.ensemble.index_location(),
        control.ensemble.name,
        control.recipe.settings.hash,
        control.ensemble.output,
    )
