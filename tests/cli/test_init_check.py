"""``ensemble init`` and ``check``, and the starter from first to last."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.conftest import picture
from tests.ensembles import write_ensemble
from tests.hrrr import write_hrrr_ensemble


def test_the_starter_runs_as_it_stands(tmp_path, cli, monkeypatch):
    folder = tmp_path / "mine"
    made = cli("init", folder)
    assert made.code == 0
    assert {"ensemble.yaml", "simulations.csv", "model.py"} <= {p.name for p in folder.iterdir()}
    assert (folder / "output" / ".ensemble" / "index.sqlite").exists()
    assert f"ensemble check {folder}" in made.err

    monkeypatch.chdir(folder)
    for command in ("check", "run --first 1", "run", "status", "collect", "gc"):
        ended = cli(*command.split())
        assert ended.code == 0, (command, ended)


def test_init_overwrites_nothing(tmp_path, cli):
    (tmp_path / "model.py").write_text("mine")
    before = picture(tmp_path)

    ended = cli("init", tmp_path)

    assert ended.code == 2
    assert "model.py" in ended.err
    assert picture(tmp_path) == before


def test_init_twice_is_refused_and_harmless(tmp_path, cli):
    cli("init", tmp_path)
    cli("run", tmp_path)
    before = picture(tmp_path)

    assert cli("init", tmp_path).code == 2
    assert picture(tmp_path) == before


def _words(ended):
    findings = (line.split() for line in ended.out.splitlines())
    return {words[1]: words[0] for words in findings if words[:1] in (["ok"], ["problem"])}


def test_check_says_of_each_thing_that_it_is_fine(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a"}])
    before = picture(tmp_path)

    ended = cli("check", file)

    assert ended.code == 0
    assert set(_words(ended)) >= {"file", "simulations", "model", "output", "index"}
    assert set(_words(ended).values()) == {"ok"}
    assert "does not exist yet" in ended.out
    assert picture(tmp_path) == before


def test_check_shows_paths_as_they_are_used(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("MINE", str(tmp_path / "mine"))
    execution = {"python": "${MINE}/python", "remote_root": "$ELSEWHERE"}
    file = write_ensemble(
        tmp_path, [{"id": "a"}], output="$MINE/out", control="$MINE/control", execution=execution
    )
    said = cli("check", file).out
    assert f"simulations {tmp_path}/table.jsonl, control {tmp_path}/mine/control" in said
    assert f"code {tmp_path}" in said
    assert f"python {tmp_path}/mine/python" in said
    assert f"output        {tmp_path}/mine/out; writable" in said
    assert f"index         {tmp_path}/mine/control/index.sqlite" in said


@pytest.mark.parametrize("command", ["run", "check", "status", "register"])
def test_an_unset_variable_ends_every_command_before_anything_is_made(
    tmp_path, cli, monkeypatch, command
):
    monkeypatch.delenv("SCRATCH", raising=False)
    file = write_ensemble(tmp_path, [{"id": "a"}], output="$SCRATCH/out")
    before = picture(tmp_path)
    ended = cli(command, file)
    assert (ended.code, ended.out) == (2, "")
    assert "output names the variable SCRATCH, which is not set here" in ended.err
    assert picture(tmp_path) == before


def test_a_file_that_cannot_be_looked_for_is_named(cli):
    ended = cli("status", "x" * 300)
    assert ended.code == 2
    assert f"the ensemble file {'x' * 300} cannot be read: File name too long" in ended.err


def test_check_after_a_run_tells_what_is_known(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a"}, {"id": "b", "what": "raise"}], max_attempts=1)
    cli("run", file)
    before = picture(tmp_path)

    assert "2 in the table: 0 new, 1 complete, 1 failed" in cli("check", file).out
    assert "these settings are registered" in cli("check", file).out
    assert "settings changed" in cli("check", file, "--set", "seed=7").out
    assert picture(tmp_path) == before


def test_check_finds_all_problems_at_once(tmp_path, cli):
    file = write_ensemble(
        tmp_path, [{"id": "a/b"}], model="import nowhere", output="x/y", control="control"
    )
    (tmp_path / "x").write_text("")

    ended = cli("check", file)

    assert ended.code == 2
    wrong = [what for what, word in _words(ended).items() if word == "problem"]
    assert wrong == ["simulations", "model", "output"]
    (output,) = (line for line in ended.out.splitlines() if line.startswith("problem   output"))
    assert output.endswith("/x/y")
    assert "3 problems found" in ended.out


def test_changed_parameters_are_a_problem(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a", "x": 1}])
    cli("run", file)
    write_ensemble(tmp_path, [{"id": "a", "x": 2}])

    ended = cli("check", file)

    assert ended.code == 2
    assert "simulation a has changed: column 'x' was 1 and is now 2; give" in ended.out
    assert "--replace" in ended.out
    for command in (("run", file), ("run", file, "--dry-run"), ("register", file)):
        refused = cli(*command)
        assert refused.code == 2
        assert "column 'x' was 1 and is now 2" in refused.err


def test_what_the_model_prints_when_imported_confuses_nobody(tmp_path, cli):
    model = "print('hello')\ndef simulate(run):\n    return {'values': None}\n"
    file = write_ensemble(tmp_path, [{"id": "a"}], model=model)

    assert cli("check", file).code == 0
    assert cli("run", file).code == 0


def test_the_models_own_check_sees_parameters_and_every_simulation(tmp_path, cli):
    model = """
        def simulate(run):
            return {"values": None}

        def check(parameters, simulations):
            for one in simulations:
                if one.params["x"] > parameters["top"]:
                    yield f"{one.id} is above {parameters['top']}"

        simulate.check = check
    """
    rows = [{"id": "low", "x": 1}, {"id": "high", "x": 3}]
    file = write_ensemble(tmp_path, rows, model=model, parameters={"top": 2})

    ended = cli("check", file)
    assert ended.code == 2
    assert "high is above 2" in ended.out
    assert "low" not in ended.out
    assert cli("check", file, "--set", "parameters.top=9").code == 0


def test_a_check_that_breaks_is_a_problem_of_the_model(tmp_path, cli):
    model = """
        def simulate(run):
            return {"values": None}

        simulate.check = lambda parameters, simulations: 1 / 0
    """
    ended = cli("check", write_ensemble(tmp_path, [{"id": "a"}], model=model))

    assert ended.code == 2
    assert "ZeroDivisionError" in ended.out
    assert "Traceback" not in ended.err


def test_met_coverage_is_checked_before_a_run(tmp_path, cli, hrrr):
    file = write_hrrr_ensemble(tmp_path, hrrr, tmp_path / "output")

    assert cli("check", file).code == 0
    ended = cli("check", file, "--set", "parameters.n_hours=-48")
    assert ended.code == 2
    assert "problem   model" in ended.out
    assert str(hrrr) in ended.out


@pytest.mark.parametrize("command", ["--help", "--version", "run --help"])
def test_help_and_version_end_well(cli, command):
    assert cli(*command.split()).code == 0


def test_status_needs_no_heavy_library(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a"}])
    cli("run", file)
    code = (
        "import sys; from airflow_ensemble.cli import main; main(['status', sys.argv[1]]); "
        "heavy = {'rich', 'pandas', 'numpy', 'xarray', 'fsspec', 'pyarrow', 'airflow', 'psycopg'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, env=os.environ
    )

    assert done.stderr.strip() == ""
    assert done.returncode == 0
