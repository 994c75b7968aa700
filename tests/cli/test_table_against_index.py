"""``collect``, ``status``, ``forget`` and others mean the simulations of the table as it is now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.standing import table_results
from tests.cli.conftest import Cli, picture
from tests.ensembles import executions, write_ensemble
from tests.test_lost_index import lose_index

MODEL = """
    import xarray as xr

    def simulate(run):
        with open(run.params["trace"], "a") as file:
            file.write(f"{run.id} {run.attempt}\\n")
        if run.params["x"] < 0:
            raise ValueError("no luck")
        return {"values": xr.Dataset({"v": float(run.params["x"])})}
"""
A, B, BAD = {"id": "a", "x": 1}, {"id": "b", "x": 2}, {"id": "bad", "x": -1}


def write_table(folder: Path, *rows: Mapping[str, Any]) -> None:
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def make(*rows: Mapping[str, Any], **keys: Any) -> Path:
        return write_ensemble(tmp_path, rows, **{"model": MODEL, "max_attempts": 1, **keys})

    return make


def collected(cli: Cli, file: Path, *options: str) -> tuple[list[str], list[float]]:
    """Return ids and values of the dataset that ``collect`` writes."""
    import xarray as xr

    target = file.parent / "all.nc"
    ended = cli("collect", file, "--to", target, *options)
    assert ended.code in (0, 1), ended.err
    with xr.open_dataset(target) as dataset:
        return list(dataset["simulation"].values), list(dataset["values"].values)


def counts(cli: Cli, file: Path, *options: str) -> dict[str, Any]:
    return dict(cli("status", file, "--json", *options).json["counts"])


# --- a row that left the table --------------------------------------------------------------------


def test_a_row_that_left_the_table_is_not_collected(write: Any, cli: Cli, tmp_path: Path) -> None:
    file = write(A, B, {"id": "gone", "x": 999})
    assert cli("run", file).code == 0
    write_table(tmp_path, A, B)

    ran, ended = cli("run", file), cli("collect", file)

    assert collected(cli, file) == (["a", "b"], [1.0, 2.0])
    assert "2 complete (0 empty), 0 failed, 0 unfinished of 2" in ended.out
    line = (
        "1 other simulation is in the index and not in the table: "
        f"`ensemble forget -f {file}` removes it"
    )
    assert line in ended.out.splitlines()
    assert line in ran.err.splitlines()
    assert line in cli("status", file).out.splitlines()


def test_a_failed_row_that_left_the_table_fails_nothing(
    write: Any, cli: Cli, tmp_path: Path
) -> None:
    file = write(A, BAD, B)
    assert cli("run", file).code == 1
    assert cli("collect", file).code == 1
    write_table(tmp_path, A, B)

    ended = cli("collect", file)

    assert ended.code == 0
    assert "no luck" not in ended.out
    assert cli("status", file, "--watch").code == 0
    assert cli("run", file).code == 0
    record = cli("status", file, "--json").json
    assert (record["counts"]["failed"], record["reasons"], record["over"]) == (0, {}, True)
    assert record["table"] == {"total": 2, "unregistered": 0, "changed": 0, "others": 1}


def test_all_that_the_index_knows_can_still_be_asked_for(
    write: Any, cli: Cli, tmp_path: Path
) -> None:
    file = write(A, BAD, B)
    cli("run", file)
    write_table(tmp_path, B)
    index = tmp_path / "output" / ".ensemble" / "index.sqlite"

    assert collected(cli, file, "--all") == (["a", "b"], [1.0, 2.0])
    assert cli("collect", file, "--all").code == 1
    for record in (
        cli("status", file, "--all", "--json").json,
        cli("status", "--index", index, "--name", "tests", "--json").json,
    ):
        assert (record["counts"]["total"], record["counts"]["failed"]) == (3, 1)
        assert record["table"] is None
    assert counts(cli, file)["total"] == 1


def test_percentages_are_of_the_table(write: Any, cli: Cli, tmp_path: Path) -> None:
    many = [{"id": f"s{n}", "x": n} for n in range(4)]
    file = write(BAD, *many, max_failed="20%")
    assert cli("run", file).code == 0
    assert cli("collect", file).code == 0
    write_table(tmp_path, BAD, *many[:3])

    ended = cli("collect", file)

    assert ended.code == 1
    assert "at most 0 may fail" in ended.out


# --- order, new rows, changed rows ----------------------------------------------------------------


def test_the_order_is_that_of_the_table_now(write: Any, cli: Cli, tmp_path: Path) -> None:
    rows = [{"id": id, "x": n} for n, id in enumerate(["1.10", "1.1", "007", "1e5"])]
    file = write(*rows)
    assert cli("run", file).code == 0
    write_table(tmp_path, {"id": "front", "x": 9}, *reversed(rows))
    assert cli("run", file).code == 0

    assert collected(cli, file) == (["front", "1e5", "007", "1.1", "1.10"], [9, 3, 2, 1, 0])


def test_failures_are_named_in_the_order_of_the_table(write: Any, cli: Cli, tmp_path: Path) -> None:
    bad = [{"id": f"bad{n}", "x": -1} for n in range(8)]
    file = write(*bad)
    cli("run", file)
    write_table(tmp_path, *reversed(bad[:-1]))

    record = cli("status", file, "--json").json

    assert record["first_failed"] == {"error": ["bad6", "bad5", "bad4"]}
    assert record["reasons"] == {"error": 7}
    assert "bad6, bad5, bad4, …" in cli("collect", file).out


def test_rows_that_are_not_registered_have_not_run(write: Any, cli: Cli, tmp_path: Path) -> None:
    file = write(A)
    cli("run", file)
    write_table(tmp_path, B, A)

    ended, record = cli("collect", file), cli("status", file, "--json").json

    assert ended.code == 1
    assert "1 complete (0 empty), 0 failed, 1 unfinished of 2: not everything" in ended.out
    assert "1 simulation of the table is not registered yet: `ensemble run" in ended.out
    assert (record["counts"]["total"], record["table"]["unregistered"]) == (1, 1)
    assert cli("status", file, "--watch").code == 1
    [line] = [line.split() for line in ended.out.splitlines() if line.startswith("values")]
    assert line[:4] == ["values", "1", "0", "1"]


def test_a_new_row_that_is_named_needs_registering_first(
    write: Any, cli: Cli, tmp_path: Path
) -> None:
    file = write(A)
    assert cli("register", file).code == 0
    write_table(tmp_path, A, B)
    ended = cli("retry", "b", "-f", file)
    assert ended.code == 2
    assert "has no simulation 'b'" in ended.err
    assert "`ensemble register` or `ensemble run` brings new rows in" in ended.err


@pytest.mark.parametrize("x", [2.5, "1", 1.0, True])
def test_a_result_of_other_parameters_is_not_the_tables(
    write: Any, cli: Cli, tmp_path: Path, x: object
) -> None:
    file = write(A, B)
    cli("run", file)
    write_table(tmp_path, {"id": "a", "x": x}, B)

    ended, status = cli("collect", file), cli("status", file)

    assert ended.code == 1
    assert "1 unfinished of 2" in ended.out
    for text in (ended.out, status.out):
        assert "1 simulation of the table is registered with other parameters (a)" in text
    assert collected(cli, file) == (["b"], [2.0])
    assert cli("status", file, "--json").json["table"]["changed"] == 1
    write_table(tmp_path, A, B)
    assert cli("collect", file).code == 0


def test_an_older_result_of_a_replaced_row_is_not_the_tables(
    write: Any, cli: Cli, tmp_path: Path
) -> None:
    file = write(A, B)
    cli("run", file)
    write_table(tmp_path, {"id": "a", "x": 5}, B)
    assert cli("register", file, "--replace").code == 0

    assert collected(cli, file) == (["b"], [2.0])
    assert "a" in cli("collect", file, "--to", tmp_path / "x.nc").err
    assert counts(cli, file)["pending"] == 1
    assert cli("run", file).code == 0
    assert collected(cli, file) == (["a", "b"], [5.0, 2.0])


def test_an_id_that_stands_twice_is_refused(write: Any, cli: Cli, tmp_path: Path) -> None:
    file = write(A, B)
    cli("run", file)
    write_table(tmp_path, A, B, A)

    for command in ("collect", "status", "forget"):
        ended = cli(command, "-f", file)
        assert ended.code == 2
        assert "the id 'a' stands in line 1 and line 3" in ended.err


def test_the_results_of_the_table_in_python(write: Any, cli: Cli, tmp_path: Path) -> None:
    file = write(A, B, {"id": "gone", "x": 3})
    cli("run", file)
    write_table(tmp_path, B, {"id": "new", "x": 4}, A)

    with open_control(load(file)) as control:
        assert [(one.id, one.params) for one in table_results(control)] == [
            ("b", {"x": 2}),
            ("a", {"x": 1}),
        ]


def test_a_written_number_is_the_same_number_again(cli: Cli, tmp_path: Path, write: Any) -> None:
    (tmp_path / "t.csv").write_text("id,x,release\na,1.50,1.10\nb,2e0,007\nc,10,1e5\n")
    file = write(A, simulations="t.csv")
    assert cli("run", file).code == 0

    assert collected(cli, file) == (["a", "b", "c"], [1.5, 2.0, 10.0])
    assert cli("collect", file).code == 0


# --- forget ---------------------------------------------------------------------------------------


@pytest.fixture
def left(write: Any, cli: Cli, tmp_path: Path) -> Path:
    """Return an ensemble of four, of which the table has two; of the others one has failed."""
    file: Path = write(A, BAD, {"id": "gone", "x": 999}, B)
    assert cli("run", file).code == 1
    write_table(tmp_path, B, A)
    return file


def files_of(folder: Path, id: str) -> list[str]:
    return [path.name for path in (folder / "output").rglob(f"{id}.*") if path.is_file()]


def test_forget_says_first_what_would_go(left: Path, cli: Cli, tmp_path: Path) -> None:
    before = picture(tmp_path)

    ended = cli("forget", "-f", left)

    assert ended.code == 0
    assert ended.out.splitlines() == [
        "would forget 2 simulations that the table does not have: 1 complete, 1 failed",
        "  bad",
        "  gone",
        f"nothing was changed: `ensemble forget --yes -f {left}` forgets",
    ]
    assert picture(tmp_path) == before


def test_what_is_forgotten_is_gone_and_gc_takes_its_files(
    left: Path, cli: Cli, tmp_path: Path
) -> None:
    kept = [files_of(tmp_path, id) for id in ("a", "b")]
    assert files_of(tmp_path, "gone")
    assert files_of(tmp_path, "bad")

    ended = cli("forget", "--yes", "-f", left)

    assert ended.out == "forgot 2 simulations; `ensemble gc` removes what files they left\n"
    assert "in the index and not" not in cli("status", left).out
    assert counts(cli, left, "--all")["total"] == 2
    assert cli("show", "gone", "-f", left).code == 2
    assert cli("gc", left).code == 0
    assert files_of(tmp_path, "gone") == files_of(tmp_path, "bad") == []
    assert [files_of(tmp_path, id) for id in ("a", "b")] == kept
    assert collected(cli, left) == (["b", "a"], [2.0, 1.0])
    assert "nothing to forget" in cli("forget", "--yes", "-f", left).err


def test_what_is_forgotten_stays_forgotten(left: Path, cli: Cli, tmp_path: Path) -> None:
    cli("forget", "--yes", "-f", left)
    assert cli("rebuild", left).code == 0
    assert counts(cli, left, "--all")["total"] == 2
    lose_index(tmp_path)

    assert cli("rebuild", left).out.startswith("2 simulations finished")
    assert counts(cli, left, "--all")["total"] == 2
    assert cli("status", left, "--refresh").code == 0
    assert counts(cli, left, "--all")["total"] == 2


def test_a_forgotten_id_that_comes_back_runs_anew(left: Path, cli: Cli, tmp_path: Path) -> None:
    cli("forget", "--yes", "-f", left)
    write_table(tmp_path, A, B, {"id": "gone", "x": 7})
    before = len(executions(tmp_path))

    ended = cli("run", left)

    assert ended.code == 0
    assert "1 new" in ended.err
    assert executions(tmp_path)[before:] == ["gone"]
    assert collected(cli, left) == (["a", "b", "gone"], [1.0, 2.0, 7.0])
    lose_index(tmp_path)
    cli("rebuild", left)
    assert collected(cli, left) == (["a", "b", "gone"], [1.0, 2.0, 7.0])


def test_only_what_is_named_is_forgotten(left: Path, cli: Cli) -> None:
    assert "  bad" not in cli("forget", "gone", "-f", left).out
    assert cli("forget", "gone", "--yes", "-f", left).out.startswith("forgot 1 simulation;")
    assert counts(cli, left, "--all")["failed"] == 1


@pytest.mark.parametrize(
    ("ids", "says"), [(["bad", "a"], "the table still has 'a'"), (["bad", "nobody"], "'nobody'")]
)
def test_forget_refuses_what_the_table_has_and_what_nobody_knows(
    left: Path, cli: Cli, tmp_path: Path, ids: Sequence[str], says: str
) -> None:
    before = picture(tmp_path)

    ended = cli("forget", *ids, "--yes", "-f", left)

    assert ended.code == 2
    assert says in ended.err
    assert picture(tmp_path) == before


def test_forget_leaves_what_somebody_holds(write: Any, cli: Cli, tmp_path: Path) -> None:
    file = write(A, B, {"id": "held", "x": 3}, {"id": "free", "x": 4})
    cli("register", file)
    with open_control(load(file)) as control:
        control.index.enlist(control.key, "worker", "host")
        held = {one.simulation.id for one in control.index.claim("worker", 3)}
    write_table(tmp_path, A, B)

    assert held == {"a", "b", "held"}
    assert "1 more is dispatched or running, and stays" in cli("forget", "-f", file).out
    ended = cli("forget", "--yes", "-f", file)
    assert ended.out.startswith("forgot 1 simulation;")
    assert "1 more is dispatched or running" in ended.err
    assert counts(cli, file, "--all")["total"] == 3


def test_a_broken_table_forgets_nothing(left: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "table.jsonl").write_text('{"id": "a", "x": 1}\n{"id": "b", "x"')

    assert cli("forget", "--yes", "-f", left).code == 2
    assert counts(cli, left, "--all")["total"] == 4
    (tmp_path / "table.jsonl").unlink()
    assert cli("forget", "--yes", "-f", left).code == 2
    assert counts(cli, left, "--all")["total"] == 4


def test_register_prune_shows_and_with_yes_forgets(left: Path, cli: Cli, tmp_path: Path) -> None:
    write_table(tmp_path, B, A, {"id": "new", "x": 3})

    shown = cli("register", left, "--prune")

    assert "would forget 2 simulations" in shown.out
    assert f"`ensemble forget --yes -f {left}` forgets" in shown.out
    assert counts(cli, left, "--all")["total"] == 5
    assert cli("register", left, "--prune", "--yes").out.startswith("forgot 2 simulations")
    assert counts(cli, left, "--all") == counts(cli, left)
    assert counts(cli, left)["total"] == 3


@pytest.mark.parametrize("options", [["--yes"], ["--prune", "--first", "1"]])
def test_prune_refuses_what_it_cannot_mean(left: Path, cli: Cli, options: Sequence[str]) -> None:
    assert cli("register", left, *options).code == 2
    assert counts(cli, left, "--all")["total"] == 4


# --- other commands -------------------------------------------------------------------------------


def test_retry_sends_back_the_failed_ones_of_the_table(
    write: Any, cli: Cli, tmp_path: Path
) -> None:
    worse = {"id": "worse", "x": -2}
    file = write(A, BAD, worse)
    cli("run", file)
    write_table(tmp_path, A, worse)

    for selection in (["--all"], ["--reason", "error"]):
        ended = cli("retry", *selection, "-f", file)
        assert ended.code == 0
        assert "1 failed simulation not in the table" in ended.err
    assert counts(cli, file, "--all")["failed"] == 1
    assert counts(cli, file)["pending"] == 1
    assert cli("retry", "bad", "-f", file).out.startswith("1 simulation pending again")


def test_check_and_a_dry_run_count_the_simulations_of_the_table(
    write: Any, cli: Cli, tmp_path: Path
) -> None:
    file = write(A, B, {"id": "gone", "x": 3})
    cli("run", file)
    write_table(tmp_path, A, {"id": "b", "x": 5})

    line = "1 other simulation is in the index and not in the table"
    checked = cli("check", file)
    assert checked.code == 2
    assert "2 in the table: 0 new, 1 complete, 0 failed; " + line in checked.out
    write_table(tmp_path, A, {"id": "c", "x": 5})
    planned = cli("run", file, "--dry-run").out
    assert "2 other simulations are in the index" in planned
    assert "would run 1 of 2 simulations" in planned
    assert "other simulation" not in cli("run", file, "--dry-run", "--first", "1").out


def test_show_tells_what_the_table_says_of_it_now(write: Any, cli: Cli, tmp_path: Path) -> None:
    file = write(A, B, BAD)
    cli("register", file)
    write_table(tmp_path, A, {"id": "b", "x": 2.5})

    def shown(id: str) -> tuple[str, str]:
        return cli("show", id, "-f", file, "--json").json["table"], cli("show", id, "-f", file).out

    assert shown("a")[0] == "same"
    assert "the table" not in shown("a")[1]
    assert shown("b")[0] == "changed"
    assert "the table has other parameters for it now" in shown("b")[1]
    assert shown("bad")[0] == "absent"
    assert "the table no longer has it" in shown("bad")[1]
    (tmp_path / "table.jsonl").unlink()
    assert shown("bad")[0] is None


def test_without_a_table_status_names_the_way_out(write: Any, cli: Cli, tmp_path: Path) -> None:
    file = write(A, B)
    cli("register", file)
    (tmp_path / "table.jsonl").unlink()

    ended = cli("status", file)

    assert ended.code == 2
    assert "table.jsonl" in ended.err
    assert "`ensemble status --all` reads no table" in ended.err
    assert counts(cli, file, "--all")["total"] == 2


def test_run_waits_for_nothing_that_left_the_table(write: Any, cli: Cli, tmp_path: Path) -> None:
    file = write({"id": "held", "x": 1})
    cli("register", file)
    with open_control(load(file)) as control:
        control.index.enlist(control.key, "worker", "host", lease=3600)
        [held] = control.index.claim("worker", 1)
        write_table(tmp_path, A)

        assert cli("run", file, "--wait").code == 0

        assert control.index.renew("worker") == {("held", held.attempt)}
