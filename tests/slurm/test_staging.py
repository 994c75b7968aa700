"""Folders on the cluster are whole, or are not there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm import staging
from airflow_ensemble.slurm.connecting import make_runner
from airflow_ensemble.slurm.local_runner import LocalRunner
from airflow_ensemble.slurm.runner import Runner
from airflow_ensemble.slurm.staging import (
    File,
    Stage,
    StagingError,
    StagingRefused,
    read_code,
    stamp_of,
    worker_bundle,
)
from tests.services.slurm import SlurmCluster

FILES = [File("a", b"1\n"), File("below/b", b"\x00\xff", is_program=True)]


@pytest.fixture(params=["here", "ssh"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "here":
        (tmp_path / "it's a root").mkdir()
        yield Stage(LocalRunner(), str(tmp_path / "it's a root"))
        return
    slurm: SlurmCluster = request.getfixturevalue("slurm")
    slurm.reset()
    slurm.answer('mkdir "it\'s a root"')
    with make_runner(slurm.login()) as runner:
        yield Stage(runner, str(slurm.shared / "it's a root"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_arrives_whole_and_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"{stage.root}/e/batch/job $x"
    assert stage.stamps([folder, stage.root]) == [None, None]
    stage.put_missing([(folder, "one", FILES)])
    assert stage.stamps([folder, stage.root]) == ["one", None]
    assert contents(Path(stage.root)) == {
        "e/batch/job $x/a": b"1\n",
        "e/batch/job $x/below/b": b"\x00\xff",
        "e/batch/job $x/.staged": b"one\n",
    }
    assert os.access(f"{folder}/below/b", os.X_OK)
    monkeypatch.setattr(staging, "_pack", None)
    stage.put_missing([(folder, "one", FILES)])


def test_changed_files_take_the_place_of_those_that_are_there(stage: Stage) -> None:
    folder = f"{stage.root}/e/job"
    stage.put(folder, FILES, "one")
    stage.put(folder, [File("a", b"2\n"), File("below/c", b"")], "two")
    assert contents(Path(folder)) == {
        "a": b"2\n", "below/b": b"\x00\xff", "below/c": b"", ".staged": b"two\n",
    }  # fmt: skip
    assert [path.name for path in Path(folder).parent.iterdir()] == ["job"]


def test_many_at_once_leave_one(tmp_path: Path) -> None:
    stages = [Stage(LocalRunner(), str(tmp_path)) for _ in range(6)]
    arguments = (f"{tmp_path}/x", FILES, "s")
    threads = [threading.Thread(target=stage.put, args=arguments) for stage in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(contents(tmp_path)) == ["x/.staged", "x/a", "x/below/b"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_missing_root_is_not_made(stage: Stage) -> None:
    missing = Stage(stage.runner, f"{stage.root}/missing")
    with pytest.raises(StagingRefused, match=r"remote_root .*/missing is no folder on .*: make it"):
        missing.put(f"{missing.root}/job", FILES, "s")
    assert not Path(missing.root).exists()


def test_on_a_login_node_the_root_is_made(tmp_path: Path) -> None:
    stage = Stage(LocalRunner(), f"{tmp_path}/deep/root", makes_root=True)
    stage.put(f"{stage.root}/job", FILES, "s")
    assert stage.stamps([f"{stage.root}/job"]) == ["s"]


def test_no_permission_to_write(slurm: SlurmCluster) -> None:
    slurm.reset()
    slurm.answer("mkdir -m 555 closed")
    with make_runner(slurm.login()) as runner:
        stage = Stage(runner, str(slurm.shared / "closed"))
        with pytest.raises(StagingRefused, match=r"no permission to write .*/closed/e/job on .*:"):
            stage.put(f"{stage.root}/e/job", FILES, "s")
    assert list((slurm.shared / "closed").iterdir()) == []


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, f"a small disk needs root: {done.stderr!r}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_keeps_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "root") as root:
        stage = Stage(LocalRunner(), str(root))
        stage.put(f"{root}/e/small", FILES, "s")
        with pytest.raises(StagingError, match="No space left on device") as error:
            stage.put(f"{root}/e/large", [File("a", os.urandom(500_000))], "s")
        assert "none were left there" in str(error.value)
        assert not isinstance(error.value, UsageError)
        assert [path.name for path in (root / "e").iterdir()] == ["small"]


class CutRunner(LocalRunner):
    """Loses the end of what it sends."""

    def run(self, script: str, *, input: bytes = b"", timeout: float = 60.0):  # type: ignore[no-untyped-def]
        return super().run(script, input=input[: len(input) // 2], timeout=timeout)


def test_an_upload_that_is_cut_short_keeps_nothing(tmp_path: Path) -> None:
    runner: Runner = CutRunner()
    with pytest.raises(StagingError):
        Stage(runner, str(tmp_path)).put(f"{tmp_path}/job", [File("a", os.urandom(99_999))], "s")
    assert list(tmp_path.iterdir()) == []


def test_code_is_what_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "package" / "__pycache__").mkdir(parents=True)
    for name in ("model.py", "package/__init__.py", "package/__pycache__/x.pyc", ".hidden",
                 "package/data.json", "index.sqlite"):  # fmt: skip
        (tmp_path / name).write_text(name)
    for name in ("output/a.nc", "venv/pyvenv.cfg", "venv/x.py", ".git/config"):
        (tmp_path / name).parent.mkdir() if not (tmp_path / name).parent.exists() else None
        (tmp_path / name).write_text(name)
    (tmp_path / "package" / "up").symlink_to(tmp_path)
    files = read_code(str(tmp_path), [str(tmp_path / "output"), str(tmp_path)])
    assert [file.name for file in files] == ["model.py", "package/__init__.py", "package/data.json"]
    assert [file.name for file in read_code(str(tmp_path / "model.py"))] == ["model.py"]


def test_data_is_not_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MAX_CODE", 1 << 20)
    (tmp_path / "data.bin").write_bytes(bytes(2 << 20))
    with pytest.raises(UsageError, match="holds more than 1 MiB: name the folder of the model's"):
        read_code(str(tmp_path))


def test_stamps_name_contents() -> None:
    assert stamp_of(FILES) == stamp_of(list(FILES))
    assert len({stamp_of([File("ab", b"c")]), stamp_of([File("a", b"bc")]), stamp_of(FILES)}) == 3
    assert worker_bundle() == worker_bundle()
