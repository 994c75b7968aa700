from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from pathlib import Path

import arlmet
import pytest

from airflow_ensemble.models import ideal_met


def test_a_day_is_whole_and_says_that_it_is_idealised(tmp_path: Path) -> None:
    path = ideal_met.write_ideal_day(tmp_path, date(2026, 6, 1))
    assert path.name == "ideal_20260601.arl"
    with arlmet.File(path) as file:
        assert file.source == ideal_met.SOURCE == "IDEA"
        assert file.check() == []
        assert len(file.times) == 24
        assert str(file.times[0]) == "2026-06-01 00:00:00"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_day_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    path = ideal_met.write_ideal_day(tmp_path, date(2026, 6, 1))
    before = path.stat()
    start = time.perf_counter()
    assert ideal_met.write_ideal_day(tmp_path, date(2026, 6, 1)) == path
    assert time.perf_counter() - start < 0.1
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_writers_of_one_day_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        paths = set(
            pool.map(lambda _: ideal_met.write_ideal_day(tmp_path, date(2026, 6, 1)), "abc")
        )
    (path,) = paths
    other = ideal_met.write_ideal_day(tmp_path / "again", date(2026, 6, 1))
    assert path.read_bytes() == other.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == [path.name]


def test_a_run_across_midnight_gets_both_days(tmp_path: Path) -> None:
    files = ideal_met.write_ideal_days(
        tmp_path, datetime(2026, 5, 31, 22), datetime(2026, 6, 1, 1, 30)
    )
    assert [file.name for file in files] == ["ideal_20260531.arl", "ideal_20260601.arl"]


def test_the_boundary_layer_grows_by_day_and_the_wind_turns() -> None:
    night, noon = ideal_met.state(8), ideal_met.state(20)
    assert night.depth < 250 < 1000 < noon.depth
    assert night.heat_flux < 0 < noon.heat_flux
    assert abs(night.direction - noon.direction) > 0.5
    surface, levels = ideal_met.fields(20)
    assert surface["PRSS"].shape == levels[0]["UWND"].shape
    assert all(abs(level["UWND"]).max() < 20 for level in levels)


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ideal_met.cache_directory().is_relative_to(tmp_path)
