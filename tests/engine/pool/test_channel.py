"""Messages over pipes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.pool.channel import Inbox, render, send

messages = st.lists(
    st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.none()), max_size=6
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    for descriptor in (reading, writing):
        os.close(descriptor)


@given(messages, st.integers(1, 50))
def test_messages_arrive_whole_however_they_are_cut(
    sent: list[dict[str, object]], size: int
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        inbox = Inbox(reading)
        data = b"".join(map(render, sent))
        received = []
        for start in range(0, len(data), size):
            send(writing, data[start : start + size])
            received += inbox.read()
        assert received == sent
    finally:
        os.close(reading)
        os.close(writing)


def test_what_came_before_garbage_counts_and_nothing_after_it(pipe: tuple[int, int]) -> None:
    inbox = Inbox(pipe[0])
    send(pipe[1], b'{"a":1}\n\xff\x00\n{"b":2}\n')

    assert inbox.read() == [{"a": 1}]
    assert inbox.garbage is not None
    send(pipe[1], b'{"c":3}\n')
    assert inbox.read_all() == []


@pytest.mark.parametrize("line", [b"7\n", b"[]\n", b"null\n", b'{"a":\n', b"\n", b"[" * 100_000])
def test_garbage_is_recognised(pipe: tuple[int, int], line: bytes) -> None:
    inbox = Inbox(pipe[0])
    os.set_blocking(pipe[1], False)
    send(pipe[1], line[:60_000] + b"\n")
    inbox.read_all()

    assert inbox.garbage is not None


def test_the_end_is_told(pipe: tuple[int, int]) -> None:
    reading, writing = os.pipe()
    inbox = Inbox(reading)
    os.close(writing)

    assert inbox.read() == []
    assert inbox.is_over
    os.close(reading)
