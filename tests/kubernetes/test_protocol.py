"""What both the fake and a real Kubernetes do: whatever the other tests here rely on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from kubernetes.client import ApiException

    from tests.services.kube_objects import Object
    from tests.services.kubernetes import Cluster

#: Prints a line a moment after SIGTERM, and exits with 7.
POLITE = """
import signal, sys, time
def leave(*_):
    time.sleep(0.5)
    print("farewell", flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(600)
"""
#: Takes no notice of SIGTERM.
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
GREEDY = """
blocks = []
while True:
    blocks.append(bytearray(b"x") * 2**20)
"""


def python(kubernetes: Cluster, program: str, **options: Any) -> str:
    """Start a pod that runs a program."""
    return kubernetes.run("python3", "-u", "-c", program, **options)


def end_of(pod: Object) -> Object:
    """Return how the one container of a pod ended."""
    (status,) = pod["status"]["containerStatuses"]
    end: Object = status["state"]["terminated"]
    return end


def waiting_reason(pod: Object | None) -> str:
    """Return why the one container of a pod waits."""
    statuses = ((pod or {})["status"].get("containerStatuses") or [{}]) if pod else [{}]
    return str(statuses[0].get("state", {}).get("waiting", {}).get("reason", ""))


def refusal(call: Callable[[], Any]) -> ApiException:
    """Return the error that a call ends with."""
    from kubernetes.client import ApiException

    with pytest.raises(ApiException) as caught:
        call()
    return caught.value


def await_line(kubernetes: Cluster, name: str, line: str, timeout: float = 30) -> None:
    """Wait until a pod has printed a line."""
    deadline = time.monotonic() + timeout
    kubernetes.await_phase(name, "Running", "Succeeded", "Failed")
    while line not in kubernetes.log(name):
        assert time.monotonic() < deadline, kubernetes.log(name)
        time.sleep(0.1)


class TestEnds:
    def test_success(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "print('hello')")
        pod = kubernetes.await_phase(name, "Succeeded", "Failed")
        assert pod["status"]["phase"] == "Succeeded"
        end = end_of(pod)
        assert (end["exitCode"], end["reason"]) == (0, "Completed")
        assert end["startedAt"]
        assert end["finishedAt"]
        assert kubernetes.log(name) == "hello\n"

    def test_an_exit_code(self, kubernetes: Cluster) -> None:
        pod = kubernetes.await_end(python(kubernetes, "import sys; sys.exit(3)"))
        assert pod["status"]["phase"] == "Failed"
        assert (end_of(pod)["exitCode"], end_of(pod)["reason"]) == (3, "Error")

    def test_a_kill(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, STUBBORN)
        await_line(kubernetes, name, "ready")
        assert kubernetes.processes(name)
        kubernetes.kill(name)
        pod = kubernetes.await_end(name)
        assert (end_of(pod)["exitCode"], end_of(pod)["reason"]) == (137, "Error")
        assert kubernetes.processes(name) == []

    def test_more_memory_than_the_limit(self, kubernetes: Cluster) -> None:
        limits = {"limits": {"memory": "64Mi"}}
        pod = kubernetes.await_end(python(kubernetes, GREEDY, resources=limits))
        assert pod["status"]["phase"] == "Failed"
        assert (end_of(pod)["exitCode"], end_of(pod)["reason"]) == (137, "OOMKilled")

    def test_a_deadline(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, POLITE, pod={"activeDeadlineSeconds": 3})
        pod = kubernetes.await_end(name)
        assert pod["status"]["phase"] == "Failed"
        assert pod["status"]["reason"] == "DeadlineExceeded"

    def test_a_program_that_is_not_there(self, kubernetes: Cluster) -> None:
        pod = kubernetes.await_end(kubernetes.run("no-such-program"))
        assert pod["status"]["phase"] == "Failed"
        assert end_of(pod)["exitCode"] == 128
        assert end_of(pod)["reason"] == "StartError"


class TestStarts:
    def test_status_of_a_running_pod(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, POLITE)
        pod = kubernetes.await_phase(name, "Running")
        status = pod["status"]
        assert status["podIP"]
        assert status["startTime"]
        assert pod["spec"]["nodeName"]
        (container,) = status["containerStatuses"]
        assert container["name"] == "base"
        assert container["ready"]
        assert container["restartCount"] == 0
        assert "running" in container["state"]
        conditions = {c["type"]: c["status"] for c in status["conditions"]}
        wanted = {"PodScheduled", "Initialized", "ContainersReady", "Ready"}
        assert {kind: conditions[kind] for kind in wanted} == dict.fromkeys(wanted, "True")
        kubernetes.delete(name, grace=1)

    def test_environment(self, kubernetes: Cluster) -> None:
        secret = kubernetes.make_secret({"dsn": "postgresql://secret", "other": "1"})
        plain = kubernetes.make_secret({"FROM_ALL": "all of it"})
        environment = [
            {"name": "PLAIN", "value": "a b"},
            {"name": "DSN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "dsn"}}},
            {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {
                "name": "COLOUR",
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['colour']"}},
            },
            {"name": "BOTH", "value": "$(PLAIN) and $$(PLAIN)"},
        ]
        wanted = ("PLAIN", "DSN", "WHO", "WHERE", "COLOUR", "BOTH", "FROM_ALL", "HOSTNAME")
        program = f"import json, os; print(json.dumps([os.environ[n] for n in {wanted}]))"
        name = python(
            kubernetes,
            program,
            env=environment,
            envFrom=[{"secretRef": {"name": plain}}],
            labels={"colour": "blue"},
        )
        kubernetes.await_phase(name, "Succeeded")
        assert dict(zip(wanted, json.loads(kubernetes.log(name)))) == {
            "PLAIN": "a b",
            "DSN": "postgresql://secret",
            "WHO": name,
            "WHERE": kubernetes.namespace,
            "COLOUR": "blue",
            "BOTH": "a b and $(PLAIN)",
            "FROM_ALL": "all of it",
            "HOSTNAME": name,
        }

    def test_nothing_of_this_process_reaches_a_pod(
        self, kubernetes: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ONLY_HERE", "1")
        name = python(kubernetes, "import os; print(os.environ.get('ONLY_HERE'))")
        kubernetes.await_phase(name, "Succeeded")
        assert kubernetes.log(name) == "None\n"

    def test_a_folder_is_shared(self, kubernetes: Cluster, tmp_path: Any) -> None:
        (tmp_path / "there").write_text("here")
        volumes, mounts = kubernetes.shared(tmp_path)
        program = f"from pathlib import Path; p = Path({str(tmp_path)!r}); "
        program += "(p / 'back').write_text((p / 'there').read_text())"
        name = python(kubernetes, program, volumeMounts=mounts, pod={"volumes": volumes})
        kubernetes.await_phase(name, "Succeeded")
        assert (tmp_path / "back").read_text() == "here"

    def test_an_image_that_is_not_there(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "print()", image="localhost/missing:1")
        reasons = ("ErrImagePull", "ImagePullBackOff")
        pod = kubernetes.await_pod(name, lambda p: waiting_reason(p) in reasons)
        assert pod
        assert pod["status"]["phase"] == "Pending"
        deadline = time.monotonic() + 30
        while "Failed" not in {e["reason"] for e in kubernetes.events(name)}:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        kubernetes.delete(name, grace=0)
        kubernetes.await_gone(name)

    def test_a_secret_that_comes_late(self, kubernetes: Cluster) -> None:
        reference = {"secretKeyRef": {"name": "late", "key": "key"}}
        program = "import os; print(os.environ['LATE'])"
        name = python(kubernetes, program, env=[{"name": "LATE", "valueFrom": reference}])
        kubernetes.await_pod(name, lambda p: waiting_reason(p) == "CreateContainerConfigError")
        body = {"metadata": {"name": "late"}, "stringData": {"key": "at last"}}
        kubernetes.core.create_namespaced_secret(kubernetes.namespace, body)
        kubernetes.await_phase(name, "Succeeded", timeout=120)
        assert kubernetes.log(name) == "at last\n"
        kubernetes.core.delete_namespaced_secret("late", kubernetes.namespace)

    @pytest.mark.parametrize(
        "spec",
        [
            {"pod": {"nodeSelector": {"no-node": "has-this"}}},
            {"resources": {"limits": {"memory": "10000Gi"}}},
        ],
        ids=["selector", "memory"],
    )
    def test_no_node_takes_it(self, kubernetes: Cluster, spec: dict[str, Any]) -> None:
        name = python(kubernetes, "print()", **spec)
        pod = kubernetes.await_pod(name, lambda p: p and p["status"].get("conditions"))
        assert pod
        (condition,) = pod["status"]["conditions"]
        assert (condition["type"], condition["status"]) == ("PodScheduled", "False")
        assert condition["reason"] == "Unschedulable"
        assert "0/1 nodes are available" in condition["message"]
        kubernetes.delete(name)
        kubernetes.await_gone(name, timeout=5)


class TestDeletion:
    def test_sigterm_and_time_to_leave(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, POLITE, pod={"terminationGracePeriodSeconds": 30})
        await_line(kubernetes, name, "ready")
        said: list[str] = []
        follower = threading.Thread(target=follow, args=(kubernetes, name, said))
        follower.start()
        kubernetes.delete(name)
        pod = kubernetes.pod(name)
        assert pod is None or pod["metadata"]["deletionTimestamp"]
        kubernetes.await_gone(name)
        follower.join(30)
        assert "farewell" in "".join(said)

    def test_sigkill_after_the_grace_period(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, STUBBORN)
        await_line(kubernetes, name, "ready")
        processes = kubernetes.processes(name)
        start = time.monotonic()
        kubernetes.delete(name, grace=2)
        kubernetes.await_gone(name)
        assert time.monotonic() - start >= 2
        assert processes
        assert not any(psutil.pid_exists(pid) for pid in processes)

    def test_a_finished_pod(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "print()")
        kubernetes.await_phase(name, "Succeeded")
        kubernetes.delete(name)
        kubernetes.await_gone(name)
        assert refusal(lambda: kubernetes.delete(name)).status == 404


class TestObjects:
    def test_not_found(self, kubernetes: Cluster) -> None:
        read = kubernetes.core.read_namespaced_pod
        error = refusal(lambda: read("nobody", kubernetes.namespace))
        status = json.loads(error.body)
        assert (error.status, status["kind"]) == (404, "Status")
        assert (status["reason"], status["code"]) == ("NotFound", 404)
        assert status["message"] == 'pods "nobody" not found'

    def test_the_same_name_twice(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "print()")
        error = refusal(lambda: python(kubernetes, "print()", name=name))
        status = json.loads(error.body)
        assert (error.status, status["reason"]) == (409, "AlreadyExists")
        assert status["message"] == f'pods "{name}" already exists'

    def test_a_generated_name(self, kubernetes: Cluster) -> None:
        container = {"name": "base", "image": kubernetes.image, "command": ["true"]}
        body = {
            "metadata": {"generateName": "made-up-"},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        }
        made = kubernetes.core.create_namespaced_pod(kubernetes.namespace, body)
        assert made.metadata.name.startswith("made-up-")
        assert len(made.metadata.name) == len("made-up-") + 5

    @pytest.mark.parametrize(
        ("name", "labels"), [("Big_Name", {}), ("fine", {"key": "no label is like this"})]
    )
    def test_what_is_invalid(self, kubernetes: Cluster, name: str, labels: dict[str, str]) -> None:
        error = refusal(lambda: python(kubernetes, "print()", name=name, labels=labels))
        assert (error.status, json.loads(error.body)["reason"]) == (422, "Invalid")

    def test_a_service_account_that_is_not_there(self, kubernetes: Cluster) -> None:
        spec = {"serviceAccountName": "nobody"}
        error = refusal(lambda: python(kubernetes, "print()", pod=spec))
        assert (error.status, json.loads(error.body)["reason"]) == (403, "Forbidden")
        assert 'serviceaccount "nobody" not found' in json.loads(error.body)["message"]

    def test_selectors(self, kubernetes: Cluster) -> None:
        one = python(kubernetes, "print()", labels={"test": "selectors", "colour": "blue"})
        two = python(kubernetes, "print()", labels={"test": "selectors", "colour": "red"})
        for selector, wanted in {
            "test=selectors": {one, two},
            "test==selectors,colour=blue": {one},
            "test=selectors,colour!=blue": {two},
            "test=selectors,colour in (blue, green)": {one},
            "test=selectors,colour notin (blue)": {two},
            "test=selectors,!colour": set(),
            "test=selectors,colour": {one, two},
            "test=selectors,size!=big,!size": {one, two},
        }.items():
            found = {pod["metadata"]["name"] for pod in kubernetes.pods(selector)}
            assert found == wanted, selector
        kubernetes.await_phase(one, "Succeeded")
        by_field = kubernetes.core.list_namespaced_pod(
            kubernetes.namespace, field_selector=f"metadata.name={one},status.phase=Succeeded"
        )
        assert [pod.metadata.name for pod in by_field.items] == [one]
        error = refusal(
            lambda: kubernetes.core.list_namespaced_pod(
                kubernetes.namespace, field_selector="spec.nonsense=1"
            )
        )
        assert error.status == 400

    def test_a_patch_of_labels(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "print()", labels={"a": "1", "b": "2"})
        body = {"metadata": {"labels": {"already_checked": "True", "b": None}}}
        kubernetes.core.patch_namespaced_pod(name, kubernetes.namespace, body)
        pod = kubernetes.pod(name)
        assert pod
        assert pod["metadata"]["labels"] == {"a": "1", "already_checked": "True"}

    def test_an_old_version_is_a_conflict(self, kubernetes: Cluster) -> None:
        core, namespace = kubernetes.core, kubernetes.namespace
        name = kubernetes.make_secret({"key": "1"})
        old = core.read_namespaced_secret(name, namespace)
        core.patch_namespaced_secret(name, namespace, {"stringData": {"key": "2"}})
        error = refusal(lambda: core.replace_namespaced_secret(name, namespace, old))
        assert (error.status, json.loads(error.body)["reason"]) == (409, "Conflict")

    def test_events(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "print()")
        kubernetes.await_phase(name, "Succeeded")
        deadline = time.monotonic() + 20
        wanted = {"Scheduled", "Pulled", "Created", "Started"}
        while not wanted <= (seen := {event["reason"] for event in kubernetes.events(name)}):
            assert time.monotonic() < deadline, seen
            time.sleep(0.2)
        for event in kubernetes.events(name):
            assert event["involvedObject"]["name"] == name
            assert event["type"] == "Normal" or event["reason"] not in wanted


class TestLogs:
    def test_follow_until_the_end(self, kubernetes: Cluster) -> None:
        program = "import time\nfor n in range(5):\n    print(n)\n    time.sleep(0.5)"
        name = python(kubernetes, program)
        kubernetes.await_phase(name, "Running", "Succeeded")
        said: list[str] = []
        follow(kubernetes, name, said)
        assert "".join(said) == "0\n1\n2\n3\n4\n"

    def test_follow_shows_lines_as_they_come(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, POLITE)
        kubernetes.await_phase(name, "Running")
        stream = log_stream(kubernetes, name, follow=True)
        assert next(stream) == "ready\n"
        kubernetes.delete(name)

    def test_timestamps(self, kubernetes: Cluster) -> None:
        from dateutil.parser import isoparse

        name = python(kubernetes, "print('one'); print('two')")
        kubernetes.await_phase(name, "Succeeded")
        lines = "".join(log_stream(kubernetes, name, timestamps=True)).splitlines()
        stamps = [isoparse(line.split(" ", 1)[0]) for line in lines]
        assert [line.split(" ", 1)[1] for line in lines] == ["one", "two"]
        assert stamps == sorted(stamps)
        assert stamps[0].tzinfo is not None

    def test_the_last_lines(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "for n in range(10): print(n)")
        kubernetes.await_phase(name, "Succeeded")
        assert "".join(log_stream(kubernetes, name, tail_lines=2)) == "8\n9\n"

    def test_errors_are_in_it(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "1 / 0")
        kubernetes.await_phase(name, "Failed")
        assert "ZeroDivisionError" in kubernetes.log(name)

    def test_of_a_pod_that_waits(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "print()", image="localhost/missing:1")
        kubernetes.await_pod(name, lambda p: waiting_reason(p).startswith(("Err", "Image")))
        error = refusal(lambda: kubernetes.log(name))
        assert error.status == 400
        assert "waiting to start" in str(error.body)
        kubernetes.delete(name, grace=0)

    def test_of_a_container_that_is_not_there(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "print()")
        kubernetes.await_phase(name, "Succeeded")
        assert refusal(lambda: kubernetes.log(name, "sidecar")).status == 400


class TestWatch:
    def test_the_life_of_a_pod(self, kubernetes: Cluster) -> None:
        from kubernetes.watch import Watch

        labels = {"test": "watch"}
        listing = kubernetes.core.list_namespaced_pod
        version = listing(kubernetes.namespace).metadata.resource_version
        other = python(kubernetes, "print()")
        name = python(kubernetes, "import time; time.sleep(4)", labels=labels)
        seen, deleted = [], False
        stream = Watch().stream(
            listing,
            kubernetes.namespace,
            label_selector="test=watch",
            resource_version=version,
            timeout_seconds=60,
        )
        for event in stream:
            seen.append((event["type"], event["object"].status.phase))
            assert event["object"].metadata.name == name != other
            if seen[-1][1] == "Succeeded" and not deleted:
                deleted = True
                kubernetes.delete(name)
            if event["type"] == "DELETED":
                break
        assert seen[0] == ("ADDED", "Pending")
        assert ("MODIFIED", "Running") in seen
        assert seen[-1] == ("DELETED", "Succeeded")

    def test_it_ends_after_its_time(self, kubernetes: Cluster) -> None:
        from kubernetes.watch import Watch

        start = time.monotonic()
        listing = kubernetes.core.list_namespaced_pod
        stream = Watch().stream(
            listing, kubernetes.namespace, label_selector="no=pod", timeout_seconds=2
        )
        assert list(stream) == []
        assert 1 < time.monotonic() - start < 20

    def test_what_there_is_comes_first(self, kubernetes: Cluster) -> None:
        name = python(kubernetes, "print()", labels={"test": "there"})
        kubernetes.await_phase(name, "Succeeded")
        answer = kubernetes.core.list_namespaced_pod(
            kubernetes.namespace,
            label_selector="test=there",
            watch=True,
            timeout_seconds=2,
            _preload_content=False,
        )
        events = [json.loads(line) for line in answer.data.decode().splitlines()]
        assert [(e["type"], e["object"]["metadata"]["name"]) for e in events] == [("ADDED", name)]

    def test_events_of_one_pod(self, kubernetes: Cluster) -> None:
        from kubernetes.watch import Watch

        name = python(kubernetes, "print()")
        stream = Watch().stream(
            kubernetes.core.list_namespaced_event,
            kubernetes.namespace,
            field_selector=f"involvedObject.name={name}",
            timeout_seconds=30,
        )
        for event in stream:
            if event["object"].reason == "Started":
                return
        raise AssertionError("nobody told that the pod started")


class TestIdentity:
    def test_airflow_may_run_pods(self, kubernetes: Cluster) -> None:
        from tests.services.kubernetes import core_api

        core = core_api(kubernetes.airflow_config)
        name = python(kubernetes, "print('seen')")
        kubernetes.await_phase(name, "Succeeded")
        assert core.read_namespaced_pod(name, kubernetes.namespace).metadata.name == name
        assert name in {
            p.metadata.name for p in core.list_namespaced_pod(kubernetes.namespace).items
        }
        core.delete_namespaced_pod(name, kubernetes.namespace)

    def test_airflow_may_read_no_secret(self, kubernetes: Cluster) -> None:
        from tests.services.kubernetes import core_api

        core = core_api(kubernetes.airflow_config)
        name = kubernetes.make_secret({"key": "value"})
        error = refusal(lambda: core.read_namespaced_secret(name, kubernetes.namespace))
        assert (error.status, json.loads(error.body)["reason"]) == (403, "Forbidden")

    def test_a_stranger_may_do_nothing(self, kubernetes: Cluster, tmp_path: Any) -> None:
        import yaml

        from tests.services.kubernetes import core_api

        config = yaml.safe_load(kubernetes.airflow_config.read_text())
        config["users"][0]["user"] = {"token": "made-up"}
        stranger = tmp_path / "stranger"
        stranger.write_text(yaml.safe_dump(config))
        core = core_api(stranger)
        assert refusal(lambda: core.list_namespaced_pod(kubernetes.namespace)).status == 401


def log_stream(kubernetes: Cluster, name: str, **options: Any) -> Any:
    """Yield the lines of a pod's log as they come."""
    answer = kubernetes.core.read_namespaced_pod_log(
        name, kubernetes.namespace, container="base", _preload_content=False, **options
    )
    rest = b""
    for piece in answer.stream():
        rest += piece
        *lines, rest = rest.split(b"\n")
        yield from (line.decode() + "\n" for line in lines)
    if rest:
        yield rest.decode()


def follow(kubernetes: Cluster, name: str, said: list[str]) -> None:
    """Gather what a pod prints until it ends."""
    said.extend(log_stream(kubernetes, name, follow=True))
