"""The operators, wired into DAGs that run in this process: real index and workers, no scheduler."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Connection, Param, conf
from airflow.sdk.exceptions import AirflowFailException

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.errors import CollectError, UsageError
from airflow_ensemble.engine.index.interface import Scope
from airflow_ensemble.engine.simulation import Status
from airflow_ensemble.hooks.ensemble import (
    EnsembleHook,
    database_uri,
    index_spec,
    without_nones,
)
from airflow_ensemble.operators.base import command_arguments
from airflow_ensemble.operators.collect import CollectOperator
from airflow_ensemble.operators.dispatch import DispatchOperator, batch_of
from airflow_ensemble.operators.register import RegisterSimulationsOperator
from airflow_ensemble.operators.run_chunk import RunChunkOperator
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.local import Local
from tests.ensembles import executions, write_ensemble
from tests.services.postgres import PASSWORD, PostgresServer

RunDag = Callable[..., Any]


def rows(count: int, **params: Any) -> list[dict[str, Any]]:
    return [{"id": f"s{n}", "x": n, **params} for n in range(count)]


def group_dag(name: str, ensemble: Path | str, n_workers: int = 1, **options: Any) -> DAG:
    with DAG(name, schedule=None, params=options.pop("params", {})) as dag:
        EnsembleTaskGroup("e", ensemble=str(ensemble), backend=Local(n_workers), **options)
    return dag


def states(run: Any) -> dict[tuple[str, int], str]:
    return {(ti.task_id, ti.map_index): ti.state for ti in run.get_task_instances()}


def result(run: Any, task: str, map_index: int = -1) -> Any:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = XComModel.get_many(
            run_id=run.run_id, key="return_value", task_ids=task, map_indexes=map_index
        )
        value = session.scalars(query).one().value
    return json.loads(value) if isinstance(value, str) else value


def test_a_group_joins_axes_that_differ_when_it_is_told_to(run_dag: RunDag, tmp_path: Path) -> None:
    import xarray as xr

    model = """
        import xarray as xr

        def simulate(run):
            x = list(range(run.params["x"] + 1))
            return {"values": xr.Dataset({"v": ("x", x)}, coords={"x": x})}
    """
    path, target = write_ensemble(tmp_path, rows(2), model=model), tmp_path / "all.nc"
    run = run_dag(group_dag("joined", path, to=str(target), align="outer"))
    assert run.state == "success"
    with xr.open_dataset(target) as dataset:
        assert dataset["values"].values[1].tolist() == [0, 1]

    collect = CollectOperator(
        task_id="collect", registration=result(run, "e.register"), ensemble=path, to=str(target)
    )
    other = CollectOperator(
        task_id="other", registration={}, ensemble=path, products=["steps"], to=str(target)
    )
    with open_control(load(path)) as control, pytest.raises(CollectError, match='align="outer"'):
        collect.write(control, list(control.index.results(control.key)), str(target))
    with open_control(load(path)) as control, pytest.raises(UsageError, match="product 'steps'"):
        other.write(control, list(control.index.results(control.key)), str(target))


def test_a_group_runs_every_simulation_once_and_says_what_it_did(
    run_dag: RunDag, tmp_path: Path
) -> None:
    path = write_ensemble(tmp_path, [*rows(5), {"id": "e", "what": "empty"}])
    run = run_dag(group_dag("whole", path, n_workers=3))
    assert run.state == "success"
    assert sorted(executions(tmp_path)) == ["e", "s0", "s1", "s2", "s3", "s4"]
    registration = result(run, "e.register")
    assert registration["ensemble"] == "tests"
    with open_control(load(path)) as control:
        assert registration["settings"] == control.key.settings_hash
    assert (registration["total"], registration["new"], registration["pending"]) == (6, 6, 6)
    chunks = result(run, "e.dispatch")
    assert [chunk["count"] for chunk in chunks] == [2, 2, 2]
    assert [set(chunk) for chunk in chunks] == [{"chunk", "label", "count"}] * 3
    assert chunks[1]["label"] == "chunk 0001 · 2 simulations"
    labels = {ti.rendered_map_index for ti in run.get_task_instances() if ti.map_index >= 0}
    assert labels == {chunk["label"] for chunk in chunks}
    facts = result(run, "e.collect")
    assert (facts["complete"], facts["empty"], facts["failed"], facts["total"]) == (6, 1, 0, 6)
    assert facts["output"] == str(tmp_path / "output")


def test_a_night_with_nothing_to_do_is_green(run_dag: RunDag, tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, rows(3))
    assert run_dag(group_dag("night", path)).state == "success"
    second = run_dag(group_dag("night", path))
    assert second.state == "success"
    assert states(second) == {
        ("e.register", -1): "success",
        ("e.dispatch", -1): "success",
        ("e.run_chunk", -1): "skipped",
        ("e.collect", -1): "success",
    }
    assert result(second, "e.dispatch") == []
    assert result(second, "e.collect")["complete"] == 3
    assert len(executions(tmp_path)) == 3


def test_what_failed_for_good_fails_its_task_at_once_and_names_itself(
    run_dag: RunDag, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_ensemble(tmp_path, [*rows(2), {"id": "bad", "what": "raise"}], max_attempts=2)
    run = run_dag(group_dag("bad", path))
    assert run.state == "failed"
    assert states(run)["e.run_chunk", 0] == states(run)["e.collect", -1] == "failed"
    (chunk,) = (ti for ti in run.get_task_instances() if ti.task_id == "e.run_chunk")
    assert chunk.try_number == 1 < chunk.max_tries + 1
    # The simulation's own tries are all spent within the one try of the task.
    assert executions(tmp_path).count("bad") == 2


def test_a_tolerated_failure_leaves_the_verdict_green(run_dag: RunDag, tmp_path: Path) -> None:
    table = [*rows(3), {"id": "bad", "what": "raise"}]
    path = write_ensemble(tmp_path, table, max_attempts=1, max_failed="25%")
    run = run_dag(group_dag("tolerated", path))
    assert states(run)["e.run_chunk", 0] == "failed"
    assert states(run)["e.collect", -1] == "success"
    assert run.state == "success"
    assert result(run, "e.collect")["failed"] == 1


def test_templates_and_params_reach_the_ensemble_as_what_they_are(
    run_dag: RunDag, tmp_path: Path
) -> None:
    path = write_ensemble(tmp_path, rows(4))
    (tmp_path / "other.jsonl").write_text('{"id": "other"}\n{"id": "another"}\n')
    dag = group_dag(
        "templated",
        "{{ params.file }}",
        params={"file": str(path), "skip": False, "n": 2, "steps": 7, "unset": Param(None)},
        simulations="{{ params.table }}",
        overrides={
            "skip_existing": "{{ params.skip }}",
            "parameters": {"steps": "{{ params.steps }}", "gone": "{{ params.unset }}"},
            "execution.n_workers": "{{ params.n }}",
            "max_failed": "{{ params.unset }}",
        },
    )
    dag.params["table"] = "other.jsonl"
    run = run_dag(dag, run_conf={"steps": 8})
    assert run.state == "success"
    assert sorted(executions(tmp_path)) == ["another", "other"]
    overrides = {"parameters": {"steps": 8}}
    with open_control(load(path, overrides)) as control:
        assert control.index.counts(control.key).complete == 2


def test_skip_existing_false_computes_a_new_generation(run_dag: RunDag, tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, rows(2))
    run_dag(group_dag("anew", path))
    again = group_dag("anew", path, overrides={"skip_existing": False})
    second = run_dag(again)
    assert second.state == "success"
    assert result(second, "e.register")["generation"] == 2
    assert sorted(executions(tmp_path)) == ["s0", "s0", "s1", "s1"]


def test_more_chunks_than_airflow_maps_are_clamped(
    run_dag: RunDag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "3")
    assert conf.getint("core", "max_map_length") == 3
    path = write_ensemble(tmp_path, rows(5))
    run = run_dag(group_dag("clamped", path, n_workers=5000))
    assert run.state == "success"
    assert [chunk["count"] for chunk in result(run, "e.dispatch")] == [2, 2, 1]


def test_a_wrong_file_fails_without_retries_and_the_verdict_is_red(
    run_dag: RunDag, tmp_path: Path
) -> None:
    path = write_ensemble(tmp_path, rows(1), max_atempts=3)
    run = run_dag(group_dag("wrong", path))
    assert run.state == "failed"
    assert states(run)["e.register", -1] == states(run)["e.collect", -1] == "failed"
    assert {ti.try_number for ti in run.get_task_instances() if ti.state == "failed"} == {1}
    assert executions(tmp_path) == []


def test_an_unusable_model_charges_nobody(run_dag: RunDag, tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, rows(2), model="import not_there\n")
    run = run_dag(group_dag("unusable", path))
    assert states(run)["e.run_chunk", 0] == "failed"
    with open_control(load(path)) as control:
        infos = list(control.index.simulations(control.key))
    assert [(info.tries, info.status) for info in infos] == [(0, Status.DISPATCHED)] * 2


def test_operators_wired_by_hand_write_the_dataset(run_dag: RunDag, tmp_path: Path) -> None:
    model = """
        import numpy as np
        import xarray as xr

        def simulate(run):
            return {"values": xr.Dataset({"t": ("x", np.full(3, float(run.params["x"])))})}
    """
    path = write_ensemble(tmp_path, rows(3), model=model)
    common: dict[str, Any] = {"ensemble": path}
    target = tmp_path / "all.zarr"
    with DAG("by_hand", schedule=None) as dag:
        register = RegisterSimulationsOperator(task_id="register", **common)
        dispatch = DispatchOperator(
            task_id="dispatch", registration=register.output, n_workers=2, **common
        )
        run_chunk = RunChunkOperator.partial(task_id="run", **common).expand(chunk=dispatch.output)
        collect = CollectOperator(
            task_id="collect", registration=register.output, to=str(target), **common
        )
        run_chunk >> collect
    assert run_chunk.retries == 2
    run = run_dag(dag)
    assert run.state == "success"
    assert result(run, "collect")["dataset"] == str(target)
    import xarray as xr

    with xr.open_zarr(target) as dataset:
        assert dataset.sizes["simulation"] == 3
        assert dataset["values"].sum("x").values.tolist() == [0.0, 3.0, 6.0]


def test_what_a_dead_run_left_is_run_by_the_next(run_dag: RunDag, tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, rows(3))
    with DAG("died", schedule=None) as dag:
        register = RegisterSimulationsOperator(task_id="register", ensemble=path)
        DispatchOperator(task_id="dispatch", registration=register.output, ensemble=path)
    assert run_dag(dag).state == "success"
    with open_control(load(path)) as control:
        assert control.index.counts(control.key).dispatched == 3
    run = run_dag(group_dag("alive", path))
    assert run.state == "success"
    assert sorted(executions(tmp_path)) == ["s0", "s1", "s2"]


def test_the_index_may_live_behind_an_airflow_connection(
    run_dag: RunDag,
    tmp_path: Path,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    dsn = postgres.new_database()
    monkeypatch.setenv("AIRFLOW_CONN_RESULTS", dsn)
    path = write_ensemble(tmp_path, rows(3), index="conn:results")
    run = run_dag(group_dag("conn", path))
    assert run.state == "success"
    assert not (tmp_path / "output" / ".ensemble" / "index.sqlite").exists()
    with open_control(load(path, {"index": "env:AIRFLOW_CONN_RESULTS"})) as control:
        batch = result(run, "e.register")["batch"]
        assert control.index.counts(control.key, Scope(batch=batch)).complete == 3
    shown = "".join(capfd.readouterr())
    assert PASSWORD not in shown


def test_a_connection_of_another_type_is_refused(
    run_dag: RunDag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WEB", "http://example.org")
    path = write_ensemble(tmp_path, rows(1), index="conn:web")
    assert states(run_dag(group_dag("web", path)))["e.register", -1] == "failed"


@pytest.mark.parametrize(
    ("fields", "uri"),
    [
        ({"host": "db", "schema": "x"}, "postgresql://db/x"),
        (
            {"host": "db", "port": 5433, "login": "u@v", "password": "p/w:é", "schema": "a b"},
            "postgresql://u%40v:p%2Fw%3A%C3%A9@db:5433/a%20b",
        ),
        (
            {"host": "db", "login": "u", "schema": "x", "extra": '{"sslmode": "require"}'},
            "postgresql://u@db/x?sslmode=require",
        ),
        (
            {"host": "db", "password": "p", "extra": '{"application_name": 1.10, "port": 5e3}'},
            "postgresql://:p@db/?application_name=1.10&port=5e3",
        ),
        ({"host": "db", "extra": '{"iam": true, "cursor": {"a": 1}}'}, "postgresql://db/"),
    ],
)
def test_connections_become_addresses(fields: Mapping[str, Any], uri: str) -> None:
    assert database_uri(Connection(conn_id="c", conn_type="postgres", **fields)) == uri


def test_other_connections_are_no_databases() -> None:
    with pytest.raises(UsageError, match=r"'c' is of type 'http'.*'postgres'"):
        database_uri(Connection(conn_id="c", conn_type="http", host="x"))


def test_what_was_not_given_overrides_nothing() -> None:
    given = {"a": None, "b": {"c": None}, "d": {"e": None, "f": 0}, "g": {}, "h": False}
    assert without_nones(given) == {"d": {"f": 0}, "g": {}, "h": False}


def test_a_missing_registration_is_named() -> None:
    with pytest.raises(AirflowFailException, match="registers the simulations did not succeed"):
        batch_of(None)


def test_the_hook_names_file_and_key(tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, rows(1))
    with pytest.raises(UsageError, match="max_attempts"):
        EnsembleHook(path, {"max_attempts": "many"}).load()


def test_a_hint_names_what_the_task_worked_on() -> None:
    overrides = {
        "output": "/data/out put",
        "parameters": {"n_hours": -3},
        "execution": {"n_workers": 4},
        "skip_existing": False,
    }
    assert command_arguments(Path("/e.yaml"), overrides) == (
        """-f /e.yaml --set 'output=/data/out put' --set 'parameters={"n_hours": -3}'"""
    )


def test_variables_in_where_a_dataset_goes_are_put_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", str(tmp_path))
    monkeypatch.delenv("NOPE", raising=False)

    def target(to: str | None) -> str | None:
        return CollectOperator(task_id="c", registration={}, ensemble="e.yaml", to=to)._target()

    assert target("$MINE/all.nc") == f"{tmp_path}/all.nc"
    assert target(None) is None
    with pytest.raises(UsageError, match="task 'c': to names the variable NOPE, which is not set"):
        target("$NOPE/all.nc")


def test_a_trigger_is_given_where_the_index_is(tmp_path: Path) -> None:
    path = write_ensemble(tmp_path, rows(1))
    assert index_spec(load(path)) == f"{tmp_path}/output/.ensemble/index.sqlite"
    # A triggerer works in another folder.
    assert index_spec(load(path, {"index": "my.sqlite"})) == f"{tmp_path}/my.sqlite"
    assert index_spec(load(path, {"index": "env:INDEX"})) == "env:INDEX"


def test_a_connection_whose_folder_is_not_known_is_refused_when_the_file_is_read(
    tmp_path: Path,
) -> None:
    class Nothing:
        name = "there"

        def look_up(self, names: Sequence[str]) -> Mapping[str, str]:
            return {}

    path = write_ensemble(tmp_path, rows(1), output="/there")
    cluster = Cluster(SlurmClient(LocalRunner()), "hpc", "$SCRATCH/ens", side=Nothing())
    with pytest.raises(
        UsageError, match="connection 'hpc': remote_root names the variable SCRATCH"
    ):
        EnsembleHook(path).load(cluster)
