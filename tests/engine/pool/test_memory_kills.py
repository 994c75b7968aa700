"""Evidence of the kernel's out-of-memory killer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from airflow_ensemble.engine.pool.memory_kills import MemoryKills, count_kills, counter_files


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The three forms in which kernels count."""
    vmstat, events, control = (tmp_path / name for name in ("vmstat", "events", "control"))
    vmstat.write_text("nr_free_pages 1000\noom_kill 4\noom_kill_x 9\n")
    events.write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n")
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    return [vmstat, events, control]


def test_all_forms_are_counted(files: list[Path]) -> None:
    assert count_kills(files) == 7


def test_a_file_that_is_gone_counts_nothing(files: list[Path]) -> None:
    files[0].unlink()
    assert count_kills(files) == 3


def test_this_machine_has_a_counter() -> None:
    assert Path("/proc/vmstat") in counter_files()


def test_only_kills_since_a_moment_are_evidence(files: list[Path]) -> None:
    kills = MemoryKills(files)
    before = time.monotonic()
    assert not kills.happened_since(before)
    files[1].write_text("oom_kill 3\n")
    assert kills.happened_since(before)
    assert not kills.happened_since(time.monotonic())
