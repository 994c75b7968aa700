from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import pytest

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.simulation import check_id
from airflow_ensemble.models.receptors import write_receptors_of_day

DEMO = Path(__file__).resolve().parents[2] / "dags" / "footprints" / "receptors.csv"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_demos_receptors_move_to_a_day_and_keep_all_else(tmp_path: Path) -> None:
    target = write_receptors_of_day(DEMO, date(2031, 12, 5), tmp_path / "new" / "day.csv")
    before, after = read(DEMO), read(target)
    assert len(after) == len(before) == 12
    assert after[0]["id"] == "20311205-1200-north"
    assert after[0]["time"] == "2031-12-05T12:00"
    for old, new in zip(before, after):
        check_id(new["id"])
        assert {**new, "id": "", "time": ""} == {**old, "id": "", "time": ""}
    assert [path.name for path in target.parent.iterdir()] == ["day.csv"]


def test_days_share_no_id_even_where_ids_name_none(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,time,latitude\na,202601010630,1\nb,2026-01-01 07:00:30,2\n")
    first = read(write_receptors_of_day(table, date(2026, 3, 1), tmp_path / "1.csv"))
    second = read(write_receptors_of_day(table, date(2026, 3, 2), tmp_path / "2.csv"))
    assert [row["time"] for row in first] == ["2026-03-01T06:30", "2026-03-01T07:00:30"]
    assert not {row["id"] for row in first} & {row["id"] for row in second}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,latitude\na,1\n", "line 2: a receptor needs the columns id and time"),
        ("id,time\na,2026-01-01\nb,noon\n", "line 3: time 'noon'"),
    ],
)
def test_a_table_that_cannot_be_moved_is_refused(text: str, said: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=said):
        write_receptors_of_day(table, date(2026, 3, 1), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("time", "moved", "id"),
    [
        ("2026-01-01T23:30-02:00", "2026-03-01T01:30", "20260102-a"),
        ("20260102T0130Z", "2026-03-01T01:30", "20260102-a"),
        ("2026-01-02 01:30:15", "2026-03-01T01:30:15", "20260102-a"),
    ],
)
def test_times_with_zones_are_moved_as_utc(time: str, moved: str, id: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"id,time\n{id},{time}\n")
    (row,) = read(write_receptors_of_day(table, date(2026, 3, 1), tmp_path / "out.csv"))
    assert (row["time"], row["id"]) == (moved, "20260301-a")


@pytest.mark.parametrize("time", ["202602300630", "01/02/2026 07:00", "2026-01-01x07:00"])
def test_times_that_are_guessed_at_are_not_moved(time: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"id,time\na,{time}\n")
    with pytest.raises(UsageError, match="line 2: time"):
        write_receptors_of_day(table, date(2026, 3, 1), tmp_path / "out.csv")
