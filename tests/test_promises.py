"""Promises that no single part can keep, through the command line as a user would meet them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from airflow_ensemble.cli import main


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    """Return the folder of a starter ensemble."""
    assert main(["-q", "init", str(tmp_path)]) == 0
    return tmp_path


def checksums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


def test_what_the_user_wrote_is_only_ever_read(walks: Path) -> None:
    """Whatever runs, file, table and model stay as they were, byte for byte."""
    with (walks / "ensemble.yaml").open("a") as file:
        file.write("# a comment of the user's\n")
    before = checksums(walks)
    file_option = ["-f", str(walks)]
    for command in (
        ["check", *file_option],
        ["register", *file_option],
        ["run", *file_option, "--set", "parameters.threshold=5.0", "--set", "seed=1"],
        ["run", *file_option, "--no-skip"],
        ["rebuild", *file_option],
        ["gc", *file_option],
    ):
        assert main(["-q", *command]) == 0, command
    assert checksums(walks) == before


def test_gc_removes_what_batches_leave_and_nothing_that_is_needed(walks: Path) -> None:
    for _ in range(2):
        assert main(["-q", "run", "-f", str(walks), "--no-skip"]) == 0
    chunks = walks / "output" / ".ensemble" / "chunks"
    products = set((walks / "output").glob("*/track/*/*.csv"))
    assert len(list(chunks.iterdir())) == 2
    assert len(products) == 8

    assert main(["-q", "gc", "-f", str(walks)]) == 0

    assert list(chunks.iterdir()) == []
    assert len(set((walks / "output").glob("*/track/*/*.csv"))) == 4
    assert main(["-q", "collect", "-f", str(walks), "--to", str(walks / "all.nc")]) == 0


def test_an_index_that_was_deleted_comes_back_as_it_was(
    walks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (walks / "simulations.csv").open("a") as file:
        file.write("broken,many,0.1\n")
    assert main(["-q", "run", "-f", str(walks)]) == 1
    capsys.readouterr()
    assert main(["status", "--json", "-f", str(walks)]) == 0
    before = json.loads(capsys.readouterr().out)

    for path in (walks / "output" / ".ensemble").glob("index.sqlite*"):
        path.unlink()
    assert main(["-q", "rebuild", "-f", str(walks)]) == 0
    capsys.readouterr()
    assert main(["status", "--json", "-f", str(walks)]) == 0
    after = json.loads(capsys.readouterr().out)

    assert before["counts"]["failed"] == 1
    assert before["counts"]["empty"] == 1
    assert after["counts"] == before["counts"]
