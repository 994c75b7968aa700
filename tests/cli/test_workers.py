"""``ensemble push-worker``, ``pull-worker``, ``serve`` and ``worker-bundle``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import processes_of, start
from tests.ensembles import executions, write_ensemble

ROWS = [{"id": f"s{number}", "x": number} for number in range(4)]


def _counts(cli, file):
    return cli("status", file, "--json").json["counts"]


def _chunk_of_a_run(folder: Path) -> Path:
    return next((folder / "output" / ".ensemble" / "chunks").rglob("*.1.jsonl"))


def test_push_worker_finds_nothing_left_in_a_finished_chunk(tmp_path, cli):
    cli("run", write_ensemble(tmp_path, ROWS))

    ended = cli("push-worker", _chunk_of_a_run(tmp_path))

    assert ended.code == 0, ended.err
    assert len(executions(tmp_path)) == 4


def test_push_worker_tells_of_failures_by_its_exit_code(tmp_path, cli):
    cli("run", write_ensemble(tmp_path, [{"id": "bad", "what": "raise"}], max_attempts=1))
    chunk = _chunk_of_a_run(tmp_path)
    for segment in (tmp_path / "output" / ".ensemble" / "outcomes").rglob("*.jsonl"):
        segment.unlink()

    assert cli("push-worker", chunk).code == 1
    assert executions(tmp_path) == ["bad", "bad"]


def test_pull_worker_runs_until_nothing_is_left(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    cli("register", file)

    ended = cli("pull-worker", file, "--cpus", 2)

    assert ended.code == 0, ended.err
    assert sorted(executions(tmp_path)) == [row["id"] for row in ROWS]
    assert _counts(cli, file)["complete"] == 4
    assert cli("pull-worker", file).code == 0
    assert len(executions(tmp_path)) == 4


def test_pull_worker_tells_of_failures_by_its_exit_code(tmp_path, cli):
    file = write_ensemble(tmp_path, [*ROWS, {"id": "bad", "what": "raise"}], max_attempts=2)
    cli("register", file)

    assert cli("pull-worker", file).code == 1
    assert executions(tmp_path).count("bad") == 2


def test_pull_worker_needs_only_the_index(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    cli("register", file)
    file.unlink()
    index = tmp_path / "output" / ".ensemble" / "index.sqlite"

    assert cli("pull-worker", "--index", index, "--name", "tests").code == 0
    assert len(executions(tmp_path)) == 4


def test_pull_worker_takes_the_same_options_as_the_bundle(tmp_path, cli, monkeypatch):
    file = write_ensemble(tmp_path, [*ROWS, {"id": "bad", "what": "raise"}], max_attempts=1)
    cli("register", file)
    hash = cli("status", file, "--json").json["settings_hash"]
    index = tmp_path / "output" / ".ensemble" / "index.sqlite"
    monkeypatch.setenv("ENSEMBLE_INDEX", str(index))
    options = ["--index", "env:ENSEMBLE_INDEX", "--name", "tests", "--settings", hash[:8]]

    ended = cli("pull-worker", *options, "--worker", "pod-1", "--failed-ok")

    assert ended.code == 0, ended.err
    counts = cli("status", *options, "--json").json["counts"]
    assert (counts["complete"], counts["failed"]) == (4, 1)
    segments = (tmp_path / "output" / ".ensemble" / "outcomes").rglob("*.jsonl")
    assert {path.name.split(".")[0] for path in segments} == {"pod-1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--index", "env:NOT_SET_ANYWHERE", "--name", "tests"], "NOT_SET_ANYWHERE"),
        (["--index", "postgresql://u:secret@h/d", "--name", "tests"], "password"),
        (["--name", "tests"], "--index and --name go together"),
        (["--settings", "12345678"], "--settings and --uuid go with --index"),
        (["--worker", "no/name"], "--worker 'no/name'"),
    ],
)
def test_pull_worker_refuses_what_it_cannot_use(tmp_path, cli, arguments, words):
    file = write_ensemble(tmp_path, ROWS)
    cli("register", file)

    ended = cli("pull-worker", *([] if "--name" in arguments else [file]), *arguments)

    assert ended.code == 2
    assert words in ended.err
    assert "secret" not in ended.err
    assert executions(tmp_path) == []


@pytest.mark.parametrize("command", ["pull-worker", "serve"])
def test_workers_refuse_what_nobody_registered(tmp_path, cli, command):
    file = write_ensemble(tmp_path, ROWS)
    cli("init", tmp_path / "elsewhere")
    index = tmp_path / "elsewhere" / "output" / ".ensemble" / "index.sqlite"

    for arguments in ([file], ["--index", index, "--name", "tests"]):
        ended = cli(command, *arguments)
        assert ended.code == 2
        assert "register" in ended.err or "ensemble" in ended.err


def test_serve_waits_for_more_and_stops_cleanly(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS[:1])
    cli("register", file)
    process = start("serve", file)
    try:
        _wait_until(lambda: _counts(cli, file)["complete"] == 1)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 3
    assert "Traceback" not in err
    assert processes_of(tmp_path) == []


def _wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


def test_the_bundle_runs_a_chunk_by_itself(tmp_path, cli):
    bundle = tmp_path / "worker.pyz"
    made = cli("worker-bundle", "-o", bundle)
    assert made.code == 0
    assert made.out == f"wrote {bundle}\n"
    cli("run", write_ensemble(tmp_path / "e", ROWS))
    chunk = _chunk_of_a_run(tmp_path / "e")
    for segment in (tmp_path / "e" / "output" / ".ensemble" / "outcomes").rglob("*.jsonl"):
        segment.unlink()

    done = subprocess.run(
        [sys.executable, "-I", bundle, "push-worker", chunk],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )

    assert done.returncode == 0, done.stderr
    assert len(executions(tmp_path / "e")) == 8
