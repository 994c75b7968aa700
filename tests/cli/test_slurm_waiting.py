"""How ``ensemble run`` asks and looks: against a fake of Slurm's commands, and in numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.cli.slurm.waiting import QUICKEST, pause_before_look
from tests.ensembles import write_ensemble
from tests.slurm.fake_slurm import FakeSlurm

#: Longest pauses between two looks, in seconds; more often than ``QUICKEST`` nobody needs to look.
longest_pauses = st.floats(QUICKEST, 60)


def test_a_submission_asks_the_site_once(cli, tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", fake.environment["PATH"])
    file = write_ensemble(tmp_path / "e", [{"id": "a"}], execution={"backend": "slurm"})

    ended = cli("run", "-f", file)

    assert ended.code == 0, ended.err
    assert "submitted 1 array element" in ended.out
    assert fake.calls("scontrol") == ["show config"]


@given(last=longest_pauses, rest=st.none() | st.floats(0, 1e6), longest=longest_pauses)
def test_a_pause_is_never_longer_than_asked_nor_a_busy_loop(last, rest, longest):
    assert QUICKEST <= pause_before_look(last, rest, longest) <= longest


def test_the_last_simulation_is_not_slept_through():
    assert pause_before_look(last=10, seconds_left=0.9, longest=10) == 0.9


def test_looks_slacken_while_a_straggler_runs():
    pauses = [QUICKEST]
    while pauses[-1] < 10:
        pauses.append(pause_before_look(pauses[-1], None, 10))
    assert pauses == sorted(pauses)
    assert 8 <= len(pauses) <= 12
    assert pauses[1] == pytest.approx(1.5 * QUICKEST)
