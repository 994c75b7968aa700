"""The rules that hold the code together, each kept by a machine instead of by memory."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interpreters import interpreters

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "provider" / "airflow_ensemble"
LONGEST_FUNCTION = 60


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run one of the environment's own tools from the top of the checkout."""
    tool = Path(sys.executable).with_name(command[0])
    return subprocess.run(
        [str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )


def tracked_files() -> list[Path]:
    """Return the files that are committed or about to be."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function in a source file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("lint-imports", "--no-cache"),
    ],
    ids=["ruff-check", "ruff-format", "mypy-strict", "import-contracts"],
)
def test_checker_finds_nothing(command: tuple[str, ...]) -> None:
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_contracts_catch_an_upward_import(tmp_path: Path) -> None:
    """The layers contract must fail on a violation, or it holds nothing."""
    package = tmp_path / "airflow_ensemble"
    rooms = ("engine", "models", "slurm", "kubernetes", "cli", "hooks", "operators", "sensors")
    for name in (*rooms, "triggers", "task_groups"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "get_provider_info.py").write_text("")
    (package / "engine" / "bad.py").write_text("import airflow_ensemble.cli\nimport airflow\n")
    (package / "slurm" / "runner.py").write_text("import paramiko\n")
    (package / "kubernetes" / "bad.py").write_text("import kubernetes, airflow_ensemble.slurm\n")
    (package / "hooks" / "bad.py").write_text("import airflow_ensemble.slurm.runner, paramiko\n")
    (package / "cli" / "good.py").write_text("import airflow_ensemble.slurm.runner\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(tool), "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "airflow_ensemble.engine.bad -> airflow_ensemble.cli" in done.stdout
    assert "airflow_ensemble.engine.bad -> airflow " in done.stdout
    assert "airflow_ensemble.kubernetes.bad -> kubernetes " in done.stdout
    assert "airflow_ensemble.kubernetes.bad -> airflow_ensemble.slurm" in done.stdout
    assert "airflow_ensemble.hooks.bad -> paramiko" in done.stdout
    assert "runner -> paramiko" not in done.stdout


def test_no_function_is_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


def test_no_module_is_a_drawer_for_everything() -> None:
    vague = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert [path for path in tracked_files() if path.stem in vague and path.suffix == ".py"] == []


def test_nothing_committed_names_a_machine_or_a_registry() -> None:
    """A checkout must work anywhere: no home folders, no address where packages come from."""
    places = [f"{place}/".encode() for place in (ROOT, Path.home(), sys.base_prefix)]
    places = [place for place in places if place.count(b"/") > 1 and place != b"/usr/"]
    registry = re.compile(
        rb"(?:index-url|find-links|trusted-host)\s*[= ]\s*\S*://|://[\w.-]*(?:pypi|pythonhosted|npmjs)"
    )
    found = []
    for path in tracked_files():
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if registry.search(line) or any(place in line for place in places):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert found == []


def test_pinned_versions_name_no_origin() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pin = re.compile(r"[a-z0-9._-]+==\S+( ; .+)?")
    assert len(lines) > 100
    assert [line for line in lines if not pin.fullmatch(line)] == []


def test_every_public_name_in_the_package_is_described() -> None:
    """Ruff checks that docstrings exist; this checks that modules say what they are for."""
    bare = [
        str(path.relative_to(ROOT))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.read_text() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert bare == []


#: Imports every module but Airflow's parts where no third-party package can be found.
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import airflow_ensemble
apart = ("operators", "hooks", "task_groups", "plugins", "sensors", "triggers")
names = [m.name for m in pkgutil.walk_packages(airflow_ensemble.__path__, "airflow_ensemble.")]
names = [n for n in names if n.split(".")[1] not in apart and not n.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.mark.parametrize("version", interpreters())
def test_all_but_airflows_parts_imports_with_the_standard_library_alone(version: str) -> None:
    """The worker travels to clusters: Python 3.9 syntax, heavy libraries only where used."""
    done = subprocess.run(
        [interpreters()[version], "-B", "-S", "-I", "-c", IMPORT_EVERYTHING, str(PACKAGE.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
