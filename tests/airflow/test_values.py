"""What a person writes in a DAG or in its form is what model, index and results hold."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Connection, task
from airflow.sdk.exceptions import AirflowFailException
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_ensemble.cli.opening import parse_settings
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.hooks.ensemble import EnsembleHook
from airflow_ensemble.operators.base import as_number, as_text, command_arguments
from airflow_ensemble.operators.collect import CollectOperator
from airflow_ensemble.operators.dispatch import DispatchOperator, batch_of
from airflow_ensemble.operators.register import RegisterSimulationsOperator
from airflow_ensemble.operators.run_chunk import RunChunkOperator
from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from tests.airflow.live import Live
from tests.ensembles import write_ensemble

RunDag = Callable[..., Any]

#: Writes down what it was given.
TELLING_MODEL = """
    import json

    def simulate(run):
        path = run.workdir / "values.json"
        path.write_text(json.dumps({"id": run.id, "params": dict(run.params)}))
        return {"values": path}
"""
#: Texts that a second reading would take for numbers, tuples, nothing or the truth.
TEXTS = {
    "day": "2024_01_01",
    "exponent": "12e3",
    "nothing": "None",
    "pair": "1,2",
    "release": "1.10",
    "padded": "007",
    "truth": "True",
    "quoted": "'1'",
    "list": "[1, 2]",
}
ROWS = [{"id": "1_0", "x": "1_000"}, {"id": "2024_01_01", "x": 5}, {"id": "1.10", "x": 1.5}]


def seen(control: Control) -> dict[str, Any]:
    """Return by id what the model says that it was given."""
    found = {}
    for result in control.index.results(control.key):
        path = result.products[0].path
        assert path is not None
        assert f"/{result.id}" in f"/{path}"
        told = json.loads(control.root.read(path))
        assert told["id"] == result.id
        found[result.id] = {key: v for key, v in told["params"].items() if key != "trace"}
    return found


def telling(folder: Path, rows: list[dict[str, Any]] | None = None, **keys: Any) -> Path:
    return write_ensemble(folder, rows or [{"id": "s"}], model=TELLING_MODEL, **keys)


@pytest.mark.parametrize("native", [False, True])
def test_texts_of_a_dag_reach_the_model_as_they_stand(
    run_dag: RunDag, tmp_path: Path, native: bool
) -> None:
    path = telling(tmp_path, ROWS)
    overrides = {"model_version": "1.10", "parameters": TEXTS}
    with DAG(f"texts_{native}", schedule=None, render_template_as_native_obj=native) as dag:
        EnsembleTaskGroup("e", ensemble=str(path), overrides=overrides, simulations=ROWS)
    assert run_dag(dag).state == "success"
    with open_control(load(path, overrides)) as control:
        assert control.recipe.settings.model_version == "1.10"
        assert seen(control) == {row["id"]: {**TEXTS, "x": row["x"]} for row in ROWS}


def test_what_a_trigger_gives_reaches_the_model_as_it_is(run_dag: RunDag, tmp_path: Path) -> None:
    path = telling(tmp_path)
    deep = {"a": ["1", None], "b": None, "c": {}, "d": {"e": None}}
    conf = {**TEXTS, "n": 5, "f": 1.0, "big": 2**60, "yes": True, "none": None, "deep": deep}
    with DAG("conf", schedule=None, params={"version": "2.0"}) as dag:
        EnsembleTaskGroup(
            "e",
            ensemble=str(path),
            overrides={
                "model_version": "{{ params.version }}",
                "parameters": {
                    "all": "{{ dag_run.conf.all }}",
                    **{key: f"{{{{ dag_run.conf.all.{key} }}}}" for key in conf},
                    "text": "n={{ dag_run.conf.all.n }}",
                },
            },
        )
    assert run_dag(dag, run_conf={"all": conf, "version": "1.10"}).state == "success"
    expected = {**conf, "all": conf, "text": "n=5"}
    expected.pop("none")  # None leaves what the file says: here, nothing
    overrides = {"model_version": "1.10", "parameters": expected}
    with open_control(load(path, overrides)) as control:
        told = seen(control)["s"]
    assert json.dumps(told, sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_an_empty_field_leaves_what_the_file_says(run_dag: RunDag, tmp_path: Path) -> None:
    deep = {"c": 2, "d": {"e": 3}}
    path = telling(tmp_path, parameters={"a": 1, "b": "B", "deep": deep}, model_version="3")
    with DAG("empty", schedule=None, params={"none": None, "blank": ""}) as dag:
        EnsembleTaskGroup(
            "e",
            ensemble=str(path),
            overrides={
                "model_version": "{{ params.none }}",
                "skip_existing": "{{ params.blank }}",
                "max_failed": "{{ params.blank }}",
                "output": "{{ params.blank }}",
                "execution": {"n_workers": "{{ params.blank }}", "python": "{{ params.blank }}"},
                "execution.cpus-per-task": "{{ params.blank }}",
                "parameters": {
                    "a": "{{ params.none }}",
                    "b": "{{ params.blank }}",
                    "deep": {"c": "{{ params.none }}", "d": {"e": "{{ params.none }}"}},
                },
            },
            simulations="{{ params.blank }}",
            to="{{ params.blank }}",
        )
    assert run_dag(dag).state == "success"
    with open_control(load(path, {"parameters": {"b": ""}})) as control:
        assert control.recipe.settings.model_version == "3"
        assert seen(control) == {"s": {"a": 1, "b": "", "deep": deep}}


def test_simulations_may_come_from_tasks(run_dag: RunDag, tmp_path: Path) -> None:
    path = telling(tmp_path)

    @task
    def one_row(id: str) -> dict[str, Any]:
        return {"id": id, "text": "{{ 1.10 }}", "release": "1.10"}

    with DAG("from_tasks", schedule=None) as dag:
        rows = one_row.expand(id=["1_0", "12e3"])
        EnsembleTaskGroup("e", ensemble=str(path), simulations=rows)
    assert run_dag(dag).state == "success"
    with open_control(load(path)) as control:
        row = {"text": "{{ 1.10 }}", "release": "1.10"}
        assert seen(control) == {"1_0": row, "12e3": row}


@pytest.mark.parametrize("native", [False, True])
def test_operators_wired_by_hand_and_mapped_keep_texts(
    run_dag: RunDag, tmp_path: Path, native: bool
) -> None:
    path = telling(tmp_path, ROWS)
    common: dict[str, Any] = {
        "ensemble": "{{ params.file }}",
        "overrides": {"parameters": {"release": "1.10", "n": "{{ params.n }}", "d": "2024_01_01"}},
        "render_template_as_native_obj": True,
    }
    target = tmp_path / "1_0"
    name = f"mapped_{native}"
    params = {"file": str(path), "n": 3}
    with DAG(name, schedule=None, render_template_as_native_obj=native, params=params) as dag:
        register = RegisterSimulationsOperator(task_id="register", **common)
        given = "{{ ti.xcom_pull(task_ids='register') }}"
        dispatch = DispatchOperator(
            task_id="dispatch", registration=given, n_workers="{{ params.n }}", **common
        )
        chunks = RunChunkOperator.partial(task_id="run", **common).expand(chunk=dispatch.output)
        collect = CollectOperator(
            task_id="collect",
            registration=register.output,
            to=f"{target}_{{{{ params.n }}}}",
            format="zarr",
            **common,
        )
        register >> dispatch
        chunks >> collect
    run = run_dag(dag)
    states = {ti.task_id: ti.state for ti in run.get_task_instances() if ti.task_id != "collect"}
    assert set(states.values()) == {"success"}
    parameters = {"release": "1.10", "n": 3, "d": "2024_01_01"}
    with open_control(load(path, {"parameters": parameters})) as control:
        assert seen(control) == {row["id"]: {**parameters, "x": row["x"]} for row in ROWS}


def test_the_form_of_a_real_airflow_changes_no_value(airflow: Live, tmp_path: Path) -> None:
    path = telling(tmp_path)
    conf = {
        **{"ensemble": str(path), "release": "1.10", "size": 3, "table": ROWS, "n": 2**53 + 1},
        "anything": {"a": ["1_0", 1, 1.0, None, True], "b": "12e3"},
    }
    id = airflow.client.trigger("as_written", conf)
    assert airflow.client.await_run("as_written", id, 120) == "success"
    parameters = {
        **{"day": "2024_01_01", "exponent": "12e3", "nothing": "None", "pair": "1,2", "count": 7},
        **{"release": "1.10", "size": 3, "label": "v1.10", "n": 2**53 + 1},
        "anything": conf["anything"],
    }
    overrides = {"model_version": "1.10", "parameters": parameters}
    registration = airflow.client.xcom("as_written", id, "group.register")
    with open_control(load(path, overrides)) as control:
        assert registration["settings"] == control.key.settings_hash
        told = seen(control)
    expected = {row["id"]: {**parameters, "x": row["x"]} for row in ROWS}
    assert json.dumps(told, sort_keys=True) == json.dumps(expected, sort_keys=True)
    (instance,) = airflow.client.tasks("as_written", id, "group.register")
    assert instance["rendered_fields"]["overrides"] == {
        **overrides,
        "max_failed": "",
        "parameters": parameters,
    }


# --- one argument after the other ---------------------------------------------------------------


@pytest.mark.parametrize("value", [5, 1.5, True, [], {"a": 1}])
def test_an_argument_that_is_no_text_is_refused_by_name(value: Any) -> None:
    with pytest.raises(AirflowFailException, match=r"to must be a text, found"):
        as_text(value, "to")


@pytest.mark.parametrize(
    ("value", "text"), [("1_0", "1_0"), ("", None), (None, None), (Path("1.10"), "1.10")]
)
def test_an_argument_that_is_a_text_stays_one(value: Any, text: str | None) -> None:
    assert as_text(value, "to") == text


@pytest.mark.parametrize(
    "value", [0, -1, 1.5, 2.0, True, False, "0", "1.0", "1_0", "1e1", "many", "²", [4], {}]
)
def test_a_number_of_workers_is_a_whole_number_or_refused(value: Any) -> None:
    with pytest.raises(AirflowFailException, match=r"n_workers is .*from 1 on"):
        as_number(value, "n_workers")


@pytest.mark.parametrize(
    ("value", "number"), [(4, 4), ("4", 4), (" 12 ", 12), ("", None), (None, None)]
)
def test_a_number_of_workers(value: Any, number: int | None) -> None:
    assert as_number(value, "n_workers") == number


@pytest.mark.parametrize("registration", ["a text", 5, ["a"]])
def test_what_is_no_registration_is_refused(registration: Any) -> None:
    with pytest.raises(AirflowFailException, match="registration must be what Register"):
        batch_of(registration)


@pytest.mark.parametrize("overrides", ["{'a': 1}", ["a"], 5])
def test_overrides_that_are_no_mapping_are_refused_by_name(overrides: Any) -> None:
    with DAG("d"):
        operator = RegisterSimulationsOperator(task_id="t", ensemble="e", overrides=overrides)
    with pytest.raises(AirflowFailException, match="overrides must be a mapping"):
        operator.ensemble_hook.load()


def test_an_empty_text_is_a_value_where_a_file_can_have_one() -> None:
    overrides = {
        "model_version": "",
        "parameters": {"text": "", "deep": {"text": ""}},
        "parameters.dotted": "",
        "max_failed": "",
        "execution": {"python": "", "kubernetes": {"image": "", "labels": {"tier": ""}}},
        "execution.partition": "",
    }
    assert EnsembleHook("e.yaml", overrides).overrides == {
        "model_version": "",
        "parameters": {"text": "", "deep": {"text": ""}},
        "parameters.dotted": "",
        "execution": {"kubernetes": {"labels": {"tier": ""}}},
    }


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_field_of_a_connection_is_the_default_one(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection(
        conn_id="slurm_default", conn_type="slurm", extra='{"remote_root": "/r"}'
    )
    monkeypatch.setenv("AIRFLOW_CONN_SLURM_DEFAULT", connection.as_json())
    output = tmp_path / "on the cluster"
    path = telling(tmp_path, output=str(output), control=str(tmp_path / "control"))
    with DAG("d") as dag:
        operator = RegisterSimulationsOperator(
            task_id="t", ensemble=str(path), slurm_conn_id="{{ params.c }}"
        )
    operator.render_template_fields({"params": {"c": value}, "dag": dag})  # type: ignore[typeddict-item]
    assert operator.slurm_settings.conn_id == "slurm_default"
    with operator.open_on_cluster(create=True) as (_, cluster):
        assert cluster.place == "slurm_default"


# --- hints ----------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        [*TEXTS.values(), "", "~", "/a: b", "/a #c", "/a\n", " x", "- a", "*a", "é\u2028"]
    ),
)
names = st.one_of(st.sampled_from(["a", "a.b", "a=b", " a", "1.10", "~"]), st.text(min_size=1))
parameters = st.dictionaries(
    names.filter(str.strip).map(lambda name: name.encode(errors="ignore").decode() or "x"),
    st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=5
    ),
)


@given(parameters=parameters, version=scalars.filter(lambda value: value is not None))
@example(parameters={"release": "1.10"}, version="1.10")
@example(parameters={"x": 1e16, "y": -0.0, "z": "\x85\x7f"}, version="/a: b")
def test_a_hint_is_read_back_as_what_it_was(parameters: dict[str, Any], version: Any) -> None:
    overrides = {"model_version": version, "parameters": parameters, "output": Path("/o ut")}
    words = shlex.split(command_arguments(Path("/e.yaml"), overrides))
    assert words[:2] == ["-f", "/e.yaml"]
    read = parse_settings(words[3::2])
    assert words[2::2] == ["--set"] * len(read)
    expected = {**overrides, "output": "/o ut"}
    assert repr(read) == repr(expected)


def test_a_hint_names_the_table_and_no_rows() -> None:
    overrides = {"parameters.a": "1_0", "parameters": {"b": (1, "2")}, "simulations": "1_0"}
    assert command_arguments(Path("/e.yaml"), overrides) == (
        """-f /e.yaml --set 'parameters={"a": "1_0", "b": [1, "2"]}' --set simulations=1_0"""
    )
    assert command_arguments(Path("/e.yaml"), {"simulations": ROWS}) == "-f /e.yaml"


@pytest.mark.parametrize(
    ("value", "align"), [("outer", "outer"), ("exact", "exact"), ("", "exact"), (None, "exact")]
)
def test_an_empty_field_for_the_axes_refuses_them(value: str | None, align: str) -> None:
    with DAG("d"):
        collect = CollectOperator(
            task_id="t", ensemble="e", registration={}, align="{{ params.align }}"
        )
    collect.render_template_fields({"params": {"align": value}})  # type: ignore[typeddict-item]
    assert collect.alignment == align
