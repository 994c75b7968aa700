"""Pods of pull workers drain an ensemble on PostgreSQL and S3, whatever becomes of them."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_ensemble.engine import segment, storage
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, OutputIndex, Scope
from airflow_ensemble.engine.recipe import ProductSpec
from airflow_ensemble.engine.simulation import Reason, Simulation, Status
from airflow_ensemble.kubernetes.ends import as_told, how_ended, how_vanished
from tests.engine.running import recipe_of
from tests.services.kube_objects import quantity
from tests.services.s3 import CREDENTIALS

if TYPE_CHECKING:
    from tests.services.kubernetes import Cluster
    from tests.services.postgres import PostgresServer
    from tests.services.s3 import S3Server

#: Leaves a line at each execution, and a file that is a product.
TRACE = "echo {id} >> {trace}; sleep {seconds}; echo {id} > values.txt"
#: At its first attempt takes all memory there is, as soon as it may.
GREEDY = """
import time
from pathlib import Path

def simulate(run):
    blocks = []
    while run.attempt == 1:
        if Path(run.params["go"]).exists():
            blocks.append(bytearray(b"x") * 2**22)
        else:
            time.sleep(0.1)
    return {}
"""
#: Fills the pod's ``/tmp``, which is in memory.
FILL = "until [ -e {go} ]; do sleep 0.1; done; exec dd if=/dev/zero of=/tmp/fill bs=1M count=400"
LITTLE = {"limits": {"memory": "200Mi"}}
#: A lease that a test can wait for.
SHORT = ("--lease", "8")


class Drain:
    """An ensemble in PostgreSQL and S3, and pods that work on it."""

    def __init__(self, kubernetes: Cluster, dsn: str, s3: S3Server, folder: Path) -> None:
        self.kubernetes = kubernetes
        self.folder = folder
        self.trace = folder / "trace"
        self.trace.touch()
        self.go = folder / "go"
        self.index: OutputIndex = open_index(dsn, create=True)
        self.output = f"{s3.make_bucket()}/runs"
        self.key: EnsembleKey
        endpoint = kubernetes.for_pods(s3.endpoint)
        self._index_secret = kubernetes.index_secret(dsn)
        self._s3_secret = kubernetes.make_secret({**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint})
        self._label = uuid.uuid4().hex[:8]
        volumes, mounts = kubernetes.shared(folder)
        self._volumes = [*volumes, {"name": "tmp", "emptyDir": {"medium": "Memory"}}]
        self._mounts = [*mounts, {"name": "tmp", "mountPath": "/tmp"}]

    def register(self, count: int, *, seconds: float = 0, **options: Any) -> None:
        """Register simulations that trace their executions."""
        options.setdefault("command", ("/bin/sh", "-c", TRACE))
        options.setdefault("products", (ProductSpec("values", "values.txt"),))
        rows = [{"trace": str(self.trace), "seconds": seconds} for _ in range(count)]
        self.register_rows(rows, **options)

    def register_greedy(self) -> None:
        """Register one simulation that grows without end once there is the file ``go``."""
        (self.folder / "greedy.py").write_text(GREEDY)
        self.register_rows([{"go": str(self.go)}], model="greedy:simulate")

    def register_rows(self, rows: list[dict[str, Any]], **options: Any) -> None:
        recipe = recipe_of(self.output, code=(str(self.folder),), **options)
        self.key = self.index.define(recipe)
        simulations = [Simulation(f"s{n}", row) for n, row in enumerate(rows)]
        self.index.register(self.key, simulations, batch_key=uuid.uuid4().hex)

    def start(self, count: int = 1, *options: str, **spec: Any) -> list[str]:
        """Start pods of pull workers, and return their names."""
        reference = {"secretKeyRef": {"name": self._index_secret, "key": "dsn"}}
        called = {"fieldRef": {"fieldPath": "metadata.name"}}
        words = ["pull-worker", "--index", "env:ENSEMBLE_INDEX", "--name", "tests", "--failed-ok"]
        pod = {"volumes": self._volumes, "terminationGracePeriodSeconds": 20}
        return [
            self.kubernetes.run(
                "ensemble",
                *words,
                *options,
                labels={"drain": self._label},
                env=[
                    {"name": "ENSEMBLE_INDEX", "valueFrom": reference},
                    {"name": "ENSEMBLE_WORKER", "valueFrom": called},
                ],
                envFrom=[{"secretRef": {"name": self._s3_secret}}],
                volumeMounts=self._mounts,
                securityContext={"readOnlyRootFilesystem": True, "runAsNonRoot": True},
                pod=pod,
                **{"name": f"w-{uuid.uuid4().hex[:10]}", **spec},
            )
            for _ in range(count)
        ]

    def run(self, count: int = 1) -> None:
        """Start pods, and wait until all have ended well."""
        for name in self.start(count):
            pod = self.kubernetes.await_end(name, timeout=120)
            assert pod["status"]["phase"] == "Succeeded", self.kubernetes.log(name)

    def dismiss(self, name: str) -> int:
        """Tell the index how a pod ended."""
        pod = self.kubernetes.await_end(name)
        end = how_ended(pod, "base")
        assert end.reason, end
        return self.index.dismiss(name, end.reason, end.detail)

    def await_running(self, count: int) -> None:
        await_true(lambda: self.counts.running >= count, f"{count} running simulations")

    @property
    def counts(self) -> Counts:
        return self.index.counts(self.key)

    @property
    def executions(self) -> Counter[str]:
        return Counter(self.trace.read_text().split())

    def infos(self) -> dict[str, Any]:
        return {i.simulation.id: i for i in self.index.simulations(self.key, Scope())}

    def completions(self) -> Counter[str]:
        """Return how often each simulation was recorded as complete in the segments."""
        root = storage.open_root(self.output)
        names = [name for name, _ in root.list(storage.segments_prefix(self.key.settings_hash[:8]))]
        outcomes = [
            record.outcome
            for name in names
            for record in segment.outcomes(segment.parse(root.read(name)).records)
        ]
        return Counter(o.id for o in outcomes if o.reason is None)

    def close(self) -> None:
        for pod in self.kubernetes.pods(f"drain={self._label}"):
            self.kubernetes.delete(pod["metadata"]["name"], grace=0)
        self.index.close()


@pytest.fixture
def drain(
    kubernetes: Cluster, postgres: PostgresServer, s3: S3Server, tmp_path: Path
) -> Iterator[Drain]:
    drain = Drain(kubernetes, postgres.new_database(), s3, tmp_path)
    yield drain
    drain.close()


def await_true(condition: Callable[[], object], what: str, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def test_pods_drain_an_ensemble(drain: Drain) -> None:
    drain.register(40)
    drain.run(4)

    assert (drain.counts.complete, drain.counts.failed) == (40, 0)
    assert set(drain.executions.values()) == {1}
    assert len(drain.executions) == 40
    assert drain.completions() == drain.executions
    (product,) = drain.infos()["s7"].products
    assert storage.open_root(drain.output).read(product.path) == b"s7\n"


def test_a_deleted_pod_hands_back_at_once(drain: Drain) -> None:
    drain.register(3, seconds=300)
    (name,) = drain.start(1, "--cpus", "2")
    drain.await_running(2)
    drain.kubernetes.delete(name)
    await_true(lambda: drain.counts.pending == 3, "what was handed back", timeout=30)

    assert {(i.tries, i.attempt) for i in drain.infos().values()} <= {(0, 0), (0, 1)}
    drain.kubernetes.await_gone(name)
    assert drain.index.workers(drain.key) == []


@pytest.mark.parametrize("share", ["one", "half", "all"])
def test_killed_pods_lose_nothing(drain: Drain, share: str) -> None:
    drain.register(24, seconds=1)
    names = drain.start(4)
    drain.await_running(4)
    victims = names[: {"one": 1, "half": 2, "all": 4}[share]]
    drain.kubernetes.kill(*victims)
    charged = sum(drain.dismiss(name) for name in victims)
    drain.run(2)

    assert (drain.counts.complete, drain.counts.failed) == (24, 0)
    tries = [info.tries for info in drain.infos().values()]
    assert 1 <= sum(tries) <= charged
    assert max(tries) == 1
    assert set(drain.completions().values()) == {1}
    assert sum(drain.executions.values()) <= 24 + charged


def test_a_simulation_out_of_memory_costs_one_attempt(drain: Drain) -> None:
    """The kernel kills the simulation alone, or all of the pod: it depends on its version."""
    drain.register_greedy()
    (name,) = drain.start(1, resources=LITTLE)
    drain.await_running(1)
    drain.go.touch()
    pod = drain.kubernetes.await_end(name, timeout=120)
    if pod["status"]["phase"] == "Failed":
        drain.dismiss(name)
        drain.run()

    (info,) = drain.infos().values()
    assert (info.status, info.attempt, info.tries) == (Status.COMPLETE, 2, 1)
    (attempt,) = drain.index.attempts(drain.key, "s0")
    assert attempt.reason is Reason.OUT_OF_MEMORY


def test_a_worker_out_of_memory_is_charged_when_it_is_dismissed(drain: Drain) -> None:
    """Files in memory count and belong to nobody: the kernel kills the largest, the worker."""
    drain.register_rows([{"go": str(drain.go)}], command=("/bin/sh", "-c", FILL))
    (name,) = drain.start(1, resources=LITTLE)
    drain.await_running(1)
    if drain.kubernetes.fake:
        drain.kubernetes.fake.oom(drain.kubernetes.namespace, name)
    else:
        drain.go.touch()
    pod = drain.kubernetes.await_end(name)

    assert how_ended(pod, "base").reason is Reason.OUT_OF_MEMORY
    assert drain.dismiss(name) == 1
    assert drain.dismiss(name) == 0
    (info,) = drain.infos().values()
    assert (info.status, info.tries) == (Status.PENDING, 1)
    (attempt,) = drain.index.attempts(drain.key, "s0")
    assert attempt.reason is Reason.OUT_OF_MEMORY


def test_a_frozen_pod_is_fenced(drain: Drain) -> None:
    drain.register(4, seconds=2)
    (frozen,) = drain.start(1, *SHORT)
    drain.await_running(1)
    drain.kubernetes.pause(frozen)
    drain.run()
    assert drain.counts.complete == 4
    drain.kubernetes.resume(frozen)
    drain.kubernetes.await_end(frozen)

    assert drain.counts.complete == 4
    assert sum(info.tries for info in drain.infos().values()) == 1
    assert {a.reason for i in drain.infos() for a in drain.index.attempts(drain.key, i)} == {
        Reason.LOST
    }


def test_a_pod_without_network_is_fenced(drain: Drain) -> None:
    if not drain.kubernetes.real:
        pytest.skip("pods of the fake share this machine's network")
    drain.register(6, seconds=3)
    (severed,) = drain.start(1, *SHORT)
    drain.await_running(1)
    with drain.kubernetes.severed(severed):
        drain.run()
        assert drain.counts.complete == 6
    drain.kubernetes.await_end(severed, timeout=120)

    assert drain.counts.complete == 6
    assert sum(info.tries for info in drain.infos().values()) == 1
    executions = drain.executions
    assert sum(executions.values()) >= 7  # the severed one went on for a while


@pytest.fixture
def priorities(kubernetes: Cluster) -> Iterator[list[str]]:
    """Make two priorities of the test's own, and yield their names: the lower one first."""
    if not kubernetes.real:
        pytest.skip("the fake has no scheduler that makes room")
    from kubernetes.client import SchedulingV1Api

    api = SchedulingV1Api(kubernetes.core.api_client)
    names = [f"{word}-{uuid.uuid4().hex[:10]}" for word in ("low", "high")]
    for name, value in zip(names, (-10, 10)):
        api.create_priority_class({"metadata": {"name": name}, "value": value})
    yield names
    for name in names:
        api.delete_priority_class(name)


def test_a_pod_that_made_room_is_told_by_an_event_that_outlives_it(
    kubernetes: Cluster, priorities: list[str]
) -> None:
    (node,) = kubernetes.core.list_node().items
    most = {"requests": {"cpu": f"{int(750 * quantity(node.status.allocatable['cpu']))}m"}}

    def start(priority: str) -> str:
        pod = {"priorityClassName": priority, "terminationGracePeriodSeconds": 1}
        return kubernetes.run("sleep", "600", resources=most, pod=pod)

    victim = start(priorities[0])
    kubernetes.await_phase(victim, "Running")
    rival = start(priorities[1])
    kubernetes.await_gone(victim)
    kubernetes.delete(rival, grace=0)

    end = as_told(how_vanished(None), kubernetes.events(victim))
    assert end.reason is Reason.PREEMPTED
    assert rival in end.detail
