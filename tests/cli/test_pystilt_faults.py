"""Faults of the predecessor that a user met on the command line: each would show again here.

The numbers are those of the list of faults that were reproduced with PYSTILT 0.1.0a1, a4 and a25.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.cli.conftest import picture, processes_of, start
from tests.ensembles import executions, write_ensemble
from tests.hrrr import write_hrrr_ensemble
from tests.services.postgres import PASSWORD

ROWS = [{"id": f"s{number}", "x": number} for number in range(3)]


def _counts(cli, file):
    return cli("status", file, "--json").json["counts"]


def _values(folder: Path, id: str) -> dict[str, object]:
    found = sorted(
        (folder / "output").rglob(f"values/*/{id}.*"), key=lambda p: p.stat().st_mtime_ns
    )
    return json.loads(found[-1].read_text())


def test_pystilt_fault_01_postgresql_registers_and_runs(tmp_path, cli, postgres, monkeypatch):
    monkeypatch.setenv("TEST_INDEX", postgres.new_database())
    file = write_ensemble(tmp_path, ROWS, index="env:TEST_INDEX")

    assert cli("run", file, "--dry-run").code == 0
    checked = cli("check", file)
    assert checked.code == 0
    assert PASSWORD not in checked.out + checked.err
    ended = cli("run", file)
    assert ended.code == 0, ended.err
    assert _counts(cli, file)["complete"] == 3
    again = write_ensemble(tmp_path, [*ROWS, {"id": "more"}], index="env:TEST_INDEX")
    assert cli("register", again).code == 0
    assert cli("pull-worker", again).code == 0
    assert _counts(cli, file)["complete"] == 4


def test_pystilt_fault_04_running_and_failed_are_visible(tmp_path, cli):
    rows = [{"id": "bad", "what": "raise"}, {"id": "slow", "sleep": 3}]
    file = write_ensemble(tmp_path, rows, max_attempts=1)
    run = start("run", file, "--n-workers", 1)
    try:
        seen = []
        while run.poll() is None:
            ended = cli("status", file, "--json")
            if ended.code == 0:
                seen.append(ended.json["counts"])
            time.sleep(0.2)
    finally:
        run.communicate(timeout=30)

    assert any(counts["running"] == 1 and counts["failed"] == 1 for counts in seen), seen
    assert run.returncode == 1


def test_pystilt_fault_05_another_table_does_not_poison_workers(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    cli("register", file)
    write_ensemble(tmp_path, [{"id": "other"}])
    cli("register", file)

    ended = cli("pull-worker", file)

    assert ended.code == 0, ended.err
    assert sorted(executions(tmp_path)) == ["other", "s0", "s1", "s2"]


def test_pystilt_fault_06_the_users_files_are_never_rewritten(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    (tmp_path / "table.csv").write_text("id,x, comment\ns0,1,of mine\n")
    file.write_text("# a comment\n" + file.read_text().replace("table.jsonl", "table.csv"))
    names = ("ensemble.yaml", "table.csv", "model.py")
    before = {name: (tmp_path / name).read_bytes() for name in names}

    for command in ("check", "register", "run", "run --no-skip", "rebuild", "gc", "collect"):
        assert cli(*command.split(), file).code == 0, command

    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__", "trace"} == {
        *names, "table.jsonl", "output"
    }  # fmt: skip


def test_pystilt_fault_07_one_index_holds_many_ensembles(tmp_path, cli):
    index = str(tmp_path / "index.sqlite")
    one = write_ensemble(tmp_path / "one", ROWS, name="one", index=index)
    two = write_ensemble(tmp_path / "two", ROWS, name="two", index=index)
    cli("register", one)
    cli("register", two)

    assert cli("pull-worker", "--index", index, "--name", "two").code == 0

    assert executions(tmp_path / "one") == []
    assert len(executions(tmp_path / "two")) == 3
    assert _counts(cli, one)["pending"] == 3


def test_pystilt_fault_08_registering_again_demotes_nothing(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    cli("run", file)

    for _ in range(2):
        assert "3 complete already" in cli("register", file).err
    assert _counts(cli, file)["complete"] == 3
    assert cli("pull-worker", file).code == 0
    assert len(executions(tmp_path)) == 3


def test_pystilt_fault_09_a_finished_chunk_runs_nothing_again(tmp_path, cli):
    cli("run", write_ensemble(tmp_path, ROWS))
    chunk = next((tmp_path / "output" / ".ensemble" / "chunks").rglob("*.1.jsonl"))

    assert cli("push-worker", chunk).code == 0
    assert len(executions(tmp_path)) == 3


def test_pystilt_fault_10_no_skip_is_a_real_rerun(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    cli("run", file)
    before = cli("show", "s0", "-f", file, "--json").json["products"]

    cli("run", file, "--no-skip")

    assert len(executions(tmp_path)) == 6
    after = cli("show", "s0", "-f", file, "--json").json["products"]
    assert before[0]["path"] != after[0]["path"]


def test_pystilt_fault_11_changed_settings_leave_nothing_complete(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a"}], parameters={"x": 100})
    cli("run", file)
    write_ensemble(tmp_path, [{"id": "a"}], parameters={"x": 150})

    cli("register", file)
    assert _counts(cli, file) == {
        "total": 1, "pending": 1, "running": 0, "complete": 0, "empty": 0, "failed": 0
    }  # fmt: skip
    cli("run", file)
    assert _values(tmp_path, "a")["x"] == 150


def test_pystilt_fault_12_empty_stays_empty_through_rebuild(tmp_path, cli):
    file = write_ensemble(tmp_path, [*ROWS, {"id": "none", "what": "empty"}])
    cli("run", file)
    assert list((tmp_path / "output").rglob("none.*")) == []

    for path in (tmp_path / "output" / ".ensemble").glob("index.sqlite*"):
        path.unlink()
    assert cli("rebuild", file).code == 0

    assert _counts(cli, file)["empty"] == 1
    [product] = cli("show", "none", "-f", file, "--json").json["products"]
    assert product["status"] == "complete-empty"
    cli("run", file)
    assert executions(tmp_path).count("none") == 1


@pytest.mark.parametrize("command", ["run", "pull-worker", "status --watch", "collect"])
def test_pystilt_fault_13_exit_code_1_when_all_failed(tmp_path, cli, command):
    rows = [{"id": "a", "what": "raise"}, {"id": "b", "what": "die"}]
    file = write_ensemble(tmp_path, rows, max_attempts=1)
    if command != "run":
        cli("register", file)
        cli("pull-worker", file)

    ended = cli(*command.split(), file)

    assert ended.code == 1
    assert _counts(cli, file)["failed"] == 2


def test_pystilt_fault_15_chunk_files_do_not_pile_up(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    for _ in range(3):
        cli("run", file, "--no-skip")
    chunks = tmp_path / "output" / ".ensemble" / "chunks"
    assert len(list(chunks.iterdir())) == 3

    assert "chunk files of 3 settled batches" in cli("gc", file).out
    assert list(chunks.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pystilt_fault_17_a_stopped_pull_worker_leaves_no_orphan(tmp_path, cli, number):
    model = """
        import subprocess, sys
        from pathlib import Path

        nap = "import time; time.sleep(60)"

        def simulate(run):
            Path(run.params["trace"]).write_text(f"{run.id} 1\\n")
            subprocess.run([sys.executable, "-c", nap, run.params["trace"]])
            return {"values": None}
    """
    file = write_ensemble(tmp_path, [{"id": "a"}], model=model)
    cli("register", file)
    worker = start("pull-worker", file)
    while not executions(tmp_path):
        assert worker.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    assert len(processes_of(tmp_path)) > 1

    worker.send_signal(number)
    _, err = worker.communicate(timeout=30)

    assert worker.returncode == 3, err
    assert processes_of(tmp_path) == []
    assert _counts(cli, file)["pending"] == 1
    assert cli("show", "a", "-f", file, "--json").json["tries"] == 0


def test_pystilt_fault_18_concurrent_registers_lose_nothing(tmp_path, cli):
    tables = [[{"id": f"scene{scene}-{number}"} for number in range(50)] for scene in range(6)]
    file = write_ensemble(tmp_path, tables[0])
    for scene, rows in enumerate(tables):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"scene{scene}.jsonl").write_text(text)
    processes = [
        start("register", file, "--set", f"simulations=scene{scene}.jsonl") for scene in range(6)
    ]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err

    assert cli("status", file, "--json", "--all").json["counts"]["total"] == 300


def test_pystilt_fault_19_ids_cannot_collide(tmp_path, cli):
    rows = [{"id": "column", "top": 1000}, {"id": "column", "top": 3000}]
    file = write_ensemble(tmp_path, rows)
    before = picture(tmp_path)

    ended = cli("run", file)

    assert ended.code == 2
    assert "'column'" in ended.err
    assert "line 2" in ended.err
    assert picture(tmp_path) == before


def test_pystilt_fault_22_missing_meteorology_is_found_before_a_run(tmp_path, cli, hrrr):
    file = write_hrrr_ensemble(tmp_path, hrrr, tmp_path / "output", first=1, max_attempts=1)
    nowhere = tmp_path / "no-met-here"
    text = file.read_text()
    file.write_text(text.replace(str(hrrr), str(nowhere)))

    checked = cli("check", file)
    assert checked.code == 2
    assert str(nowhere) in checked.out
    assert "Traceback" not in checked.out + checked.err

    ran = cli("run", file)
    assert ran.code == 1
    assert "Traceback" not in ran.out + ran.err
    assert str(nowhere) in cli("show", "slc-03-w1120", "-f", file).out


def test_pystilt_fault_23_times_need_no_quotes(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "slow", "sleep": 60}], max_attempts=1)
    text = "".join(f"{key}: {json.dumps(v)}\n" for key, v in json.loads(file.read_text()).items())
    file.write_text(f"{text}time_limit: 00:00:01\n")

    begun = time.monotonic()
    assert cli("run", file).code == 1

    assert time.monotonic() - begun < 30
    assert cli("show", "slow", "-f", file, "--json").json["reason"] == "timeout"


def test_pystilt_fault_25_seeds_differ_between_members_and_count(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS, seed=42)
    cli("run", file)
    first = [_values(tmp_path, row["id"])["seed"] for row in ROWS]
    assert len(set(first)) == 3

    cli("run", file, "--no-skip")
    assert [_values(tmp_path, row["id"])["seed"] for row in ROWS] == first
    cli("run", file, "--set", "seed=43")
    assert not {_values(tmp_path, row["id"])["seed"] for row in ROWS} & set(first)
