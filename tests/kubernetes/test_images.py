"""The images of workers, built from this checkout."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.checkout import changed_checkout

ROOT = Path(__file__).resolve().parents[2]
WORKER, STILT = "ensemble-worker:test", "ensemble-stilt:test"
HINT = "the tests of images need a Docker engine that answers: see docs/development.rst"

pytestmark = [pytest.mark.images, pytest.mark.timeout(1200)]


def docker(*arguments: str) -> str:
    """Run a command, and return what it printed; a build says all of it as an error."""
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout or done.stderr


def run_in(image: str, program: str) -> str:
    """Run a Python program in a container that may write to ``/tmp`` alone."""
    options = ("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none")
    return docker(*options, "--entrypoint", "python3", image, "-c", program)


@pytest.fixture(scope="module")
def worker() -> str:
    assert shutil.which("docker"), HINT
    assert subprocess.run(["docker", "info"], capture_output=True).returncode == 0, HINT
    docker("build", "-q", "-t", WORKER, "-f", "docker/worker/Dockerfile", ".")
    return WORKER


@pytest.fixture(scope="module")
def stilt(worker: str) -> str:
    options = ("--build-arg", f"WORKER={worker}", "-f", "docker/stilt/Dockerfile")
    docker("build", "-q", "-t", STILT, *options, ".")
    return STILT


def test_it_is_small(worker: str) -> None:
    (image,) = json.loads(docker("image", "inspect", worker))
    assert image["Size"] <= 250_000_000


def test_it_runs_as_a_number_that_is_not_root(worker: str) -> None:
    (image,) = json.loads(docker("image", "inspect", worker))
    assert image["Config"]["User"] == "10001"
    assert run_in(worker, "import os; print(os.getuid(), os.getgid())").split()[0] == "10001"


def test_it_has_the_worker_and_no_airflow(worker: str) -> None:
    said = docker("run", "--rm", "--read-only", "--network", "none", worker, "--help")
    assert "pull-worker" in said
    assert "serve" in said
    program = """
import importlib.util as find
import airflow_ensemble.engine
print([name for name in ("airflow", "kubernetes", "paramiko") if find.find_spec(name)])
"""
    assert run_in(worker, program) == "[]\n"


def test_it_writes_netcdf_and_speaks_to_databases_and_stores(worker: str) -> None:
    program = """
import numpy, psycopg, s3fs, ssl, xarray
values = xarray.Dataset({"x": ("t", numpy.linalg.inv(numpy.eye(2))[0])})
values.to_netcdf("/tmp/x.nc")
assert xarray.load_dataset("/tmp/x.nc").equals(values)
print(psycopg.pq.__impl__, s3fs.S3FileSystem.protocol)
"""
    assert run_in(worker, program).startswith("binary ")


def test_a_model_is_added_in_two_lines(worker: str, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text("def simulate(run):\n    return {}\n")
    lines = (f"FROM {worker}", "COPY my_model.py /opt/model/", "ENV PYTHONPATH=/opt/model")
    (tmp_path / "Dockerfile").write_text("\n".join(lines) + "\n")
    docker("build", "-q", "-t", "ensemble-mine:test", str(tmp_path))
    assert run_in("ensemble-mine:test", "import my_model; print(my_model.simulate(0))") == "{}\n"


def test_stilt_is_in_its_own_image(stilt: str) -> None:
    program = """
import os, airflow_ensemble.models.stilt, pandas, pyarrow, stilt
pandas.DataFrame({"x": [1]}).to_parquet("/tmp/x.parquet")
print(os.getuid(), len(pandas.read_parquet("/tmp/x.parquet")))
"""
    assert run_in(stilt, program) == "10001 1\n"


@pytest.mark.usefixtures("stilt")
def test_a_change_of_the_code_installs_stilt_no_second_time(tmp_path: Path) -> None:
    checkout, changed = changed_checkout(tmp_path), "ensemble-worker:changed"
    files = checkout / "docker"
    docker("build", "-q", "-t", changed, "-f", f"{files}/worker/Dockerfile", str(checkout))
    tag = ("-t", "ensemble-stilt:changed")
    options = (*tag, "--progress", "plain", "--build-arg", f"WORKER={changed}")
    said = docker("build", *options, "-f", f"{files}/stilt/Dockerfile", str(checkout))
    (step,) = re.findall(r"^(#\d+) \[build \S+ RUN --mount", said, re.MULTILINE)
    assert f"{step} CACHED" in said.splitlines()
