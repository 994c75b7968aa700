"""What a person wrote is what commands and models get, and what the index and refusals say."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.simulation import Simulation
from tests.cli.conftest import write_command_ensemble
from tests.ensembles import write_ensemble

SEES = """
    import json

    def simulate(run):
        path = run.workdir / "values.json"
        seen = {"params": run.params, "seed": run.seed, "written": run.written}
        path.write_text(json.dumps(seen))
        return {"values": path}

    def check(parameters, simulations):
        seen = [parameters, *(simulation.params for simulation in simulations)]
        return [f"seen {record}" for record in seen if any(name[0] == "$" for name in record)]

    simulate.check = check
"""
ECHO = ["sh", "-c", 'echo "$@" $ENSEMBLE_SEED > out.txt', "sh"]


def results(folder, suffix):
    return {path.name.split(".")[0]: path.read_text()
            for path in (folder / "output").glob(f"*/values/*/*.{suffix}")}  # fmt: skip


def test_a_command_gets_numbers_as_they_were_written(tmp_path, cli):
    command = [*ECHO, "{release}", "{ok}", "{common}", "{release:.3f}", "{grid}"]
    file = write_command_ensemble(tmp_path, [], command=command, simulations="t.csv", seed=1)
    (tmp_path / "t.csv").write_text("id,release,ok\na,3.10,True\nb,3.1,true\nc,+3,FALSE\n")
    text = file.read_text()
    file.write_text(
        text.replace('"parameters": {', '"parameters": {"common": 1e5, "grid": [1.50], ')
    )

    assert cli("run", file).code == 0
    seen = {id: line.rsplit(" ", 1)[0] for id, line in results(tmp_path, "txt").items()}
    assert seen == {
        "a": "3.10 True 1e5 3.100 [1.50]",
        "b": "3.1 true 1e5 3.100 [1.50]",
        "c": "+3 FALSE 1e5 3.000 [1.50]",
    }
    assert cli("show", "a", "-f", file, "--json").json["parameters"] == {"ok": True, "release": 3.1}
    shown = cli("show", "a", "-f", file).out
    assert [line.split() for line in shown.splitlines() if "release" in line] == [
        ["release", "3.10"]
    ]
    assert "$" not in shown


def test_a_python_model_sees_numbers_and_how_they_were_written(tmp_path, cli):
    file = write_ensemble(tmp_path, [], model=SEES, simulations="t.csv")
    (tmp_path / "t.csv").write_text("id,release,seed\na,3.10,7\n")

    assert cli("check", file).code == 0
    assert cli("run", file).code == 0
    seen = json.loads(results(tmp_path, "json")["a"])
    assert {name: seen["params"][name] for name in ("release", "seed")} == {
        "release": 3.1,
        "seed": 7,
    }
    assert not any(name.startswith("$") for name in seen["params"])
    assert (seen["seed"], seen["written"]) == (7, {"release": "3.10"})


def test_a_command_gets_the_seed_of_its_row(tmp_path, cli):
    file = write_command_ensemble(tmp_path, [], command=[*ECHO, "{seed}"], simulations="t.csv")
    (tmp_path / "t.csv").write_text(f"id,seed\na,0\nb,{2**32 - 1}\n")
    assert cli("run", file).code == 0
    assert results(tmp_path, "txt") == {"a": "0 0\n", "b": f"{2**32 - 1} {2**32 - 1}\n"}


def test_another_version_is_another_result(tmp_path, cli):
    file = write_ensemble(tmp_path, [{"id": "a"}])
    assert cli("run", file, "--set", "model_version=1.1").code == 0
    ended = cli("run", file, "--set", "model_version=1.10")
    assert "model_version: 1.1 → 1.10" in ended.err
    assert "1 simulation: 1 new, 1 to run" in ended.err


@pytest.mark.parametrize("rows", [[{"id": "a", "seed": 7}], [{"id": "a"}]])
def test_results_that_were_made_with_other_seeds_are_never_taken(tmp_path, cli, rows):
    file = write_ensemble(tmp_path, [{"id": "a"}])
    assert cli("run", file).code == 0
    database = tmp_path / "output" / ".ensemble" / "index.sqlite"
    with closing(open_index(str(database))) as index:
        # As a version that made nothing of the column left it.
        (key,) = index.ensembles()
        old = [Simulation("a", {name: row[name] for name in row if name != "id"}) for row in rows]
        index.register(key, old, batch_key="older", replace=True)
    write_ensemble(tmp_path, [{"id": "a", "seed": 7}])

    for command in (("run", file), ("run", file, "--dry-run"), ("check", file)):
        ended = cli(*command)
        assert ended.code == 2
        assert (
            "its seed was derived from its id and is now 7 (column 'seed'), so that its result is "
            "of another seed"
        ) in ended.out + ended.err
    assert cli("run", file, "--replace").code == 0


def test_check_says_what_each_column_became(tmp_path, cli):
    file = write_ensemble(tmp_path, [], simulations="t.csv", columns={"mesh_nodes": "nodes"})
    (tmp_path / "t.csv").write_text(
        "id,nodes,memory,priority,seed,x\na,2,512,1,3,1\nb,2,512,1,4,o\n"
    )

    ended = cli("check", file)

    assert ended.code == 0
    line = next(line for line in ended.out.splitlines() if line.startswith("ok        columns"))
    assert line.split("columns")[1].strip() == (
        "parameters: mesh_nodes (nodes), x; seed: seed; resources: memory; how it runs: priority"
    )
    warning = "the column 'x' holds numbers and texts: the first number, 1, is in line 2"
    assert warning in ended.out
    for command in (("run", file, "--dry-run"), ("run", file, "--first", "2"), ("register", file)):
        assert warning in cli(*command).err


def test_a_command_without_its_parameter_is_refused_before_anything_runs(tmp_path, cli):
    rows = [{"id": "a", "nodes": 2}]
    file = write_command_ensemble(tmp_path, rows, command=[*ECHO, "{nodes}"])
    for command in (("run", file), ("check", file)):
        ended = cli(*command)
        assert ended.code == 2
        assert "columns: {my_nodes: nodes}" in ended.err
    assert not (tmp_path / "output").exists()


def test_check_fills_arguments_with_the_id_that_they_get(tmp_path, cli):
    file = write_command_ensemble(tmp_path, [{"id": "a"}], command=[*ECHO, "{id:04d}"])
    ended = cli("check", file)
    assert ended.code == 2
    assert "simulation a: command argument '{id:04d}': id is 'a'" in ended.out
