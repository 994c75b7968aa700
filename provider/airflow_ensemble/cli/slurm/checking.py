"""What can be known of a cluster, on its login node, before anything is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ensemble.cli.model_loading import refuse_unusable_model
from airflow_ensemble.cli.opening import find_key, open_existing_index
from airflow_ensemble.cli.plan import make_plan
from airflow_ensemble.cli.slurm.interpreter import find_python
from airflow_ensemble.cli.text import format_count, last_line
from airflow_ensemble.engine.errors import UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.slurm.cluster import Cluster
    from airflow_ensemble.slurm.site import Site


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
                f"sbatch would refuse this: {last_line(done.err)}; change the options below "
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
    from airflow_ensemble.slurm.batches import ask_site

    ask_site(ensemble, cluster)
    find_python(ensemble)
    refuse_unusable_model(ensemble)
