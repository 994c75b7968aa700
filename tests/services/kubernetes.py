"""The Kubernetes that tests run pods on: the cluster of ``KUBECONFIG``, or else the fake."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.services.daemons import pods_host
from tests.services.fake_kubernetes import FakeKubernetes
from tests.services.kube_api import ADMIN, AIRFLOW, new_namespace
from tests.services.kube_containers import send
from tests.services.kube_objects import Object

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

#: The real cluster. Its variable must not reach what tests start: it confuses Airflow's triggers.
KUBECONFIG = os.environ.pop("KUBECONFIG", None)
#: What Airflow's identity may do in the tests' namespace, and no more.
AIRFLOW_RULES: Sequence[Mapping[str, Sequence[str]]] = (
    {
        "apiGroups": [""],
        "resources": ["pods"],
        "verbs": ["create", "get", "list", "watch", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]},
)
IMAGE_HINT = (
    "KUBECONFIG is set, and so the Kubernetes tests run on that cluster: set "
    "ENSEMBLE_TEST_KUBE_IMAGE to a worker image that its nodes have (docker/worker/Dockerfile), "
    "and ENSEMBLE_TEST_KUBE_HOST to the address at which its pods reach this machine; or unset "
    "KUBECONFIG to use the fake"
)


class Cluster:
    """A place for pods, with a namespace of its own.

    :param kubeconfig: of someone who may do everything.
    :param airflow_config: of Airflow's identity.
    :param image: a worker image.
    :param host: the address at which pods reach this machine.
    :param fake: the server, if it is the fake.
    """

    def __init__(
        self,
        kubeconfig: Path,
        airflow_config: Path,
        namespace: str,
        *,
        image: str,
        host: str,
        fake: FakeKubernetes | None = None,
    ) -> None:
        self.kubeconfig = kubeconfig
        self.airflow_config = airflow_config
        self.namespace = namespace
        self.image = image
        self.host = host
        self.fake = fake
        self.core: CoreV1Api = core_api(kubeconfig)

    @property
    def real(self) -> bool:
        return self.fake is None

    def airflow_connection(self) -> str:
        """Return Airflow's connection to it, as JSON."""
        extra = {
            "kube_config_path": str(self.airflow_config),
            "namespace": self.namespace,
            "xcom_sidecar_container_image": self.image,
        }
        return json.dumps({"conn_type": "kubernetes", "extra": extra})

    def for_pods(self, address: str) -> str:
        """Return an address of this machine's loopback as pods must call it."""
        return address.replace("127.0.0.1", self.host)

    @property
    def stilt_image(self) -> str | None:
        """Return a worker image with STILT; None where the real one was given none.

        To the fake all images are one.
        """
        return os.environ.get("ENSEMBLE_TEST_KUBE_STILT_IMAGE") if self.real else self.image

    def make_secret(self, values: Mapping[str, str], name: str = "") -> str:
        """Make a secret, and return its name."""
        name = name or f"s-{uuid.uuid4().hex[:10]}"
        body = {"metadata": {"name": name}, "stringData": dict(values)}
        self.core.create_namespaced_secret(self.namespace, body)
        return name

    def index_secret(self, dsn: str) -> str:
        """Make the secret with an index's address for pods, under ``dsn``, and return its name."""
        return self.make_secret({"dsn": self.for_pods(dsn)})

    def shared(self, *folders: Path) -> tuple[list[Object], list[Object]]:
        """Return volumes and mounts by which pods see folders of this machine, at the same paths.

        Pods run as another user: the folders are opened to all.
        """
        volumes, mounts = [], []
        for number, folder in enumerate(folders):
            name = f"shared-{number}"
            volumes.append({"name": name, "hostPath": {"path": str(folder), "type": "Directory"}})
            mounts.append({"name": name, "mountPath": str(folder)})
            open_to_all(folder)
        return volumes, mounts

    @contextlib.contextmanager
    def claim(self, folder: Path) -> Iterator[str | None]:
        """Make a folder of this machine a volume that pods may only read, and yield its claim.

        The fake has no claims, and its pods see every folder: there, None.
        """
        if not self.real:
            yield None
            return
        name = f"v-{uuid.uuid4().hex[:10]}"
        common = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
        size = {"storage": "1Gi"}
        source = {"hostPath": {"path": str(folder), "type": "Directory"}}
        volume = {**common, "capacity": size, "persistentVolumeReclaimPolicy": "Retain", **source}
        wanted = {**common, "resources": {"requests": size}, "volumeName": name}
        body = {"metadata": {"name": name}}
        self.core.create_persistent_volume({**body, "spec": volume})
        self.core.create_namespaced_persistent_volume_claim(
            self.namespace, {**body, "spec": wanted}
        )
        try:
            yield name
        finally:
            self.core.delete_namespaced_persistent_volume_claim(name, self.namespace)
            self.core.delete_persistent_volume(name)

    def run(
        self, *command: str, name: str = "", labels: Mapping[str, str] | None = None, **spec: Any
    ) -> str:
        """Start a pod of one container ``base``, and return its name.

        :param spec: more for the container; under ``pod``, more for the pod.
        """
        name = name or f"p-{uuid.uuid4().hex[:10]}"
        pod = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            **spec.pop("pod", {}),
        }
        container = {"name": "base", "image": self.image, "imagePullPolicy": "IfNotPresent"}
        pod["containers"] = [{**container, "command": list(command), **spec}]
        body = {"metadata": {"name": name, "labels": dict(labels or {})}, "spec": pod}
        self.core.create_namespaced_pod(self.namespace, body)
        return name

    def pods(self, selector: str = "") -> list[Object]:
        """Return the pods that labels select, as the API shows them."""
        found = self.core.list_namespaced_pod(self.namespace, label_selector=selector)
        return [self._plain(pod) for pod in found.items]

    def pod(self, name: str) -> Object | None:
        """Return a pod, or None if there is none of that name."""
        from kubernetes.client import ApiException

        try:
            return self._plain(self.core.read_namespaced_pod(name, self.namespace))
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def await_pod(
        self, name: str, fits: Callable[[Object | None], Any], timeout: float = 60
    ) -> Object | None:
        """Wait until a pod is as wanted, and return it."""
        deadline = time.monotonic() + timeout
        while True:
            pod = self.pod(name)
            if fits(pod):
                return pod
            if time.monotonic() > deadline:
                state = pod and pod["status"]
                raise AssertionError(f"pod {name} is not as wanted after {timeout} s: {state}")
            time.sleep(0.1)

    def await_phase(self, name: str, *phases: str, timeout: float = 60) -> Object:
        """Wait until a pod is in one of these phases."""
        pod = self.await_pod(name, lambda p: p and p["status"]["phase"] in phases, timeout)
        assert pod
        return pod

    def await_end(self, name: str, timeout: float = 60) -> Object:
        """Wait until a pod has ended by itself."""
        return self.await_phase(name, "Succeeded", "Failed", timeout=timeout)

    def await_gone(self, *names: str, timeout: float = 90) -> None:
        """Wait until pods are no longer there."""
        for name in names:
            self.await_pod(name, lambda pod: pod is None, timeout)

    def delete(self, name: str, grace: float | None = None) -> None:
        """Delete a pod: its processes get SIGTERM, and after the grace period SIGKILL."""
        options = {} if grace is None else {"grace_period_seconds": int(grace)}
        self.core.delete_namespaced_pod(name, self.namespace, **options)

    def log(self, name: str, container: str = "base") -> str:
        """Return what a container printed."""
        answer = self.core.read_namespaced_pod_log(
            name, self.namespace, container=container, _preload_content=False
        )
        return str(answer.data.decode())

    def events(self, name: str) -> list[Object]:
        """Return what happened to a pod, in no order."""
        selector = f"involvedObject.name={name}"
        found = self.core.list_namespaced_event(self.namespace, field_selector=selector)
        return [self._plain(event) for event in found.items]

    def tell(self, pod: Object, reason: str, message: str) -> None:
        """Make an event about a pod, as the control plane does."""
        about = {key: pod["metadata"][key] for key in ("name", "namespace", "uid")}
        body = {
            "metadata": {"name": f"{about['name']}.{uuid.uuid4().hex[:16]}"},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", **about},
            "reason": reason,
            "message": message,
            "type": "Normal",
        }
        self.core.create_namespaced_event(self.namespace, body)

    def processes(self, name: str) -> list[int]:
        """Return the processes of a pod, as this machine numbers them."""
        pod = self.pod(name)
        if pod is None:
            return []
        if self.fake is None:
            return processes_of(pod["metadata"]["uid"])
        containers = self.fake.node.pod(self.namespace, name).containers
        return [pid for container in containers for pid in container.processes()]

    def kill(self, *names: str) -> None:
        """End every process of pods with SIGKILL."""
        self._send(signal.SIGKILL, names)

    def pause(self, *names: str) -> None:
        """Freeze every process of pods."""
        self._send(signal.SIGSTOP, names)

    def resume(self, *names: str) -> None:
        """Let frozen pods go on."""
        self._send(signal.SIGCONT, names)

    @contextlib.contextmanager
    def severed(self, name: str) -> Iterator[None]:
        """Let nothing in or out of a pod meanwhile: its network interface is down on this side."""
        assert self.real, "pods of the fake have no network of their own"
        interface = interface_of(self.processes(name)[0])
        subprocess.run(["ip", "link", "set", interface, "down"], check=True)
        try:
            yield
        finally:
            # The pod may have ended meanwhile, and its interface with it.
            subprocess.run(["ip", "link", "set", interface, "up"], check=False)

    def clear(self) -> None:
        """Remove every pod of the namespace, and wait until all are gone."""
        for pod in self.pods():
            with contextlib.suppress(Exception):
                self.delete(pod["metadata"]["name"], grace=1)
        self.await_gone(*(pod["metadata"]["name"] for pod in self.pods()))

    def _send(self, number: signal.Signals, names: Sequence[str]) -> None:
        send(number, [pid for name in names for pid in self.processes(name)])

    def _plain(self, thing: Any) -> Object:
        plain: Object = self.core.api_client.sanitize_for_serialization(thing)
        return plain


def core_api(kubeconfig: Path) -> CoreV1Api:
    """Return a client for an identity."""
    from kubernetes import client, config

    return client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))


def open_to_all(folder: Path) -> None:
    """Let every user write below a folder, and reach it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else path.stat().st_mode | 0o666)
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != parent.parent:
            parent.chmod(parent.stat().st_mode | 0o011)


def processes_of(uid: str) -> list[int]:
    """Return the processes of a pod on this machine, but its pause container's."""
    names = (f"pod{uid}", f"pod{uid.replace('-', '_')}")
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                groups = (folder / "cgroup").read_text()
                is_pause = (folder / "comm").read_text().strip() == "pause"
                if any(name in groups for name in names) and not is_pause:
                    found.append(int(folder.name))
    return sorted(found)


def interface_of(pid: int) -> str:
    """Return this machine's end of the cable of a pod, by one of its processes."""
    command = ["nsenter", "-t", str(pid), "-n", "ip", "-o", "link", "show", "eth0"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peer = re.search(r"eth0@if(\d+)", said)
    assert peer, said
    for folder in Path("/sys/class/net").iterdir():
        if (folder / "ifindex").read_text().strip() == peer[1]:
            return folder.name
    raise AssertionError(f"no interface of this machine has the number {peer[1]}")


@contextlib.contextmanager
def fake_cluster(address: str = "127.0.0.1") -> Iterator[Cluster]:
    """Start a fake, with a namespace.

    :param address: the address of this machine at which it listens.
    """
    with FakeKubernetes(AIRFLOW_RULES, address) as fake:
        namespace = "airflow"
        new_namespace(fake.store, namespace)
        yield Cluster(
            fake.kubeconfig(ADMIN, namespace),
            fake.kubeconfig(AIRFLOW, namespace),
            namespace,
            image="localhost/ensemble-worker:test",
            host="127.0.0.1",
            fake=fake,
        )


@contextlib.contextmanager
def real_cluster(kubeconfig: Path) -> Iterator[Cluster]:
    """Make a namespace on a cluster, with an identity for Airflow in it; remove it in the end."""
    image, host = os.environ.get("ENSEMBLE_TEST_KUBE_IMAGE"), pods_host()
    assert image, IMAGE_HINT
    assert host, IMAGE_HINT
    core = core_api(kubeconfig)
    namespace = f"ensemble-{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": namespace}})
    with tempfile.TemporaryDirectory(prefix="ensemble-kube-") as folder:
        config = Path(folder) / "airflow.kubeconfig"
        config.write_text(yaml.safe_dump(airflow_kubeconfig(kubeconfig, core, namespace)))
        config.chmod(0o600)
        cluster = Cluster(kubeconfig, config, namespace, image=image, host=host)
        try:
            yield cluster
        finally:
            cluster.clear()
            core.delete_namespace(namespace)


def airflow_kubeconfig(kubeconfig: Path, core: CoreV1Api, namespace: str) -> Object:
    """Make Airflow's identity in a namespace, and return its kubeconfig."""
    from kubernetes.client import RbacAuthorizationV1Api

    rbac = RbacAuthorizationV1Api(core.api_client)
    core.create_namespaced_service_account(namespace, {"metadata": {"name": "airflow"}})
    metadata = {"name": "airflow-kpo"}
    rbac.create_namespaced_role(namespace, {"metadata": metadata, "rules": list(AIRFLOW_RULES)})
    account = {"kind": "ServiceAccount", "name": "airflow", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "airflow-kpo"}
    rbac.create_namespaced_role_binding(
        namespace, {"metadata": metadata, "roleRef": role, "subjects": [account]}
    )
    asked = {"spec": {"expirationSeconds": 24 * 3600}}
    token = core.create_namespaced_service_account_token("airflow", namespace, asked)
    theirs = yaml.safe_load(kubeconfig.read_text())
    current = next(c for c in theirs["contexts"] if c["name"] == theirs["current-context"])
    place = current["context"]["cluster"]
    context = {"cluster": place, "user": "airflow", "namespace": namespace}
    await_default_account(core, namespace)
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "airflow",
        "clusters": [c for c in theirs["clusters"] if c["name"] == place],
        "users": [{"name": "airflow", "user": {"token": token.status.token}}],
        "contexts": [{"name": "airflow", "context": context}],
    }


def await_default_account(core: CoreV1Api, namespace: str, timeout: float = 5) -> None:
    """Wait until pods can be made in a new namespace: they need its service account ``default``."""
    deadline = time.monotonic() + timeout
    while True:
        found = core.list_namespaced_service_account(namespace).items
        if any(a.metadata.name == "default" and a.secrets is not None for a in found):
            return
        if time.monotonic() > deadline:
            return  # newer servers name no secrets
        time.sleep(0.1)


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Cluster]:
    """The real cluster that ``KUBECONFIG`` names, or the fake."""
    with real_cluster(Path(KUBECONFIG)) if KUBECONFIG else fake_cluster() as cluster:
        yield cluster


@pytest.fixture
def fake_kubernetes() -> Iterator[Cluster]:
    """A fake of the test's own, to stop, and to ask for what no real one does on request."""
    with fake_cluster() as cluster:
        yield cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that a cluster matters to, for ``make test-kubernetes``."""
    for item in items:
        if "kubernetes" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kubernetes)
