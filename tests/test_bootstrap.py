"""What stands between a fresh machine and `make`: the bootstrap and the Makefile."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.interpreters import interpreters

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "bootstrap.py"


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pips_settings_reach_uv_under_its_own_names(bootstrap: ModuleType) -> None:
    given = {
        "PIP_INDEX_URL": "one",
        "PIP_EXTRA_INDEX_URL": "two three",
        "PIP_CERT": "bundle.pem",
        "HOME": "kept",
    }
    result = bootstrap.uv_environment(given)
    assert result["UV_DEFAULT_INDEX"] == "one"
    assert result["UV_INDEX"] == "two three"
    assert result["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert result["SSL_CERT_FILE"] == "bundle.pem"
    assert result["HOME"] == "kept"


def test_what_uv_was_told_itself_is_left_alone(bootstrap: ModuleType) -> None:
    given = {"PIP_INDEX_URL": "pips", "UV_DEFAULT_INDEX": "uvs"}
    assert bootstrap.uv_environment(given)["UV_DEFAULT_INDEX"] == "uvs"
    assert "UV_INDEX_STRATEGY" not in bootstrap.uv_environment(given)


def test_every_purpose_installs_the_pinned_versions(bootstrap: ModuleType) -> None:
    for purpose in bootstrap.GROUPS:
        arguments = bootstrap.project_arguments(purpose)
        assert arguments[:2] == ["--constraint", "constraints.txt"]
    assert "--group" not in bootstrap.project_arguments("run")


def test_interpreters_are_judged_by_running_them(bootstrap: ModuleType, tmp_path: Path) -> None:
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    assert bootstrap.is_usable(sys.executable)
    assert not bootstrap.is_usable(broken)
    assert not bootstrap.is_usable(tmp_path / "missing")


@pytest.mark.parametrize("version", [v for v in interpreters() if v in ("3.9", "3.10")])
def test_an_old_python_alone_is_refused_in_words(version: str, tmp_path: Path) -> None:
    copy = tmp_path / "scripts" / "bootstrap.py"  # a checkout of its own, without a .venv
    copy.parent.mkdir()
    copy.write_text(SCRIPT.read_text())
    done = subprocess.run(
        [interpreters()[version], str(copy), "run"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"is {version}" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_alone_lists_every_target() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    assert targets >= {"demo", "ui", "test", "test-faults", "bench", "docs", "lint", "wheel"}
    assert targets == set(re.findall(r"make ([a-z-]+)", done.stdout))


def test_continuous_integration_runs_make_test() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in text
    assert "make test" in text
