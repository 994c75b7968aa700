"""From an ensemble file to the pods that would run it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.errors import UsageError

if TYPE_CHECKING:
    from airflow_ensemble.engine.ensemble import Ensemble
    from airflow_ensemble.kubernetes.manifests import Workers

#: Pods where the ensemble file says no number, as in a DAG.
N_WORKERS = 1


def make_workers(
    ensemble: Ensemble, *, image: str | None = None, namespace: str | None = None
) -> Workers:
    """Return what the pods of an ensemble are asked to be.

    :param ensemble: the loaded ensemble file.
    :param image: instead of the file's.
    :param namespace: instead of the file's.
    :raises UsageError: when no image is named, or index or output are out of reach of pods.
    """
    from airflow_ensemble.engine.ensemble.kubernetes import read_image, read_namespace
    from airflow_ensemble.engine.ensemble.schema import Place
    from airflow_ensemble.kubernetes.manifests import Workers

    refuse_out_of_reach(ensemble)
    options: Mapping[str, Any] = ensemble.execution.get("kubernetes", {})
    if image is not None:
        read_image(image, Place("the command line", "--image"))
    if namespace is not None:
        read_namespace(namespace, Place("the command line", "--namespace"))
    image = image or options.get("image")
    if image is None:
        raise UsageError(
            f"{ensemble.path}: execution.kubernetes.image is missing: name the image that the pods "
            "run, with worker and model in it (docs: a worker image)"
        )
    limit = ensemble.execution.get("run_deadline")
    return Workers(
        ensemble=ensemble.name,
        settings=ensemble.settings.hash,
        image=image,
        n_workers=int(ensemble.execution.get("n_workers") or N_WORKERS),
        cpus=int(ensemble.execution.get("cpus-per-task") or 1),
        namespace=namespace or options.get("namespace"),
        options=options,
        run_limit=None if limit is None else math.ceil(limit),
    )


def refuse_out_of_reach(ensemble: Ensemble) -> None:
    """Refuse what pods cannot reach: an index in a file, an output root on this machine.

    :raises UsageError: naming the key of the ensemble file, and what to do.
    """
    for problem in out_of_reach(ensemble):
        raise UsageError(problem)


def out_of_reach(ensemble: Ensemble) -> Iterable[str]:
    """Yield what of the ensemble pods could not reach."""
    from airflow_ensemble.engine.storage import local_path, uri_scheme

    if uri_scheme(ensemble.index_location()) != "postgresql":
        yield (
            f"{ensemble.path}: index: pods cannot share an SQLite file: use PostgreSQL, such as "
            "index: env:ENSEMBLE_INDEX with a postgresql:// DSN in that variable"
        )
    if uri_scheme(ensemble.output) in ("", "file"):
        path = local_path(ensemble.output)
        if not _is_mounted(str(path), ensemble.execution.get("kubernetes", {})):
            yield (
                f"{ensemble.path}: output: {path} is on this machine, where pods cannot write: use "
                "an object store, such as output: s3://bucket/folder, or name a volume that is "
                "mounted at the same path, here and in the pods (execution.kubernetes.volumes)"
            )


def _is_mounted(path: str, options: Mapping[str, Any]) -> bool:
    """Return whether a path lies on a volume that pods may write."""
    return any(
        f"{path}/".startswith(f"{mount.rstrip('/')}/") and not volume["read_only"]
        for mount, volume in options.get("volumes", {}).items()
    )
