"""What can be known to be wrong before anything runs. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_ensemble.cli.model_loading import model_problems
from airflow_ensemble.cli.opening import find_key, open_existing_index
from airflow_ensemble.cli.plan import make_plan
from airflow_ensemble.cli.standing import describe_others
from airflow_ensemble.cli.starting import judge_output, refuse_forgotten_outcomes
from airflow_ensemble.engine.ensemble.blocks import OWN, SEED, Remarks
from airflow_ensemble.engine.ensemble.schema import RESERVED, RESOURCES
from airflow_ensemble.engine.errors import EnsembleError

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.slurm.cluster import Cluster

_NOT_WRITABLE = "it may only be read by this account: whoever runs the ensemble must write it"
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
    yield Finding("paths", ", ".join(_paths(ensemble)))
    remarks = Remarks()
    yield _look("simulations", lambda: _check_table(ensemble, remarks))
    if remarks.columns:
        yield Finding("columns", _describe_columns(remarks))
    yield _look("model", lambda: _check_model(ensemble))
    if ensemble.settings.command:
        yield _look("arguments", lambda: _check_arguments(ensemble))
    yield _check_output(ensemble)
    yield _look("index", lambda: _check_index(ensemble))
    if ensemble.execution.get("backend") == "slurm":
        yield from _check_cluster(ensemble)
    if ensemble.execution.get("backend") == "kubernetes":
        yield from _check_kubernetes(ensemble)


def _paths(ensemble: Ensemble) -> Iterator[str]:
    """Yield the paths that have no finding of their own, as they are used."""
    if not isinstance(ensemble.simulations, tuple):
        yield f"simulations {ensemble.simulations}"
    yield f"control {ensemble.control}"
    for path in ensemble.execution.get("code", ()):
        yield f"code {path}"
    for key in ("remote_root", "python", "collect_to"):
        if key in ensemble.execution:
            yield f"{key} {ensemble.execution[key]}"


# --- single checks: each returns its finding, or raises what is wrong -----------------------------


def _look(what: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except EnsembleError as error:
        return Finding(what, problems=(str(error),))


def _check_table(ensemble: Ensemble, remarks: Remarks) -> Finding:
    try:
        index = open_existing_index(ensemble)
    except EnsembleError:  # that is a finding of its own; the table is checked all the same
        index = None
    key = find_key(index, ensemble) if index else None
    simulations = ensemble.read_simulations(remarks=remarks)
    plan = make_plan(simulations, index, key, skip_existing=True, replace=False)
    if index:
        index.close()
    advice = "give it a new id, or run with --replace"
    changed = [f"{change}; {advice}" for change in plan.changes]
    if plan.changed > len(changed):
        changed.append(f"and {plan.changed - len(changed):,} more simulations changed")
    return Finding(
        "simulations",
        f"{plan.total:,} in the table: {plan.new:,} new, {plan.complete:,} complete, "
        f"{plan.failed:,} failed" + (f"; {describe_others(plan.others)}" if plan.others else ""),
        tuple(changed),
        tuple(remarks.warnings),
    )


def _describe_columns(remarks: Remarks) -> str:
    """Return what each column of the table became."""
    titles = {name: f"{name} ({old})" if old else name for name, old in remarks.columns.items()}
    kinds = {
        "parameters": [titles[name] for name in titles if name not in OWN],
        "seed": [titles[name] for name in titles if name == SEED],
        "resources": [titles[name] for name in titles if name in RESOURCES],
        "how it runs": [titles[name] for name in titles if name in set(RESERVED) - set(RESOURCES)],
        "left out": remarks.left_out,
    }
    parts = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    return "; ".join(parts) or "ids alone"


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
    from airflow_ensemble.engine.parameters import take_apart
    from airflow_ensemble.engine.products import Failure

    command = ensemble.settings.command
    run_fields = dict.fromkeys(RUN_FIELDS, 1)
    problems: dict[str, str] = {}
    for simulation in ensemble.read_simulations():
        parameters = take_apart(ensemble.settings.parameters, simulation.params)
        values = {**parameters.values, **run_fields, "id": simulation.id}
        try:
            for argument in command:
                fill_template(argument, values, parameters.written)
        except Failure as failure:
            problems.setdefault(str(failure), simulation.id)
    named = [f"simulation {id}: {problem}" for problem, id in problems.items()]
    return Finding("arguments", f"{len(command)} filled for every simulation", tuple(named[:NAMED]))


def _check_output(ensemble: Ensemble) -> Finding:
    try:
        return Finding("output", f"{ensemble.output}; {judge_output(ensemble)}")
    except EnsembleError as error:
        return Finding("output", ensemble.output, (str(error),))


def _check_index(ensemble: Ensemble) -> Finding:
    location = _without_password(ensemble.index_location())
    index = open_existing_index(ensemble)
    known, problems = None, tuple[str, ...]()
    if index is not None:
        with closing(index):
            known = find_key(index, ensemble)
            problems = () if index.may_write else (_NOT_WRITABLE,)
    if known is None:
        refuse_forgotten_outcomes(ensemble)
    if index is None:
        return Finding("index", f"{location} does not exist yet; `ensemble run` makes it")
    registered = "these settings are registered" if known else "these settings are new"
    return Finding("index", f"{location}: {registered}", problems)


def _check_cluster(ensemble: Ensemble) -> Iterator[Finding]:
    from airflow_ensemble.cli.slurm.checking import describe_site
    from airflow_ensemble.cli.slurm.interpreter import find_python
    from airflow_ensemble.cli.slurm.place import open_cluster
    from airflow_ensemble.slurm.batches import ask_site
    from airflow_ensemble.slurm.site import interpreter

    cluster, python = open_cluster(ensemble), interpreter(ensemble.execution)
    slurm = _look("slurm", lambda: Finding("slurm", describe_site(ask_site(ensemble, cluster))))
    yield slurm
    if not slurm.problems:
        yield _look("options", lambda: _check_options(ensemble, cluster))
    yield _look("python", lambda: Finding("python", f"{python} is {find_python(ensemble)}"))


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
