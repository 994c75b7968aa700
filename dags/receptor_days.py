"""What the DAGs of footprints share: their folder, their form, and the receptors of a day."""

from __future__ import annotations

import os
from datetime import date, datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, get_current_context, task

FOLDER = Path(__file__).resolve().parent / "footprints"
HOME = Path(os.environ.get("ENSEMBLE_HOME") or FOLDER)
SCHEDULE = os.environ.get("ENSEMBLE_SCHEDULE", "0 3 * * *") or None
INDEX_CONNECTION = os.environ.get("ENSEMBLE_INDEX_CONN")

FORM = {
    "receptors": Param(
        str(FOLDER / "receptors.csv"),
        type="string",
        minLength=1,
        title="Receptors",
        description="Table with the columns id, time, longitude, latitude and altitude.",
    ),
    "day": Param(
        None,
        type=["string", "null"],
        format="date",
        title="Day",
        description="Move the receptors to this UTC day. Empty: a run by hand takes them as they "
        "are, a scheduled one moves them to the day before it.",
    ),
    "met_directory": Param(
        None,
        type=["string", "null"],
        title="Meteorology",
        description="Folder of ARL files. Empty: what the ensemble file says.",
    ),
    "met_file_format": Param(
        "%Y%m%d_%H",
        type="string",
        title="File names",
        description="strftime pattern at the start of the file names.",
    ),
    "met_file_tres": Param(
        "6h",
        type="string",
        title="File length",
        description="Time that one file covers.",
    ),
    "n_workers": Param(
        None,
        type=["integer", "null"],
        minimum=1,
        title="Workers",
        description="Chunks that the receptors are dealt to. Empty: what the ensemble file says.",
    ),
    "skip_existing": Param(
        True,
        type="boolean",
        title="Skip what exists",
        description="Off: compute everything anew, as a new generation.",
    ),
    "parameters": Param(
        {},
        type="object",
        title="Model parameters",
        description='Over those of the ensemble file, for instance {"n_hours": -6}.',
    ),
}

#: What the form and the environment say, over the ensemble file.
OVERRIDES = {
    "index": f"conn:{INDEX_CONNECTION}" if INDEX_CONNECTION else None,
    "skip_existing": "{{ params.skip_existing }}",
    "parameters": """{{ dict(
        {'met': {'directory': params.met_directory,
                 'file_format': params.met_file_format,
                 'file_tres': params.met_file_tres}} if params.met_directory else {},
        **params.parameters) }}""",
}


def choose_day(wanted: str | None, run_type: str, scheduled: datetime | None) -> date | None:
    """Return the day that the receptors are moved to; None takes them as they are."""
    if wanted:
        return date.fromisoformat(wanted)
    if run_type == "manual" or scheduled is None:
        return None
    return (scheduled - timedelta(days=1)).date()


@task
def choose_receptors() -> str:
    """Return the table of this run, moved to its day if it has one."""
    from airflow_ensemble.models.receptors import write_receptors_of_day

    context = get_current_context()
    run, params = context["dag_run"], context["params"]
    table = FOLDER / params["receptors"]
    day = choose_day(params["day"], run.run_type, run.logical_date)
    if day is None:
        return str(table)
    return str(write_receptors_of_day(table, day, HOME / "receptors" / f"{day}.csv"))
