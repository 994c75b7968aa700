"""What can be known to be wrong before anything runs. Nothing here changes anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.cli.model_check import simulation_line
from airflow_ensemble.cli.plan import find_key, make_plan, open_existing_index
from airflow_ensemble.engine.errors import EnsembleError, ModelError, UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.engine.simulation import Simulation
    from airflow_ensemble.slurm.cluster import Cluster

#: Seconds that a model may take to be imported, and to check all simulations.
MODEL_CHECK_LIMIT = 600.0
#: Problems of one kind that are named.
NAMED = 10


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    :param what: what was looked at.
    :param text: what was found.
    :param problems: what is wrong with it; none when it is fine.
    :param warnings: what can run, and is not likely to be meant.
    """

    what: str
    text: str = ""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check_ensemble(ensemble: Ensemble) -> Iterator[Finding]:
    """Look at everything that a run of the ensemble needs, one finding after another."""
    yield Finding("file", f"{ensemble.path}, settings hash {ensemble.settings.hash[:8]}")
    yield _look("simulations", lambda: _check_table(ensemble))
    yield _look("model", lambda: _check_model(ensemble))
    if ensemble.settings.command:
        yield _look("arguments", lambda: _check_arguments(ensemble))
    yield _look("output", lambda: _check_output(ensemble))
    yield _look("index", lambda: _check_index(ensemble))
    if ensemble.execution.get("backend") == "slurm":
        yield from _check_cluster(ensemble)
    if ensemble.execution.get("backend") == "kubernetes":
        yield from _check_kubernetes(ensemble)


def refuse_unusable_model(ensemble: Ensemble) -> None:
    """Load the model as its worker will, so that a run does not even begin with a broken one.

    :raises ModelError: naming module, function or program, and why it cannot be used.
    """
    problems = model_problems(ensemble, ask_model=False)
    if problems:
        raise ModelError("; ".join(problems))


def refuse_bad_start(ensemble: Ensemble, first: int | None = None) -> None:
    """Judge table and output root before an index or a folder is made for them.

    Where the index has these settings already, the registration itself changes nothing on error,
    and a second look at a long table is saved.

    :param ensemble: about to be registered.
    :param first: how many rows will be.
    :raises UsageError: naming file, row and column, or the output root.
    """
    output = _check_output(ensemble)
    if output.problems:
        raise UsageError(output.problems[0])
    index = open_existing_index(ensemble)
    if index is not None:
        with closing(index):
            if find_key(index, ensemble):
                return
    refuse_forgotten_outcomes(ensemble)
    for _ in ensemble.read_simulations(first):
        pass


def refuse_forgotten_outcomes(ensemble: Ensemble) -> None:
    """Refuse to begin anew where the output root has results that the index does not know.

    :param ensemble: with settings that the index does not know.
    :raises UsageError: naming the output root and what to do.
    """
    from airflow_ensemble.engine import ingest
    from airflow_ensemble.engine.storage import StorageError, open_root

    with suppress(StorageError):  # a root that cannot be read is a finding of its own
        ingest.refuse_forgotten_outcomes(open_root(ensemble.output), ensemble.recipe())


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
        from airflow_ensemble.cli.slurm.checking import model_check_command
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
                timeout=MODEL_CHECK_LIMIT,
            )
        except subprocess.TimeoutExpired:
            return [f"loading the model took longer than {MODEL_CHECK_LIMIT:.0f} s"]
        except OSError as error:
            return [f"execution.python: {interpreter} cannot be started ({error.strerror})"]
    if done.returncode == 0 and done.stdout:
        return list(json.loads(done.stdout)["problems"])
    words = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
    return [f"the model cannot be loaded with {interpreter}: {words[-1]}"]


# --- single checks: each returns its finding, or raises what is wrong -----------------------------


def _look(what: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except EnsembleError as error:
        return Finding(what, problems=(str(error),))


def _check_table(ensemble: Ensemble) -> Finding:
    try:
        index = open_existing_index(ensemble)
    except EnsembleError:  # that is a finding of its own; the table is checked all the same
        index = None
    key = find_key(index, ensemble) if index else None
    plan = make_plan(ensemble.read_simulations(), index, key, skip_existing=True, replace=False)
    if index:
        index.close()
    changed = tuple(
        f"simulation {id}: its parameters differ from those it was registered with; give it a new "
        "id, or run with --replace"
        for id in plan.changed[:NAMED]
    )
    return Finding(
        "simulations",
        f"{plan.total:,} in the table: {plan.new:,} new, {plan.complete:,} complete, "
        f"{plan.failed:,} failed",
        changed,
    )


def _check_model(ensemble: Ensemble) -> Finding:
    name = ensemble.settings.model or ensemble.settings.command[0]
    if ensemble.execution.get("backend") == "kubernetes":
        return _model_in_image(ensemble, name)
    try:
        problems = model_problems(ensemble, ask_model=True)
    except EnsembleError:  # a broken table: the finding of the table says so
        problems = model_problems(ensemble, ask_model=False)
    return Finding("model", name, tuple(problems))


def _model_in_image(ensemble: Ensemble, name: str) -> Finding:
    image = ensemble.execution.get("kubernetes", {}).get("image", "the image")
    left_here = tuple(
        f"execution.code: {path} is on this machine: pods see only what is in their image"
        for path in ensemble.execution.get("code", ())
    )
    text = f"{name}; whether {image} holds it cannot be known from here"
    return Finding("model", text, warnings=left_here)


def _check_arguments(ensemble: Ensemble) -> Finding:
    from airflow_ensemble.engine.command import RUN_FIELDS, fill_template
    from airflow_ensemble.engine.products import Failure

    command = ensemble.settings.command
    run_fields = dict.fromkeys(RUN_FIELDS, 1)
    problems: dict[str, str] = {}
    for simulation in ensemble.read_simulations():
        values = {**ensemble.settings.parameters, **simulation.params, **run_fields}
        try:
            for argument in command:
                fill_template(argument, values)
        except Failure as failure:
            problems.setdefault(str(failure), simulation.id)
    named = [f"simulation {id}: {problem}" for problem, id in problems.items()]
    return Finding("arguments", f"{len(command)} filled for every simulation", tuple(named[:NAMED]))


def _check_output(ensemble: Ensemble) -> Finding:
    from airflow_ensemble.engine.storage import local_path, open_root

    root = open_root(ensemble.output)
    if root.is_local:
        problem = _unwritable(local_path(ensemble.output))
        if problem:
            return Finding("output", ensemble.output, (problem,))
    else:
        root.check_writable()  # writes and deletes one small object
    claim = root.check_owner(ensemble.name, ensemble.settings)
    return Finding("output", f"{ensemble.output}; {claim.message or 'writable'}")


def _unwritable(path: Path) -> str | None:
    """Return why a folder, which need not exist yet, cannot be written; ask without trying."""
    nearest = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
    if not nearest.is_dir():
        return f"output root {path}: {nearest} is a file; remove it or set another 'output'"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"output root {path}: {nearest} is not writable; change that or set another 'output'"
    return None


def _check_index(ensemble: Ensemble) -> Finding:
    location = _without_password(ensemble.index_location())
    index = open_existing_index(ensemble)
    known = None
    if index is not None:
        with closing(index):
            known = find_key(index, ensemble)
    if known is None and not _check_output(ensemble).problems:
        refuse_forgotten_outcomes(ensemble)
    if index is None:
        return Finding("index", f"{location} does not exist yet; `ensemble run` makes it")
    registered = "these settings are registered" if known else "these settings are new"
    return Finding("index", f"{location}: {registered}")


def _check_cluster(ensemble: Ensemble) -> Iterator[Finding]:
    from airflow_ensemble.cli.slurm import checking
    from airflow_ensemble.cli.slurm.place import open_cluster
    from airflow_ensemble.slurm.batches import ask_site
    from airflow_ensemble.slurm.site import interpreter

    cluster, python = open_cluster(ensemble), interpreter(ensemble.execution)
    slurm = _look(
        "slurm", lambda: Finding("slurm", checking.describe_site(ask_site(ensemble, cluster)))
    )
    yield slurm
    if not slurm.problems:
        yield _look("options", lambda: _check_options(ensemble, cluster))
    yield _look(
        "python", lambda: Finding("python", f"{python} is {checking.find_python(ensemble)}")
    )


def _check_options(ensemble: Ensemble, cluster: Cluster) -> Finding:
    from airflow_ensemble.cli.slurm.checking import judge_options

    text, warnings = judge_options(ensemble, cluster)
    return Finding("options", text, warnings=tuple(warnings))


def _check_kubernetes(ensemble: Ensemble) -> Iterator[Finding]:
    from airflow_ensemble.cli.kubernetes.jobs import open_kubectl
    from airflow_ensemble.cli.kubernetes.running import judge_job
    from airflow_ensemble.cli.kubernetes.workers import out_of_reach

    yield _look(
        "reach",
        lambda: Finding(
            "reach",
            "pods can have the same index and output, as far as can be known from here",
            tuple(out_of_reach(ensemble)),
        ),
    )
    cluster = _look("kubernetes", lambda: Finding("kubernetes", open_kubectl(ensemble).describe()))
    yield cluster
    if not cluster.problems:
        yield _look("job", lambda: Finding("job", judge_job(ensemble)))


def _without_password(location: str) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(location)
    if not parts.password:
        return location
    return location.replace(f":{parts.password}@", ":…@", 1)
