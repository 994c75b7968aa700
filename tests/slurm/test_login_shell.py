"""What a cluster says of variables and home folders, over a real SSH server."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.ensemble.paths import expand
from airflow_ensemble.engine.ensemble.schema import Place
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.login_shell import LoginShell
from airflow_ensemble.slurm.runner import Completed, Runner
from tests.ensembles import write_ensemble
from tests.services.sshd import SshServer
from tests.slurm.ssh_places import open_runner

PLACE = Place("e.yaml", "output")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder of an account whose profile sets what sites set."""
    folder = tmp_path / "home"
    folder.mkdir()
    folder.joinpath(".bash_profile").write_text(
        "echo 'Welcome! @@ensemble@@ SCRATCH 0'\n"
        "export SCRATCH='/scratch/$(touch x) `id` a b'\n"
        "export LINES_=$'a\\n@@ensemble@@ HOME 0\\n'\n"
        "export EMPTY= BYTES=$'\\xff'\n"
        "UNEXPORTED=/set/all/the/same\n"
    )
    return folder


@pytest.fixture
def shell(home: Path) -> LoginShell:
    return LoginShell(LocalRunner({"HOME": str(home)}))


class CountingRunner(LocalRunner):
    """Keeps the texts that it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0) -> Completed:
        self.texts.append(script)
        return super().run(script, input=input, timeout=timeout)


def test_a_login_shell_knows_what_the_profile_sets(shell: LoginShell, home: Path) -> None:
    assert shell.look_up(["SCRATCH", "HOME", "~", "UNEXPORTED", "NOPE", "~root"]) == {
        "SCRATCH": "/scratch/$(touch x) `id` a b",
        "HOME": str(home),
        "~": str(home),
        "UNEXPORTED": "/set/all/the/same",
        "~root": pwd.getpwnam("root").pw_dir,
    }
    assert not (home / "x").exists()


def test_answers_are_data(shell: LoginShell) -> None:
    found = shell.look_up(["LINES_", "EMPTY", "BYTES"])
    assert found["LINES_"] == "a\n@@ensemble@@ HOME 0\n"
    assert found["EMPTY"] == ""
    with pytest.raises(UsageError, match="BYTES, which is not UTF-8 text for a login shell on"):
        expand("$BYTES/x", PLACE, shell)
    with pytest.raises(UsageError, match="EMPTY, which is empty for a login shell on this machine"):
        expand("$EMPTY/x", PLACE, shell)


@pytest.mark.parametrize("name", ["~$(touch made)", "~;id", "~+", "~1", "~-", "~'", "~a b"])
def test_what_would_mean_something_to_a_shell_is_never_sent(name: str) -> None:
    runner = CountingRunner()
    assert LoginShell(runner).look_up([name]) == {}
    assert runner.texts == []


def test_each_name_is_asked_for_once() -> None:
    runner = CountingRunner()
    shell = LoginShell(runner)
    shell.look_up(["NOPE_1", "HOME"])
    shell.look_up(["HOME"])
    shell.look_up(["NOPE_1"])
    assert len(runner.texts) == 1


@pytest.mark.parametrize("profile", ["exit 3\n", "exec true\n"])
def test_a_profile_that_ends_the_shell_is_named(home: Path, profile: str) -> None:
    home.joinpath(".bash_profile").write_text(profile)
    shell = LoginShell(LocalRunner({"HOME": str(home)}))
    with pytest.raises(UsageError, match=r"bash as a login shell on this machine runs nothing"):
        shell.look_up(["HOME"])


@pytest.fixture(params=["paramiko", "openssh"])
def runner(request: pytest.FixtureRequest, sshd: SshServer, tmp_path: Path) -> Iterator[Runner]:
    with open_runner(request.param, sshd, tmp_path) as opened:
        yield opened


def test_over_ssh_the_clusters_own_home_counts(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("ONLY_HERE", "/here")
    shell = LoginShell(runner)
    own = runner.run('printf %s "$HOME"').out
    assert own.startswith("/")
    assert own != "/nowhere"
    assert expand("~/x", PLACE, shell) == expand("$HOME/x", PLACE, shell) == f"{own}/x"
    with pytest.raises(UsageError, match=r"ONLY_HERE, which is not set for a login shell on .*@"):
        expand("$ONLY_HERE", PLACE, shell)


def test_the_folder_of_a_connection_is_expanded_there(shell: LoginShell, home: Path) -> None:
    def root(path: str) -> str:
        client = SlurmClient(LocalRunner())
        return Cluster(client=client, place="hpc", remote_root=path, side=shell).root({})

    assert root("~/ens/") == f"{home}/ens"
    with pytest.raises(UsageError, match="connection 'hpc': remote_root names the variable NOPE_2"):
        root("$NOPE_2/ens")
    with pytest.raises(UsageError, match=r"remote_root comes to 'a.*is not the absolute path"):
        root("$LINES_")


def test_a_control_folder_is_not_expanded_twice(tmp_path: Path) -> None:
    folder = tmp_path / "my $HOME"
    ensemble = load(write_ensemble(folder, [{"id": "a"}]))
    assert Cluster.local(ensemble).root({}) == f"{folder}/output/.ensemble/slurm"
