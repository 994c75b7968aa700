"""A starter ensemble: three small files that run as they stand, and are meant to be edited.

The model needs the standard library alone, so that the first run of anybody, on any machine, works.
It shows what a model can do: read parameters, draw reproducible random numbers, write a product,
and say that there is nothing to write.
"""

from __future__ import annotations

from pathlib import Path

from airflow_ensemble.engine.errors import UsageError

FILE = "ensemble.yaml"
TABLE = "simulations.csv"
MODEL = "model.py"

_FILE_TEXT = """\
# An ensemble: many independent simulations of one model. `ensemble check` reads this file and says
# what is wrong with it, `ensemble run --first 1` tries one simulation, `ensemble run` all of them.

name: random-walks

# The model: module:function. model.py lies beside this file; `execution: code` makes it importable.
# A program is a model, too:   command: [lmp, -in, in.melt, -var, T, "{temperature}"]
model: model:simulate

# The same for all simulations. With model, products and seed they make the settings: change any of
# these and results go to a new folder, the old ones stay.
parameters: {threshold: 10.0}
seed: 42

# One line for each simulation: a column `id`, all other columns are its own parameters.
simulations: simulations.csv

# What each simulation yields. A model returns None for a product that has nothing to hold.
products: [track, crossing]

output: ./output            # or s3://bucket/prefix
max_attempts: 3             # tries of one simulation before it counts as failed
time_limit: 60              # seconds for one simulation
max_failed: 0               # or "5%": how many may fail in a successful run

execution:
  code: [.]                 # put on the model's import path
  # n_workers: 4            # processes; without it, one for each CPU
"""

_TABLE_TEXT = """\
id,steps,drift
calm,200,0.0
breeze,200,0.05
wind,200,0.2
storm,400,0.5
"""

_MODEL_TEXT = '''\
"""A random walk with a drift: the model of the starter ensemble."""

import csv
import random


def simulate(run):
    """Walk, write where the walk went, and when it first crossed the threshold.

    run.params  common parameters of ensemble.yaml, and the columns of this simulation's line
    run.workdir a folder of its own, empty, removed afterwards
    run.seed    the same for the same simulation, whenever and wherever it runs
    run.id, run.cpus, run.attempt
    """
    draw = random.Random(run.seed)
    positions = [0.0]
    for _ in range(run.params["steps"]):
        positions.append(positions[-1] + draw.gauss(run.params["drift"], 1.0))

    track = run.workdir / "track.csv"
    with track.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["step", "position"])
        writer.writerows(enumerate(positions))

    above = [step for step, x in enumerate(positions) if x > run.params["threshold"]]
    if not above:
        return {"track": track, "crossing": None}  # nothing to write: complete, and empty
    crossing = run.workdir / "crossing.txt"
    crossing.write_text(f"{above[0]}\\n")
    return {"track": track, "crossing": crossing}
'''


def starter_files() -> dict[str, str]:
    """Return the texts of the starter ensemble by file name."""
    return {FILE: _FILE_TEXT, TABLE: _TABLE_TEXT, MODEL: _MODEL_TEXT}


def write_starter(folder: Path) -> list[Path]:
    """Write the starter ensemble, and never over a file that is there.

    :param folder: made if it is missing.
    :return: the paths written.
    :raises UsageError: naming what is there already, or why the folder cannot be written.
    """
    texts = {folder / name: text for name, text in starter_files().items()}
    present = [str(path) for path in texts if path.exists() or path.is_symlink()]
    if present:
        raise UsageError(f"{', '.join(present)} exists already: nothing was written")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        raise UsageError(f"cannot write a starter into {folder}: {error.strerror}") from error
    return list(texts)
