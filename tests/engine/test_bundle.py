"""The worker bundle: one file that any supported Python runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_ensemble.engine import bundle, segment, storage
from airflow_ensemble.engine.recipe import ProductSpec
from tests.engine.running import assignments_of, recipe_of, write_chunk_file
from tests.interpreters import SUPPORTED, interpreters


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.write_bundle(tmp_path_factory.mktemp("bundle"))


def test_equal_sources_give_equal_bytes(tmp_path: Path, archive: Path) -> None:
    again = bundle.write_bundle(tmp_path / "other.pyz")

    assert again.read_bytes() == archive.read_bytes()


def test_it_is_small_and_named(archive: Path) -> None:
    assert archive.name == "ensemble-worker.pyz"
    assert archive.stat().st_size < 1_000_000


def test_an_older_one_is_replaced_in_one_step(tmp_path: Path) -> None:
    old = tmp_path / "worker.pyz"
    old.write_text("old")
    bundle.write_bundle(old)

    assert old.read_bytes()[:2] == b"#!"
    assert list(tmp_path.iterdir()) == [old]


def test_all_supported_pythons_are_on_this_machine() -> None:
    assert list(interpreters()) == [f"3.{minor}" for minor in SUPPORTED]


@pytest.mark.parametrize("version", [f"3.{minor}" for minor in SUPPORTED])
def test_a_chunk_of_a_command_runs_with_the_standard_library_alone(
    tmp_path: Path, archive: Path, version: str
) -> None:
    recipe = recipe_of(
        tmp_path / "output",
        command=("/bin/sh", "-c", "echo {id} {x} > out.txt; test {x} != 2"),
        products=(ProductSpec("values", "out.txt"),),
    )
    chunk = write_chunk_file(tmp_path, recipe, assignments_of([{"x": n} for n in range(4)]))
    # -I -S: no site-packages, no environment; -W error: not even a warning on a newer Python.
    done = subprocess.run(
        [interpreters()[version], "-I", "-S", "-W", "error", archive, "push-worker", chunk],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1, done.stderr
    root = storage.open_root(tmp_path / "output")
    prefix = storage.segments_prefix(recipe.hash8)
    records = [r for name, _ in root.list(prefix) for r in segment.parse(root.read(name)).records]
    outcomes = {r.outcome.id: r.outcome for r in segment.outcomes(records)}
    assert {id: outcome.is_complete for id, outcome in outcomes.items()} == {
        "s0": True,
        "s1": True,
        "s2": False,
        "s3": True,
    }
    assert root.read(outcomes["s3"].products[0].path or "") == b"s3 3\n"


def test_its_processes_come_from_the_bundle_even_beside_an_installed_package(
    tmp_path: Path, archive: Path
) -> None:
    (tmp_path / "asking.py").write_text(
        "import airflow_ensemble\n"
        "def simulate(run):\n"
        "    (run.workdir / 'where.txt').write_text(airflow_ensemble.__file__)\n"
        "    return {'where': 'where.txt'}\n"
    )
    recipe = recipe_of(
        tmp_path / "output",
        model="asking:simulate",
        code=(str(tmp_path),),
        products=(ProductSpec("where"),),
    )
    chunk = write_chunk_file(tmp_path, recipe, assignments_of([{}]))
    subprocess.run([sys.executable, archive, "push-worker", chunk], check=True)

    (where,) = (tmp_path / "output" / recipe.hash8 / "where").rglob("*.txt")
    assert where.read_text().startswith(str(archive))


def test_help_teaches(archive: Path) -> None:
    done = subprocess.run(
        [sys.executable, archive, "push-worker", "--help"], capture_output=True, text=True
    )

    assert done.returncode == 0
    assert "exit codes: 0 all complete" in done.stdout
