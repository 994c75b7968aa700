"""What the pod of a task is made of: ensemble file, template and arguments, one above the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import ApiClient

from airflow_ensemble.engine.batch import register
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.kubernetes.pod import labels
from airflow_ensemble.operators.pull_worker import PullWorkerOperator
from tests.ensembles import write_ensemble

OPTIONS = {
    "image": "localhost/file:1",
    "index_secret": "index/url",
    "namespace": "from-file",
    "memory": "1G",
    "labels": {"team": "slc"},
    "env": {"SHADE": "file"},
    "context": "kubectl-only",
}


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    path = write_ensemble(
        tmp_path, [{"id": "a"}], execution={"kubernetes": OPTIONS, "cpus-per-task": 3}
    )
    with open_control(load(path), create=True) as control:
        register(control, "d/r/g")
        yield control


@pytest.fixture
def made(control: Control) -> Callable[..., dict[str, Any]]:
    def make(**options: Any) -> dict[str, Any]:
        task = PullWorkerOperator(
            task_id="w",
            ensemble=control.ensemble.path,
            registration={},
            worker=7,
            dag=DAG("d"),
            **options,
        )
        task._fill_in(control, "b1")
        pod = task.build_pod_request_obj(dry_run=True)
        plain: dict[str, Any] = ApiClient().sanitize_for_serialization(pod)
        return plain

    return make


Made = Callable[..., dict[str, Any]]


def test_the_ensemble_file_describes_the_pod(made: Made, control: Control) -> None:
    pod = made()
    (container,) = pod["spec"]["containers"]
    assert pod["metadata"]["namespace"] == "from-file"
    own = labels("tests", "b1")
    assert own.items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["labels"]["team"] == "slc"
    assert pod["metadata"]["name"].startswith("tests-7-")
    assert (container["name"], container["image"]) == ("worker", "localhost/file:1")
    assert container["resources"]["limits"] == {"memory": "1024Mi"}
    assert container["command"] == ["ensemble"]
    assert container["args"] == [
        *("pull-worker", "--index", "env:ENSEMBLE_INDEX", "--name", "tests"),
        *("--settings", control.key.settings_hash[:16], "--cpus", "3", "--failed-ok"),
    ]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["restartPolicy"] == "Never"
    index, worker, shade = container["env"]
    assert index["valueFrom"] == {"secretKeyRef": {"name": "index", "key": "url"}}
    assert worker["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert shade == {"name": "SHADE", "value": "file"}
    assert "kubectl-only" not in json.dumps(pod)


def test_a_template_stands_above_the_file_and_arguments_above_both(made: Made) -> None:
    template = {
        "metadata": {"labels": {"team": "template", "floor": "2"}},
        "spec": {
            "nodeSelector": {"pool": "template"},
            "containers": [{"name": "base", "image": "localhost/template:1"}],
        },
    }
    pod = made(pod_template_dict=template)
    (container,) = pod["spec"]["containers"]
    assert (container["name"], container["image"]) == ("worker", "localhost/template:1")
    assert pod["metadata"]["labels"]["floor"] == "2"
    assert pod["spec"]["nodeSelector"] == {"pool": "template"}
    pod = made(
        pod_template_dict=template,
        image="localhost/argument:1",
        namespace="argument",
        node_selector={"pool": "argument"},
        env_vars={"SHADE": "argument"},
        index_secret="other",
        cpus=5,
    )
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "localhost/argument:1"
    assert pod["metadata"]["namespace"] == "argument"
    assert pod["spec"]["nodeSelector"]["pool"] == "argument"
    assert container["env"][-1] == {"name": "SHADE", "value": "argument"}
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "other", "key": "dsn"}
    assert container["args"][-2] == "5"


def test_every_pod_has_a_name_of_its_own(made: Made) -> None:
    names = {made()["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert max(map(len, names)) <= 63


def test_an_address_in_place_of_a_secret_is_refused_and_not_repeated(made: Made) -> None:
    with pytest.raises(Exception, match="NAME/KEY") as caught:
        made(index_secret="postgresql://me:hunter2@db/index")
    assert "hunter2" not in str(caught.value)


def test_what_nobody_named_is_asked_for_by_its_name(made: Made, control: Control) -> None:
    control.ensemble.execution["kubernetes"].pop("image")  # type: ignore[index]
    with pytest.raises(AirflowFailException, match=r"image .* execution\.kubernetes\.image"):
        made()


def test_what_kubernetes_is_given_is_rendered_to_text_whatever_the_dag_wants(
    control: Control,
) -> None:
    with DAG("d", render_template_as_native_obj=True) as dag:
        task = PullWorkerOperator(
            task_id="w",
            ensemble=control.ensemble.path,
            registration={},
            overrides={"parameters": {"n": "{{ 6 }}"}},
            cpus="{{ 2 }}",
            env_vars={"NUMBER": "{{ '007' }}", "SIZE": "1e3"},
            labels={"floor": "2"},
            namespace="{{ 12 }}",
        )
    task.render_template_fields({"dag": dag})  # type: ignore[typeddict-item]
    assert task.overrides == {"parameters": {"n": 6}}
    assert task.cpus == 2
    assert [entry.value for entry in task.env_vars] == ["007", "1e3"]
    assert task.labels == {"floor": "2"}
    assert task.namespace == "12"


@pytest.mark.parametrize("native", [True, False])
def test_a_field_of_the_form_that_is_empty_leaves_it_to_the_file(
    control: Control, native: bool
) -> None:
    with DAG("d", render_template_as_native_obj=native) as dag:
        task = PullWorkerOperator(
            task_id="w",
            ensemble=control.ensemble.path,
            registration={},
            image="{{ params.x }}",
            namespace="{{ params.x }}",
            index_secret="{{ params.x }}",
            name="{{ params.x }}",
            env_vars={"SHADE": "{{ params.x }}", "BOTH": "a{{ params.x }}b"},
        )
    task.render_template_fields({"dag": dag, "params": {"x": None}})  # type: ignore[typeddict-item]
    task._fill_in(control, "b1")
    pod = ApiClient().sanitize_for_serialization(task.build_pod_request_obj(dry_run=True))
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "localhost/file:1"
    assert pod["metadata"]["namespace"] == "from-file"
    assert pod["metadata"]["name"].startswith("tests-0-")
    secret = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "index", "key": "url"}
    rest = {entry["name"]: entry.get("value") for entry in container["env"][2:]}
    assert rest == {"SHADE": "", "BOTH": "ab"}
