"""An index that was lost, or another one, must neither cost finished work nor take a stranger's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_ensemble.engine.batch import dispatch, register
from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.ingest import ingest
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.segment import Finished, Header, Started, render
from airflow_ensemble.engine.simulation import Outcome, Product, ProductStatus
from airflow_ensemble.engine.storage import segment_head, segment_name
from tests.cli.conftest import Cli, picture
from tests.cli.conftest import cli as cli
from tests.ensembles import executions, write_ensemble
from tests.services.s3 import S3Server

ROWS = [{"id": "a", "x": 1}, {"id": "b", "x": 2}]


def lose_index(folder: Path) -> None:
    for path in (folder / "output" / ".ensemble").glob("index.sqlite*"):
        path.unlink()


@pytest.mark.parametrize("command", ["run", "run --dry-run", "run --no-skip", "register", "check"])
def test_nothing_begins_anew_where_results_lie_already(
    tmp_path: Path, cli: Cli, command: str
) -> None:
    file = write_ensemble(tmp_path, ROWS)
    assert cli("run", file).code == 0
    lose_index(tmp_path)
    before = picture(tmp_path)

    ended = cli(*command.split(), file)

    assert ended.code == 2
    said = ended.out + ended.err
    assert str(tmp_path / "output") in said
    assert "`ensemble rebuild`" in said
    assert picture(tmp_path) == before
    assert cli("rebuild", file).code == 0
    assert "2 complete already" in cli("run", file).err
    assert len(executions(tmp_path)) == 2


def test_another_index_is_not_filled_beside_the_old_one(tmp_path: Path, cli: Cli) -> None:
    file = write_ensemble(tmp_path, ROWS)
    assert cli("run", file).code == 0

    ended = cli("run", file, "--set", f"index={tmp_path / 'other.sqlite'}")

    assert ended.code == 2
    assert "'index' names another one" in ended.err
    assert not (tmp_path / "other.sqlite").exists()
    assert len(executions(tmp_path)) == 2


def test_changed_settings_begin_anew_beside_the_old_results(tmp_path: Path, cli: Cli) -> None:
    file = write_ensemble(tmp_path, ROWS)
    assert cli("run", file).code == 0
    assert cli("run", file, "--set", "seed=8").code == 0
    assert len(executions(tmp_path)) == 4


@pytest.mark.parametrize("is_numbered", [False, True], ids=["file", "objects"])
def test_outcomes_for_another_index_do_not_count(tmp_path: Path, is_numbered: bool) -> None:
    """Each index counts attempts from 1: the outcome of the other's first is not that of ours."""
    file = write_ensemble(tmp_path, ROWS)
    with open_control(load(file), create=True) as control:
        registration = register(control, "ours")
        [chunk] = dispatch(control, registration.batch, n_chunks=1)
        for uuid, counted in (("of-another-index", 0), (control.index.uuid, 1)):
            write_segment(control.root.path, control.recipe, uuid, chunk.id, is_numbered)
            assert ingest(control) == counted
            assert ingest(control) == 0
        assert control.index.counts(control.key).complete == 1


def write_segment(output: Path, recipe: Recipe, uuid: str, writer: str, is_numbered: bool) -> None:
    """Write what a worker for an index would: a header, and ``a`` complete."""
    hash8, settings = recipe.hash8, recipe.settings
    token = f"{abs(hash(uuid)) % 16**10:010x}"
    header = Header("tests", settings.hash, uuid, writer, token, "host", 1)
    product = Product("values", ProductStatus.COMPLETE, "some/file", 1, "sha256:0")
    outcome = Outcome("a", 1, f"{token}-1", products=(product,), started=1.0, host="host")
    lines = [render(Started("a", 1, f"{token}-1", 1.0, "host")), render(Finished(outcome))]
    path = output / segment_name(hash8, writer, 1, token)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_numbered:
        path.write_text(render(header) + "".join(lines))
        return
    for number, text in enumerate((render(header), "".join(lines)), 1):
        path.with_suffix(f".{number:04d}.jsonl").write_text(text)


def test_the_header_is_in_the_first_object_of_a_segment() -> None:
    name = segment_name("12345678", "host.0123456789", 0, "abcdefabcd")
    assert segment_head(name) == name
    assert segment_head(name.replace(".jsonl", ".0017.jsonl")) == name.replace(
        ".jsonl", ".0001.jsonl"
    )


def test_a_lost_index_over_an_object_store(tmp_path: Path, cli: Cli, s3: S3Server) -> None:
    file = write_ensemble(
        tmp_path, ROWS, output=f"{s3.make_bucket()}/some/where", control="control"
    )
    assert cli("run", file).code == 0
    for path in (tmp_path / "control").glob("index.sqlite*"):
        path.unlink()

    refused = cli("run", file)
    assert refused.code == 2
    assert "`ensemble rebuild`" in refused.err
    assert cli("rebuild", file).code == 0
    counts = json.loads(cli("status", file, "--json").out)["counts"]
    assert counts["complete"] == 2
    assert cli("run", file).code == 0
    assert len(executions(tmp_path)) == 2


def test_what_was_forgotten_over_an_object_store_stays_forgotten(
    tmp_path: Path, cli: Cli, s3: S3Server
) -> None:
    file = write_ensemble(
        tmp_path, ROWS, output=f"{s3.make_bucket()}/some/where", control="control"
    )
    assert cli("run", file).code == 0
    (tmp_path / "table.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert cli("forget", "--yes", "-f", file).out.startswith("forgot 1 simulation;")
    assert cli("gc", file).out.startswith("removed 1 file ")
    for path in (tmp_path / "control").glob("index.sqlite*"):
        path.unlink()

    assert cli("rebuild", file).code == 0

    counts = json.loads(cli("status", file, "--all", "--json").out)["counts"]
    assert (counts["total"], counts["complete"]) == (1, 1)
