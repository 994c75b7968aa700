"""The wheel: what is in it, and that it works where Airflow is not."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import airflow_ensemble

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "provider" / "airflow_ensemble"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def empty_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of an environment that holds the base wheel and what it depends on."""
    home = tmp_path_factory.mktemp("base") / "venv"
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():
        make = [str(uv), "venv", "-q", "--python", sys.executable, str(home)]
        install = [str(uv), "pip", "install", "-q", "--python", str(home / "bin" / "python")]
    else:
        make = [sys.executable, "-m", "venv", str(home)]
        install = [str(home / "bin" / "python"), "-m", "pip", "install", "-qq"]
    subprocess.run(make, check=True)
    constraints = str(ROOT / "constraints.txt")
    subprocess.run([*install, "--constraint", constraints, str(wheel)], check=True)
    return home / "bin"


def bare(folder: Path) -> dict[str, str]:
    """Return an environment in which nothing of the checkout or its .venv can be found."""
    return {"PATH": f"{folder}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}


def test_wheel_holds_the_whole_package(wheel: Path) -> None:
    sources = {
        str(path.relative_to(PACKAGE.parent))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == sources
    assert "airflow_ensemble/py.typed" in packed
    assert any(name.endswith(".sql") for name in packed)


def test_base_wheel_does_not_depend_on_airflow(metadata: Message) -> None:
    required = metadata.get_all("Requires-Dist") or []
    base = [line for line in required if "extra ==" not in line]
    assert base
    assert not [line for line in base if re.match(r"apache-airflow|kubernetes|paramiko", line)]
    assert [line for line in required if re.match(r"apache-airflow[<>=,0-9. ]*;", line)]


def test_metadata_names_licence_and_extras(metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    extras = {"airflow", "postgres", "s3", "slurm", "stilt"}
    assert set(metadata.get_all("Provides-Extra") or []) >= extras
    assert metadata["Version"] == airflow_ensemble.__version__


def test_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[?(\d[\w.]*)\]?", text, flags=re.MULTILINE)
    assert versions[0] == airflow_ensemble.__version__


def test_installed_distribution_announces_the_provider() -> None:
    points = importlib.metadata.entry_points(group="apache_airflow_provider")
    (point,) = (point for point in points if point.module.startswith("airflow_ensemble"))
    info = point.load()()
    assert info["package-name"] == "airflow-provider-ensemble"


def test_base_wheel_runs_an_ensemble_where_airflow_is_not(
    empty_environment: Path, tmp_path: Path
) -> None:
    python = str(empty_environment / "python")
    absent = subprocess.run([python, "-c", "import airflow"], capture_output=True, check=False)
    assert absent.returncode == 1
    assert b"ModuleNotFoundError" in absent.stderr

    (tmp_path / "tasks.csv").write_text("id,word\nfirst,hello\nsecond,world\n")
    (tmp_path / "ensemble.yaml").write_text(
        "name: words\n"
        "command: [sh, -c, 'printf %s \"$1\" > out.txt', sh, '{word}']\n"
        "simulations: tasks.csv\n"
        "products: {text: {glob: out.txt}}\n"
        "output: ./output\n"
    )
    run = subprocess.run(
        [str(empty_environment / "ensemble"), "run"],
        cwd=tmp_path,
        env=bare(empty_environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    products = sorted(path.read_text() for path in tmp_path.glob("output/*/text/*/*.txt"))
    assert products == ["hello", "world"]


def test_base_wheel_passes_the_failure_on(empty_environment: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"id": "only", "code": 7}\n')
    (tmp_path / "ensemble.yaml").write_text(
        "name: failing\n"
        "command: [sh, -c, 'exit $1', sh, '{code}']\n"
        "simulations: tasks.jsonl\n"
        "products: {text: {glob: out.txt}}\n"
        "output: ./output\n"
        "max_attempts: 1\n"
    )
    run = subprocess.run(
        [str(empty_environment / "ensemble"), "run"],
        cwd=tmp_path,
        env=bare(empty_environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert "1 failed" in run.stdout + run.stderr


def test_every_installed_file_is_recorded(empty_environment: Path) -> None:
    """Uninstalling must leave nothing: every file of the package stands in RECORD."""
    (site,) = empty_environment.parent.glob("lib/python*/site-packages")
    (record,) = site.glob("airflow_provider_ensemble-*.dist-info/RECORD")
    with record.open(newline="") as file:
        recorded = {row[0] for row in csv.reader(file)}
    installed = {
        str(path.relative_to(site))
        for path in (site / "airflow_ensemble").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert installed <= recorded


def test_sdist_can_be_built_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for name in ("LICENSE", "CHANGELOG.md", "README.md", "pyproject.toml"):
        assert (source / name).is_file()
    again = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(again, cwd=source, capture_output=True, check=True)
    assert list(tmp_path.glob("*.whl"))
