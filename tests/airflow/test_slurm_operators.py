"""The Slurm operators in DAGs that run in this process: a real cluster over SSH, no scheduler."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferred
from local_airflow import wait_until

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.operators.register import RegisterSimulationsOperator
from airflow_ensemble.operators.slurm_collect import SlurmCollectOperator
from airflow_ensemble.operators.slurm_submit import SlurmSubmitOperator
from airflow_ensemble.slurm.batches import preview
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.slurm import Slurm
from tests.airflow.slurm_runs import Place, make_place, queue, submissions
from tests.airflow.test_operators import result, states
from tests.services.slurm import SlurmCluster

RunDag = Callable[..., Any]


@pytest.fixture
def cluster(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    slurm.reset()
    monkeypatch.setenv("AIRFLOW_CONN_HPC", slurm.airflow_connection(poll_interval=0.5))
    return slurm


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": f"s{n}", "x": n} for n in range(count)]


def group_dag(name: str, place: Place, n_workers: int | None = 2, **options: Any) -> DAG:
    """Return a DAG whose sensors hold their slots: ``dag.test()`` defers unlike a triggerer."""
    with DAG(name, schedule=None) as dag:
        backend = Slurm("hpc", n_workers=n_workers, deferrable=False)
        EnsembleTaskGroup("e", ensemble=str(place.file), backend=backend, **options)
    return dag


def test_more_chunks_than_airflow_maps_are_cut_and_products_are_fetched(
    run_dag: RunDag, cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "3")
    target = tmp_path / "here" / "all.nc"
    target.parent.mkdir()
    place = make_place(
        cluster, tmp_path, rows(5), execution={"fetch": ["products"], "collect_to": str(target)}
    )
    arrays = submissions(cluster)
    run = run_dag(group_dag("cut", place, n_workers=5000))
    assert run.state == "success"
    assert [chunk["count"] for chunk in result(run, "e.submit")] == [2, 2, 1]
    assert submissions(cluster) == arrays + 1
    assert sorted(place.executions()) == ["s0", "s1", "s2", "s3", "s4"]
    assert result(run, "e.collect")["dataset"] == str(target)
    import xarray as xr

    with xr.open_dataset(target) as dataset:
        assert dataset.sizes["simulation"] == 5


def test_paths_of_the_cluster_are_expanded_there(
    run_dag: RunDag, cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "nobody-on-the-cluster")
    monkeypatch.setenv("MINE", str(tmp_path / "mine"))
    place = make_place(cluster, tmp_path, rows(2), execution={"backend": "slurm"})
    # Nothing of it may mean anything to the shells that it passes through.
    odd = f"{place.shared}/it's $(touch oops) `id`; é"
    written = f"{odd.replace('$', '$$')} ${{USER}}"
    scratch = Path(f"{odd} {cluster.user}")
    cluster.answer(f"mkdir {shlex.quote(str(scratch))} {shlex.quote(str(scratch / 'jobs'))}")
    overrides = {
        "output": f"{written}/out",
        "control": "$MINE/control",
        "execution": {"remote_root": f"{written}/jobs", "collect_to": f"{written}/all.nc"},
    }
    run = run_dag(group_dag("expanded", place, overrides=overrides))
    assert run.state == "success"
    assert result(run, "e.collect")["output"] == f"{scratch}/out"
    assert result(run, "e.collect")["dataset"] == f"{scratch}/all.nc"
    assert (scratch / "all.nc").is_file()
    with open_control(load(place.file, {"control": str(tmp_path / "mine/control")})) as control:
        assert control.index.recipe(control.key).output == f"{scratch}/out"
        folders = [job.folder for job in control.index.jobs(control.key)]
    assert folders
    assert all(folder.startswith(f"{scratch}/jobs/") for folder in folders)
    assert not list(place.shared.rglob("oops"))


def test_without_n_workers_there_are_as_many_chunks_as_on_a_login_node(
    run_dag: RunDag, cluster: SlurmCluster, tmp_path: Path
) -> None:
    place = make_place(cluster, tmp_path, rows(5))
    ensemble = load(place.file)
    (shown,) = preview(ensemble, Cluster.local(ensemble, cluster.environment), [("", 5)])
    run = run_dag(group_dag("without_n_workers", place, n_workers=None))
    assert run.state == "success"
    assert [chunk["count"] for chunk in result(run, "e.submit")] == [1] * shown.n_elements
    assert shown.n_elements == 5


def test_what_a_dead_run_left_on_the_cluster_is_taken_by_the_next(
    run_dag: RunDag, cluster: SlurmCluster, tmp_path: Path
) -> None:
    place = make_place(cluster, tmp_path, rows(3))
    common: dict[str, Any] = {"ensemble": str(place.file), "slurm_conn_id": "hpc"}
    with DAG("died_there", schedule=None) as dag:
        register = RegisterSimulationsOperator(task_id="register", **common)
        SlurmSubmitOperator(task_id="submit", registration=register.output, n_workers=2, **common)
    assert run_dag(dag).state == "success"
    with place.control() as control:
        assert control.index.counts(control.key).dispatched == 3
    wait_until(lambda: len(place.executions()) == 3 and not queue(cluster), 60, "the array's end")

    run = run_dag(group_dag("next", place))
    assert run.state == "success"
    registration = result(run, "e.register")
    assert (registration["complete"], registration["pending"]) == (3, 0)
    assert states(run)["e.wait_for_chunk", -1] == "skipped"
    assert len(place.executions()) == 3


def test_a_collecting_job_joins_axes_when_the_group_is_told_to(
    run_dag: RunDag, cluster: SlurmCluster, tmp_path: Path
) -> None:
    import xarray as xr

    model = """
        import xarray as xr

        def simulate(run):
            x = list(range(run.params["x"] + 1))
            return {"values": xr.Dataset({"v": ("x", x)}, coords={"x": x})}
    """
    place = make_place(cluster, tmp_path, rows(2), model=model)
    target = place.shared / "all.nc"
    run = run_dag(group_dag("joined_there", place, to=str(target), align="outer"))
    assert run.state == "success"
    with xr.open_dataset(target) as dataset:
        assert dataset["values"].values[1].tolist() == [0, 1]


def test_a_collecting_job_that_takes_too_long_is_cancelled_and_the_next_try_submits_another(
    run_dag: RunDag, cluster: SlurmCluster, tmp_path: Path
) -> None:
    hold = cluster.shared / "hold"
    waits = f"while [ -e {hold} ]; do sleep 0.2; done"
    place = make_place(cluster, tmp_path, rows(2), execution={"setup": [waits]})
    run = run_dag(group_dag("collected_late", place))
    assert run.state == "success"
    target = place.shared / "all.nc"
    collect = SlurmCollectOperator(
        task_id="collect",
        registration=result(run, "e.register"),
        ensemble=str(place.file),
        slurm_conn_id="hpc",
        to=str(target),
        execution_timeout=timedelta(seconds=30),
        dag=DAG("collects"),
    )
    pushed: dict[str, Any] = {}
    context: Any = {"ti": SimpleNamespace(xcom_push=pushed.__setitem__)}
    cluster.answer(f"touch {hold}")

    before = time.time()
    with pytest.raises(TaskDeferred) as deferred:
        collect.execute(context)
    assert before + 30 <= deferred.value.trigger.deadline <= time.time() + 30
    late = pushed["slurm_job_id"]
    wait_until(lambda: queue(cluster) == {late}, 60, "the collecting job to run")
    with pytest.raises(AirflowTaskTimeout, match=r"0:00:30 has passed: the collecting job was"):
        collect.resume(context, {"status": "timeout"})
    wait_until(lambda: not queue(cluster), 60, "the collecting job to be cancelled")
    assert not target.exists()

    with pytest.raises(TaskDeferred):
        collect.execute(context)
    assert pushed["slurm_job_id"] != late
    cluster.answer(f"rm {hold}")
    wait_until(target.exists, 90, "the next try's job to collect")


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        ({"partition": "nowhere"}, "nowhere"),
        ({"time": "soon"}, "time"),
        ({"python": "/no/such/python"}, "/no/such/python"),
    ],
)
def test_what_only_a_person_can_mend_fails_at_once_and_submits_nothing(
    run_dag: RunDag,
    cluster: SlurmCluster,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    execution: dict[str, str],
    words: str,
) -> None:
    place = make_place(cluster, tmp_path, rows(1), execution=execution)
    run = run_dag(group_dag("wrong_there", place))
    assert states(run)["e.submit", -1] == "failed"
    assert {ti.try_number for ti in run.get_task_instances() if ti.state == "failed"} == {1}
    assert words in "".join(capfd.readouterr())
    assert queue(cluster, "PENDING") | queue(cluster) == set()
    assert place.executions() == []


def test_the_control_side_of_an_ensemble_over_ssh_must_be_named(
    run_dag: RunDag, cluster: SlurmCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = make_place(cluster, tmp_path, rows(1))
    file = json.loads(place.file.read_text())
    place.file.write_text(json.dumps({k: v for k, v in file.items() if k != "control"}))
    run = run_dag(group_dag("uncontrolled", place))
    assert states(run)["e.register", -1] == "failed"
    assert "the key 'control' must name a folder" in " ".join("".join(capfd.readouterr()).split())


# --- the script that people see -------------------------------------------------------------------


class Instance:
    """As much of a task instance, and of its context, as submitting asks for."""

    max_tries = 3

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}
        self.store: dict[str, Any] = {}
        self.xcom_push = self.pushed.__setitem__

    @property
    def context(self) -> Any:
        store = SimpleNamespace(
            get=self.store.get, set=lambda key, value, **_: self.store.__setitem__(key, value)
        )
        return {"ti": self, "task_state_store": store}


def submitter(place: Place, registration: Any, **execution: Any) -> SlurmSubmitOperator:
    return SlurmSubmitOperator(
        task_id="submit",
        registration=registration,
        ensemble=str(place.file),
        overrides={"execution": execution},
        slurm_conn_id="hpc",
        n_workers=2,
        dag=DAG("submits"),
    )


def registered(run_dag: RunDag, place: Place, name: str) -> Any:
    with DAG(name, schedule=None) as dag:
        RegisterSimulationsOperator(
            task_id="register", ensemble=str(place.file), slurm_conn_id="hpc"
        )
    return result(run_dag(dag), "register")


def test_the_script_that_is_shown_is_the_one_that_was_submitted_by_any_try(
    run_dag: RunDag, cluster: SlurmCluster, tmp_path: Path
) -> None:
    hold = cluster.shared / "hold-the-script"
    cluster.answer(f"touch {hold}")
    waits = f"while [ -e {hold} ]; do sleep 0.2; done"
    table = [{"id": f"s{n}", "cores_per_task": 1 + n % 2} for n in range(4)]
    place = make_place(cluster, tmp_path, table, execution={"setup": [waits]})
    registration = registered(run_dag, place, "shown")

    instance, first = Instance(), submitter(place, registration)
    chunks = first.execute(instance.context)
    jobs = instance.pushed["slurm_jobs"]
    files = [Path(job["folder"], "job.sh").read_text() for job in jobs]
    assert len(files) == 2
    assert first.script == instance.pushed["slurm_script"] == "\n".join(files)
    for job, text in zip(jobs, files):
        assert f"#SBATCH --job-name={job['name']}\n" in text
        assert f"#SBATCH --chdir={job['folder']}\n" in text
        assert "NUMBER" not in text
    names = set(cluster.answer("squeue -h -o %j").split())
    assert names == {job["name"] for job in jobs}

    # A retry that would ask for something else adopts what runs, and shows that.
    arrays, instance = submissions(cluster), Instance()
    second = submitter(place, registration, time="00:20:00")
    assert second.execute(instance.context) == chunks
    assert submissions(cluster) == arrays
    assert second.script == instance.pushed["slurm_script"] == first.script
    assert instance.pushed["slurm_jobs"] == jobs

    # What is gone from the cluster is rendered, under its own name.
    for job in jobs:
        cluster.answer(f"rm {job['folder']}/job.sh")
    third = submitter(place, registration)
    third.execute(Instance().context)
    assert third.script == first.script
    cluster.answer(f"rm {hold}")


def test_a_script_that_was_refused_is_shown_under_its_own_name(
    run_dag: RunDag, cluster: SlurmCluster, tmp_path: Path
) -> None:
    place = make_place(cluster, tmp_path, rows(2), execution={"partition": "nowhere"})
    registration = registered(run_dag, place, "refused")
    operator = submitter(place, registration)
    with pytest.raises(AirflowFailException, match=r"nowhere|partition"):
        operator.execute(Instance().context)
    with place.control() as control:
        (job,) = control.index.jobs(control.key)
    assert f"#SBATCH --job-name={job.name}\n" in operator.script
    assert f"#SBATCH --chdir={job.folder}\n" in operator.script
    assert "#SBATCH --partition=nowhere\n" in operator.script
