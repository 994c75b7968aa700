"""What a real Slurm answered is read, every line of it."""

from __future__ import annotations

import pytest

from airflow_ensemble.slurm.parsing import (
    ACCOUNTING_FORMAT,
    QUEUE_FORMAT,
    parse_accounting,
    parse_queue,
)
from airflow_ensemble.slurm.states import Phase, find_meaning
from tests.slurm.recorded import Answer, cases, parse, recorded, render

PARSERS = {QUEUE_FORMAT: parse_queue, ACCOUNTING_FORMAT: parse_accounting}


def test_there_are_recordings() -> None:
    assert len(cases()) >= 28


def test_a_recording_is_read_as_it_was_written() -> None:
    answers = [Answer("a", 0, "1|2\n\n3\n", ""), Answer("b", 1, "", "no\nnever\n")]
    assert parse(render(answers)) == answers


@pytest.mark.parametrize("case", cases())
def test_every_line_is_read_and_every_word_known(case: str) -> None:
    for answer in recorded(case):
        for form, parser in PARSERS.items():
            if form in answer.command and answer.code == 0:
                rows = parser(answer.out)
                assert len(rows) == len(answer.out.splitlines())
                assert all(find_meaning(row.word).phase is not Phase.UNKNOWN for row in rows)
