"""Several processes share the tests as they should: a real run of a small project."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
    import os
    from pathlib import Path

    import pytest

    @pytest.fixture(scope="session")
    def airflow():
        return "dear"

    @pytest.fixture
    def needs_it(airflow):
        return airflow

    @pytest.fixture(autouse=True)
    def where(request):
        with (Path(__file__).parent / "trace").open("a") as file:
            file.write(f"{request.node.nodeid} {os.getpid()}\\n")
"""
MODULES = {
    "test_a": "def test_plain(): pass\ndef test_other(): pass",
    "test_b": "def test_direct(airflow): pass\ndef test_plain(): pass",
    "test_c": "def test_through(needs_it): pass",
    "test_d": "def test_direct(airflow): pass",
    "test_e": "def test_slow(slurm): pass\nimport pytest\n@pytest.fixture\ndef slurm(): pass",
}


def test_what_uses_the_one_airflow_runs_in_one_process_and_modules_stay_whole(
    tmp_path: Path,
) -> None:
    (tmp_path / "conftest.py").write_text(textwrap.dedent(CONFTEST))
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "ENSEMBLE_TEST"))}
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path)]
    command += ["-p", "tests.spreading", "-n", "2", "--dist", "loadscope"]
    command += ["--no-loadscope-reorder", str(tmp_path)]
    done = subprocess.run(
        command,
        env={**ours, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "7 passed" in done.stdout, done.stdout + done.stderr
    processes: dict[str, set[str]] = defaultdict(set)
    order: dict[str, list[str]] = defaultdict(list)
    for line in (tmp_path / "trace").read_text().splitlines():
        id, process = line.split()
        module, _, test = id.partition(".py::")
        uses_airflow = test in ("test_direct", "test_through")
        processes["airflow" if uses_airflow else module].add(process)
        order[process].append("airflow" if uses_airflow else module)
    assert {len(found) for found in processes.values()} == {1}
    assert len(set.union(*processes.values())) == 2
    assert {first[0] for first in order.values()} == {"airflow", "test_e"}
