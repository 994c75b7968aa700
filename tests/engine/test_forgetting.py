"""Records of what was forgotten outlive the index, and no late outcome gets past them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine import forgetting
from airflow_ensemble.engine.batch import dispatch, register, verdict
from airflow_ensemble.engine.control import Control, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.errors import IndexUnavailable
from airflow_ensemble.engine.forgetting import forget, parse, read_forgotten, render
from airflow_ensemble.engine.index.interface import Entry, Scope
from airflow_ensemble.engine.index.output_index import DatabaseIndex
from airflow_ensemble.engine.ingest import ingest
from airflow_ensemble.engine.segment import Finished, Header
from airflow_ensemble.engine.segment import render as render_segment
from airflow_ensemble.engine.simulation import Outcome, Product, ProductStatus, Reason, Status
from airflow_ensemble.engine.storage import forgotten_name, segment_name
from airflow_ensemble.engine.upkeep import rebuild
from tests.engine.index.cases import finished
from tests.ensembles import write_ensemble
from tests.test_lost_index import lose_index

IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+=@,:~-]{0,20}", fullmatch=True)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    file = write_ensemble(tmp_path, [{"id": id} for id in ("a", "b", "c")], max_attempts=1)
    with open_control(load(file), create=True) as opened:
        yield opened


def entries(control: Control, *ids: str) -> list[Entry]:
    return list(control.index.entries(control.key, Scope(ids=ids)))


def late_outcome(control: Control, chunk: str, id: str, attempt: int) -> None:
    """Write what a worker that was thought dead appends to its segment."""
    header = Header("tests", control.key.settings_hash, control.index.uuid, chunk, "t", "host", 1)
    product = Product("values", ProductStatus.COMPLETE, "late/file", 1, "sha256:0")
    outcome = Outcome(id, attempt, "t", products=(product,), started=1.0, host="host")
    lines = render_segment(header) + render_segment(Finished(outcome))
    control.root.write_text(segment_name(control.hash8, chunk, 1, "t"), lines)


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_late_outcome_brings_nothing_back(control: Control, comes_back: bool) -> None:
    batch = register(control, "first").batch
    [chunk] = dispatch(control, batch, n_chunks=1)
    control.index.settle(chunk.id)
    assert forget(control, entries(control, "a")) == 1
    if comes_back:
        again = register(control, "again").batch
        dispatch(control, again, n_chunks=1)
    late_outcome(control, chunk.id, "a", attempt=1)

    assert ingest(control) == 0

    info = control.index.simulation(control.key, "a")
    if not comes_back:
        assert info is None
    else:
        assert info is not None
        assert (info.status, info.attempt, info.products) == (Status.DISPATCHED, 2, ())


def test_an_older_batch_is_judged_by_what_is_left(control: Control) -> None:
    batch = register(control, "night").batch
    [chunk] = dispatch(control, batch, n_chunks=1)
    records = [
        finished(one, Reason.ERROR if one.simulation.id == "b" else None)
        for one in control.index.assignments(chunk.id)
    ]
    control.index.record(control.key, records)
    control.index.settle(chunk.id)
    assert not verdict(control.index.counts(control.key, Scope(batch=batch))).ok

    forget(control, entries(control, "b"))

    judged = verdict(control.index.counts(control.key, Scope(batch=batch)))
    assert judged.ok
    assert judged.message == "2 complete (0 empty), 0 failed, 0 unfinished of 2"


def test_what_was_stopped_half_way_is_done_by_the_same_call(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(control, "first")
    monkeypatch.setattr(forgetting, "BLOCK", 1)
    real, calls = DatabaseIndex.forget, []

    def lost(self: DatabaseIndex, *arguments: object) -> int:
        calls.append(arguments)
        if len(calls) == 2:
            raise IndexUnavailable("it is gone")
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(DatabaseIndex, "forget", lost)
    with pytest.raises(IndexUnavailable):
        forget(control, entries(control, "a", "b", "c"))
    assert control.index.counts(control.key).total == 2

    assert forget(control, entries(control, "a", "b", "c")) == 2
    assert control.index.counts(control.key).total == 0


def test_a_broken_line_hides_no_other(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    lines = [render({"a": 1}), '{"record": "forgot', "\n", render({"b": 0})]
    control.root.write_text(forgotten_name(control.hash8, "x"), "".join(lines))

    with caplog.at_level(logging.WARNING):
        assert list(read_forgotten(control)) == [{"a": 1}, {"b": 0}]

    assert "passed over an unreadable line" in caplog.text


def test_a_new_index_reads_the_record_before_the_table(tmp_path: Path, control: Control) -> None:
    register(control, "first")
    [chunk] = dispatch(control, register(control, "first").batch, n_chunks=1)
    control.index.settle(chunk.id)
    forget(control, entries(control, "a"))
    control.index.close()
    lose_index(tmp_path)

    with open_control(control.ensemble, create=True) as again:
        rebuild(again)
        [entry] = entries(again, "a")

    assert (entry.status, entry.attempt) == (Status.PENDING, 1)


@given(st.dictionaries(IDS, st.integers(0, 2**31 - 1), max_size=5))
def test_a_record_says_what_was_written(attempts: dict[str, int]) -> None:
    assert parse(render(attempts).encode()) == attempts


@given(st.binary())
def test_no_bytes_are_an_error(line: bytes) -> None:
    assert parse(line) is None or isinstance(parse(line), dict)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b'{"record": "outcome", "attempts": {"a": 1}}',
        b'{"record": "forgotten", "attempts": {"a": 1.5}}',
        b'{"record": "forgotten", "attempts": {"a": true}}',
        b'{"record": "forgotten", "attempts": {"a": -1}}',
        b'{"record": "forgotten", "attempts": {"a": 4294967296}}',
        b'{"record": "forgotten", "attempts": {"no id\\u0000": 1}}',
        b'{"record": "forgotten", "attempts": ["a"]}',
        b'{"record": "forgotten"}',
    ],
)
def test_what_is_no_record_is_told(line: bytes) -> None:
    assert parse(line) is None
