"""The command line for those who may only read: another account, a read-only mount, a copy."""

from __future__ import annotations

import getpass
import os
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Ended, write_command_ensemble
from tests.cli.login_node import LoginNode
from tests.services.postgres import PostgresServer
from tests.services.slurm import SlurmCluster

#: What root's tests run commands with: another account, which may read everything.
_READER = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
#: As :data:`_READER`, in a place of its own where the first argument is mounted read-only.
_MOUNTED = (
    *("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)), "sh", "-ec"),
    'mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; exec "$@"',
)
COMMAND = ["sh", "-c", "echo said by {x}; echo {x} > out.txt; test {x} != 2"]


@pytest.fixture
def place(tmp_path: Path, cli: Cli) -> Iterator[Path]:
    """The folder of an ensemble of which one simulation failed and two are complete."""
    folder = tmp_path / "owner's"
    rows = [{"id": f"s{x}", "x": x} for x in (1, 2, 3)]
    file = write_command_ensemble(folder, rows, COMMAND, max_attempts=1, logs="all")
    assert cli("run", file).code == 1
    yield folder
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells that anything in a folder has changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        seen = path.lstat()
        found[str(path.relative_to(folder))] = (seen.st_mtime_ns, seen.st_size)
    return found


def run_as(prefix: Sequence[object], *arguments: object) -> Ended:
    command = [*prefix, sys.executable, "-m", "airflow_ensemble", *arguments]
    environment = {**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


Reader = Callable[..., Ended]


@pytest.fixture(params=["another account", "read-only mount"])
def read(request: pytest.FixtureRequest, place: Path) -> Iterator[Reader]:
    """Run commands for somebody who may only read; nothing in the folder may change by them."""
    prefix: Sequence[object] = ()
    if request.param == "read-only mount":
        prefix = (*_MOUNTED, place)
    else:
        subprocess.run(["chmod", "-R", "a-w,a+rX", place], check=True)
        prefix = _READER if os.geteuid() == 0 else ()
    before = state(place)
    yield lambda *arguments: run_as(prefix, *arguments)
    assert state(place) == before


def test_every_reading_command_works(read: Reader, place: Path) -> None:
    file = place / "ensemble.yaml"
    status = read("status", file, "--json")
    assert (status.code, status.err) == (0, "")
    assert status.json["counts"]["complete"] == 2
    index = place / "output/.ensemble/index.sqlite"
    named = read("status", "--index", index, "--name", "tests", "--json")
    assert (named.code, named.json["counts"]) == (0, status.json["counts"])
    watched = read("status", file, "--watch", "--json")
    assert (watched.code, watched.json["counts"]) == (1, status.json["counts"])
    shown = read("show", "s2", "-f", file)
    assert shown.code == 0
    assert "error" in shown.out
    assert "said by 3" in read("logs", "s3", "-f", file).out
    collected = read("collect", file)
    assert collected.code == 1
    assert "2 complete (0 empty), 1 failed" in collected.out
    assert read("gc", file, "--dry-run").code == 0
    assert read("forget", "-f", file).code == 0
    assert "would run 0 of 3" in read("run", file, "--dry-run").out


def test_check_says_what_a_run_would_need(read: Reader, place: Path) -> None:
    checked = read("check", place / "ensemble.yaml")
    assert checked.code == 2
    assert "is not writable" in checked.out
    assert "it may only be read by this account" in checked.out
    assert "3 in the table: 0 new, 2 complete, 1 failed" in checked.out


@pytest.mark.parametrize(
    "arguments",
    [("run",), ("retry", "--all", "-f"), ("reconcile",), ("gc",), ("status", "--refresh")],
)
def test_what_writes_says_so_in_one_sentence(
    read: Reader, place: Path, arguments: tuple[str, ...]
) -> None:
    ended = read(*arguments, place / "ensemble.yaml")
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert "may only be read from here" in line or "is not writable" in line


def test_what_cannot_be_written_for_a_reader_is_named(read: Reader, place: Path) -> None:
    ended = read("status", place / "ensemble.yaml", "--write")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "status.json cannot be written" in line


# --- PostgreSQL -----------------------------------------------------------------------------------


def test_a_role_that_may_only_read(
    tmp_path: Path, cli: Cli, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"s{x}", "x": x} for x in (1, 2, 3)]
    keys = {"max_attempts": 1, "logs": "all", "index": "env:INDEX"}
    file = write_command_ensemble(tmp_path, rows, COMMAND, **keys)
    monkeypatch.setenv("INDEX", postgres.new_database())
    assert cli("run", file).code == 1
    monkeypatch.setenv("INDEX", postgres.make_reader(os.environ["INDEX"]))
    assert cli("status", file, "--json").json["counts"]["complete"] == 2
    named = cli("status", "--index", "env:INDEX", "--name", "tests", "--json")
    assert named.json["counts"]["failed"] == 1
    assert cli("status", file, "--watch").code == 1
    assert "error" in cli("show", "s2", "-f", file).out
    assert "said by 3" in cli("logs", "s3", "-f", file).out
    assert "2 complete (0 empty), 1 failed" in cli("collect", file).out
    assert "it may only be read by this account" in cli("check", file).out
    assert cli("gc", file, "--dry-run").code == cli("forget", "-f", file).code == 0
    for command in (("run",), ("retry", "--all", "-f"), ("status", "--refresh")):
        ended = cli(*command, file)
        assert ended.code == 2
        assert "this role may only read" in ended.err.splitlines()[-1]


# --- what is not in the file yet ------------------------------------------------------------------


def leave_behind(place: Path, statement: str) -> None:
    """Change the index in a process that is killed before it closes it."""
    index = place / "output/.ensemble/index.sqlite"
    text = (
        "import os, sqlite3\n"
        f"sqlite3.connect({str(index)!r}, isolation_level=None).execute({statement!r})\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", text], check=False)
    assert Path(f"{index}-wal").stat().st_size


RESET = "UPDATE simulations SET status = 'pending', reason = NULL WHERE id = 's2'"


@pytest.mark.parametrize("lost", [None, "-shm"])
def test_a_killed_writer_s_last_words_are_read(place: Path, lost: str | None) -> None:
    leave_behind(place, RESET)
    if lost:
        Path(f"{place}/output/.ensemble/index.sqlite{lost}").unlink()
    subprocess.run(["chmod", "-R", "a-w,a+rX", place], check=True)
    before = sorted(state(place))
    ended = run_as(_READER if os.geteuid() == 0 else (), "status", place, "--json")
    assert ended.code == 0
    assert ended.json["counts"]["pending"] == 1
    assert sorted(state(place)) == before
    assert "results that have come since somebody who may write it last looked" in ended.err


# --- copies ---------------------------------------------------------------------------------------


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """A copy of the folder, whose original says something else by now."""
    copied = tmp_path / "copy"
    shutil.copytree(place, copied, symlinks=True)
    with sqlite3.connect(place / "output/.ensemble/index.sqlite") as connection:
        connection.execute(RESET)
    connection.close()
    for path in (place / "output").rglob("*.txt"):
        path.write_text("changed since\n")
    for path in (place / "output").rglob("*.log"):
        path.write_text("changed since\n")
    return copied


def test_a_copied_folder_speaks_for_itself_and_says_so(copy: Path, place: Path, cli: Cli) -> None:
    status = cli("status", copy, "--json")
    assert status.json["counts"]["failed"] == 1
    assert status.json["output"] == str(copy / "output")
    assert f"the index was made for the output root {place}/output" in status.err
    assert f"files are read from {copy}/output" in status.err
    logs = cli("logs", "s2", "-f", copy / "ensemble.yaml")
    assert "said by 2" in logs.out
    assert "this is a copy or was moved" in logs.err
    assert "copy" not in cli("status", place).err


# --- datasets -------------------------------------------------------------------------------------


def test_a_dataset_that_cannot_be_written_is_named(place: Path, tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o555)
    reader = _READER if os.geteuid() == 0 else ()
    for target in (shut / "all.nc", shut / "deeper" / "all.zarr"):
        ended = run_as(reader, "collect", place / "ensemble.yaml", "--to", target)
        assert ended.code == 2
        (line,) = ended.err.splitlines()
        assert line.startswith(f"ensemble: error: {target} cannot be written (Permission denied)")


# --- another account, with no rights of root's at all ---------------------------------------------


def test_the_account_of_a_cluster_reads_what_others_ran(slurm: SlurmCluster, cli: Cli) -> None:
    slurm.reset()
    folder = slurm.root / f"others-{uuid.uuid4().hex[:8]}"
    rows = [{"id": f"s{x}", "x": x} for x in (1, 2, 3)]
    file = write_command_ensemble(folder, rows, COMMAND, max_attempts=1, logs="all")
    assert cli("run", file).code == 1
    subprocess.run(["chmod", "-R", "a-w,a+rX", folder], check=True)
    node, before = LoginNode(slurm), state(folder)
    status = node("status", file, "--json")
    assert (status.code, status.err, status.json["counts"]["complete"]) == (0, "", 2)
    assert "said by 3" in node("logs", "s3", "-f", file).out
    assert "error" in node("show", "s2", "-f", file).out
    assert "2 complete (0 empty), 1 failed" in node("collect", file).out
    assert "may only be read from here" in node("retry", "--all", "-f", file).err
    assert state(folder) == before
    (folder / "output/.ensemble/index.sqlite").chmod(0o600)
    if slurm.user != getpass.getuser():
        hidden = node("status", file)
        assert hidden.code == 2
        assert "index.sqlite cannot be read (Permission denied)" in hidden.err
