"""``ensemble status``: text, JSON, watching, writing, refreshing, and many settings."""

from __future__ import annotations

import json
import threading
import time

import pytest

from airflow_ensemble.cli.commands import status
from tests.cli.conftest import picture, start
from tests.ensembles import executions, write_ensemble

ROWS = [
    *({"id": f"s{number}", "x": number} for number in range(4)),
    {"id": "none", "what": "empty"},
    {"id": "bad", "what": "raise"},
]
WHOLE = {"total", "pending", "running", "complete", "empty", "failed"}
#: The keys that programs may rely on, and their types.
SCHEMA = {
    "format": int,
    "ensemble": str,
    "settings_hash": str,
    "output": str,
    "time": str,
    "counts": dict,
    "pending": dict,
    "results": int,
    "reasons": dict,
    "first_failed": dict,
    "rate": (float, type(None)),
    "eta": (float, type(None)),
    "over": bool,
    "earlier_settings": list,
    "slurm": (dict, type(None)),
    "kubernetes": (dict, type(None)),
    "table": (dict, type(None)),
}


def check_schema(record):
    assert list(record) == list(SCHEMA)
    for key, kind in SCHEMA.items():
        assert isinstance(record[key], kind), key
    for counts in (record["counts"], *(one["counts"] for one in record["earlier_settings"])):
        assert counts.keys() == WHOLE
        assert all(isinstance(value, int) for value in counts.values())
    assert sum(record["pending"].values()) == record["counts"]["pending"]
    assert sum(record["reasons"].values()) == record["counts"]["failed"]


@pytest.fixture
def file(tmp_path):
    return write_ensemble(tmp_path, ROWS, max_attempts=1)


def test_json_before_and_after(file, cli):
    cli("register", file)
    before = cli("status", file, "--json").json
    check_schema(before)
    assert before["counts"] == {
        "total": 6, "pending": 6, "running": 0, "complete": 0, "empty": 0, "failed": 0
    }  # fmt: skip
    assert not before["over"]

    cli("run", file)
    after = cli("status", file, "--json").json
    check_schema(after)
    assert after["counts"] == {
        "total": 6, "pending": 0, "running": 0, "complete": 5, "empty": 1, "failed": 1
    }  # fmt: skip
    assert after["reasons"] == {"error": 1}
    assert after["first_failed"] == {"error": ["bad"]}
    assert after["over"]
    assert (after["rate"], after["eta"]) == (None, None)


def test_text_tells_why_and_what_next(file, cli):
    cli("register", file)
    assert "nothing is running; `ensemble run" in cli("status", file).out

    cli("run", file)
    ended = cli("status", file)

    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0].startswith("tests — ")
    assert lines[2].split() == ["settings", *status.COUNTED]
    assert lines[3].split()[1:] == ["6", "0", "0", "5", "1", "1"]
    assert "ValueError: no luck with bad" in ended.out
    assert f"ensemble logs bad -f {file}" in ended.out
    assert f"ensemble retry --all -f {file}" in ended.out


def test_status_changes_nothing(file, cli, tmp_path):
    cli("run", file)
    before = picture(tmp_path)

    cli("status", file)
    cli("status", file, "--json")

    assert picture(tmp_path) == before


def test_running_is_live_with_rate_and_eta(tmp_path, cli):
    rows = [{"id": "quick"}, *({"id": f"s{number}", "sleep": 3} for number in range(2))]
    file = write_ensemble(tmp_path, rows)
    process = start("run", file, "--n-workers", 2)
    try:
        seen = _look_until(cli, file, lambda counts: counts["running"] and counts["complete"])
    finally:
        process.communicate(timeout=60)

    assert seen["counts"]["running"] >= 1
    assert seen["rate"] > 0
    assert seen["eta"] > 0
    assert not seen["over"]
    assert process.returncode == 0


def _look_until(cli, file, condition):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        ended = cli("status", file, "--json")
        if ended.code == 0 and condition(ended.json["counts"]):
            return ended.json
        time.sleep(0.1)
    raise AssertionError(ended)


def test_each_settings_hash_has_a_line(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS[:4])
    cli("run", file)
    old = cli("status", file, "--json").json["settings_hash"]
    cli("run", file, "--set", "parameters.y=2", "--first", 1)

    record = cli("status", file, "--set", "parameters.y=2", "--json").json
    check_schema(record)
    assert record["counts"]["total"] == 1
    assert [one["settings_hash"] for one in record["earlier_settings"]] == [old]
    assert record["earlier_settings"][0]["counts"]["complete"] == 4
    text = cli("status", file, "--set", "parameters.y=2").out
    assert record["settings_hash"][:8] in text
    assert old[:8] in text


def test_settings_that_never_ran_are_said_to_be_new(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS[:1])
    cli("run", file)
    old = cli("status", file, "--json").json["settings_hash"]

    ended = cli("status", file, "--set", "parameters.y=2")

    assert ended.code == 2
    assert old[:8] in ended.err
    assert "ensemble run" in ended.err


def test_watch_ends_with_the_last_simulation(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": f"s{number}", "sleep": 1} for number in range(2)])
    run = start("run", file, "--n-workers", 1)
    try:
        _look_until(cli, file, lambda counts: counts["total"] == 2)
        ended = cli("status", file, "--watch")
    finally:
        run.communicate(timeout=60)

    assert ended.code == 0, ended.err
    assert "complete 0 (empty 0)" in ended.err
    assert cli("status", file, "--json").json["over"]


@pytest.mark.parametrize(("max_failed", "code"), [(0, 1), (1, 0)])
def test_watch_judges_by_max_failed(tmp_path, cli, max_failed, code):
    file = write_ensemble(tmp_path, ROWS, max_attempts=1, max_failed=max_failed)
    cli("run", file)

    assert cli("status", file, "--watch").code == code


def test_write_keeps_the_status_beside_the_results(file, cli, tmp_path):
    cli("run", file)
    path = tmp_path / "output" / ".ensemble" / "status.json"
    assert not path.exists()

    written = cli("status", file, "--write", "--json").json
    check_schema(json.loads(path.read_text()))
    assert json.loads(path.read_text()) == written


def test_a_written_status_is_whole_at_all_times(tmp_path):
    path = tmp_path / "status.json"
    record = {f"key {number}": "x" * 50 for number in range(20_000)}
    status.write_atomically(path, record)
    is_over = threading.Event()

    def write_again_and_again():
        for _ in range(30):
            status.write_atomically(path, record)
        is_over.set()

    writer = threading.Thread(target=write_again_and_again)
    writer.start()
    reads = 0
    while not is_over.is_set():
        assert len(json.loads(path.read_text())) == len(record)
        reads += 1
    writer.join()
    assert reads > 3
    assert [one.name for one in tmp_path.iterdir()] == ["status.json"]


def test_refresh_brings_in_what_a_killed_run_left(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "quick"}, {"id": "slow", "sleep": 60}])
    process = start("run", file, "--n-workers", 1)
    while executions(tmp_path) != ["quick", "slow"]:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=30)
    time.sleep(1.5)  # until its worker has seen the end of its standard input

    counts = cli("status", file, "--refresh", "--json").json["counts"]

    assert counts["running"] == 0
    assert (counts["complete"], counts["pending"]) == (1, 1)


def test_an_index_can_be_named_in_place_of_the_file(file, cli, tmp_path, monkeypatch):
    cli("run", file)
    index = tmp_path / "output" / ".ensemble" / "index.sqlite"
    expected = cli("status", file, "--json").json["counts"]

    assert cli("status", "--index", index, "--name", "tests", "--json").json["counts"] == expected
    monkeypatch.setenv("MY_INDEX", str(index))
    assert cli("status", "--index", "env:MY_INDEX", "--name", "tests").code == 0
    other = cli("status", "--index", index, "--name", "others")
    assert other.code == 2
    assert "tests" in other.err
    for option in ("--refresh", "--write"):
        refused = cli("status", "--index", index, "--name", "tests", option)
        assert refused.code == 2
        assert option in refused.err


def test_a_password_on_the_command_line_is_refused_and_not_repeated(cli):
    ended = cli("status", "--index", "postgresql://me:secret@db/e", "--name", "x")

    assert ended.code == 2
    assert "password" in ended.err
    assert "secret" not in ended.err
