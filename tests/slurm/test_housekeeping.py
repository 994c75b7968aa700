"""What jobs that are over have left is removed from the control folder, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from airflow_ensemble.cli import main
from airflow_ensemble.engine import batch
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.slurm.batches import collection_chunk
from airflow_ensemble.slurm.housekeeping import MIN_AGE, remove_job_folders, remove_staged
from tests.ensembles import write_ensemble


def make_job(
    control: Control, key: str, *, place: str = "local", parent: Path | None = None
) -> Path:
    """Enter a job of one chunk, with an old folder, and return that."""
    found = batch.register(control, key, skip_existing=False).batch
    (chunk,) = batch.dispatch(control, found, backend="slurm", n_chunks=1)
    return enter(control, found, (chunk.id, 1), place, parent)


def enter(
    control: Control, found: str, pair: tuple[str, int], place: str, parent: Path | None = None
) -> Path:
    """Enter a job in the index and make its old folder."""
    parent = parent or control.ensemble.control / "slurm" / control.ensemble.name / found
    job = control.index.prepare_job(found, [pair], place=place, parent=str(parent))
    folder = Path(job.folder)
    (folder / "logs").mkdir(parents=True)
    log = folder / "logs" / "0.log"
    log.write_text("text")
    for path in (log, folder / "logs", folder):
        age(path)
    return folder


def age(path: Path, seconds: float = MIN_AGE + 60) -> None:
    """Make a file look this old."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def settle(control: Control) -> None:
    """Close all open chunks."""
    for one in control.index.open_batches(control.key):
        for chunk in control.index.chunks(one.id):
            control.index.settle(chunk.id)


def test_only_old_folders_of_settled_batches_of_this_machine_go(tmp_path: Path) -> None:
    with open_control(load(write_ensemble(tmp_path, [{"id": "a"}])), create=True) as control:
        old = make_job(control, "old")
        settle(control)
        fresh = make_job(control, "fresh")
        (fresh / "logs" / "0.log").write_text("written to just now")
        settle(control)
        far = make_job(control, "far", place="hpc")
        settle(control)
        outside = make_job(control, "outside", parent=tmp_path / "elsewhere")
        settle(control)
        is_open = make_job(control, "open")
        unknown = old.parent.parent / "unknown" / "job"
        unknown.mkdir(parents=True)
        age(unknown)
        kept = [fresh, far, outside, is_open, unknown]

        assert remove_job_folders(control, dry_run=True) == [old]
        assert old.is_dir()
        assert remove_job_folders(control) == [old]
        assert not old.parent.exists()
        assert all(path.is_dir() for path in kept)
        assert remove_job_folders(control) == []


def test_a_collection_that_may_run_keeps_its_folder(tmp_path: Path) -> None:
    with open_control(load(write_ensemble(tmp_path, [{"id": "a"}])), create=True) as control:
        make_job(control, "one")
        (found,) = control.index.open_batches(control.key)
        settle(control)
        name = collection_chunk(found.id)
        folder = enter(control, found.id, (name, 1), "local")
        assert folder not in remove_job_folders(control)
        control.index.end_element(name, 1, "completed")
        assert remove_job_folders(control) == [folder]


def stage(control: Control, name: str, seconds: float = MIN_AGE + 60) -> Path:
    """Make a folder as of a bundle or of code, staged so long ago."""
    folder = control.ensemble.control / "slurm" / name
    folder.mkdir(parents=True)
    (folder / "file").write_text("bytes")
    age(folder, seconds)
    return folder


def test_bundles_and_code_go_that_no_job_folder_names(tmp_path: Path) -> None:
    with open_control(load(write_ensemble(tmp_path, [{"id": "a"}])), create=True) as control:
        job = make_job(control, "one")
        kept = [stage(control, "bundles/aaaa"), stage(control, "code/bbbb")]
        unnamed = [stage(control, "bundles/cccc"), stage(control, "code/dddd")]
        fresh = stage(control, "bundles/eeee", 60)
        (job / "job.sh").write_text(f"bundle={kept[0]}/ensemble-worker.pyz\n")
        (job / "0.1.jsonl").write_text(f'{{"code": ["{kept[1]}"]}}\n{{"id": "code/dddd"}}\n')
        assert remove_staged(control) == []  # its batch is open: another job may be on its way
        settle(control)

        assert remove_staged(control, dry_run=True) == unnamed
        assert remove_staged(control, without=[job], dry_run=True) == sorted([*kept, *unnamed])
        assert all(folder.is_dir() for folder in [*kept, *unnamed, fresh])
        assert remove_staged(control) == unnamed
        assert all(folder.is_dir() for folder in [*kept, fresh])
        assert not any(folder.exists() for folder in unnamed)


def test_gc_lists_them_before_it_removes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_ensemble(tmp_path, [{"id": "a"}])
    with open_control(load(file), create=True) as control:
        folder = make_job(control, "one")
        settle(control)
        bundle = stage(control, "bundles/aaaa")
        (folder / "job.sh").write_text(f"bundle={bundle}/ensemble-worker.pyz\n")
        age(folder / "job.sh")
        age(folder)
    assert main(["gc", "-f", str(file), "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert f"{folder}\n{bundle}\n" in listed
    assert folder.is_dir()
    assert main(["gc", "-f", str(file)]) == 0
    assert "1 job folder of Slurm, and 1 of bundles and code" in capsys.readouterr().out
    assert not folder.exists()
    assert not bundle.exists()
