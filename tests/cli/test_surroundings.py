"""Closed streams, accounts without a home, shells that leave: one sentence, exit code 2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from airflow_ensemble.cli.application import FAULT
from airflow_ensemble.cli.model_loading import _ask_interpreter
from airflow_ensemble.cli.slurm import interpreter
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.models import ideal_met
from airflow_ensemble.slurm import ssh_connection
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.login import Login
from tests.cli.conftest import Cli
from tests.ensembles import write_ensemble
from tests.services.s3 import S3Server

ROWS = [{"id": "a", "x": 1}]
PROGRAM = f"{sys.executable} -m airflow_ensemble"


@pytest.fixture
def file(tmp_path: Path, cli: Cli) -> Path:
    """Return an ensemble that has run."""
    file = write_ensemble(tmp_path / "ensemble", ROWS)
    assert cli("run", file).code == 0
    return file


def shell(
    script: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in a folder, and see that nothing in it ends with a traceback."""
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert "Exception ignored" not in said, said
    assert FAULT not in said, said
    return done


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("ensemble: error: ")]


# --- standard streams -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "status --json", "show a", "check", "run"])
def test_a_closed_standard_output_is_said(file: Path, command: str) -> None:
    done = shell(f"{PROGRAM} {command} -f ensemble.yaml >&-", file.parent)

    assert done.returncode == 2
    assert errors(done) == [
        "ensemble: error: standard output is closed: redirect it, for instance to /dev/null"
    ]


@pytest.mark.parametrize("command", ["status", "status --json"])
def test_a_full_disk_behind_standard_output_is_said(file: Path, command: str) -> None:
    done = shell(f"{PROGRAM} {command} >/dev/full", file.parent)

    assert done.returncode == 2
    assert errors(done) == ["ensemble: error: standard output: No space left on device"]


@pytest.mark.parametrize("redirection", ["2>&-", "<&-", "2>/dev/full", "<&- 2>&-"])
def test_other_streams_that_are_closed_or_full_hinder_nothing(file: Path, redirection: str) -> None:
    done = shell(f"{PROGRAM} status --json {redirection}", file.parent)
    assert done.returncode == 0
    assert done.stdout.startswith("{")
    again = shell(f"{PROGRAM} run --no-skip {redirection}", file.parent)
    assert again.returncode == 0
    assert again.stdout.startswith("1 complete")


def test_a_reader_that_leaves_is_no_error(file: Path) -> None:
    script = f"set -o pipefail; {PROGRAM} status | head -1; echo code $?"
    done = shell(script, file.parent)

    assert done.stdout.splitlines()[-1] == "code 0"
    assert done.stderr == ""


def test_a_run_goes_on_when_nobody_reads_what_it_notes(file: Path) -> None:
    done = shell(f"{PROGRAM} run --no-skip 2> >(exec true)", file.parent)

    assert done.returncode == 0
    assert done.stdout.startswith("1 complete")


# --- environments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        *({"COLUMNS": "0"}, {"COLUMNS": "-3"}, {"COLUMNS": "wide"}, {"TERM": "dumb"}, {"TERM": ""}),
        *({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        *({"PYTHONIOENCODING": "ascii"}, {"TMPDIR": "/nonexistent"}, {"TMPDIR": "/dev/null"}),
        *({"LC_ALL": "no_such.LOCALE"}, {"HOME": "/nonexistent"}, {"HOME": ""}, {"USER": ""}),
        *({"XDG_CACHE_HOME": "relative"}, {"ENSEMBLE_SCRATCH": "scratch"}, {"NO_COLOR": "1"}),
    ],
    ids=str,
)
def test_no_environment_hinders_a_run(file: Path, environment: dict[str, str]) -> None:
    done = shell(f"{PROGRAM} run --no-skip && {PROGRAM} status", file.parent, environment)

    assert done.returncode == 0, done.stderr
    assert "1 complete" in done.stdout


@pytest.mark.parametrize("variable", ["ENSEMBLE_SCRATCH", "ENSEMBLE_INDEX"])
@pytest.mark.parametrize("value", ["/dev/null/below", "\udcff", " ", "~", "$X"])
def test_no_value_of_our_own_variables_gives_a_traceback(
    file: Path, variable: str, value: str
) -> None:
    done = shell(f"{PROGRAM} run --no-skip", file.parent, {variable: value})

    assert done.returncode in (0, 2), done.stderr
    assert len(errors(done)) == (done.returncode == 2)


def test_names_that_are_not_ascii_are_fine_in_a_plain_locale(tmp_path: Path) -> None:
    folder = tmp_path / "Zürich 数"
    write_ensemble(folder, [{"id": "a", "x": "Größe"}])

    done = shell(f"{PROGRAM} run && {PROGRAM} show a && {PROGRAM} nope", folder, {"LC_ALL": "C"})

    assert done.returncode == 2
    assert "1 complete" in done.stdout


@pytest.mark.parametrize("command", ["run", "check", "status", "register"])
def test_a_path_that_is_no_text_is_said(tmp_path: Path, command: str) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_ensemble(folder, ROWS)

    done = shell(f"{PROGRAM} {command}", folder)

    assert done.returncode == 2
    assert len(errors(done)) == 1
    assert "is no text in the encoding of this session" in done.stderr


def test_a_folder_that_was_removed_below_our_feet_is_said(file: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    for command in ("status", "check", "run", "init", "register", "collect --to all.nc"):
        done = shell(f"rmdir {gone}; {PROGRAM} {command}", gone)
        assert done.returncode == 2
        assert len(errors(done)) == 1
        gone.mkdir()
    assert shell(f"rmdir {gone}; {PROGRAM} status -f {file}", gone).returncode == 0


def test_a_path_that_may_not_be_read_is_named(file: Path, cli: Cli, tmp_path: Path) -> None:
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    ended = cli("status", loop)

    assert ended.code == 2
    assert str(loop) in ended.err


# --- accounts without a name ----------------------------------------------------------------------


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be an account that has neither HOME nor an entry in passwd."""

    def unknown(*_: object) -> None:
        raise KeyError("uid not found: 54321")

    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)


@pytest.mark.usefixtures("nameless")
def test_an_account_without_a_home_runs_what_needs_none(tmp_path: Path, cli: Cli) -> None:
    file = write_ensemble(tmp_path, ROWS)

    assert cli("run", file).code == 0
    assert cli("status", file).code == 0
    assert LocalRunner().run("pwd").out.strip() == "/"


@pytest.mark.usefixtures("nameless")
def test_an_account_without_a_home_is_told_what_needs_one(tmp_path: Path, cli: Cli) -> None:
    file = write_ensemble(tmp_path, ROWS, output="~/output")

    ended = cli("run", file)

    assert ended.code == 2
    assert "output" in ended.err
    with pytest.raises(UsageError, match=r"no home folder.*XDG_CACHE_HOME"):
        ideal_met.cache_directory()
    with pytest.raises(UsageError, match="give the connection a login"):
        ssh_connection.route(Login(host="hpc"))


# --- stores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "register", "run", "rebuild", "reconcile", "gc"])
def test_a_bucket_that_does_not_exist_is_named(
    tmp_path: Path, cli: Cli, s3: S3Server, command: str
) -> None:
    good = s3.make_bucket()
    file = write_ensemble(tmp_path, ROWS, output=f"{good}/x", control="control")
    if command in ("reconcile", "gc"):
        assert cli("register", file).code == 0
    file.write_text(file.read_text().replace(good, "s3://no-such-bucket"))

    ended = cli(command, file)

    assert ended.code == 2
    assert "no-such-bucket" in ended.out + ended.err
    assert "Traceback" not in ended.err
    assert command in ("reconcile", "gc") or not (tmp_path / "control").exists()


def test_rebuild_names_an_output_folder_that_does_not_exist(tmp_path: Path, cli: Cli) -> None:
    file = write_ensemble(tmp_path, ROWS, output="ouptut")

    ended = cli("rebuild", file)

    assert ended.code == 2
    assert f"{tmp_path / 'ouptut'} does not exist" in ended.err
    assert not (tmp_path / "ouptut").exists()


# --- login shells ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "profile", ["exec tcsh", "exec /bin/sh", "echo Welcome; exec tcsh", "exit 0"]
)
def test_a_login_shell_that_never_comes_to_its_command_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    assert shutil.which("tcsh"), "scripts/install_services.sh installs it"
    (tmp_path / ".bash_profile").write_text(f"{profile}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    ensemble = load(write_ensemble(tmp_path, ROWS, execution={"python": sys.executable}))

    with pytest.raises(UsageError, match=r"never comes to its command on this node.*exec tcsh"):
        interpreter.find_python(ensemble)


def test_a_login_shell_that_greets_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".bash_profile").write_text("echo Welcome to hpc; printf 'caf\\351\\n'\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    ensemble = load(write_ensemble(tmp_path, ROWS, execution={"python": sys.executable}))

    assert interpreter.find_python(ensemble).startswith("3.")


def test_what_a_login_shell_prints_is_no_answer_of_the_model_check() -> None:
    answer = 'echo Welcome; echo \'{"problems": ["no licence"]}\''
    found = _ask_interpreter("python", ["/bin/sh", "-c", answer], {}, [])
    assert found == ["no licence"]
    for silent in ("true", "echo Welcome", "echo '[]'", "printf '\\377'"):
        (problem,) = _ask_interpreter("python", ["/bin/sh", "-c", silent], {}, [])
        assert "cannot be loaded with python" in problem
