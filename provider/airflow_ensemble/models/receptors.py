"""Tables of receptors: the same places and hours on another day, for runs on a schedule.

Standard library only.
"""

from __future__ import annotations

import csv
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from pathlib import Path

from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.models.receptor_time import parse_time


def write_receptors_of_day(table: str | Path, day: date, target: str | Path) -> Path:
    """Write a table with the receptors of another one, moved to a day; their hours stay.

    Ids name the day, so that every day's receptors are simulations of their own: a date in an id
    (``20260601-1200-north``) is replaced, an id without one gets ``YYYYMMDD-`` in front.

    :param table: a CSV file with the columns ``id`` and ``time``.
    :param day: the UTC day.
    :param target: written in one step; its folder is made when it does not exist.
    :return: the target.
    :raises UsageError: naming table and row, when a column is missing or a time is none.
    """
    source, target = Path(table), Path(target)
    with source.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = list(move_receptors(reader, day, str(source)))
        columns = list(reader.fieldnames or ())
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return aside.replace(target)


def move_receptors(
    rows: Iterable[Mapping[str, str]], day: date, where: str
) -> Iterator[dict[str, str]]:
    """Yield the rows with their times, and the dates in their ids, moved to a day."""
    for number, row in enumerate(rows, start=2):
        if not row.get("id") or not row.get("time"):
            raise UsageError(f"{where}, line {number}: a receptor needs the columns id and time")
        old, hour = _split_time(row["time"], f"{where}, line {number}")
        stamp = f"{day:%Y%m%d}"
        id = row["id"].replace(old, stamp) if old in row["id"] else f"{stamp}-{row['id']}"
        yield {**row, "id": id, "time": f"{day:%Y-%m-%d}T{hour}"}


def _split_time(text: str, where: str) -> tuple[str, str]:
    """Return the UTC date as YYYYMMDD and the time of day."""
    try:
        time = parse_time(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    return f"{time:%Y%m%d}", time.time().isoformat("auto" if _has_seconds(time) else "minutes")


def _has_seconds(time: datetime) -> bool:
    return bool(time.second or time.microsecond)
