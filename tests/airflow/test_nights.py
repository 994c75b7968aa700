"""Nights that hand their own tables to one ensemble: each is judged and collected by its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from airflow.sdk import DAG

from airflow_ensemble.engine.control import open_control
from airflow_ensemble.engine.ensemble import load
from airflow_ensemble.task_groups.ensemble import EnsembleTaskGroup
from airflow_ensemble.task_groups.local import Local
from tests.ensembles import write_ensemble

MODEL = """
    import xarray as xr

    def simulate(run):
        if run.params["x"] < 0:
            raise ValueError("no luck")
        return {"values": xr.Dataset({"v": float(run.params["x"])})}
"""


@pytest.fixture
def night(run_dag: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[str, Any]]:
    """Run one night: return its state and what its dataset holds, None without one."""
    path = write_ensemble(tmp_path, [], model=MODEL, max_attempts=1)

    def run(name: str, *rows: tuple[str, float]) -> tuple[str, Any]:
        table = tmp_path / f"{name}.jsonl"
        table.write_text("".join(json.dumps({"id": id, "x": x}) + "\n" for id, x in rows))
        target = tmp_path / f"{name}.nc"
        with DAG("nights", schedule=None) as dag:
            EnsembleTaskGroup(
                "e", ensemble=str(path), simulations=str(table), backend=Local(), to=str(target)
            )
        state = run_dag(dag).state
        if not target.exists():
            return state, None
        with xr.open_dataset(target) as dataset:
            return state, dict(zip(dataset["simulation"].values, dataset["values"].values))

    return run


def test_each_night_is_judged_and_collected_by_its_own_table(
    night: Callable[..., tuple[str, Any]], tmp_path: Path
) -> None:
    assert night("first", ("a", 1), ("bad", -1), ("b", 2)) == ("failed", None)

    state, second = night("second", ("c", 3), ("b", 2), ("a", 1))

    assert state == "success"
    assert list(second.items()) == [("c", 3.0), ("b", 2.0), ("a", 1.0)]
    assert night("third", ("d", 4)) == ("success", {"d": 4.0})
    with open_control(load(tmp_path / "ensemble.yaml")) as control:
        counts = control.index.counts(control.key)
    assert (counts.total, counts.failed) == (5, 1)  # nothing is pruned unless asked for
