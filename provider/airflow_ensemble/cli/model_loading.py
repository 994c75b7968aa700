"""Whether the model of an ensemble can be loaded, asked of the interpreter that will load it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from airflow_ensemble.cli.model_check import simulation_line
from airflow_ensemble.engine.errors import ModelError
from airflow_ensemble.engine.words import last_words, one_line

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.simulation import Simulation

#: Seconds that a model may take to be imported, and to check all simulations.
MODEL_CHECK_LIMIT = 600.0


def refuse_unusable_model(ensemble: Ensemble) -> None:
    """Load the model as its worker will, so that a run does not even begin with a broken one.

    :raises ModelError: naming module, function or program, and why it cannot be used.
    """
    problems = model_problems(ensemble, ask_model=False)
    if problems:
        raise ModelError("; ".join(problems))


def model_problems(ensemble: Ensemble, *, ask_model: bool) -> list[str]:
    """Return why the model cannot be used.

    :param ask_model: whether the model's own ``check`` shall look at all simulations.
    """
    settings, recipe = ensemble.settings, ensemble.recipe()
    is_on_cluster = ensemble.execution.get("backend") == "slurm"
    if settings.command and not is_on_cluster:
        from airflow_ensemble.engine.command import load_command

        try:
            load_command(settings.command, settings.products, recipe.code)
        except ModelError as error:
            return [str(error)]
        return []
    header = {"settings": settings.as_dict(), "code": list(recipe.code), "hook": ask_model}
    simulations = ensemble.read_simulations() if ask_model else iter(())
    if is_on_cluster:
        from airflow_ensemble.cli.slurm.interpreter import model_check_command
        from airflow_ensemble.slurm.site import interpreter

        with model_check_command(ensemble) as command:
            return _ask_interpreter(interpreter(ensemble.execution), command, header, simulations)
    python = str(ensemble.execution.get("python") or sys.executable)
    command = [python, "-m", "airflow_ensemble.cli.model_check"]
    return _ask_interpreter(python, command, header, simulations)


def _ask_interpreter(
    interpreter: str,
    command: Sequence[str],
    header: dict[str, object],
    simulations: Iterable[Simulation],
) -> list[str]:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as question:
        question.write(json.dumps(header) + "\n")
        question.writelines(simulation_line(simulation) for simulation in simulations)
        question.seek(0)
        try:
            done = subprocess.run(
                command,
                stdin=question,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=MODEL_CHECK_LIMIT,
            )
        except subprocess.TimeoutExpired:
            return [f"loading the model took longer than {MODEL_CHECK_LIMIT:.0f} s"]
        except OSError as error:
            return [f"execution.python: {interpreter} cannot be started ({error.strerror})"]
    problems = _read_answer(done.stdout) if done.returncode == 0 else None
    if problems is not None:
        return problems
    words = last_words(done.stderr.encode(), max_lines=1) or f"it ended with code {done.returncode}"
    return [f"the model cannot be loaded with {interpreter}: {one_line(words)}"]


def _read_answer(out: str) -> list[str] | None:
    """Return the problems that the last line names; a login shell may print something before."""
    try:
        return [str(problem) for problem in json.loads(out.splitlines()[-1])["problems"]]
    except (ValueError, LookupError, TypeError):
        return None
