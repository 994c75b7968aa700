"""Outcomes come into the index without an ensemble file, by one listing of the output root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_ensemble.engine import segment, storage
from airflow_ensemble.engine.control import Control, Ledger, open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.engine.index.interface import ChunkInfo, EnsembleKey
from airflow_ensemble.engine.ingest import ingest
from airflow_ensemble.engine.segment import Header
from airflow_ensemble.engine.simulation import Status
from airflow_ensemble.engine.storage import LocalRoot, OutputRoot, open_root
from tests.engine.index.cases import finished, started
from tests.ensembles import write_ensemble


class CountingRoot(LocalRoot):
    """A local root that counts what it is asked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.listed: list[str] = []
        self.was_read: list[str] = []

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self.listed.append(prefix)
        return super().list(prefix)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.was_read.append(name)
        return super().read(name, offset, length)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    rows = [{"id": f"s{n}"} for n in range(6)]
    root = CountingRoot(tmp_path / "output")
    ensemble = load(write_ensemble(tmp_path, rows))
    with open_control(ensemble, create=True, root=root) as control:
        control.index.define(control.recipe)
        yield control


def dispatched(control: Control, batch_key: str, first: int, last: int) -> list[ChunkInfo]:
    rows = list(control.ensemble.read_simulations())[first:last]
    batch = control.index.register(control.key, rows, batch_key=batch_key).batch
    return control.index.dispatch(control.key, batch, backend="slurm", n_chunks=2)


def write_segment(control: Control, chunk: ChunkInfo, index: str | None = None) -> str:
    """Write what a worker that completes the whole chunk does."""
    assignments = control.index.assignments(chunk.id)
    header = Header(
        ensemble="tests",
        settings_hash=control.recipe.settings.hash,
        index=index or control.index.uuid,
        writer=chunk.id,
        token="t",
        host="host",
        pid=1,
    )
    records = [header, *(r for one in assignments for r in (started(one), finished(one)))]
    name = storage.segment_name(control.hash8, chunk.id, chunk.submission, "t")
    append(control.root, name, "".join(map(segment.render, records)))
    return name


def append(root: OutputRoot, name: str, text: str) -> None:
    appender = root.append(name)
    appender.write(text.encode())
    appender.close()


def root_of(control: Control) -> CountingRoot:
    assert isinstance(control.root, CountingRoot)
    return control.root


def test_a_given_root_is_used(control: Control, tmp_path: Path) -> None:
    assert isinstance(control.root, CountingRoot)
    with open_control(control.ensemble) as other:
        assert type(other.root) is LocalRoot
        assert other.hash8 == control.hash8 == control.key.settings_hash[:8]


def test_a_ledger_needs_no_ensemble_file(control: Control, tmp_path: Path) -> None:
    for chunk in dispatched(control, "b", 0, 6):
        write_segment(control, chunk)
    (tmp_path / "ensemble.yaml").unlink()
    key = EnsembleKey(control.key.number, control.key.name, control.key.settings_hash)
    ledger = Ledger(control.index, key, open_root(tmp_path / "output"))
    assert ingest(ledger) == 6
    assert ingest(ledger) == 0
    assert control.index.counts(key).complete == 6


def test_one_chunk_or_one_batch_is_brought_in_alone(control: Control) -> None:
    mine, theirs = dispatched(control, "mine", 0, 4), dispatched(control, "theirs", 4, 6)
    for chunk in (*mine, *theirs):
        write_segment(control, chunk)
    assert ingest(control, mine[0].id) == 2
    assert ingest(control, batch=mine[0].batch) == 2
    statuses = [info.status for info in control.index.simulations(control.key)]
    assert statuses == [Status.COMPLETE] * 4 + [Status.DISPATCHED] * 2
    assert ingest(control) == 2


def test_however_many_chunks_the_root_is_listed_once(control: Control) -> None:
    for n in range(3):
        for chunk in dispatched(control, str(n), 2 * n, 2 * n + 2):
            write_segment(control, chunk)
    root = root_of(control)
    assert ingest(control) == 6
    assert len(root.listed) == 1
    # A segment of which a part is known is read from there on, and not looked at from its head.
    root.was_read.clear()
    chunk = dispatched(control, "0", 0, 2)[0]
    name = storage.segment_name(control.hash8, chunk.id, 1, "t")
    append(root, name, '{"record":"unknown"}\n')
    fresh = Ledger(control.index, control.key, root)
    assert ingest(fresh) == 0
    assert root.was_read == [name]


def test_what_another_index_gave_out_does_not_count(control: Control) -> None:
    (first, second) = dispatched(control, "b", 0, 6)
    write_segment(control, first, index="another")
    write_segment(control, second)
    assert ingest(control) == 3
    assert control.index.counts(control.key).dispatched == 3


def test_however_many_segments_one_transaction_records_them(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[tuple[int, list[str]]] = []
    record = control.index.record

    def counting(key: EnsembleKey, records: Any, *, offsets: Any = None) -> int:
        recorded.append((len(records), sorted(offsets)))
        return record(key, records, offsets=offsets)

    monkeypatch.setattr(control.index, "record", counting)
    names = [write_segment(control, chunk) for chunk in dispatched(control, "b", 0, 6)]
    assert ingest(control) == 6
    assert recorded == [(12, sorted(names))]

    # But never much more than is read of one segment.
    monkeypatch.setattr("airflow_ensemble.engine.ingest.READ_SIZE", 100)
    more = [write_segment(control, chunk) for chunk in dispatched(control, "b", 0, 6)]
    assert set(more) == set(names)
    assert ingest(control) == 0
    assert len(recorded) > 3


def test_a_segment_that_cannot_be_read_keeps_nothing_else_out(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = sorted(write_segment(control, chunk) for chunk in dispatched(control, "b", 0, 6))
    read = control.root.read

    def failing(name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name == bad:
            raise storage.StorageError("stale file handle")
        return read(name, offset, length)

    monkeypatch.setattr(control.root, "read", failing)
    with pytest.raises(storage.StorageError, match="stale"):
        ingest(control)
    assert control.index.counts(control.key).complete == 3
    assert set(control.index.offsets(control.key)) == {good}
    monkeypatch.undo()
    assert ingest(control) == 3
