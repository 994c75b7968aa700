"""A batch's chunks as array jobs: rendered, staged and submitted, once."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ensemble.engine.bundle import NAME
from airflow_ensemble.engine.chunk import Chunk, render_chunk
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index.interface import ChunkInfo, ElementInfo, JobInfo, Result
from airflow_ensemble.engine.index.ownership import share_chunks
from airflow_ensemble.engine.result_lines import render_results
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.errors import SlurmRefused
from airflow_ensemble.slurm.options import (
    declined,
    job_options,
    launch,
    lead_seconds,
    parse_resource_class,
    scaled,
)
from airflow_ensemble.slurm.parsing import SCRIPT
from airflow_ensemble.slurm.policies import compound, idle_factors, read_policies
from airflow_ensemble.slurm.script import Job, render_array, render_collection
from airflow_ensemble.slurm.site import SHELL_LEFT, SILENT, Site, interpreter
from airflow_ensemble.slurm.staging import File, Stage, read_code, stamp_of, worker_bundle
from airflow_ensemble.slurm.submission import submit_once

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.ensemble import Ensemble

log = logging.getLogger(__name__)

#: Seconds until a submission that nobody answered counts as not made, if the site says so.
PATIENCE = 300.0
#: Seconds for which what a site has said of its limits and its queue serves a submission.
FRESH = 10.0
#: The oldest interpreter that workers run in.
OLDEST_PYTHON = (3, 9)
PREFIX = "ens"
_ELEMENTS, _RESULTS, _LOGS = "elements", "results.jsonl", "logs/.keep"


@dataclass(frozen=True)
class Preview:
    """An array job that would be submitted.

    :param script: the batch script.
    :param n_elements: elements of the array.
    :param resource_class: the needs that its simulations share.
    """

    script: str
    n_elements: int
    resource_class: str


def ask_site(ensemble: Ensemble, cluster: Cluster, *, max_age: float = math.inf) -> Site:
    """Return what a cluster is and allows for an ensemble's interpreter and account.

    :param max_age: see :meth:`~airflow_ensemble.slurm.client.SlurmClient.site`.
    """
    account = ensemble.execution.get("account", cluster.defaults.get("account"))
    return cluster.client.site(
        interpreter(ensemble.execution),
        account=None if account is None else str(account),
        max_age=max_age,
    )


def wanted_chunks(ensemble: Ensemble, n_simulations: int) -> int:
    """Return how many chunks an ensemble file asks for: what :func:`allowed_chunks` may lessen.

    ``execution.n_workers``, else one for each simulation: the cluster's queue shares them out.

    :param n_simulations: pending ones of the batch.
    """
    return int(ensemble.execution.get("n_workers") or max(1, n_simulations))


def allowed_chunks(
    control: Control, cluster: Cluster, wanted: int, map_limit: int | None = None
) -> int:
    """Return how many chunks fit the site's limits: array size, and free places in the queue.

    :param wanted: chunks of the batch, of all resource classes together.
    :param map_limit: another limit of the caller's, such as Airflow's ``max_map_length``.
    :return: at least 1, at most ``wanted``.
    """
    site = ask_site(control.ensemble, cluster, max_age=FRESH)
    return _fit(site, wanted, map_limit)


def submit(
    control: Control,
    cluster: Cluster,
    chunks: Sequence[ChunkInfo],
    *,
    patience: float = PATIENCE,
    stop: threading.Event | None = None,
) -> list[JobInfo]:
    """Submit chunks, one array for each resource class; split only where the site forces it.

    Goes on from whatever an earlier call has left; chunks that were submitted are not again.

    :param chunks: open ones of one batch, as ``batch.dispatch`` gives them.
    :param patience: see :func:`~airflow_ensemble.slurm.submission.submit_once`; so is ``stop``.
    :return: the jobs that have them, each with its ``job_id``.
    :raises SlurmRefused: when Slurm will not take them; no attempt is left open.
    :raises StagingError: when files cannot be put on the cluster; nothing half staged is left.
    :raises OutcomeUnknown: when it is not known in time whether Slurm has taken them: call again.
    """
    for line in policy_warnings(control.ensemble, cluster, {c.resource_class for c in chunks}):
        log.warning("%s", line)
    jobs = _prepare(control, cluster, chunks)
    return [_finish(control, cluster, job, patience, stop) for job in jobs]


def resubmit(
    control: Control,
    cluster: Cluster,
    chunk: str,
    *,
    patience: float = PATIENCE,
    stop: threading.Event | None = None,
) -> JobInfo:
    """Submit what is unfinished of a chunk as an array of one element, under a new attempt.

    To be called after :func:`~airflow_ensemble.slurm.settling.settle`; safe to call at any time: a
    chunk whose newest submission may live is left as it is, and a submission that somebody began
    and did not finish is finished.

    :param chunk: the chunk's id.
    :param patience: see :func:`~airflow_ensemble.slurm.submission.submit_once`; so is ``stop``.
    :return: the job that has the chunk's newest submission.
    """
    info = control.index.chunk(chunk)
    newest = newest_element(control, info)
    if newest is not None and newest.end is not None and info.unfinished:
        detail = newest.detail or f"element {newest.element} of {newest.job.name} ended"
        info = control.index.resubmit(chunk, detail=detail, submission=info.submission)
        newest = newest_element(control, info)
    if newest is not None:
        return _finish(control, cluster, newest.job, patience, stop)
    job = _prepare_job(control, cluster, [info])
    return _finish(control, cluster, job, patience, stop)


def render_scripts(control: Control, cluster: Cluster, chunks: Sequence[ChunkInfo]) -> list[str]:
    """Return the batch scripts of chunks, each under the name that its job has or will have.

    Jobs that are missing are entered in the index, and not submitted.

    :param chunks: of one batch.
    """
    return [_render(control, cluster, job) for job in _prepare(control, cluster, chunks)]


def read_scripts(cluster: Cluster, jobs: Iterable[JobInfo]) -> list[str]:
    """Return the batch scripts with which jobs were submitted, as they lie on the cluster.

    :raises ClusterError: when it cannot be reached.
    :raises OSError: when one is not there any more.
    """
    runner = cluster.client.runner
    return [runner.read(f"{job.folder}/{SCRIPT}").decode() for job in jobs]


def preview(
    ensemble: Ensemble,
    cluster: Cluster,
    sizes: Sequence[tuple[str, int]],
    map_limit: int | None = None,
) -> list[Preview]:
    """Return what would be submitted, without index and without changing anything.

    :param sizes: (resource class, simulations) of each class.
    :param map_limit: as of :func:`allowed_chunks`.
    """
    site = ask_site(ensemble, cluster)
    total = sum(n_simulations for _, n_simulations in sizes)
    wanted = wanted_chunks(ensemble, total)
    previews = []
    for resource_class, n_chunks in share_chunks(
        dict(sizes), _fit(site, wanted, map_limit)
    ).items():
        for start in range(0, n_chunks, site.max_array_size):
            n_elements = min(site.max_array_size, n_chunks - start)
            job = _job(ensemble, cluster, "BATCH", resource_class, n_elements)
            previews.append(Preview(render_array(job), n_elements, resource_class))
    return previews


def policy_warnings(
    ensemble: Ensemble, cluster: Cluster, resource_classes: Iterable[str]
) -> list[str]:
    """Return which factors of ``execution.policies`` change nothing, each line once.

    :param resource_classes: of what is to be submitted.
    """
    policies = read_policies(ensemble.execution)
    lines: dict[str, None] = {}
    for text in sorted(resource_classes):
        resources = parse_resource_class(text)
        options = job_options(ensemble.execution, cluster.defaults, resources)
        lines.update(dict.fromkeys(idle_factors(policies, options)))
    return [f"{line} below 'execution' in {ensemble.path}" for line in lines]


def submit_collection(
    control: Control,
    cluster: Cluster,
    batch: str,
    results: Iterable[Result],
    to: str,
    format: str | None = None,
    *,
    align: str = "exact",
    products: Sequence[str] = (),
    patience: float = PATIENCE,
    stop: threading.Event | None = None,
) -> JobInfo:
    """Submit one more job that collects products on the cluster, in the model's interpreter.

    A call that finds an earlier one's job which may live returns that.

    :param results: what to collect.
    :param to: absolute path of the dataset on the cluster, or a URI.
    :param format: as of ``ensemble collect``; None goes by the ending of ``to``. So is ``align``.
    :param products: only these; all when empty.
    :param patience: see :func:`~airflow_ensemble.slurm.submission.submit_once`; so is ``stop``.
    :return: its job: element 0, watched with ``chunk=None``. After its end, a call of
        ``index.end_element(collection_chunk(batch), …)`` lets the next one submit anew.
    """
    name = collection_chunk(batch)
    earlier = control.index.elements(chunk=name)
    submission = len(earlier) + 1
    if earlier and earlier[-1].end is None:
        submission = earlier[-1].submission
    job = control.index.prepare_job(
        batch,
        [(name, submission)],
        place=cluster.place,
        parent=_parent(control.ensemble, cluster, batch),
        prefix=_prefix(control.ensemble),
    )
    if job.job_id is not None:
        return job
    described = _job(control.ensemble, cluster, batch, "", 1, job=job)
    script = render_collection(described, control.recipe.output, to, format, align, products)
    files = [
        File(SCRIPT, script.encode()),
        File(_RESULTS, "".join(render_results(results)).encode()),
        File(_LOGS, b""),
    ]
    _stage(control.ensemble, cluster, job, files)
    return submit_once(control.index, cluster.client, job, patience=patience, stop=stop)


def collection_chunk(batch: str) -> str:
    """Return the name under which a batch's collections are entered as elements."""
    return f"{batch}-collect"


def newest_element(control: Control, chunk: ChunkInfo) -> ElementInfo | None:
    """Return the element that has a chunk's newest submission; None when there is none yet."""
    elements = control.index.elements(chunk=chunk.id)
    return next((e for e in reversed(elements) if e.submission == chunk.submission), None)


# --- which job has which chunk -----------------------------------------------------------------


def _prepare(control: Control, cluster: Cluster, chunks: Sequence[ChunkInfo]) -> list[JobInfo]:
    """Return the jobs that have the chunks: those of an earlier call, and new ones."""
    wanted = {chunk.id for chunk in chunks}
    placed = [element for element in _placed(control, chunks) if element.chunk in wanted]
    jobs = {element.job.name: element.job for element in placed}
    taken = {element.chunk for element in placed}
    fresh = [chunk for chunk in chunks if chunk.id not in taken]
    if fresh:
        site = ask_site(control.ensemble, cluster)
        _refuse_unusable_python(control.ensemble, cluster, site)
        for some in _arrays(fresh, site.max_array_size):
            job = _prepare_job(control, cluster, some)
            jobs[job.name] = job
    return list(jobs.values())


def _placed(control: Control, chunks: Sequence[ChunkInfo]) -> list[ElementInfo]:
    batches = {chunk.batch for chunk in chunks}
    return [element for batch in batches for element in control.index.elements(batch=batch)]


def _prepare_job(control: Control, cluster: Cluster, chunks: Sequence[ChunkInfo]) -> JobInfo:
    return control.index.prepare_job(
        chunks[0].batch,
        [(chunk.id, chunk.submission) for chunk in chunks],
        place=cluster.place,
        parent=_parent(control.ensemble, cluster, chunks[0].batch),
        prefix=_prefix(control.ensemble),
    )


def _arrays(chunks: Sequence[ChunkInfo], limit: int) -> Iterator[list[ChunkInfo]]:
    """Yield the chunks of one array after the other: one for each resource class, if it fits."""
    by_class: dict[str, list[ChunkInfo]] = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk.number):
        by_class.setdefault(chunk.resource_class, []).append(chunk)
    for some in by_class.values():
        for start in range(0, len(some), max(1, limit)):
            yield some[start : start + max(1, limit)]


def _refuse_unusable_python(ensemble: Ensemble, cluster: Cluster, site: Site) -> None:
    """Raise if no element could start its worker; set-up lines may load another interpreter."""
    if site.python == SILENT:
        raise SlurmRefused(f"nothing was submitted: {SHELL_LEFT.format(place=cluster.place)}")
    if cluster.setup or ensemble.execution.get("setup"):
        return
    version = tuple(int(part) for part in site.python.split(".") if part.isdecimal())
    if site.python and (not version or version >= OLDEST_PYTHON):
        return
    name = interpreter(ensemble.execution)
    needed = ".".join(map(str, OLDEST_PYTHON))
    fault = f"is Python {site.python}" if site.python else "cannot be run there"
    raise SlurmRefused(
        f"nothing was submitted to {cluster.place}: the interpreter {name} {fault}, and workers "
        f"need Python {needed} or newer; name one with 'python' below 'execution' in "
        f"{ensemble.path}, or load it with a line of 'setup' there or in the connection"
    )


def _fit(site: Site, wanted: int, map_limit: int | None) -> int:
    limits = [wanted, site.max_array_size]
    if map_limit is not None:
        limits.append(map_limit)
    if site.max_submit is not None:
        limits.append(site.max_submit - site.queued)
    return max(1, min(limits))


# --- what is in a job's folder -----------------------------------------------------------------


def _finish(
    control: Control,
    cluster: Cluster,
    job: JobInfo,
    patience: float,
    stop: threading.Event | None,
) -> JobInfo:
    """Stage and submit a job, if that has not been done."""
    if job.job_id is not None:
        return job
    if job.place != cluster.place:
        raise UsageError(
            f"job {job.name} of batch {job.batch} was begun at {job.place!r}: go on with that "
            f"connection, not with {cluster.place!r}"
        )
    script = _render(control, cluster, job)
    code = _read_code(control.ensemble, cluster)
    recipe = replace(control.recipe, code=tuple(one.path for one in code))
    names, files = [], [File(SCRIPT, script.encode()), File(_LOGS, b"")]
    for element in control.index.elements(job=job.name):
        chunk = Chunk(
            index=control.index.uuid,
            batch=job.batch,
            id=element.chunk,
            submission=element.submission,
            recipe=recipe,
            assignments=tuple(control.index.assignments(element.chunk)),
        )
        names.append(f"{chunk.file_name}\n")
        files.append(File(chunk.file_name, render_chunk(chunk).encode()))
    files.append(File(_ELEMENTS, "".join(names).encode()))
    _stage(control.ensemble, cluster, job, files, code)
    return submit_once(control.index, cluster.client, job, patience=patience, stop=stop)


def _stage(
    ensemble: Ensemble,
    cluster: Cluster,
    job: JobInfo,
    files: Sequence[File],
    code: Sequence[_Code] = (),
) -> None:
    """Put a job's files, the worker bundle and the model's code where they are missing."""
    root = cluster.root(ensemble.execution)
    stage = Stage(cluster.client.runner, root, makes_root=cluster.makes_root)
    stamp, data = worker_bundle()
    bundle = (_bundle_folder(root), stamp, [File(NAME, data, is_program=True)])
    models = [(one.folder, one.stamp, one.files) for one in code]
    stage.put_missing([bundle, *models, (job.folder, stamp_of(files), files)])


def _render(control: Control, cluster: Cluster, job: JobInfo) -> str:
    """Return the script of a job of chunks, memory and time after its chunk's history."""
    elements = control.index.elements(job=job.name)
    first = elements[0]
    factors = (1.0, 1.0)
    if len(elements) == 1:
        policies = read_policies(control.ensemble.execution)
        earlier = control.index.elements(chunk=first.chunk)
        history = [e.end for e in earlier if e.submission < first.submission]
        factors = compound(policies, history)
    described = _job(
        control.ensemble,
        cluster,
        job.batch,
        control.index.chunk(first.chunk).resource_class,
        len(elements),
        job=job,
        factors=factors,
    )
    return render_array(described)


def _job(
    ensemble: Ensemble,
    cluster: Cluster,
    batch: str,
    resource_class: str,
    n_elements: int,
    *,
    job: JobInfo | None = None,
    factors: tuple[float, float] = (1.0, 1.0),
) -> Job:
    execution = ensemble.execution
    root = cluster.root(execution)
    name = job.name if job else f"{_prefix(ensemble)}-{batch}-NUMBER"
    resources = parse_resource_class(resource_class)
    options = scaled(job_options(execution, cluster.defaults, resources), *factors)
    return Job(
        name=name,
        folder=job.folder if job else f"{_parent(ensemble, cluster, batch)}/{name}",
        comment=f"ensemble/{ensemble.name}/{name}",
        n_elements=n_elements,
        parallelism=execution.get("array_parallelism"),
        options=options,
        lead=lead_seconds(options, execution.get("stop_before_end")),
        setup=(*cluster.setup, *execution.get("setup", ())),
        python=interpreter(execution),
        bundle=f"{_bundle_folder(root)}/{NAME}",
        launch=launch(options, resources),
        declined=declined(execution, cluster.defaults),
    )


def _bundle_folder(root: str) -> str:
    return f"{root}/bundles/{worker_bundle()[0][:12]}"


@dataclass(frozen=True)
class _Code:
    """One entry of ``execution.code`` on its way to the cluster.

    :param folder: where its files go.
    :param path: what workers import from: that folder, or the one file in it.
    :param stamp: of its files.
    :param files: below ``folder``.
    """

    folder: str
    path: str
    stamp: str
    files: Sequence[File]


def _read_code(ensemble: Ensemble, cluster: Cluster) -> list[_Code]:
    root = cluster.root(ensemble.execution)
    excluded = [str(ensemble.control), root]
    if ensemble.output.startswith("/"):
        excluded.append(ensemble.output)
    found = []
    for path in ensemble.execution.get("code", ()):
        files = read_code(path, excluded)
        stamp = stamp_of(files)
        folder = f"{root}/code/{stamp[:12]}"
        is_file = Path(path).is_file()
        found.append(
            _Code(folder, f"{folder}/{files[0].name}" if is_file else folder, stamp, files)
        )
    return found


def _parent(ensemble: Ensemble, cluster: Cluster, batch: str) -> str:
    return f"{cluster.root(ensemble.execution)}/{ensemble.name}/{batch}"


def _prefix(ensemble: Ensemble) -> str:
    return str(ensemble.execution.get("job-name", PREFIX))
