"""Every line of the list of bad input: an error that names it, exit code 2, nothing changed."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.cli import main
from airflow_ensemble.engine.chunk import read_chunk
from tests.cli.conftest import picture, write_command_ensemble
from tests.ensembles import executions, write_ensemble

ROWS = [{"id": "a", "x": 1}, {"id": "b", "x": 2}]


@dataclass(frozen=True)
class Bad:
    """One way to get it wrong.

    :param what: its name.
    :param spoil: spoils a good ensemble folder.
    :param words: what the message must name.
    """

    what: str
    spoil: Callable[[Path], None]
    words: tuple[str, ...]


def _keys(**changes: Any) -> Callable[[Path], None]:
    """Change keys of the ensemble file; None removes one."""

    def spoil(folder: Path) -> None:
        file = folder / "ensemble.yaml"
        values = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    return spoil


def _file(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "ensemble.yaml").write_text(text) and None


def _model(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.py").write_text(text) and None


def _table(*rows: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        _keys(simulations="table.csv")(folder)

    return spoil


def _id(value: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        rows = [{"id": "good", "x": 1}, {"id": value, "x": 2}]
        (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return spoil


def _owned_by_another(folder: Path) -> None:
    settings = folder / "output" / ".ensemble" / "settings.json"
    record = json.loads(settings.read_text())
    assert record["ensemble"] == "tests"
    settings.write_text(json.dumps({**record, "ensemble": "somebody-else"}))
    _keys(index=str(folder / "other.sqlite"))(folder)


def _output_is_a_file(folder: Path) -> None:
    (folder / "not-a-folder").write_text("")
    _keys(output="not-a-folder/below", control="control")(folder)


def _corrupt_index(folder: Path) -> None:
    (folder / "output" / ".ensemble" / "index.sqlite").write_bytes(b"not a database" * 500)


BAD = [
    Bad("unknown key", _keys(colour="red"), ("ensemble.yaml", "colour")),
    Bad("misspelt key", _keys(time_limt=5), ("ensemble.yaml", "time_limt", "'time_limit'")),
    Bad("misspelt option", _keys(execution={"n_worker": 5}), ("n_worker", "'n_workers'")),
    Bad("not a mapping", _file("- a\n- b\n"), ("ensemble.yaml", "mapping", "list")),
    Bad("not YAML", _file("name: [a\n"), ("ensemble.yaml", "line 2")),
    Bad("empty file", _file(""), ("ensemble.yaml", "empty", "ensemble init")),
    Bad("missing key", _keys(products=None), ("ensemble.yaml", "'products'")),
    Bad("wrong type", _keys(max_attempts="many"), ("max_attempts", "'many'")),
    Bad("missing table", _keys(simulations="tabel.csv"), ("tabel.csv",)),
    Bad("unknown kind of table", _keys(simulations="model.py"), ("model.py", ".csv")),
    Bad("empty table", _table("id,x"), ("table.csv", "no simulation")),
    Bad("empty table file", _table(""), ("table.csv",)),
    Bad("no id column", _table("name,x", "a,1"), ("table.csv", "'id'", "'name', 'x'")),
    Bad("duplicate id", _table("id,x", "a,1", "b,2", "a,3"), ("table.csv", "line 4", "'a'")),
    Bad("NaN cell", _table("id,x", "a,1", "b,nan"), ("table.csv", "line 3", "'x'")),
    Bad("empty cell", _table("id,x", "a,1", "b,"), ("table.csv", "line 3", "'x'")),
    Bad("short row", _table("id,x", "a,1", "b"), ("table.csv", "line 3")),
    Bad("bad time limit", _table("id,time_limit", "a,soon"), ("line 2", "time_limit", "'soon'")),
    Bad("id with a slash", _id("a/b"), ("table.jsonl", "line 2", "a/b")),
    Bad("id with dots", _id("a..b"), ("table.jsonl", "line 2", "a..b")),
    Bad("id with NUL", _id("a\0b"), ("table.jsonl", "line 2", "a\\x00b")),
    Bad("id with newline", _id("a\nb"), ("table.jsonl", "line 2", "a\\nb")),
    Bad("id of 300 characters", _id("a" * 300), ("table.jsonl", "line 2", "300 characters")),
    Bad("id not ASCII", _id("Zürich"), ("table.jsonl", "line 2", "Zürich")),
    Bad("product not a name", _keys(products=["../up"]), ("products", "../up")),
    Bad("product twice", _keys(products=["v", "v"]), ("products", "'v'", "twice")),
    Bad(
        "DSN with a password",
        _keys(index="postgresql://me:secret@db/e"),
        ("index", "password", "env:NAME"),
    ),
    Bad("DSN of another database", _keys(index="mysql://db/e"), ("index", "mysql")),
    Bad("index variable not set", _keys(index="env:NO_SUCH_INDEX"), ("NO_SUCH_INDEX", "export")),
    Bad("index of Airflow", _keys(index="conn:pg"), ("'pg'", "env:NAME")),
    Bad("output not writable", _output_is_a_file, ("not-a-folder", "output")),
    Bad("not a reference", _keys(model="model.simulate"), ("model", "module:function")),
    Bad("both models", _keys(command=["true"]), ("'model'", "'command'", "both")),
    Bad("command as text", _keys(model=None, command="ls -l"), ("command", "list", "[ls, -l]")),
]
#: What only a look at the model shows: registering does not load it, `run` and `check` do.
BAD_MODEL = [
    Bad("no such module", _keys(model="modle:simulate"), ("modle", "execution: code")),
    Bad("no such function", _keys(model="model:simulat"), ("model:simulat", "model.py")),
    Bad("not callable", _model("simulate = 3\n"), ("model:simulate", "int", "function")),
    Bad("wrong signature", _model("def simulate():\n  pass\n"), ("model:simulate", "()", "run")),
    Bad("error on import", _model("import nowhere\n"), ("model:simulate", "nowhere")),
    Bad("error in model file", _model("def simulate(run:\n"), ("model:simulate", "SyntaxError")),
]
AFTER_A_RUN = [
    Bad("changed parameters", _id("a"), ("'a'", "parameters")),
    Bad(
        "output of another ensemble",
        _owned_by_another,
        ("somebody-else", "'tests'", "output of its own"),
    ),
    Bad("corrupt index", _corrupt_index, ("index.sqlite", "rebuild")),
]


def _check_refused(ended, bad):
    assert ended.code == 2, ended
    assert ended.out == ""
    last = ended.err.splitlines()[-1]
    assert "ensemble: error: " in ended.err
    assert "Traceback" not in ended.err
    for word in bad.words:
        assert word in ended.err, (word, ended.err)
    assert "secret" not in ended.err
    assert len(last) < 600


def _what(bad: Bad) -> str:
    return bad.what


def _check_nothing_begins(folder, cli, command, bad):
    file = write_ensemble(folder, ROWS)
    bad.spoil(folder)
    before = picture(folder)

    _check_refused(cli(command, file), bad)

    assert picture(folder) == before
    assert executions(folder) == []


@pytest.mark.parametrize("bad", [*BAD, *BAD_MODEL], ids=_what)
def test_run_refuses_bad_input_before_anything_is_there(tmp_path, cli, bad):
    _check_nothing_begins(tmp_path, cli, "run", bad)


@pytest.mark.parametrize("bad", BAD, ids=_what)
def test_register_refuses_bad_input_before_anything_is_there(tmp_path, cli, bad):
    _check_nothing_begins(tmp_path, cli, "register", bad)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, Path]:
    """Return a folder whose ensemble has run, and a copy to restore it from."""
    folder = tmp_path_factory.mktemp("ran") / "ensemble"
    assert main(["-q", "run", str(write_ensemble(folder, ROWS))]) == 0
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return folder, shutil.copytree(folder, folder.with_name("copy"))


@pytest.mark.parametrize("bad", [*BAD, *BAD_MODEL, *AFTER_A_RUN], ids=_what)
def test_bad_input_after_a_run_leaves_it_as_it_was(ran, cli, bad):
    folder, copy = ran
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    bad.spoil(folder)
    before = picture(folder)

    ended = cli("run", folder)

    _check_refused(ended, bad)
    assert picture(folder) == before
    assert len(executions(folder)) == 2


@pytest.mark.parametrize("bad", [*BAD, *BAD_MODEL], ids=_what)
def test_check_finds_bad_input_and_changes_nothing(tmp_path, cli, bad):
    file = write_ensemble(tmp_path, ROWS)
    bad.spoil(tmp_path)
    before = picture(tmp_path)

    ended = cli("check", file)

    assert ended.code == 2
    for word in bad.words:
        assert word in ended.out + ended.err
    assert "Traceback" not in ended.err
    assert picture(tmp_path) == before


# --- commands as models ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["no-such-program-at-all", "{x}"], ("no-such-program-at-all", "PATH")),
        (["./relative", "{x}"], ("./relative",)),
        (["echo", "{y}"], ("table.jsonl", "line 1", "'y'")),
        (["echo", "{x"], ("command argument", "'{x'")),
        (["echo", "{x!r}"], ("command argument", "'{x!r}'")),
    ],
)
@pytest.mark.parametrize("verb", ["run", "check"])
def test_commands_that_cannot_work(tmp_path, cli, verb, command, words):
    file = write_command_ensemble(tmp_path, ROWS, command)
    before = picture(tmp_path)

    ended = cli(verb, file)

    assert ended.code == 2
    for word in words:
        assert word in ended.out + ended.err
    assert picture(tmp_path) == before


def test_a_command_without_a_glob(tmp_path, cli):
    file = write_command_ensemble(tmp_path, ROWS, ["echo", "{x}"])
    _keys(products=["values"])(tmp_path)

    ended = cli("run", file)

    assert ended.code == 2
    assert "products.values" in ended.err
    assert "glob" in ended.err


def test_a_placeholder_that_no_column_fills_is_named_with_its_columns(tmp_path, cli):
    file = write_command_ensemble(tmp_path, ROWS, ["echo", "{temperature}"])
    with (tmp_path / "table.csv").open("w") as stream:
        csv.writer(stream).writerows([["id", "x"], ["a", 1]])
    _keys(simulations="table.csv")(tmp_path)

    ended = cli("run", file)

    assert ended.code == 2
    assert "temperature" in ended.err
    assert "table.csv" in ended.err


# --- index and chunk ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["status", "show a", "logs a", "retry --all", "cancel --all", "reconcile", "gc"]
)
def test_a_missing_index_is_not_made_by_the_way(tmp_path, cli, command):
    file = write_ensemble(tmp_path, ROWS)
    before = picture(tmp_path)

    ended = cli(*command.split(), "-f", file)

    assert ended.code == 2
    assert "index.sqlite" in ended.err
    assert "ensemble" in ended.err
    assert picture(tmp_path) == before


def test_an_interpreter_that_is_not_there(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS, execution={"python": "/no/such/python"})
    before = picture(tmp_path)

    ended = cli("run", file)

    assert ended.code == 2
    assert "/no/such/python" in ended.err
    assert picture(tmp_path) == before


def test_a_database_that_is_not_there_ends_after_bounded_retries(tmp_path, cli):
    file = write_ensemble(tmp_path, ROWS, index="postgresql://127.0.0.1:9/none")
    before = picture(tmp_path)

    ended = cli("status", file)

    assert ended.code == 2
    assert "127.0.0.1" in ended.err
    assert picture(tmp_path) == before


def _chunk_file(folder: Path) -> Path:
    return next((folder / "output" / ".ensemble" / "chunks").rglob("*.jsonl"))


@pytest.fixture
def chunk(tmp_path, cli) -> Path:
    cli("run", write_ensemble(tmp_path, ROWS))
    return _chunk_file(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[:-20], ("corrupt", "checksum")),
        (lambda text: "nonsense\n" + text, ("corrupt", "header")),
        (lambda text: text.replace('"format":1', '"format":99', 1), ("format", "99")),
        (lambda text: "", ("corrupt", "header")),
    ],
)
def test_a_corrupt_chunk(chunk, cli, tmp_path, spoil, words):
    broken = tmp_path / "broken.1.jsonl"
    broken.write_text(spoil(chunk.read_text()))

    ended = cli("push-worker", broken)

    assert ended.code == 2
    for word in ("broken.1.jsonl", *words):
        assert word in ended.err
    assert len(executions(tmp_path)) == 2


def test_a_chunk_of_another_ensemble(chunk, cli, tmp_path):
    stranger = write_ensemble(tmp_path / "other", ROWS, name="other")
    cli("run", stranger)
    moved = _chunk_file(tmp_path / "other")
    output = read_chunk(chunk).recipe.output
    foreign = tmp_path / moved.name
    foreign.write_text(moved.read_text().replace(str(tmp_path / "other" / "output"), output))
    before = picture(tmp_path / "output")

    ended = cli("push-worker", foreign)

    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert "other" in ended.err
    assert picture(tmp_path / "output") == before


def test_no_such_chunk(cli, tmp_path):
    ended = cli("push-worker", tmp_path / "none.1.jsonl")

    assert ended.code == 2
    assert "none.1.jsonl" in ended.err


# --- the command line itself ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runn"], ("runn", "'run'")),
        ([], ("no command",)),
        (["show", "nobody"], ("nobody", "ensemble.yaml")),
        (["logs", "nobody"], ("nobody",)),
        (["retry"], ("which simulations",)),
        (["retry", "a", "--all"], ("which simulations",)),
        (["retry", "a", "nobody"], ("nobody",)),
        (["retry", "--reason", "bad-luck"], ("bad-luck", "out-of-memory")),
        (["cancel", "nobody"], ("nobody",)),
        (["collect", "--format", "zarr"], ("--to",)),
        (["collect", "--to", ""], ("--to is empty",)),
        (["collect", "--to", "all.grib"], ("all.grib", ".zarr")),
        (["collect", "--product", "speed"], ("speed", "values")),
        (["status", "--index", "here"], ("--name",)),
        (["run", "--set", "novalue"], ("--set novalue", "KEY=VALUE")),
        (["run", "--set", "prameters.x=1"], ("prameters", "parameters")),
        (["run", "--first", "-1"], ("--first",)),
        (["run", "--backend", "cloud"], ("cloud", "slurm")),
    ],
)
def test_wrong_arguments(tmp_path, cli, monkeypatch, arguments, words):
    cli("run", write_ensemble(tmp_path, ROWS))
    monkeypatch.chdir(tmp_path)
    before = picture(tmp_path)

    ended = cli(*arguments)

    assert ended.code == 2
    for word in words:
        assert word in ended.err
    assert picture(tmp_path) == before


def test_no_ensemble_file_here(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)

    ended = cli("run")

    assert ended.code == 2
    assert "there is no ensemble file ensemble.yaml" in ended.err
    assert "ensemble init" in ended.err


def test_debug_shows_where_it_came_up(tmp_path, cli):
    ended = cli("run", tmp_path / "none.yaml", "--debug")

    assert ended.code == 2
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith("ensemble: error: ")
