from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.chunk import (
    Assignment,
    Chunk,
    parse_chunk,
    read_chunk,
    render_chunk,
    write_chunk,
)
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.recipe import Recipe, Settings
from airflow_ensemble.engine.simulation import Simulation
from tests.engine import strategies

CHUNK = Chunk(
    index="u",
    batch="b",
    id="b-0000",
    submission=1,
    recipe=Recipe("e", Settings(model="m:f"), "/out"),
    assignments=(Assignment(Simulation("one", {"x": 1}), 1), Assignment(Simulation("two"), 2)),
)


@given(strategies.chunks)
def test_chunk_survives_its_file_format(chunk):
    assert parse_chunk(render_chunk(chunk)) == chunk


@given(st.data())
def test_any_changed_or_missing_byte_of_the_body_is_noticed(data):
    text = render_chunk(CHUNK)
    body = text.index("\n") + 1
    cut = data.draw(st.integers(body, len(text) - 1))
    with pytest.raises(UsageError, match="corrupt"):
        parse_chunk(text[:cut])
    changed = text[:cut] + chr(ord(text[cut]) ^ 1) + text[cut + 1 :]
    with pytest.raises(UsageError, match="corrupt"):
        parse_chunk(changed)


@given(st.text(max_size=200))
def test_anything_else_is_refused_as_no_chunk(text):
    with pytest.raises(UsageError):
        parse_chunk(text)


def test_a_later_format_is_refused_with_advice():
    text = render_chunk(CHUNK).replace('"format":1', '"format":9')
    with pytest.raises(UsageError, match=r"format 9.*version"):
        parse_chunk(text)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "c.jsonl"
    with pytest.raises(UsageError, match=r"c\.jsonl cannot be read"):
        read_chunk(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"c\.jsonl"):
        read_chunk(path)


def test_a_chunk_file_never_changes(tmp_path):
    path = write_chunk(tmp_path / "new", CHUNK)
    assert read_chunk(path) == CHUNK
    assert write_chunk(tmp_path / "new", CHUNK) == path
    other = dataclasses.replace(CHUNK, assignments=CHUNK.assignments[:1])
    with pytest.raises(UsageError, match="never overwritten"):
        write_chunk(tmp_path / "new", other)
    assert read_chunk(path) == CHUNK
    assert [p.name for p in path.parent.iterdir()] == ["b-0000.1.jsonl"]
