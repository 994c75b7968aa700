"""Waiting for pods: the index is real, and the cluster says what the test lets it say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.cli.kubernetes import waiting
from airflow_ensemble.cli.kubernetes.errors import Refused, Unreachable
from airflow_ensemble.cli.kubernetes.jobs import JobView, view_jobs
from airflow_ensemble.cli.kubernetes.kubectl import Kubectl
from airflow_ensemble.cli.kubernetes.waiting import DrainWait, JobEnded
from airflow_ensemble.cli.progress import Progress
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.errors import Interrupted
from airflow_ensemble.engine.index.interface import Scope
from airflow_ensemble.engine.segment import Started
from tests.cli.test_kubernetes import FAILED, NO_IMAGE, OOM, job, pod
from tests.ensembles import write_ensemble

REFUSAL = {"terminated": {"exitCode": 2, "reason": "Error"}}


@dataclass(frozen=True)
class Deleting(Kubectl):
    """Notes what is deleted, and lets pods say one thing."""

    deleted: list[str] = field(default_factory=list)

    def delete_job(self, name: str) -> None:
        self.deleted.append(name)

    def last_words(self, pod: str) -> str:
        return "the model cannot be imported"


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    """Two registered simulations, one of which a worker of pod ``p`` runs."""
    file = write_ensemble(tmp_path, [{"id": "a"}, {"id": "b"}])
    with open_control(load(file), create=True) as control:
        index, key = control.index, control.index.define(control.recipe)
        index.register(key, control.ensemble.read_simulations(), batch_key="b")
        index.enlist(key, "p.1", host="p")
        (held,) = index.claim("p.1", limit=1)
        started = Started(held.simulation.id, held.attempt, "1", index.now(), "p")
        index.record(key, [started], worker="p.1")
        yield control


def wait(
    control: Control, *looks: Callable[[], list[JobView]], kubectl: Kubectl | None = None
) -> None:
    """Wait until the looks are used up; the last one is repeated."""
    left = list(looks)

    def look() -> list[JobView]:
        return (left.pop(0) if len(left) > 1 else left[0])()

    drain = DrainWait(
        control, kubectl or Deleting(), look, Scope(), Progress(), threading.Event(), poll=0.01
    )
    drain.follow()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CLUSTER_INTERVAL", 0.01)
    monkeypatch.setattr(waiting, "STUCK_LIMIT", 0.1)


def jobs(*pods: dict[str, Any], end: Any = None) -> Callable[[], list[JobView]]:
    conditions = [end] if end else []
    return lambda: view_jobs([job("j", *conditions)], list(pods))


def test_pods_that_have_gone_with_work_left_end_it_with_their_reasons(control: Control) -> None:
    dead = jobs(pod("j", "Failed", **OOM), end=FAILED)
    with pytest.raises(JobEnded) as error:
        wait(control, dead)
    assert "job j failed (BackoffLimitExceeded: no), pods: 1 OOMKilled" in str(error.value)
    assert "2 simulations left" in str(error.value)
    assert error.value.exit_code == 1


def test_what_a_dead_pod_ran_is_charged_with_what_kubernetes_knows(control: Control) -> None:
    with pytest.raises(JobEnded):
        wait(control, jobs(pod("j", "Failed", **OOM), end=FAILED))
    (attempt,) = control.index.attempts(control.key, "a")
    assert attempt.reason.value == "out-of-memory"
    assert "OOMKilled" in attempt.detail


def test_other_workers_are_waited_for(control: Control) -> None:
    """A Deployment that serves may drain what the Job has left."""
    control.index.enlist(control.key, "q.1", host="q")
    seen = iter(range(5))

    def look() -> list[JobView]:
        if next(seen, None) is None:
            control.index.discharge("q.1")
        return jobs(pod("j", "Failed", **OOM), end=FAILED)()

    with pytest.raises(JobEnded):
        wait(control, look)
    assert next(seen, None) is None


def test_outage_of_the_cluster_is_no_end(control: Control) -> None:
    def away() -> list[JobView]:
        raise Unreachable("the API server is away")

    with pytest.raises(JobEnded):
        wait(control, away, away, jobs(pod("j", "Failed", **OOM), end=FAILED))


def test_job_of_which_no_pod_can_start_is_deleted(control: Control) -> None:
    kubectl = Deleting()
    with pytest.raises(Refused, match="no pod of job j can start: 2 ImagePullBackOff: Back-off"):
        wait(control, jobs(*[pod("j", "Pending", **NO_IMAGE)] * 2), kubectl=kubectl)
    assert kubectl.deleted == ["j"]


def test_one_pod_that_starts_is_enough(control: Control) -> None:
    some = jobs(pod("j", "Pending", **NO_IMAGE), pod("j", "Running"))
    kubectl = Deleting()
    with pytest.raises(JobEnded):
        wait(control, *[some] * 30, jobs(pod("j", "Failed", **OOM), end=FAILED), kubectl=kubectl)
    assert kubectl.deleted == []


def test_workers_that_all_refuse_are_not_waited_for(control: Control) -> None:
    kubectl = Deleting()
    with pytest.raises(Refused, match="refuse to work: the model cannot be imported"):
        wait(control, jobs(pod("j", "Failed", **REFUSAL)), kubectl=kubectl)
    assert kubectl.deleted == ["j"]


def test_stopping_detaches_and_deletes_nothing(control: Control) -> None:
    kubectl, stop = Deleting(), threading.Event()
    stop.set()
    running = jobs(pod("j", "Running"))
    drain = DrainWait(control, kubectl, running, Scope(), Progress(), stop, poll=0.01)
    with pytest.raises(Interrupted, match="the pods go on without this command"):
        drain.follow()
    assert kubectl.deleted == []
