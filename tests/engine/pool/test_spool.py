"""Logs: cut at their limit, and split by simulation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.pool import spool
from airflow_ensemble.engine.pool.spool import LogReader, Spool, end_mark

SECRET = "00ab"
# Outputs that look much like the mark itself.
outputs = st.lists(
    st.sampled_from([b"\0", b"\0\0", SECRET.encode(), b"00", b"a", b"line\n", b"\0" + b"00ab"]),
    max_size=6,
).map(b"".join)
outputs = outputs.filter(lambda data: end_mark(SECRET) not in data + b"\0" + data)


@given(st.lists(outputs, min_size=1, max_size=5), st.data())
def test_logs_are_split_wherever_the_stream_is_cut(logs: list[bytes], data: st.DataObject) -> None:
    stream = end_mark(SECRET).join(logs) + end_mark(SECRET)
    if stream.count(end_mark(SECRET)) != len(logs) or stream.split(end_mark(SECRET))[:-1] != logs:
        return  # an output that runs into the mark: a secret of 32 digits rules that out
    reader = LogReader(Path(tempfile.gettempdir()), SECRET)
    rest = stream
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        reader.write(rest[:size])
        rest = rest[size:]

    assert [reader.take().read() for _ in logs] == logs
    assert not reader.take()


def test_what_a_dead_process_printed_is_taken_without_a_mark(tmp_path: Path) -> None:
    reader = LogReader(tmp_path, SECRET)
    reader.write(b"last words\0" + SECRET[:2].encode())

    assert reader.take().read() == b"last words\0" + SECRET[:2].encode()


def test_the_limit_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MAX_LOG", 10)
    log = Spool(tmp_path)
    log.write(b"0123456")
    log.write(b"789abc")
    log.write(b"def")

    assert log.read().startswith(b"0123456789\n[output truncated: 6 bytes")


def test_the_last_line_skips_blank_ones(tmp_path: Path) -> None:
    log = Spool(tmp_path)
    assert log.last_line() == ""
    log.write(b"first\nERROR: diverged\n\n  \n")
    assert log.last_line() == "ERROR: diverged"
    log.write(b"more\n")
    assert log.read().endswith(b"more\n")


def test_the_last_words_are_there_though_the_limit_was_passed_long_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MAX_LOG", 10)
    log = Spool(tmp_path)
    for part in (b"beginning and ", b"x" * spool.MAX_END, b"\nout of ", b"memory\n"):
        log.write(part)

    assert log.last_line() == "out of memory"
    log.write(b"more\n")
    assert log.last_words() == "out of memory\nmore"


def test_the_last_words_reach_over_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MAX_LOG", 10)
    log = Spool(tmp_path)
    log.write(b"no space left on device\n")

    assert log.last_words() == "no space left on device"
