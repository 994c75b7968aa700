from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.segment import parse, render
from tests.engine import strategies


@given(st.lists(strategies.records, max_size=6))
def test_records_survive(records):
    data = "".join(render(record) for record in records).encode()
    reading = parse(data)
    assert list(reading.records) == records
    assert (reading.consumed, reading.torn, reading.garbled) == (len(data), 0, 0)


@given(st.lists(strategies.records, min_size=1, max_size=5), st.data())
def test_a_torn_tail_is_no_record_yet_and_reading_goes_on_from_there(records, data):
    whole = "".join(render(record) for record in records).encode()
    cut = data.draw(st.integers(0, len(whole)))
    first = parse(whole[:cut])
    assert first.consumed + first.torn == cut
    assert first.garbled == 0
    second = parse(whole[first.consumed :])
    assert [*first.records, *second.records] == records


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_exception(data):
    reading = parse(data)
    assert reading.consumed + reading.torn == len(data)


@given(strategies.finished, st.sampled_from([b"\0\0\0\n", b'{"record":"new"}\n', b"[]\n", b"{}\n"]))
def test_a_garbled_line_hides_nothing_behind_it(finished, garbage):
    reading = parse(garbage + render(finished).encode())
    assert reading.garbled == 1
    assert reading.records == (finished,)
