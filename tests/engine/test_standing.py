"""A table against the index: what it finds, in which order, and that it only reads."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, OutputIndex, Result
from airflow_ensemble.engine.simulation import Reason, Simulation
from airflow_ensemble.engine.standing import (
    BLOCK,
    NAMED,
    Rows,
    blocks,
    in_table_order,
    look_up,
    take_standing,
)
from tests.engine.index.cases import dispatched, finished, limited, sims
from tests.engine.index.conftest import index as index
from tests.engine.index.conftest import key as key
from tests.engine.index.conftest import location as location
from tests.engine.index.conftest import new_location as new_location
from tests.ensembles import write_ensemble
from tests.services.postgres import PASSWORD


def run(index: OutputIndex, key: EnsembleKey, ids: Sequence[str], bad: Sequence[str] = ()) -> None:
    chunk = dispatched(index, key, *ids)[0].id
    index.record(
        key,
        [
            finished(one, Reason.ERROR if one.simulation.id in bad else None)
            for one in index.assignments(chunk)
        ],
    )
    index.settle(chunk)


def test_a_table_that_changed_is_told_apart(index: OutputIndex) -> None:
    key = index.define(limited(1))
    run(index, key, ["a", "b", "bad", "worse", "gone", "changed"], ["bad", "worse"])
    table = [*sims("worse", "new", "b", "a"), Simulation("changed", {"x": 1}), *sims("bad")]

    standing = take_standing(index, key, iter(table))

    assert standing.counts == Counts(complete=2, failed=2, results=2, reasons={"error": 2})
    assert (standing.total, standing.absent, standing.unregistered) == (6, 2, 1)
    assert (standing.changed, standing.changed_ids) == (1, ("changed",))
    assert standing.failed_ids == ("worse", "bad")
    assert standing.others == 1
    assert standing.extent == 6
    assert not standing.is_whole


def test_a_table_that_the_index_knows_whole(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims(*range(BLOCK + 1)), batch_key="b")
    table = sims(*reversed(range(BLOCK + 1)))

    standing = take_standing(index, key, table)

    assert standing.is_whole
    assert standing.counts == index.counts(key)
    found = list(look_up(index, key, table))
    assert [entry.id for _, entry in found if entry] == [one.id for one in table]


def test_a_table_of_which_nothing_is_known(index: OutputIndex, key: EnsembleKey) -> None:
    index.register(key, sims("old"), batch_key="b")

    standing = take_standing(index, key, sims("a", "b"))

    assert (standing.counts, standing.unregistered, standing.others) == (Counts(), 2, 1)
    assert take_standing(index, key, []).others == 1


def test_only_a_few_are_named_of_each_kind(index: OutputIndex) -> None:
    key = index.define(limited(1))
    ids = [str(number) for number in range(20)]
    run(index, key, ids, ids[:10])
    table = [*sims(*ids[:10]), *(Simulation(id, {"x": 0}) for id in ids[10:])]

    standing = take_standing(index, key, table)

    assert (len(standing.failed_ids), len(standing.changed_ids)) == (NAMED, NAMED)
    assert (standing.counts.failed, standing.changed) == (10, 10)


def test_comparing_needs_no_right_to_write(
    index: OutputIndex, key: EnsembleKey, location: str, read_only: Callable[[str], str]
) -> None:
    run(index, key, ["a", "b"])
    reader = open_index(read_only(location))
    try:
        standing = take_standing(reader, key, sims("b", "new"))
    finally:
        reader.close()

    assert (standing.counts.complete, standing.unregistered, standing.others) == (1, 1, 1)


@pytest.fixture
def read_only(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return what turns the location of an index into one through which nobody can write.

    A role of PostgreSQL that may only read, and may not make temporary tables either.
    """

    def as_reader(location: str) -> str:
        if "://" not in location:
            request.getfixturevalue("monkeypatch").setattr(
                "airflow_ensemble.engine.index.sqlite.SqliteDatabase.transact", _refuse
            )
            return location
        import psycopg

        role = f"reader_{secrets.token_hex(4)}"
        with psycopg.connect(location, autocommit=True) as server:
            for text in (
                f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'",
                f"REVOKE TEMPORARY ON DATABASE {server.info.dbname} FROM PUBLIC",
                f"GRANT USAGE ON SCHEMA airflow_ensemble TO {role}",
                f"GRANT SELECT ON ALL TABLES IN SCHEMA airflow_ensemble TO {role}",
            ):
                server.execute(text.encode())
        return location.replace("//ensemble:", f"//{role}:")

    return as_reader


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("nothing is to be written")


# --- plain values ---------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5000)), st.lists(st.integers(0, 5000)))
def test_rows_hold_what_was_added_and_nothing_else(added: list[int], asked: list[int]) -> None:
    rows = Rows()
    for position in added:
        rows.add(position)

    assert [position in rows for position in asked] == [
        position in set(added) for position in asked
    ]
    assert all(position in rows for position in added)


@given(st.lists(st.integers()), st.integers(1, 7))
def test_blocks_hold_all_in_order(items: list[int], size: int) -> None:
    found = list(blocks(iter(items), size))

    assert [item for block in found for item in block] == items
    assert all(len(block) == size for block in found[:-1])
    assert all(found)


def test_results_are_put_in_the_order_of_the_table(tmp_path: Path) -> None:
    file = write_ensemble(tmp_path, [{"id": id} for id in ("c", "a", "1.10", "b")])
    results = [Result(id, {}, 1, ()) for id in ("a", "left", "b", "1.10", "older", "c")]

    with open_control(load(file), create=True) as control:
        ordered = in_table_order(control, iter(results))

    assert [one.id for one in ordered] == ["c", "a", "1.10", "b", "left", "older"]
