"""Pull workers in pods, as DAGs that run in this process: real pods and index, no scheduler."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_ensemble.engine.batch import register
from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index.interface import Scope
from airflow_ensemble.engine.simulation import Reason
from airflow_ensemble.operators.pull_worker import PullWorkerOperator
from airflow_ensemble.operators.register import RegisterSimulationsOperator
from airflow_ensemble.sensors.drained import EnsembleDrainedSensor
from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.kubernetes import Kubernetes
from airflow_ensemble.triggers import own_task
from tests.airflow.test_operators import RunDag, result, rows, states
from tests.ensembles import executions, write_ensemble
from tests.services.kubernetes import Cluster
from tests.services.postgres import PostgresServer

#: Its first attempt at "killer" takes all the memory there is, or waits to be killed.
DEADLY_MODEL = """
    import time
    from pathlib import Path

    def simulate(run):
        trace = Path(run.params["trace"])
        with trace.open("a") as file:
            file.write(f"{run.id} {run.attempt}\\n")
        if run.id == "greedy" and run.attempt == 1:
            blocks = []
            while True:
                blocks.append(b"x" * 2**24)
        if run.id == "waiting" and run.attempt == 1:
            time.sleep(600)
        path = run.workdir / "values.json"
        path.write_text(run.id)
        return {"values": path}
"""


class Bench:
    """An ensemble with its index in PostgreSQL, and DAGs that run it in pods."""

    def __init__(self, cluster: Cluster, folder: Path, dsn: str, run_dag: RunDag) -> None:
        self.cluster = cluster
        self.folder = folder
        self.dsn = dsn
        self._run_dag = run_dag

    def write(self, table: list[dict[str, Any]], **keys: Any) -> Path:
        options = {
            "image": self.cluster.image,
            "index_secret": self.cluster.index_secret(self.dsn),
            "grace_period": 5,
            **keys.pop("kubernetes", {}),
        }
        execution = {"kubernetes": options}
        keys = {"name": self.folder.name, **keys}
        path = write_ensemble(self.folder, table, index="conn:results", execution=execution, **keys)
        (self.folder / "output").mkdir()
        (self.folder / "trace").touch()
        return path

    def template(self) -> dict[str, Any]:
        """Return what lets pods write where this process writes: its folder, as its user."""
        volumes, mounts = self.cluster.shared(self.folder)
        spec = {
            "securityContext": {"runAsUser": os.geteuid()},
            "containers": [{"name": "worker", "volumeMounts": mounts}],
            "volumes": volumes,
        }
        return {"spec": spec}

    def run(self, path: Path, **options: Any) -> Any:
        worker = {
            "pod_template_dict": self.template(),
            "poll_interval": 0.5,
            "retry_delay": timedelta(seconds=0.1),
            "startup_check_interval_seconds": 1,
            **options.pop("worker", {}),
        }
        wait = {"poll_interval": 0.5, "grace": 0.5, "retries": 0, **options.pop("wait", {})}
        wait["trigger_rule"] = "all_done"
        backend = Kubernetes("cluster", worker_options=worker, wait_options=wait, **options)
        with DAG(self.folder.name, schedule=None) as dag:
            EnsembleTaskGroup("e", ensemble=str(path), backend=backend)
            # Here one task runs after the other: the sensor would wait for workers in vain.
            dag.get_task("e.pull_worker") >> dag.get_task("e.wait_until_drained")
        return self._run_dag(dag)

    def run_worker(self, path: Path, *, wait: bool = False, **options: Any) -> Any:
        """Run one worker without a sensor beside it: here, one task runs after the other."""
        common = {"ensemble": str(path), "render_template_as_native_obj": True}
        with DAG(self.folder.name, schedule=None) as dag:
            registered = RegisterSimulationsOperator(task_id="register", **common)
            worker = PullWorkerOperator(
                task_id="worker",
                registration=registered.output,
                kubernetes_conn_id="cluster",
                pod_template_dict=self.template(),
                poll_interval=0.5,
                retry_delay=timedelta(seconds=0.1),
                startup_check_interval_seconds=1,
                **{"retries": 1, **common, **options},
            )
            if wait:
                worker >> EnsembleDrainedSensor(
                    task_id="wait",
                    registration=registered.output,
                    worker_tasks=["worker"],
                    poll_interval=0.5,
                    grace=0.5,
                    trigger_rule="all_done",
                    deferrable=False,  # a trigger in this process belongs to no task
                    **common,
                )
        return self._run_dag(dag)

    def control(self, *, create: bool = False) -> Any:
        file = load(self.folder / "ensemble.yaml")
        return open_control(file, create=create, resolve_connection=lambda _: self.dsn)

    def reasons(self, id: str) -> list[str]:
        with self.control() as control:
            return [one.reason.value for one in control.index.attempts(control.key, id)]


@pytest.fixture
def bench(
    kubernetes: Cluster,
    postgres: PostgresServer,
    run_dag: RunDag,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    dsn = postgres.new_database()
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", kubernetes.airflow_connection())
    monkeypatch.setenv("AIRFLOW_CONN_RESULTS", dsn)
    monkeypatch.setattr(own_task, "FIRST_EVENT", 0.0)  # there is no scheduler to fail tasks
    folder = tmp_path / f"e{abs(hash(tmp_path)) % 10**8}"
    return Bench(kubernetes, folder, dsn, run_dag)


def pod_ends(run: Any, task: str = "e.pull_worker") -> list[dict[str, Any]]:
    """Return how the pods of a run ended, as the XComs of its workers say."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = XComModel.get_many(run_id=run.run_id, key="pod_end", task_ids=task)
        values = [row.value for row in session.scalars(query)]
    return [json.loads(value) if isinstance(value, str) else value for value in values]


def worker_of(run: Any) -> Any:
    (task,) = (ti for ti in run.get_task_instances() if ti.task_id == "worker")
    return task


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something beside the block, and fail if that failed."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(act)
        yield
        done.result(timeout=60)


def test_pods_drain_the_batch_and_leave_nothing_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A kubeconfig of the environment is not the connection's, and must not get in its way.
    (tmp_path / "other").write_text("{}")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "other"))
    path = bench.write([*rows(5), {"id": "e", "what": "empty"}])
    run = bench.run(path, n_workers=2)
    assert run.state == "success", states(run)
    assert sorted(executions(bench.folder)) == ["e", "s0", "s1", "s2", "s3", "s4"]
    assert result(run, "e.plan_workers") == [0, 1]
    assert result(run, "e.collect")["empty"] == 1
    # In this process one task runs after the other: what came second found nothing to do.
    (end,) = pod_ends(run)
    assert (end["reason"], end["detail"]) == (None, "ended well")
    assert bench.cluster.pods(f"ensemble={bench.folder.name}") == []
    labels = {ti.rendered_map_index for ti in run.get_task_instances() if ti.map_index >= 0}
    assert labels == {"worker 0", "worker 1"}


def test_a_night_with_nothing_to_do_starts_no_pod(bench: Bench) -> None:
    path = bench.write(rows(1))
    with bench.control(create=True) as control:
        register(control, "before")
        control.index.cancel(control.key, Scope())
    run = bench.run(path)
    assert states(run)["e.wait_until_drained", -1] == "success"
    assert states(run)["e.pull_worker", -1] == "skipped"
    assert result(run, "e.plan_workers") == []


def test_a_pod_that_ran_out_of_memory_costs_one_try_with_that_reason(bench: Bench) -> None:
    path = bench.write(
        [{"id": "greedy"}, *rows(2)], model=DEADLY_MODEL, kubernetes={"memory": "400M"}
    )
    run = bench.run_worker(path)
    assert run.state == "success", states(run)
    assert bench.reasons("greedy") == ["out-of-memory"]
    assert sorted(executions(bench.folder)) == ["greedy", "greedy", "s0", "s1"]
    if not bench.cluster.real:  # an older kernel kills the simulation alone
        assert worker_of(run).try_number == 2


#: What the index is to say of a pod that is deleted, by the event that was told about it before.
DELETIONS = {
    None: (Reason.LOST, "the pod was deleted by somebody else"),
    "Preempted": (Reason.PREEMPTED, "Preempted: room was needed"),
}


@pytest.mark.parametrize("event", DELETIONS)
def test_a_pod_that_somebody_deletes_is_replaced_and_its_work_goes_on_at_once(
    bench: Bench, event: str | None
) -> None:
    path = bench.write([{"id": "waiting"}, *rows(2)], model=DEADLY_MODEL)

    def delete() -> None:
        deadline = time.monotonic() + 60
        while "waiting" not in executions(bench.folder):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (pod,) = bench.cluster.pods(f"ensemble={bench.folder.name}")
        # Frozen, the worker cannot hand its work back by itself: that is for its task to do.
        bench.cluster.pause(pod["metadata"]["name"])
        if event is not None:
            bench.cluster.tell(pod, event, "room was needed")
        bench.cluster.delete(pod["metadata"]["name"], grace=0)

    with meanwhile(delete):
        run = bench.run_worker(path)
    assert run.state == "success", states(run)
    assert worker_of(run).try_number == 2
    with bench.control() as control:
        (attempt,) = control.index.attempts(control.key, "waiting")
    reason, detail = DELETIONS[event]
    assert attempt.reason is reason
    assert detail in attempt.detail
    assert executions(bench.folder).count("waiting") == 2


def test_a_worker_that_refuses_burns_no_retries(bench: Bench) -> None:
    nowhere = bench.dsn.rpartition("/")[0] + "/nowhere"
    path = bench.write(rows(2), kubernetes={"index_secret": bench.cluster.index_secret(nowhere)})
    run = bench.run_worker(path, retries=3)
    assert states(run)["worker", -1] == "failed"
    assert worker_of(run).try_number == 1
    (end,) = pod_ends(run, "worker")
    assert "the worker refused" in end["detail"]
    assert executions(bench.folder) == []


def test_workers_that_never_start_end_the_waiting_with_their_reason(bench: Bench) -> None:
    path = bench.write(rows(2), kubernetes={"image": "localhost/missing:1"})
    run = bench.run_worker(path, retries=0, wait=True)
    assert (states(run)["worker", -1], states(run)["wait", -1]) == ("failed", "failed")
    (end,) = pod_ends(run, "worker")
    assert end["detail"].startswith("never ran: ")
    assert "ImagePull" in end["detail"]
    # A kubelet may take a while about a pod of which nothing ever ran.
    left = [pod["metadata"]["name"] for pod in bench.cluster.pods(f"ensemble={bench.folder.name}")]
    bench.cluster.await_gone(*left)


@pytest.mark.parametrize("key", ["index_secret", "image"])
def test_what_nobody_named_is_asked_for(bench: Bench, key: str) -> None:
    path = bench.write(rows(1), kubernetes={key: None})
    run = bench.run_worker(path)
    assert states(run)["worker", -1] == "failed"
    assert worker_of(run).try_number == 1


def test_a_worker_holds_its_slot_where_nobody_defers(bench: Bench) -> None:
    path = bench.write(rows(3))
    run = bench.run_worker(path, deferrable=False)
    assert run.state == "success", states(run)
    assert sorted(executions(bench.folder)) == ["s0", "s1", "s2"]
    assert bench.cluster.pods(f"ensemble={bench.folder.name}") == []
