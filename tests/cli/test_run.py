"""``ensemble run`` on small real ensembles."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
import threading

import pytest

from airflow_ensemble.cli import progress
from tests.cli.conftest import picture, start, write_command_ensemble
from tests.ensembles import executions, write_ensemble

ROWS = [{"id": f"s{number}", "x": number} for number in range(6)]


def test_all_complete_is_exit_code_0(tmp_path, cli):
    file = write_ensemble(tmp_path, [*ROWS, {"id": "none", "what": "empty"}])

    ended = cli("run", file)

    assert ended.code == 0, ended.err
    assert ended.out.startswith("7 complete (1 empty), 0 failed, 0 unfinished of 7")
    assert str(tmp_path / "output") in ended.out
    assert "7 simulations: 7 new, 7 to run" in ended.err
    assert sorted(executions(tmp_path)) == sorted([row["id"] for row in ROWS] + ["none"])


def test_one_failure_is_exit_code_1_and_is_named(tmp_path, cli):
    rows = [*ROWS, {"id": "bad-1", "what": "raise"}, {"id": "bad-2", "what": "die"}]
    file = write_ensemble(tmp_path, rows, max_attempts=1)

    ended = cli("run", file)

    assert ended.code == 1
    lines = ended.out.splitlines()
    assert lines[0].startswith("6 complete (0 empty), 2 failed")
    reasons = {line.split()[0]: line for line in lines if line.startswith(("error", "crashed"))}
    assert "bad-1" in reasons["error"]
    assert "no luck with bad-1" in reasons["error"]
    assert "bad-2" in reasons["crashed"]
    assert f"ensemble logs bad-2 -f {file}" in ended.out


def test_max_failed_decides_the_exit_code(tmp_path, cli):
    rows = [*ROWS, {"id": "bad", "what": "raise"}]
    file = write_ensemble(tmp_path, rows, max_attempts=1, max_failed="20%")

    assert cli("run", file).code == 0
    assert cli("run", file, "--set", "max_failed=0").code == 1


def test_a_second_run_skips_what_is_complete_and_says_so(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    cli("run", file)
    before = picture(tmp_path / "output")

    ended = cli("run", file)

    assert ended.code == 0
    assert "6 complete already: skipped" in ended.err
    assert len(executions(tmp_path)) == 6
    after = picture(tmp_path / "output")
    assert {name for name in after if "outcomes" in name or "values" in name} == {
        name for name in before if "outcomes" in name or "values" in name
    }


def test_failed_earlier_are_not_run_again_until_they_are_retried(tmp_path, cli):
    file = write_ensemble(tmp_path, [*ROWS, {"id": "bad", "what": "raise"}], max_attempts=2)
    cli("run", file)
    assert executions(tmp_path).count("bad") == 2

    again = cli("run", file)
    assert again.code == 1
    assert "1 failed earlier and will not run again" in again.err
    assert f"ensemble retry --all -f {file}" in again.err
    assert executions(tmp_path).count("bad") == 2

    assert "1 simulation pending again" in cli("retry", "--all", "-f", file).out
    cli("run", file)
    assert executions(tmp_path).count("bad") == 4


def test_a_simulation_that_fails_once_is_complete_after_its_second_attempt(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a", "what": "raise once"}], max_attempts=2)

    assert cli("run", file).code == 0
    shown = cli("show", "a", "-f", file, "--json").json
    assert (shown["status"], shown["attempt"]) == ("complete", 2)
    assert [attempt["reason"] for attempt in shown["attempts"]] == ["error"]


def test_first_is_a_canary(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)

    ended = cli("run", file, "--first", 2)
    assert ended.code == 0
    assert sorted(executions(tmp_path)) == ["s0", "s1"]  # two at once: either may be first

    assert "2 complete already" in cli("run", file).err
    assert sorted(executions(tmp_path)) == [row["id"] for row in ROWS]


@pytest.mark.parametrize("already", [0, 2])
def test_dry_run_lists_what_would_run_and_changes_nothing(tmp_path, cli, already):
    file = write_ensemble(tmp_path, ROWS)
    if already:
        cli("run", file, "--first", already)
    before = picture(tmp_path)

    ended = cli("run", file, "--dry-run")

    assert ended.code == 0
    listed = [line.strip() for line in ended.out.splitlines() if line.startswith("  ")]
    assert listed == [row["id"] for row in ROWS[already:]]
    assert f"would run {6 - already} of 6 simulations" in ended.out
    assert (f"{already} complete already" in ended.out) == bool(already)
    assert picture(tmp_path) == before
    assert len(executions(tmp_path)) == already


def test_dry_run_tells_of_failed_ones_and_of_no_skip(tmp_path, cli):
    file = write_ensemble(tmp_path, [*ROWS, {"id": "bad", "what": "raise"}], max_attempts=1)
    cli("run", file)

    assert "1 failed earlier, not run again" in cli("run", file, "--dry-run").out
    assert "would run 7 of 7" in cli("run", file, "--dry-run", "--no-skip").out


def test_dry_run_lists_a_few_and_all_on_demand(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": f"s{number}"} for number in range(30)])

    assert "… and 10 more" in cli("run", file, "--dry-run").out
    assert "s29" in cli("run", file, "--dry-run", "-v").out


def test_no_skip_runs_everything_again_and_keeps_the_results_until_then(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    cli("run", file)

    ended = cli("run", file, "--no-skip")

    assert ended.code == 0
    assert "6 reopened as generation 2" in ended.err
    assert len(executions(tmp_path)) == 12
    assert cli("show", "s0", "-f", file, "--json").json["result_generation"] == 2


def test_changed_settings_are_named_and_the_old_results_stay(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS, parameters={"numpar": 100})
    cli("run", file)
    old = cli("status", file, "--json").json["settings_hash"]

    ended = cli("run", file, "--set", "parameters.numpar=150")

    assert ended.code == 0
    assert "settings changed" in ended.err
    assert f"{old[:8]}/ stay and are not reused" in ended.err
    assert "parameters.numpar: 100 → 150" in ended.err
    assert len(executions(tmp_path)) == 12
    assert (tmp_path / "output" / old[:8]).is_dir()
    assert "settings changed" not in cli("run", file, "--set", "parameters.numpar=150").err


def test_replace_accepts_changed_parameters(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    cli("run", file)
    write_ensemble(tmp_path, [{"id": "s0", "x": 99}, *ROWS[1:]])

    assert cli("run", file).code == 2
    ended = cli("run", file, "--replace")

    assert ended.code == 0
    assert executions(tmp_path).count("s0") == 2
    assert len(executions(tmp_path)) == 7


def test_set_reaches_the_model(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a"}])
    cli("run", file, "--set", "parameters.x=7", "--set", "name=other")

    values = next(path for path in (tmp_path / "output").rglob("a.*.json"))
    assert json.loads(values.read_text())["x"] == 7


def test_a_command_is_a_model(tmp_path, cli):
    program = "import sys; open('out.txt', 'w').write(sys.argv[1])"
    rows = [{"id": "a", "word": "it's $HOME; ls"}, {"id": "b", "word": "two"}]
    file = write_command_ensemble(tmp_path, rows, [sys.executable, "-c", program, "{word}"])

    assert cli("check", file).code == 0
    assert cli("run", file).code == 0
    product = next((tmp_path / "output").rglob("a.*.txt"))
    assert product.read_text() == "it's $HOME; ls"


def test_n_workers_run_at_once(tmp_path, cli):
    model = """
        import time
        from pathlib import Path

        def simulate(run):
            here = Path(run.params["meeting"]) / run.id
            here.touch()
            other = here.with_name("b" if run.id == "a" else "a")
            for _ in range(200):
                if other.exists():
                    return {"values": None}
                time.sleep(0.05)
            raise TimeoutError("nobody came")
    """
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    file = write_ensemble(
        tmp_path, [{"id": "a"}, {"id": "b"}], model=model, parameters={"meeting": str(meeting)}
    )

    assert cli("run", file, "--n-workers", 2).code == 0


def test_resource_classes_become_chunks_and_all_run(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a"}, {"id": "b", "memory": 4096}])

    ended = cli("run", file)

    assert ended.code == 0, ended.err
    assert sorted(executions(tmp_path)) == ["a", "b"]


def test_progress_lines_where_there_is_no_terminal(tmp_path, cli, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    rows = [{"id": f"s{number}", "sleep": 0.6} for number in range(6)]
    file = write_ensemble(tmp_path, rows)

    ended = cli("run", file, "--n-workers", 2)

    lines = [line for line in ended.err.splitlines() if "complete " in line and " · " in line]
    assert lines
    assert lines[-1].startswith("6/6 · complete 6 (empty 0) · failed 0 · running 0")
    assert any("ETA" in line for line in lines), lines
    assert "\r" not in ended.err
    assert "\x1b" not in ended.err + ended.out


def test_quiet_says_only_the_result(tmp_path, cli):
    ended = cli("-q", "run", write_ensemble(tmp_path, ROWS))

    assert ended.err == ""
    assert len(ended.out.splitlines()) == 1


def _run_on_terminal(arguments, **environment) -> tuple[int, str]:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "airflow_ensemble", *map(str, arguments)]
    env = {**os.environ, "TERM": "xterm", **environment}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    seen = bytearray()

    def read():
        try:
            while data := os.read(master, 65536):
                seen.extend(data)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(60)
    reader.join(10)
    os.close(master)
    return code, seen.decode()


def test_a_live_bar_and_colours_on_a_terminal(tmp_path):
    rows = [{"id": f"s{number}", "sleep": 0.5} for number in range(3)]
    code, seen = _run_on_terminal(["run", write_ensemble(tmp_path, rows)], NO_COLOR="")

    assert code == 0
    assert "━" in seen
    assert "3/3 · complete 3" in seen
    assert "\x1b[32m" in seen


def test_no_colour_where_it_is_not_wanted(tmp_path):
    code, seen = _run_on_terminal(["status", _ran(tmp_path)], NO_COLOR="1")

    assert code == 0
    assert "\x1b[" not in seen


def _ran(folder):
    file = write_ensemble(folder, ROWS[:1])
    process = start("run", file)
    process.communicate(timeout=60)
    assert process.returncode == 0
    return file


def test_a_terminal_without_unicode_is_no_error(tmp_path):
    file = write_ensemble(tmp_path, [{"id": "bad", "what": "raise"}], max_attempts=1)
    process = start("run", file, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "0 complete" in out
    assert "Traceback" not in err


def test_a_closed_pipe_is_no_error(tmp_path):
    file = write_ensemble(tmp_path, [{"id": f"s{number}"} for number in range(30)])
    reading, writing = os.pipe()
    os.close(reading)
    process = start("run", file, "--dry-run", "-v", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 0
    assert err == ""


def test_backends_that_cannot_reach_files_of_this_machine_refuse_them(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS)
    before = picture(tmp_path)

    for arguments in (["--backend", "kubernetes"], ["--set", "execution.backend=kubernetes"]):
        ended = cli("run", file, *arguments)
        assert ended.code == 2
        assert "index: pods cannot share an SQLite file: use PostgreSQL" in ended.err
    assert picture(tmp_path) == before


def test_wait_waits_for_what_another_run_owns(tmp_path, cli):
    gate = tmp_path / "gate"
    file = write_ensemble(tmp_path, [{"id": f"s{n}", "gate": str(gate)} for n in range(2)])
    other = start("run", file, "--n-workers", 2)
    try:
        while not executions(tmp_path):
            assert other.poll() is None
        without = cli("run", file)
        waiting = start("run", file, "--wait")
        assert waiting.stderr is not None
        said = iter(waiting.stderr.readline, "")
        assert any("waiting for simulations that another run owns" in line for line in said)
    finally:
        gate.touch()
        other.communicate(timeout=60)
    out, err = waiting.communicate(timeout=60)

    assert "2 belong to another run" in without.err
    assert "2 are left to another run" in without.out
    assert without.code == 1
    assert waiting.returncode == 0, err
    assert out.startswith("2 complete")
    assert other.returncode == 0
    assert len(executions(tmp_path)) == 2


def test_hints_name_the_same_ensemble(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "bad", "what": "raise"}], max_attempts=1)

    said = cli("run", file, "--set", "parameters.note=a b").out

    hint = next(line for line in said.splitlines() if line.startswith("ensemble logs bad"))
    command = shlex.split(hint.partition("  ")[0])
    assert "no luck with bad" in cli(*command[1:]).out
