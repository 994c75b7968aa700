"""What can be known of a cluster, on its login node, before anything is submitted."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from airflow_ensemble.cli.plan import find_key, make_plan, open_existing_index
from airflow_ensemble.cli.text import format_count
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.slurm.site import interpreter

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.slurm.cluster import Cluster
    from airflow_ensemble.slurm.site import Site

#: Seconds that set-up lines and the interpreter's start may take.
START_LIMIT = 120.0
_VERSION = (
    "import sys; print('%d.%d.%d' % sys.version_info[:3]); sys.exit(sys.version_info < (3, 9))"
)


def describe_site(site: Site) -> str:
    """Return what a site's Slurm is and allows, on one line."""
    accounting = "accounting answers" if site.accounting else "no accounting"
    limit = "" if site.max_submit is None else f" of {site.max_submit:,}"
    return (
        f"{site.version_text} of cluster {site.cluster}: arrays of up to {site.max_array_size:,} "
        f"elements, {accounting}, {site.queued:,}{limit} in the queue"
    )


def judge_options(ensemble: Ensemble, cluster: Cluster) -> tuple[str, list[str]]:
    """Let ``sbatch`` judge the scripts that the ensemble would need, without submitting them.

    :return: what they are, and what is in vain in them.
    :raises UsageError: with what the site answered.
    """
    from airflow_ensemble.slurm.batches import policy_warnings, preview

    sizes = _sizes(ensemble)
    previews = preview(ensemble, cluster, sizes)
    for one in previews:
        done = cluster.client.runner.run("sbatch --test-only", input=one.script.encode())
        if done.code != 0:
            raise UsageError(
                f"sbatch would refuse this: {_last_line(done.err)}; change the options below "
                f"'execution' in {ensemble.path}"
            )
    elements = format_count(sum(one.n_elements for one in previews), "element")
    text = f"{format_count(len(previews), 'array')} of {elements} would be taken by sbatch"
    return text, policy_warnings(ensemble, cluster, [name for name, _ in sizes])


def _sizes(ensemble: Ensemble) -> list[tuple[str, int]]:
    index = open_existing_index(ensemble)
    try:
        key = find_key(index, ensemble) if index else None
        plan = make_plan(ensemble.read_simulations(), index, key, skip_existing=True, replace=False)
    finally:
        if index:
            index.close()
    return sorted(plan.classes.items()) or [("cores_per_task=1", 1)]


def refuse_unusable_cluster(ensemble: Ensemble, cluster: Cluster) -> None:
    """Ask whether this is a login node, with an interpreter that loads the model.

    :raises UsageError: naming what is missing and what to do.
    :raises SlurmUnavailable: when Slurm does not answer now.
    """
    from airflow_ensemble.cli.checking import refuse_unusable_model
    from airflow_ensemble.slurm.batches import ask_site

    ask_site(ensemble, cluster)
    find_python(ensemble)
    refuse_unusable_model(ensemble)


def find_python(ensemble: Ensemble) -> str:
    """Return the version of the workers' interpreter on this node, after the set-up lines.

    :raises UsageError: when it cannot be run, or is older than 3.9.
    """
    name = interpreter(ensemble.execution)
    done = subprocess.run(
        worker_shell(ensemble, ["-S", "-c", _VERSION]),
        capture_output=True,
        text=True,
        timeout=START_LIMIT,
        check=False,
    )
    if done.returncode == 0:
        return done.stdout.split()[-1]
    if done.returncode == 1 and done.stdout.split():
        raise UsageError(
            f"execution.python: {name} is Python {done.stdout.split()[-1]}: workers need 3.9"
        )
    raise UsageError(
        f"execution.python: {name} cannot be run on this node: {_last_line(done.stderr)}; name an "
        "interpreter of at least Python 3.9, or load it with a line of execution.setup"
    )


def worker_shell(ensemble: Ensemble, arguments: Sequence[str]) -> list[str]:
    """Return the argument list that runs the workers' interpreter as a batch script would.

    :param ensemble: whose set-up lines come first.
    :param arguments: of the interpreter.
    """
    lines = []
    for line in ensemble.execution.get("setup", ()):
        complaint = shlex.quote(f"set-up line failed: {line}")
        lines += [line, f"[ $? -eq 0 ] || {{ echo {complaint} >&2; exit 2; }}"]
    lines.append(f"exec {shlex.join([interpreter(ensemble.execution), *arguments])}")
    return ["bash", "-l", "-c", "\n".join(lines)]


@contextmanager
def model_check_command(ensemble: Ensemble) -> Iterator[list[str]]:
    """Give the argument list that loads the model as a worker on the cluster will.

    The interpreter there has nothing of this package: it gets the worker bundle, as workers do.
    """
    from airflow_ensemble.cli import model_check
    from airflow_ensemble.engine.bundle import write_bundle

    with TemporaryDirectory(prefix="ensemble-check-") as folder:
        bundle = str(write_bundle(Path(folder)))
        code = (
            f"import runpy, sys; sys.path.insert(0, {bundle!r}); "
            f"runpy.run_path({model_check.__file__!r}, run_name='__main__')"
        )
        yield worker_shell(ensemble, ["-c", code])


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
