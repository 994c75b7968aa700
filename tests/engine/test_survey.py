"""Looking at many files: in parts, in processes, and always the same answer."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from airflow_ensemble.engine import survey
from airflow_ensemble.engine.errors import EnsembleError
from airflow_ensemble.engine.survey import Misfit, Summary, survey_here


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Write files that differ in most of what a summary knows."""
    contents = [
        xr.Dataset({"v": ("x", np.array([1, 2], "i4"))}, {"x": [0, 1]}, {"of": "all"}),
        xr.Dataset({"v": ("x", [0.5, 2.5])}, {"x": [2.0, 1.0]}, {"of": "all"}),
        xr.Dataset({"w": ("y", ["a", "b"])}, attrs={"of": "all", "more": 1}),
        xr.Dataset({"v": ("x", [1, 2])}, {"x": [0, 1]}, {"of": "all"}),
        xr.Dataset({"v": ("x", [1]), "w": ("y", ["c"])}, {"x": [7]}, {"of": "all"}),
    ]
    found = []
    for number, content in enumerate(contents):
        found.append(tmp_path / f"{number}.nc")
        content.to_netcdf(found[-1])
    return found


def shown(summary: Summary) -> str:
    """Everything that a summary knows, in one order."""
    parts = [summary.first, sorted(summary.attrs.items()), sorted(summary.mappings.items())]
    for name, facts in sorted(summary.dimensions.items()):
        parts.append((name, sorted(facts.sizes.items()), facts.bare, facts.lacking))
    for name, known in sorted(summary.variables.items()):
        values = known.values
        parts.append((name, sorted(known.dims.items()), sorted(known.types.items())))
        parts.append((known.is_data, known.lacking, known.checked, sorted(known.attrs)))
        if values is not None:
            joined = None if values.joined is None else values.joined.tolist()
            parts.append((sorted(values.digests.values()), values.values.tolist(), joined))
    return repr(parts)


@pytest.mark.parametrize("join", [False, True])
def test_parts_merge_to_the_same_summary_whatever_they_are(paths: list[Path], join: bool) -> None:
    files = list(enumerate(paths))
    whole = shown(survey_here(files, join=join))
    for order in itertools.islice(itertools.permutations(files), 0, None, 17):
        for cut in (1, 3):
            one, other = (survey_here(part, join=join) for part in (order[:cut], order[cut:]))
            one.merge(other)
            assert shown(one) == whole


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few files be many."""
    monkeypatch.setattr(survey, "FILES_A_PROCESS", 2)
    monkeypatch.setattr(survey, "BATCH", 2)


def fetcher(paths: list[Path]) -> Callable[[int], Path]:
    return lambda number: paths[number]


@pytest.mark.usefixtures("many")
def test_processes_find_what_this_one_finds(paths: list[Path]) -> None:
    beside = survey.survey(range(5), fetcher(paths), join=True, processes=2)
    assert shown(beside) == shown(survey_here(enumerate(paths), join=True))


@pytest.mark.usefixtures("many")
def test_a_file_that_a_process_cannot_read_is_told_by_its_number(paths: list[Path]) -> None:
    paths[3].write_bytes(b"garbage")
    with pytest.raises(Misfit, match="cannot be read") as caught:
        survey.survey(range(5), fetcher(paths), join=False, processes=2)
    assert caught.value.number == 3


@pytest.mark.usefixtures("many")
def test_a_file_that_cannot_be_fetched_ends_all(paths: list[Path]) -> None:
    paths[3].unlink()
    with pytest.raises(FileNotFoundError, match=r"3\.nc"):
        survey.survey(
            range(5), lambda number: paths[number].resolve(strict=True), join=False, processes=2
        )


@pytest.mark.usefixtures("many")
def test_a_process_that_dies_is_an_error(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_BESIDE", "import os; os._exit(9)")
    with pytest.raises(EnsembleError, match="has died"):
        survey.survey(range(5), fetcher(paths), join=False, processes=2)


@pytest.mark.usefixtures("many")
def test_the_callers_own_program_is_not_run_again(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules["__main__"], "__file__", str(tmp_path / "nothing.py"), raising=False
    )
    assert survey.survey(range(5), fetcher(paths), join=False, processes=2).first == 0
