"""The command line's side of Kubernetes, as far as it needs no cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_ensemble.cli.kubernetes.errors import (
    AlreadyThere,
    KubernetesError,
    NotThere,
    Refused,
    Unreachable,
)
from airflow_ensemble.cli.kubernetes.jobs import (
    KubernetesView,
    render_view,
    summarise_view,
    view_jobs,
)
from airflow_ensemble.cli.kubernetes.kubectl import judge, parse_release
from airflow_ensemble.cli.kubernetes.waiting import describe_ends
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import EnsembleKey
from airflow_ensemble.engine.simulation import Simulation
from airflow_ensemble.kubernetes.manifests import backlog_query
from tests.cli.conftest import Cli, picture
from tests.engine.index.cases import recipe
from tests.ensembles import write_ensemble
from tests.services.postgres import PostgresServer

ROWS = [{"id": "a"}, {"id": "b"}]
PODS = {"image": "worker:1", "index_secret": "index/url", "namespace": "air"}


def for_pods(folder: Path, **options: Any) -> Path:
    """Write an ensemble that pods could run."""
    execution = {"backend": "kubernetes", "n_workers": 3, "code": [], "kubernetes": {**PODS}}
    given = {"index": "env:TEST_INDEX", "output": "s3://bucket/out", "control": str(folder / "c")}
    return write_ensemble(folder, ROWS, **{**given, "execution": execution, **options})


@pytest.fixture(autouse=True)
def _index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_INDEX", "postgresql://me@localhost:1/x")


# --- ensemble manifests ---------------------------------------------------------------------------


def test_a_job_by_default(tmp_path: Path, cli: Cli) -> None:
    ended = cli("manifests", for_pods(tmp_path))
    assert ended.code == 0
    (job,) = yaml.safe_load_all(ended.out)
    assert (job["kind"], job["metadata"]["namespace"]) == ("Job", "air")
    assert job["spec"]["completions"] == 3
    secret = job["spec"]["template"]["spec"]["containers"][0]["env"][0]
    assert secret["valueFrom"]["secretKeyRef"] == {"name": "index", "key": "url"}


def test_all_is_all_but_the_secrets(tmp_path: Path, cli: Cli) -> None:
    """Applied over the real ones, the examples would undo them."""
    file = for_pods(tmp_path)
    kinds = [one["kind"] for one in yaml.safe_load_all(cli("manifests", "--kind=all", file).out)]
    assert {"Job", "Deployment", "ScaledObject", "TriggerAuthentication", "Role"} <= set(kinds)
    assert "Secret" not in kinds
    asked = cli("manifests", "--kind=secret", "--kind=job", file)
    assert [one["kind"] for one in yaml.safe_load_all(asked.out)] == ["Secret", "Job"]


def test_options_win_over_the_file(tmp_path: Path, cli: Cli) -> None:
    options = ["-n", "sea", "--image", "other:2", "--kubernetes", "1.24"]
    ended = cli("manifests", *options, for_pods(tmp_path))
    (job,) = yaml.safe_load_all(ended.out)
    assert job["metadata"]["namespace"] == "sea"
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "other:2"
    assert "podFailurePolicy" not in job["spec"]


def test_each_printed_job_has_a_name_of_its_own(tmp_path: Path, cli: Cli) -> None:
    file = for_pods(tmp_path)
    names = {yaml.safe_load(cli("manifests", file).out)["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "Bad Image"], "--image must be an image such as"),
        (["-n", "Bad_Name"], "--namespace must be a name of small letters"),
        (["--kubernetes", "new"], "new is no release such as 1.31"),
        (["--kind", "pod"], "invalid choice: 'pod'"),
    ],
)
def test_wrong_options(tmp_path: Path, cli: Cli, arguments: list[str], message: str) -> None:
    ended = cli("manifests", *arguments, for_pods(tmp_path))
    assert ended.code == 2
    assert message in ended.err


def test_pystilt_fault_16_no_path_of_this_side_reaches_the_pods(tmp_path: Path, cli: Cli) -> None:
    ended = cli("manifests", "--kind=all", for_pods(tmp_path))
    assert str(tmp_path) not in ended.out
    assert str(Path.home()) not in ended.out


# --- what pods cannot reach -----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "manifests", "check"])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"index": "sqlite"}, "index: pods cannot share an SQLite file: use PostgreSQL"),
        ({"output": "out", "control": None}, "is on this machine, where pods cannot write"),
    ],
)
def test_out_of_reach(
    tmp_path: Path, cli: Cli, command: str, keys: dict[str, Any], message: str
) -> None:
    file = for_pods(tmp_path, **keys)
    before = picture(tmp_path)
    ended = cli(command, file)
    assert ended.code == 2
    assert message in ended.out + ended.err
    assert picture(tmp_path) == before


def test_output_on_a_volume_that_pods_write_is_within_reach(tmp_path: Path, cli: Cli) -> None:
    options = {**PODS, "volumes": {str(tmp_path): "shared"}}
    execution = {"backend": "kubernetes", "kubernetes": options}
    file = for_pods(tmp_path, output="out", control=None, execution=execution)
    assert cli("manifests", file).code == 0
    options["volumes"] = {str(tmp_path): {"claim": "shared", "read_only": True}}
    assert cli("manifests", for_pods(tmp_path, output="out", execution=execution)).code == 2


def test_without_an_image(tmp_path: Path, cli: Cli) -> None:
    file = for_pods(tmp_path, execution={"backend": "kubernetes"})
    ended = cli("manifests", file)
    assert ended.code == 2
    assert "execution.kubernetes.image is missing" in ended.err
    assert cli("manifests", "--image=worker:1", file).code == 0


def test_code_that_stays_here_is_warned_of(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    execution = {"backend": "kubernetes", "code": ["."], "kubernetes": PODS}
    ended = cli("check", for_pods(tmp_path, execution=execution))
    assert f"execution.code: {tmp_path} is on this machine: pods see only" in ended.out
    assert "whether worker:1 holds it cannot be known from here" in ended.out


def test_without_kubectl(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = cli("run", for_pods(tmp_path))
    assert ended.code == 2
    assert "there is no command kubectl on PATH: install kubectl" in ended.err
    assert "or run the ensemble from Airflow" in ended.err


# --- what kubectl says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "advice"),
    [
        ('Error from server (AlreadyExists): jobs.batch "a" already exists', AlreadyThere, ""),
        ('Error from server (NotFound): namespaces "air" not found', Refused, "create namespace"),
        ('Error from server (NotFound): jobs.batch "a" not found', NotThere, ""),
        ('Error from server (Forbidden): jobs.batch is forbidden: User "x" cannot create resource '
         '"jobs" in API group "batch" in the namespace "air"', Refused, "--kind rbac"),
        ("error: You must be logged in to the server (Unauthorized)", Refused, "log in"),
        ("Error in configuration: context was not found for specified context: x", Refused,
         "get-contexts"),
        ('error: context "x" does not exist', Refused, "get-contexts"),
        ("The connection to the server 127.0.0.1:1 was refused - did you specify the right host or "
         "port?", Unreachable, "cluster-info"),
        ("Unable to connect to the server: dial tcp: lookup k8s: no such host", Unreachable,
         "repeat"),
        ("Unable to connect to the server: net/http: request canceled (Client.Timeout exceeded)",
         Unreachable, "repeat"),
        ('error: error validating "STDIN": error validating data: [ValidationError(Job.spec): '
         'unknown field "x"]', Refused, "execution.kubernetes"),
        ("Unable to connect to the server: x509: certificate signed by unknown authority", Refused,
         "kubeconfig"),
        ("something that nobody has seen", Refused, ""),
        ("", Refused, "it said nothing"),
    ],
)  # fmt: skip
def test_meaning_of_kubectls_words(said: str, kind: type[KubernetesError], advice: str) -> None:
    error = judge("kubectl create in namespace air", f"WARNING: skew\n{said}" if said else "")
    assert type(error) is kind
    assert advice in str(error)
    assert said in str(error)


@pytest.mark.parametrize(
    ("major", "minor", "release"), [("1", "31", (1, 31)), ("1", "27+", (1, 27))]
)
def test_release(major: str, minor: str, release: tuple[int, int]) -> None:
    said = json.dumps({"serverVersion": {"major": major, "minor": minor}})
    assert parse_release(said) == release


def test_release_that_is_not_told() -> None:
    with pytest.raises(Unreachable):
        parse_release('{"clientVersion": {"major": "1", "minor": "31"}}')


# --- Jobs and pods --------------------------------------------------------------------------------


def job(name: str, *conditions: dict[str, str], created: str = "2024-01-01") -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": created, "labels": {"batch": f"b-{name}"}}
    return {"metadata": metadata, "status": {"conditions": list(conditions)}}


def pod(owner: str, phase: str, **state: Any) -> dict[str, Any]:
    status = {"phase": phase, "containerStatuses": [{"name": "worker", "state": state}]}
    return {"metadata": {"name": "p", "labels": {"job-name": owner}}, "status": status}


FAILED = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "no"}
OOM = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}


def test_jobs_with_their_own_pods() -> None:
    jobs = [job("b", created="2024-01-02"), job("a", FAILED)]
    pods = [pod("a", "Failed", **OOM), pod("a", "Failed", **OOM), pod("b", "Pending", **NO_IMAGE),
            pod("b", "Running")]  # fmt: skip
    older, newer = view_jobs(jobs, pods)
    assert (older.name, older.end, older.batch) == ("a", "Failed", "b-a")
    assert older.detail == "BackoffLimitExceeded: no"
    assert older.states == {"Failed": 2}
    assert older.reasons == {"OOMKilled": 2}
    assert (newer.name, newer.end) == ("b", None)
    assert newer.states == {"Pending": 1, "Running": 1}
    assert newer.reasons == {"ImagePullBackOff: Back-off": 1}
    view = KubernetesView([older, newer])
    assert "2 OOMKilled" in render_view(view)
    assert summarise_view(view) == (
        "Kubernetes: 1 Pending, 1 Running (1 ImagePullBackOff: Back-off)"
    )
    assert describe_ends([older]) == "job a failed (BackoffLimitExceeded: no), pods: 2 OOMKilled,"


def test_conditions_that_are_no_end() -> None:
    suspended = {"type": "Suspended", "status": "True"}
    not_yet = {"type": "Complete", "status": "False"}
    (view,) = view_jobs([job("a", suspended, not_yet)], [])
    assert view.end is None
    assert summarise_view(KubernetesView([view])) == "Kubernetes: no pod yet"


def test_view_that_is_missing() -> None:
    assert "own view is missing: no access" in render_view(KubernetesView(problem="no access"))


# --- what KEDA asks the database ------------------------------------------------------------------


def backlog(server: PostgresServer, dsn: str, key: EnsembleKey) -> int:
    ((number,),) = server.execute(
        backlog_query(key.name, key.settings_hash), dsn.rpartition("/")[2].partition("?")[0]
    )
    return int(str(number))


def test_backlog_counts_what_waits_and_what_workers_hold(postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    index = open_index(dsn, create=True)
    key = index.define(recipe())
    assert backlog(postgres, dsn, key) == 0
    simulations = [Simulation(f"s{i}") for i in range(10)]
    batch = index.register(key, simulations, batch_key="b").batch
    assert backlog(postgres, dsn, key) == 10
    index.enlist(key, "pod-1.x", host="pod-1")
    index.claim("pod-1.x", limit=4)
    # Held ones count: a pod in the middle of a long one must not be scaled down.
    assert backlog(postgres, dsn, key) == 10
    index.dispatch(key, batch, backend="local", n_chunks=1)
    # Those of a push run are none of their business.
    assert backlog(postgres, dsn, key) == 4
    index.discharge("pod-1.x")
    assert backlog(postgres, dsn, key) == 4
    index.close()
