"""Loads a model in the interpreter that will run it: ``python -m …cli.model_check``.

Reads JSON Lines on standard input: first ``{"settings": …, "code": […]}``, then, where the model's
own ``check`` is asked for, one record for each simulation. Answers with one JSON line:
``{"problems": […]}``. What the model's module prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from airflow_ensemble.engine.errors import ModelError
from airflow_ensemble.engine.model import load_function, load_model
from airflow_ensemble.engine.parameters import take_apart
from airflow_ensemble.engine.recipe import Settings
from airflow_ensemble.engine.simulation import Resources, Simulation
from airflow_ensemble.engine.words import describe, one_line


def find_problems(lines: TextIO) -> list[str]:
    """Load the model that the first line names, and ask its own check about the others."""
    header = json.loads(lines.readline())
    settings = Settings.from_dict(header["settings"])
    try:
        load_model(settings, header["code"])
    except ModelError as error:
        return [str(error)]
    if settings.command:
        return []
    check = getattr(load_function(str(settings.model)), "check", None)
    if check is None or not header["hook"]:
        return []
    try:
        common = take_apart(settings.parameters).values
        return [str(problem) for problem in check(common, read_simulations(lines))]
    except Exception as error:
        return [f"the check of model {settings.model!r} itself failed: {one_line(describe(error))}"]


def simulation_line(simulation: Simulation) -> str:
    """Return the line that stands for one simulation."""
    record = {
        "id": simulation.id,
        "params": dict(simulation.params),
        "resources": simulation.resources.as_dict(),
        "time_limit": simulation.time_limit,
    }
    return json.dumps(record) + "\n"


def read_simulations(lines: Iterable[str]) -> Iterator[Simulation]:
    """Read what :func:`simulation_line` wrote."""
    for line in lines:
        record: dict[str, Any] = json.loads(line)
        yield Simulation(
            id=record["id"],
            params=take_apart(record["params"]).values,
            resources=Resources(**record["resources"]),
            time_limit=record["time_limit"],
        )


def main() -> None:
    """Answer on the original standard output; whatever else is printed there is no answer."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    problems = find_problems(sys.stdin)
    answer.write(json.dumps({"problems": problems}) + "\n")
    answer.close()


if __name__ == "__main__":
    main()
