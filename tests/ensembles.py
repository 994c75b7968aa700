"""Small real ensembles for tests: a folder with a model, a table and an ensemble file."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Writes its parameters as a product, and one line to ``executions`` each time it runs. With a
#: ``gate``, it waits until there is such a file.
COUNTING_MODEL = """
    import json
    import os
    import time
    from pathlib import Path

    def simulate(run):
        trace = Path(run.params["trace"])
        with trace.open("a") as file:
            file.write(f"{run.id} {run.attempt}\\n")
        time.sleep(run.params.get("sleep", 0))
        gate = run.params.get("gate")
        while gate and not Path(gate).exists():
            time.sleep(0.05)
        what = run.params.get("what", "ok")
        if what == "raise":
            raise ValueError(f"no luck with {run.id}")
        if what == "raise once" and run.attempt == 1:
            raise ValueError("the first time fails")
        if what == "die":
            os.kill(os.getpid(), 9)
        if what == "empty":
            return {"values": None}
        path = run.workdir / "values.json"
        path.write_text(json.dumps({"id": run.id, "x": run.params.get("x"), "seed": run.seed}))
        return {"values": path}
"""


def write_ensemble(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    model: str = COUNTING_MODEL,
    parameters: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Path:
    """Write an ensemble folder and return the path of its file.

    :param rows: the table's rows, as JSON Lines so that each may have keys of its own.
    :param model: source of the module ``model``.
    :param keys: further keys of the ensemble file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(textwrap.dedent(model))
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    execution = {"code": ["."], **keys.pop("execution", {})}
    file = {
        "name": "tests",
        "model": "model:simulate",
        "simulations": "table.jsonl",
        "products": ["values"],
        "output": "output",
        "parameters": {"trace": str(folder / "trace"), **(parameters or {})},
        "execution": execution,
        **keys,
    }
    path = folder / "ensemble.yaml"
    path.write_text(json.dumps({key: value for key, value in file.items() if value is not None}))
    return path


def executions(folder: Path) -> list[str]:
    """Return the ids that the counting model has run, in order, one per execution."""
    trace = folder / "trace"
    return [line.split()[0] for line in trace.read_text().splitlines()] if trace.exists() else []
