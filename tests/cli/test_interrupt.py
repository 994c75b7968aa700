"""Ctrl-C, SIGTERM and SIGKILL during ``ensemble run``, and what a second run makes of it."""

from __future__ import annotations

import signal
import time

import pytest

from tests.cli.conftest import processes_of, start
from tests.ensembles import executions, write_ensemble


def _wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def _start_long_run(folder):
    """Start a run of which one simulation is complete and one runs for a minute."""
    rows = [{"id": "quick"}, {"id": "slow", "sleep": 60}, {"id": "late"}]
    file = write_ensemble(folder, rows)
    process = start("run", file, "--n-workers", 1)
    _wait_for(lambda: "slow" in executions(folder))
    return file, process


def _make_quick(folder):
    """Take the sleep out of the model: the parameters must stay as they were registered."""
    model = folder / "model.py"
    model.write_text(model.read_text().replace("time.sleep(", "(lambda seconds: None)("))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_cleanly_and_the_next_run_goes_on(tmp_path, cli, number):
    file, process = _start_long_run(tmp_path)

    process.send_signal(number)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 3
    assert "stopping: what runs is stopped and recorded" in err
    assert f"to go on: `ensemble run -f {file}` runs what is missing" in err
    assert "Traceback" not in err
    assert processes_of(tmp_path) == []
    counts = cli("status", file, "--json").json["counts"]
    assert counts == {
        "total": 3, "pending": 2, "running": 0, "complete": 1, "empty": 0, "failed": 0
    }  # fmt: skip

    _make_quick(tmp_path)
    ended = cli("run", file)
    assert ended.code == 0, ended.err
    assert "1 complete already" in ended.err
    assert executions(tmp_path).count("quick") == 1
    shown = cli("show", "slow", "-f", file, "--json").json
    assert (shown["status"], shown["tries"], shown["interruptions"]) == ("complete", 0, 1)


def test_a_second_signal_stops_at_once(tmp_path):
    _, process = _start_long_run(tmp_path)

    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 3
    assert "Traceback" not in err
    _wait_for(lambda: processes_of(tmp_path) == [])


def test_a_killed_run_leaves_no_process_and_the_next_run_goes_on(tmp_path, cli):
    file, process = _start_long_run(tmp_path)

    process.kill()
    process.communicate(timeout=30)
    _wait_for(lambda: processes_of(tmp_path) == [])

    _make_quick(tmp_path)
    ended = cli("run", file)
    assert ended.code == 0, ended.err
    assert executions(tmp_path).count("quick") == 1
    assert executions(tmp_path).count("slow") == 2


def test_watching_can_be_stopped_without_harm(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a"}])
    cli("register", file)
    process = start("status", file, "--watch")
    time.sleep(1.5)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 3
    assert "the simulations are not touched" in err
    assert cli("status", file, "--json").json["counts"]["pending"] == 1
