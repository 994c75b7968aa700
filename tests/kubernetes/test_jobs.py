"""``ensemble run --backend kubernetes`` on a real cluster: Jobs, which the fake does not speak."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_ensemble.cli.kubernetes import waiting
from airflow_ensemble.engine.index import open_index
from tests.cli.conftest import Cli, cli
from tests.ensembles import write_ensemble
from tests.services.kubernetes import Cluster
from tests.services.postgres import PostgresServer
from tests.services.s3 import CREDENTIALS, S3Server

__all__ = ["cli"]

#: Writes its id as a product, after as many seconds as the row says.
COMMAND = ["python3", "-c",
           "import sys, time, pathlib; time.sleep(float(sys.argv[1]));"
           "pathlib.Path('value.txt').write_text(sys.argv[2])", "{seconds}", "{id}"]  # fmt: skip


@pytest.fixture
def real(kubernetes: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The real cluster, as a person's kubectl finds it; no Job is left from test to test."""
    if not kubernetes.real:
        pytest.skip("the fake has pods and no Jobs: `make test-kubernetes` runs this on a cluster")
    assert shutil.which("kubectl"), "KUBECONFIG is set: put kubectl on PATH, too"
    monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig))
    yield kubernetes
    kubectl(kubernetes, "delete", "jobs,deployments", "--all", "--wait=true")
    kubernetes.clear()


def kubectl(cluster: Cluster, *arguments: str, text: str = "") -> str:
    command = ["kubectl", f"--kubeconfig={cluster.kubeconfig}", f"-n={cluster.namespace}"]
    done = subprocess.run(
        [*command, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def jobs_of(cluster: Cluster) -> list[str]:
    found = json.loads(kubectl(cluster, "get", "jobs", "-o", "json"))["items"]
    return [job["metadata"]["name"] for job in found]


class Place:
    """Makes ensembles whose pods have index and output in common with this machine."""

    def __init__(self, cluster: Cluster, server: PostgresServer, s3: S3Server, folder: Path):
        self.cluster, self.server, self.s3, self.folder = cluster, server, s3, folder
        self.dsn = ""

    def write(self, rows: Sequence[Any], *, n_workers: int = 2, **options: Any) -> Path:
        """Write an ensemble of its own database and bucket, for pods; return the file."""
        self.dsn = self.server.new_database()
        given = {
            "image": self.cluster.image,
            "image_pull_policy": "IfNotPresent",
            "namespace": self.cluster.namespace,
            "index_secret": self.cluster.index_secret(self.dsn),
            "env_from": [self.cluster.make_secret(CREDENTIALS)],
            "env": {"AWS_ENDPOINT_URL": self.cluster.for_pods(self.s3.endpoint)},
            "cpu": "100m",
            "grace_period": 5,
        }
        file = write_ensemble(
            self.folder, rows, parameters={"seconds": 0}, index="env:TEST_INDEX",
            output=f"{self.s3.make_bucket()}/out", control=str(self.folder / "control"),
            products={"value": {"glob": "value.txt"}},
            execution={"backend": "kubernetes", "n_workers": n_workers, "code": [],
                       "kubernetes": {**given, **options}},
        )  # fmt: skip
        values = json.loads(file.read_text())
        del values["model"], values["parameters"]["trace"]
        file.write_text(json.dumps({**values, "command": COMMAND}))
        return file


@pytest.fixture
def place(
    real: Cluster, postgres: PostgresServer, s3: S3Server, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:  # fmt: skip
    place = Place(real, postgres, s3, tmp_path)
    write = place.write

    def and_export(*rows: Any, **options: Any) -> Path:
        file = write(*rows, **options)
        monkeypatch.setenv("TEST_INDEX", place.dsn)
        return file

    monkeypatch.setattr(place, "write", and_export)
    return place


def rows(number: int, seconds: float = 0) -> list[dict[str, Any]]:
    return [{"id": f"s{i:03d}", "seconds": seconds} for i in range(number)]


def await_true(fits: Callable[[], Any], timeout: float = 90) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := fits()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.3)
    return found


def test_job_drains_the_ensemble(place: Place, cli: Cli) -> None:
    file = place.write(rows(40))

    ended = cli("run", "--wait", "--poll=0.5", file)

    assert ended.code == 0, ended.err
    (job,) = jobs_of(place.cluster)
    assert f"created job {job} of 2 pods" in ended.out
    assert "40 complete" in ended.out
    pods = place.cluster.pods("ensemble=tests")
    assert len(pods) == 2
    assert {pod["metadata"]["labels"]["batch"] for pod in pods} == {job.split("-")[-1]}
    status = cli("status", "--json", file).json
    assert status["counts"]["complete"] == 40
    (view,) = status["kubernetes"]["jobs"]
    assert view["name"] == job
    assert view["batch"] == job.split("-")[-1]
    # Nothing is missing: no second Job, and the same verdict.
    again = cli("run", "--wait", file)
    assert again.code == 0
    assert jobs_of(place.cluster) == [job]


def test_each_run_with_work_gets_a_job_of_its_own(place: Place, cli: Cli) -> None:
    """PYSTILT's second run silently started nothing while the first one's Job object was there."""
    file = place.write(rows(2))
    assert cli("run", "--wait", "--poll=0.5", file).code == 0
    await_true(lambda: cli("status", "--json", file).json["kubernetes"]["jobs"][0]["end"])

    ended = cli("run", "--wait", "--poll=0.5", "--no-skip", file)

    assert ended.code == 0, ended.err
    assert len(jobs_of(place.cluster)) == 2


def test_run_returns_and_a_second_one_attaches_and_cancel_deletes(place: Place, cli: Cli) -> None:
    file = place.write(rows(2, seconds=600))
    ended = cli("run", file)
    assert ended.code == 0, ended.err
    assert "ensemble cancel --all" in ended.err
    (job,) = jobs_of(place.cluster)
    await_true(lambda: cli("status", "--json", file).json["counts"]["running"] == 2)

    shown, attached = cli("status", file), cli("run", file)

    assert job in shown.out
    assert "2 Running" in shown.out
    assert attached.code == 0
    assert f"job {job} of an earlier run drains the ensemble already" in attached.err
    assert jobs_of(place.cluster) == [job]
    cancelled = cli("cancel", "--all", "-f", file)
    assert cancelled.code == 0
    assert f"job {job} deleted" in cancelled.err
    await_true(lambda: not place.cluster.pods("ensemble=tests"))
    assert jobs_of(place.cluster) == []


def test_killed_pods_are_replaced_and_charged(place: Place, cli: Cli) -> None:
    file = place.write(rows(8, seconds=3))
    killed: list[str] = []

    def kill() -> None:
        running = await_true(
            lambda: [
                pod["metadata"]["name"]
                for pod in place.cluster.pods("ensemble=tests")
                if pod["status"]["phase"] == "Running"
            ]
        )
        await_true(lambda: attempts_begun(place.dsn))
        killed.append(running[0])
        place.cluster.kill(running[0])

    killer = threading.Thread(target=kill)
    killer.start()
    ended = cli("run", "--wait", "--poll=0.5", file)
    killer.join()

    assert ended.code == 0, ended.err
    assert "8 complete" in ended.out
    failed = place.server.execute(
        "SELECT id, reason, detail FROM airflow_ensemble.failed_attempts", database_of(place.dsn)
    )
    assert len(failed) <= 1
    assert all(reason == "lost" and "137" in str(detail) for _, reason, detail in failed)
    assert len(place.cluster.pods("ensemble=tests")) == 3


def attempts_begun(dsn: str) -> bool:
    index = open_index(dsn)
    try:
        (key,) = index.ensembles("tests") or [None]
        return key is not None and index.counts(key).running > 0
    finally:
        index.close()


def database_of(dsn: str) -> str:
    return dsn.rpartition("/")[2].partition("?")[0]


def test_deleted_job_ends_the_waiting_and_the_next_run_goes_on(place: Place, cli: Cli) -> None:
    file = place.write(rows(4, seconds=8))

    def delete() -> None:
        await_true(lambda: jobs_of(place.cluster) and attempts_begun(place.dsn))
        kubectl(place.cluster, "delete", "jobs", "--all", "--wait=false")

    meddler = threading.Thread(target=delete)
    meddler.start()
    ended = cli("run", "--wait", "--poll=0.5", file)
    meddler.join()

    assert ended.code == 1
    assert "the job was deleted" in ended.err
    assert "simulations left, and no worker is there" in ended.err
    counts = cli("status", "--json", file).json["counts"]
    assert counts["failed"] == 0
    again = cli("run", "--wait", "--poll=0.5", file)
    assert again.code == 0, again.err
    assert cli("status", "--json", file).json["counts"]["complete"] == 4


def test_image_that_cannot_be_had(place: Place, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STUCK_LIMIT", 3.0)
    monkeypatch.setattr(waiting, "CLUSTER_INTERVAL", 1.0)
    file = place.write(rows(2), image="localhost/no-such-image:1", image_pull_policy="Never")

    ended = cli("run", "--wait", "--poll=0.5", file)

    assert ended.code == 2
    assert "ErrImageNeverPull" in ended.err
    assert "the job was deleted" in ended.err
    assert jobs_of(place.cluster) == []


def test_secret_that_is_missing(place: Place, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STUCK_LIMIT", 3.0)
    monkeypatch.setattr(waiting, "CLUSTER_INTERVAL", 1.0)
    file = place.write(rows(2), index_secret="no-such-secret")

    ended = cli("run", "--wait", "--poll=0.5", file)

    assert ended.code == 2
    assert 'CreateContainerConfigError: secret "no-such-secret" not found' in ended.err


def test_worker_that_refuses_ends_the_waiting(place: Place, cli: Cli) -> None:
    """The index of the Secret knows nothing of the ensemble: no pod can work."""
    elsewhere = place.server.new_database()
    open_index(elsewhere, create=True).close()
    file = place.write(rows(2), n_workers=1, index_secret=place.cluster.index_secret(elsewhere))

    ended = cli("run", "--wait", "--poll=0.5", file)

    assert ended.code == 2
    assert "refuse to work" in ended.err
    assert "the output index has no ensemble 'tests'" in ended.err
    assert jobs_of(place.cluster) == []


@pytest.mark.parametrize("command", ["run", "check"])
def test_unknown_namespace(place: Place, cli: Cli, command: str) -> None:
    file = place.write(rows(2), namespace="no-such-place")

    ended = cli(command, file)

    assert ended.code == 2
    assert 'namespaces "no-such-place" not found' in ended.out + ended.err
    assert "execution.kubernetes.namespace" in ended.out + ended.err


def test_forbidden(place: Place, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's identity may make pods, and no Jobs."""
    file = place.write(rows(2))
    monkeypatch.setenv("KUBECONFIG", str(place.cluster.airflow_config))

    ended = cli("run", file)

    assert ended.code == 2
    assert "Forbidden" in ended.err
    assert "ensemble manifests --kind rbac" in ended.err


def test_deployment_serves_what_is_registered_now_and_later(place: Place, cli: Cli) -> None:
    file = place.write(rows(3))
    assert cli("register", file).code == 0
    manifest = cli("manifests", "--kind=serve", file).out
    kubectl(place.cluster, "apply", "-f", "-", text=manifest)

    def complete() -> int:
        return int(cli("status", "--json", file).json["counts"]["complete"])

    await_true(lambda: complete() == 3)
    (pod,) = place.cluster.pods("ensemble=tests,app.kubernetes.io/component=serve")
    table = file.parent / "table.jsonl"
    table.write_text(table.read_text() + json.dumps({"id": "later", "seconds": 0}) + "\n")
    assert cli("register", file).code == 0
    await_true(lambda: complete() == 4)
    # The same pod, which has waited for it; scaled down, it ends within its grace period.
    assert place.cluster.pod(pod["metadata"]["name"])["status"]["phase"] == "Running"  # type: ignore[index]
    name = yaml.safe_load(manifest)["metadata"]["name"]
    kubectl(place.cluster, "scale", "deployment", name, "--replicas=0")
    place.cluster.await_gone(pod["metadata"]["name"], timeout=30)


def test_role_of_the_command_line_suffices(
    place: Place, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that ``ensemble run`` asks of the API server, with the verbs that are printed for it."""
    cluster, file = place.cluster, place.write(rows(2, seconds=600))
    kubectl(cluster, "apply", "-f", "-", text=cli("manifests", "--kind=rbac", file).out)
    kubectl(cluster, "create", "serviceaccount", "person")
    account = f"--serviceaccount={cluster.namespace}:person"
    kubectl(cluster, "create", "rolebinding", "person", "--role=ensemble-run", account)
    monkeypatch.setenv("KUBECONFIG", str(write_config(cluster, "person", tmp_path / "config")))

    assert cli("check", file).code == 0
    assert cli("run", file).code == 0
    (job,) = await_true(lambda: cli("status", "--json", file).json["kubernetes"]["jobs"])
    await_true(lambda: cli("status", "--json", file).json["counts"]["running"] == 2)
    cancelled = cli("cancel", "--all", "-f", file)

    assert f"job {job['name']} deleted" in cancelled.err
    assert jobs_of(cluster) == []


def write_config(cluster: Cluster, account: str, path: Path) -> Path:
    """Write the kubeconfig of a service account."""
    asked = {"spec": {"expirationSeconds": 3600}}
    token = cluster.core.create_namespaced_service_account_token(account, cluster.namespace, asked)
    config = yaml.safe_load(cluster.airflow_config.read_text())
    config["users"][0]["user"] = {"token": token.status.token}
    path.write_text(yaml.safe_dump(config))
    return path


def test_check_says_what_can_be_known(place: Place, cli: Cli) -> None:
    file = place.write(rows(2))

    ended = cli("check", file)

    assert ended.code == 0, ended.out
    assert f"namespace {place.cluster.namespace}" in ended.out
    assert "a job of 2 pods would be taken by Kubernetes 1." in ended.out
    assert "cannot be known from here" in ended.out
    assert jobs_of(place.cluster) == []


def test_dry_run_prints_the_manifest_and_changes_nothing(place: Place, cli: Cli) -> None:
    file = place.write(rows(3))

    ended = cli("run", "--dry-run", file)

    assert ended.code == 0, ended.err
    manifest, _, rest = ended.out.partition("\nwould run 3 of 3 simulations, in 2 pods")
    assert yaml.safe_load(manifest)["kind"] == "Job"
    assert "nothing was changed" in rest
    assert jobs_of(place.cluster) == []


def test_server_takes_every_built_in_manifest(place: Place, cli: Cli) -> None:
    file = place.write(rows(1))
    release = json.loads(kubectl(place.cluster, "version", "-o", "json"))["serverVersion"]
    old = f"{release['major']}.{release['minor']}".rstrip("+")
    kinds = ["--kind=job", "--kind=serve", "--kind=rbac", "--kind=secret"]

    ended = cli("manifests", *kinds, f"--kubernetes={old}", file)

    assert ended.code == 0
    said = kubectl(place.cluster, "apply", "--dry-run=server", "-f", "-", text=ended.out)
    assert said.count("(server dry run)") == len(list(yaml.safe_load_all(ended.out)))
