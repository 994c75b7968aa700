"""In a task's log one failed simulation is one line, whatever its program said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_ensemble.engine.control import Control
from airflow_ensemble.engine.index.interface import Counts, Scope, SimulationInfo
from airflow_ensemble.engine.simulation import Reason, Simulation, Status
from airflow_ensemble.operators.collect import name_offenders
from airflow_ensemble.operators.run_chunk import failure_text

DETAILS = [
    (
        "sh ended with exit status 1: step 17\nNo space left",
        "exit status 1: step 17 | No space left",
    ),
    ("ValueError: \x1b[31mred\x07", "ValueError: red\ufffd"),
    ("ValueError: " + "9" * 2000, "…"),
]


def failed(detail: str) -> SimulationInfo:
    known: dict[str, Any] = dict.fromkeys(SimulationInfo.__dataclass_fields__)
    known.update(simulation=Simulation("a"), status=Status.FAILED, reason=Reason.ERROR)
    return SimulationInfo(**{**known, "attempt": 1, "detail": detail})


@pytest.mark.parametrize(("detail", "shown"), DETAILS)
def test_a_failed_simulation_of_a_chunk_is_one_line(detail: str, shown: str) -> None:
    text = failure_text("c-0000", Counts(failed=1), [failed(detail)], "-f x")

    head, line, *rest = text.split("\n")
    assert head == "chunk c-0000: 1 of 1 simulations failed for good"
    assert line.startswith("  a: error in attempt 1: ")
    assert shown in line
    assert line.isprintable()
    assert len(line) < 400
    assert len(rest) == 2


@pytest.mark.parametrize(("detail", "shown"), DETAILS)
def test_a_failed_simulation_of_a_batch_is_one_line(detail: str, shown: str) -> None:
    index = SimpleNamespace(simulations=lambda *_, **__: [failed(detail)])
    control = cast("Control", SimpleNamespace(index=index, key=None))

    line, *rest = name_offenders(control, Scope(), "-f x")

    assert line.startswith("a: failed, error: ")
    assert shown in line
    assert line.isprintable()
    assert len(line) < 400
    assert len(rest) == 2
