"""``make demo`` as its user runs it, and the Airflow that it starts: nothing may stay behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from local_airflow import COMPONENTS, AirflowError, LocalAirflow, wait_until

from tests.airflow.conftest import ROOT

DEMO = [sys.executable, str(ROOT / "scripts" / "demo.py")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def command(place: Path, *more: str) -> list[str]:
    return [*DEMO, "--home", str(place / "home"), "--results", str(place / "results"), *more]


def demo(place: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(place, *more), capture_output=True, text=True, timeout=280)


def processes_of(place: Path) -> list[psutil.Process]:
    """Return the processes whose environment or command line names the demo's folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and (
                process.environ().get("AIRFLOW_HOME") == str(place / "home")
                or any(str(place) in part for part in process.cmdline())
            ):
                found.append(process)
    return found


def test_the_demo_makes_footprints_and_leaves_no_process(place: Path) -> None:
    done = demo(place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 complete (0 empty), 0 failed, 0 unfinished of 12" in done.stdout
    assert f"products: {place / 'results' / 'output'}" in done.stdout
    picture = place / "results" / "footprints.png"
    assert str(picture) in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list((place / "results" / "output").rglob("*.nc"))) == 12
    assert processes_of(place) == []


def test_a_second_demo_skips_what_exists_and_a_failure_is_its_exit_code(place: Path) -> None:
    table = place / "receptors.csv"
    table.write_text(
        (ROOT / "dags" / "footprints" / "receptors.csv").read_text()
        + "far-away,2026-06-01T12:00,10.0,50.0,10,elsewhere\n"
    )
    done = demo(place, "--receptors", str(table))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "12 of 13 simulations were complete already and skipped" in done.stdout
    assert "far-away failed: invalid" in done.stdout
    assert processes_of(place) == []


def test_a_killed_demo_leaves_no_process(place: Path) -> None:
    with subprocess.Popen(
        command(place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        started = [place / "home" / "run" / f"{component}.pid" for component in COMPONENTS]
        wait_until(lambda: all(file.exists() for file in started), 120, "the components")
        assert len(processes_of(place)) > len(COMPONENTS)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: processes_of(place) == [], 60, "the guard to end all")


def test_a_database_that_is_not_there_is_named_by_the_log(tmp_path: Path) -> None:
    dsn = "postgresql+psycopg2://nobody@127.0.0.1:1/none"
    airflow = LocalAirflow(tmp_path / "home", tmp_path, dsn=dsn)
    with (
        pytest.raises(AirflowError, match=r"(?s)db migrate' failed.*[Cc]onnection refused"),
        airflow,
    ):
        pass
    assert processes_of(tmp_path) == []


def test_a_component_that_dies_is_named_with_its_log(tmp_path: Path) -> None:
    airflow = LocalAirflow(tmp_path / "home", tmp_path)
    airflow.variables = lambda: {"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(tmp_path / "no")}
    airflow._start_component("scheduler")
    with contextlib.suppress(subprocess.TimeoutExpired):
        airflow._processes["scheduler"].wait(60)
    with pytest.raises(AirflowError, match=r"(?s)scheduler ended with code \d+.*the end of"):
        airflow.check()
    airflow.stop()
