"""The output index: the one owner of the status of every simulation.

One interface, two databases. Every method is one short transaction; none is held open while a
simulation runs. Times are Unix seconds by the database's clock. Rows of many ensembles, and of many
settings hashes of one ensemble, stand side by side: an :class:`EnsembleKey` selects one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.segment import Finished, Started
from airflow_ensemble.engine.simulation import Product, Reason, Simulation, Status

#: Seconds without any traffic after which a pull worker has lost what it claimed.
LEASE = 60.0


@dataclass(frozen=True)
class EnsembleKey:
    """One ensemble with one settings hash, as the index knows it.

    :param number: the index's own number for it.
    :param name: the ensemble's name.
    :param settings_hash: the full settings hash.
    """

    number: int
    name: str
    settings_hash: str


def batch_id(name: str, settings_hash: str, key: str) -> str:
    """Return the id of the batch that ``key`` names: a retry of the same caller finds it again."""
    return hashlib.sha256(f"{name}\n{settings_hash}\n{key}".encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Registration:
    """What a registration found and did.

    :param batch: the batch's id, derived from ensemble and batch key, so that a retry finds it.
    :param generation: the generation that this batch computes.
    :param total: simulations in the table.
    :param new: not known before.
    :param complete: complete already and kept.
    :param failed: failed for good before and kept.
    :param pending: waiting to be dispatched or claimed now.
    :param elsewhere: owned by another batch or worker at this moment.
    :param reopened: sent back to pending by ``skip_existing: false`` or ``replace``.
    """

    batch: str
    generation: int
    total: int
    new: int
    complete: int
    failed: int
    pending: int
    elsewhere: int
    reopened: int


@dataclass(frozen=True)
class ChunkInfo:
    """A chunk as the index knows it.

    :param id: unique in the index.
    :param batch: the batch that owns it.
    :param number: position in its batch, from 0.
    :param size: simulations dispatched with it at first.
    :param resource_class: the needs that its simulations share.
    :param submission: number of the newest submission, from 1.
    :param state: ``open`` while an execution may still report, else ``settled``.
    :param unfinished: its simulations that are dispatched or running now.
    """

    id: str
    batch: str
    number: int
    size: int
    resource_class: str
    submission: int
    state: str
    unfinished: int


@dataclass(frozen=True)
class BatchInfo:
    """A batch as the index knows it.

    :param id: see :attr:`Registration.batch`.
    :param key: what the caller named it: dag, run and task, or a CLI run's id.
    :param backend: local, slurm or kubernetes; empty until dispatched.
    :param generation: the generation that it computes.
    :param created: Unix time, seconds.
    :param settled: whether no chunk of it is open.
    """

    id: str
    key: str
    backend: str
    generation: int
    created: float
    settled: bool


@dataclass(frozen=True)
class JobInfo:
    """One array job of a cluster: a submission that happens once.

    :param name: its name on the cluster, unique for ever: by it a lost answer is looked up.
    :param batch: the batch that it belongs to.
    :param place: where it was sent: an Airflow connection's id, or ``local`` from a login node.
    :param folder: its folder on the cluster, absolute.
    :param attempt: how often ``sbatch`` has been begun; 0 before the first time.
    :param deadline: index time until which an attempt without an answer may still turn up.
    :param job_id: the id that the cluster gave it; None until that is known.
    :param submitted: index time at which ``job_id`` became known; None until then.
    """

    name: str
    batch: str
    place: str
    folder: str
    attempt: int = 0
    deadline: float = 0.0
    job_id: str | None = None
    submitted: float | None = None


@dataclass(frozen=True)
class ElementInfo:
    """One submission of a chunk as an element of an array job.

    :param job: the array job.
    :param element: its array index.
    :param chunk: the chunk that it runs.
    :param submission: of that chunk.
    :param end: how it ended, in the backend's own word; None while it may live.
    :param detail: one line for people.
    """

    job: JobInfo
    element: int
    chunk: str
    submission: int
    end: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class WorkerInfo:
    """A pull worker whose lease holds.

    :param id: its id: the host and a random part.
    :param host: what it calls its host; in a pod, the pod's name.
    :param expires: index time at which the lease ends unless it is renewed.
    """

    id: str
    host: str
    expires: float


@dataclass(frozen=True)
class Counts:
    """Simulations by status.

    :param empty: of the complete ones, those with at least one complete-empty product.
    :param results: simulations that have a newest complete result, of whatever generation.
    :param reasons: failed ones by reason.
    """

    blocked: int = 0
    pending: int = 0
    dispatched: int = 0
    running: int = 0
    complete: int = 0
    failed: int = 0
    empty: int = 0
    results: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Return the number of simulations."""
        return self.unfinished + self.complete + self.failed

    @property
    def unfinished(self) -> int:
        """Return the number that is not terminal."""
        return self.blocked + self.pending + self.dispatched + self.running


@dataclass(frozen=True)
class SimulationInfo:
    """Everything that the index knows of one simulation.

    ``products`` are those of the newest complete generation (``result_generation``).
    """

    simulation: Simulation
    status: Status
    generation: int
    attempt: int
    tries: int
    interruptions: int
    batch: str | None
    chunk: str | None
    worker: str | None
    reason: Reason | None
    detail: str
    host: str
    log: str | None
    started: float | None
    duration: float | None
    updated: float
    result_generation: int | None
    products: tuple[Product, ...]


@dataclass(frozen=True)
class AttemptInfo:
    """One unsuccessful attempt, kept for ``show`` and for finding bad hosts."""

    id: str
    attempt: int
    generation: int
    reason: Reason
    detail: str
    host: str
    log: str | None
    started: float
    duration: float


@dataclass(frozen=True)
class Entry:
    """The little of a simulation by which a table is compared with the index.

    :param position: the order of first registration.
    :param digest: of its parameters.
    :param n_empty: its complete-empty products.
    :param result_generation: the generation of its newest complete result; None without one.
    :param registered_by: the batch that registered it last.
    """

    position: int
    id: str
    digest: str
    status: Status
    reason: Reason | None
    n_empty: int
    result_generation: int | None
    attempt: int
    registered_by: str


@dataclass(frozen=True)
class Result:
    """A simulation's newest complete products, as ``collect`` reads them."""

    id: str
    params: Mapping[str, Any]
    generation: int
    products: tuple[Product, ...]


@dataclass(frozen=True)
class Scope:
    """Which simulations a question is about. The default is all of the ensemble.

    :param batch: those that this batch registered last or owns.
    :param chunk: those that this chunk owns or finished last.
    :param ids: exactly these.
    :param statuses: only with one of these statuses.
    """

    batch: str | None = None
    chunk: str | None = None
    ids: Sequence[str] | None = None
    statuses: Sequence[Status] | None = None


class OutputIndex(ABC):
    """The status of every simulation and product, behind SQLite or PostgreSQL.

    Every method raises :class:`~airflow_ensemble.engine.errors.IndexUnavailable` when the database
    cannot be reached after bounded retries, and leaves no half state then.
    """

    uuid: str
    #: False where this account may only read; known of indexes that were opened for reading.
    may_write: bool = True

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def now(self) -> float:
        """Return the database's time, Unix seconds."""

    # --- ensembles and registration -------------------------------------------------------------

    @abstractmethod
    def define(self, recipe: Recipe) -> EnsembleKey:
        """Make the ensemble known, or find it. The newest recipe of equal settings is kept.

        :raises UsageError: when the output root belongs to an ensemble of another name.
        """

    @abstractmethod
    def ensembles(self, name: str | None = None) -> list[EnsembleKey]:
        """Return the known ensembles, newest settings first, of one name if given."""

    @abstractmethod
    def recipe(self, ensemble: EnsembleKey) -> Recipe:
        """Return the recipe that pull workers follow."""

    @abstractmethod
    def register(
        self,
        ensemble: EnsembleKey,
        simulations: Iterable[Simulation],
        *,
        batch_key: str,
        skip_existing: bool = True,
        replace: bool = False,
    ) -> Registration:
        """Register simulations: idempotent, streamed, safe beside other registrations.

        A finished simulation is never demoted, unless ``skip_existing`` is false: then the batch
        opens one new generation, in which its retries stay. Known ids with another digest are
        refused, unless ``replace`` (a new generation for those rows only, with the new parameters).
        A row that another batch or worker owns at this moment is left to it.

        :raises UsageError: on a duplicate id, or on changed parameters, naming id, column and both
            values; nothing is changed then.
        """

    # --- push: dispatch, chunks -----------------------------------------------------------------

    @abstractmethod
    def dispatch(
        self,
        ensemble: EnsembleKey,
        batch: str,
        *,
        backend: str,
        n_chunks: int,
        max_chunk_size: int | None = None,
    ) -> list[ChunkInfo]:
        """Move the batch's pending simulations to ``dispatched``, dealt to at most ``n_chunks``.

        Round-robin in order of priority and table position within one resource class, so that all
        chunks of a class differ by at most one; each class gets at least one chunk. Increments
        every simulation's attempt. A retry (the batch has chunks already) returns the chunks it
        has, without dispatching anything twice, plus new chunks for what is pending now.
        """

    @abstractmethod
    def chunks(self, batch: str) -> list[ChunkInfo]:
        """Return the chunks of a batch by number."""

    @abstractmethod
    def chunk(self, id: str) -> ChunkInfo:
        """Return one chunk.

        :raises UsageError: when this index does not know it.
        """

    @abstractmethod
    def chunk_owner(self, id: str) -> tuple[EnsembleKey, BatchInfo]:
        """Return the ensemble and the batch that a chunk belongs to."""

    @abstractmethod
    def assignments(self, chunk: str) -> list[Assignment]:
        """Return the unfinished simulations that the chunk owns, with their attempts, in order."""

    @abstractmethod
    def resubmit(
        self,
        chunk: str,
        *,
        reason: Reason = Reason.LOST,
        detail: str = "",
        submission: int | None = None,
    ) -> ChunkInfo:
        """Give every unfinished simulation of the chunk a new attempt, and the chunk a submission.

        To be called only when the newest execution is known to have ended. Rows that are
        ``running`` are first charged; rows that this fails for good are left.

        :param reason: what those are charged with.
        :param detail: one line for people; default says that the chunk ended without them.
        :param submission: the submission that has ended; when the chunk has a newer one already,
            because another process came first, nothing is changed. None is the newest.
        :return: the chunk with its newest submission.
        """

    @abstractmethod
    def charge(
        self,
        chunk: str,
        *,
        reason: Reason = Reason.LOST,
        detail: str = "",
        submission: int | None = None,
    ) -> int:
        """Charge the chunk's ``running`` rows, because its newest execution has ended.

        What may run again stays with the chunk, as dispatched, until ``resubmit`` or ``settle``.
        The parameters are those of :meth:`resubmit`.

        :return: how many were charged.
        """

    @abstractmethod
    def settle(
        self,
        chunk: str,
        *,
        reason: Reason = Reason.LOST,
        detail: str = "",
        submission: int | None = None,
    ) -> int:
        """End the chunk: its running rows are charged, the unfinished ones return to ``pending``.

        The parameters are those of :meth:`resubmit`.

        :return: how many simulations it gave back.
        """

    # --- push: array jobs of a cluster ------------------------------------------------------------

    @abstractmethod
    def prepare_job(
        self,
        batch: str,
        chunks: Sequence[tuple[str, int]],
        *,
        place: str,
        parent: str,
        prefix: str = "ens",
    ) -> JobInfo:
        """Enter the intent to submit chunks as one array, or find the job that has them already.

        :param batch: their batch.
        :param chunks: (chunk, submission) of each element, by array index.
        :param place: see :attr:`JobInfo.place`.
        :param parent: the folder on the cluster in which the job's own folder will be.
        :param prefix: what the job's name begins with; batch, number and a random part follow.
        :return: the job; when the first of the chunk submissions has one, that one, as it is.
        :raises UsageError: when the batch is not known, or there is no chunk.
        :raises OutputIndexError: when a later one of the chunk submissions has a job, but the first
            has none.
        """

    @abstractmethod
    def begin_attempt(self, job: str, patience: float, *, after: int | None = None) -> JobInfo:
        """Note that ``sbatch`` is about to be run: one attempt more, and a new deadline.

        :param job: its name.
        :param patience: seconds from now until which an unanswered attempt may still turn up.
        :param after: the attempt that the caller has looked at last; None does not compare.
        :return: the job; one that has its ``job_id`` is returned as it is, and nothing must be
            submitted then.
        :raises Fenced: when another process has begun an attempt after ``after``.
        """

    @abstractmethod
    def note_submitted(self, job: str, job_id: str) -> JobInfo:
        """Note the id that the cluster gave; the first one noted stays.

        :return: the job with the id that counts.
        """

    @abstractmethod
    def jobs(self, ensemble: EnsembleKey, batch: str | None = None) -> list[JobInfo]:
        """Return the array jobs of an ensemble or one of its batches, oldest first."""

    @abstractmethod
    def elements(
        self, *, batch: str | None = None, job: str | None = None, chunk: str | None = None
    ) -> list[ElementInfo]:
        """Return elements by job and array index.

        Of a batch: those of the newest submission of each open chunk. Of a job: all. Of a chunk:
        all its submissions, oldest first, which is its history. At least one must be given; of
        several, what fits all.
        """

    @abstractmethod
    def end_element(self, chunk: str, submission: int, end: str, detail: str = "") -> None:
        """Note how an element ended; the first note stays.

        :raises UsageError: when that submission of the chunk belongs to no job.
        """

    @abstractmethod
    def open_batches(self, ensemble: EnsembleKey) -> list[BatchInfo]:
        """Return the batches with at least one open chunk, oldest first."""

    # --- pull: workers, claims, leases ----------------------------------------------------------

    @abstractmethod
    def enlist(self, ensemble: EnsembleKey, worker: str, host: str, lease: float = LEASE) -> None:
        """Announce a pull worker; its lease begins.

        :param worker: its id, like no other's.
        :param host: where it runs; all of a host's workers can be dismissed together.
        :param lease: seconds.
        """

    @abstractmethod
    def claim(self, worker: str, limit: int) -> list[Assignment]:
        """Claim up to ``limit`` pending simulations of the worker's ensemble; expires old leases.

        Fewest tries first, then priority, then table order: a poison simulation cannot hold up
        the others. Never waits for rows that another worker is claiming.

        :raises Fenced: when the worker's own lease has expired.
        """

    @abstractmethod
    def renew(self, worker: str) -> frozenset[tuple[str, int]]:
        """Renew the lease; return (id, attempt) of all that the worker still holds.

        :raises Fenced: when the lease has expired.
        """

    @abstractmethod
    def has_pending(self, ensemble: EnsembleKey) -> bool:
        """Return whether there is anything to claim; much cheaper than a claim in vain."""

    @abstractmethod
    def drained(self, ensemble: EnsembleKey) -> Counts | None:
        """Return the counts when every simulation is terminal, else None.

        Cheap as long as something is pending or a pull worker holds something.
        """

    @abstractmethod
    def await_news(self, ensemble: EnsembleKey, seconds: float, wake: int) -> bool:
        """Wait until there may be more to claim, or less to wait for.

        PostgreSQL tells when simulations become pending and when a worker leaves. SQLite cannot:
        there the time and ``wake`` alone end the wait.

        :param seconds: how long at most.
        :param wake: a descriptor; the wait ends as soon as it can be read.
        :return: whether to look: there is news, or some may have gone unheard. An index that is
            out of reach is no error here.
        """

    @abstractmethod
    def hurry(self, patience: float) -> None:
        """Give a database that is out of reach up after so many seconds from now on.

        For a worker that is told to stop. Holds for calls under way, too.
        """

    @abstractmethod
    def hand_back(self, worker: str, ids: Sequence[str]) -> int:
        """Let others claim what the worker has claimed and not begun.

        :param ids: which simulations; what runs, or is no longer the worker's, stays as it is.
        :return: how many went back.
        """

    @abstractmethod
    def discharge(self, worker: str) -> int:
        """Hand back all that the worker holds, without charging a try, and forget the worker."""

    @abstractmethod
    def dismiss(self, host: str, reason: Reason, detail: str) -> int:
        """Take back what the workers of a host hold, because they are known to have ended.

        What runs is charged with ``reason``, as by :meth:`expire`, and all of it is free at once
        instead of after the lease. A worker that lives all the same is fenced.

        :param host: what the workers called it; see :meth:`enlist`.
        :param detail: one line for people.
        :return: how many simulations it took back; 0 when that was done before.
        """

    @abstractmethod
    def workers(self, ensemble: EnsembleKey) -> list[WorkerInfo]:
        """Return the ensemble's pull workers whose lease holds, by id."""

    # --- both: what happened --------------------------------------------------------------------

    @abstractmethod
    def record(
        self,
        ensemble: EnsembleKey,
        records: Sequence[Started | Finished],
        *,
        worker: str | None = None,
        offsets: Mapping[str, int] | None = None,
    ) -> int:
        """Bring started and finished attempts into the index, in bulk.

        Idempotent and fenced: a record counts only while its attempt holds the simulation
        (dispatched or running with that attempt number); a late or repeated one changes nothing.
        An unsuccessful outcome also needs the row's token to be unset or its own. With ``worker``
        its lease is renewed in the same transaction.

        :param offsets: how many bytes of segments (by name) are recorded with these; a smaller
            number than the known one is ignored.
        :return: how many finished attempts counted.
        :raises Fenced: when ``worker`` is given and its lease has expired (nothing is recorded).
        """

    @abstractmethod
    def expire(self) -> int:
        """Take back what workers with an expired lease hold; running ones are ``lost``.

        What is only claimed is not charged; but of a worker that ran nothing, as far as is known,
        the first that it was about to run is, so that none can kill worker after worker for ever.
        """

    @abstractmethod
    def restore(self, ensemble: EnsembleKey, finished: Iterable[Finished]) -> int:
        """Rebuild: put finished attempts back, the newest generation and attempt of each id.

        Ids that the index does not know are registered from the record's parameters. A row whose
        newest generation is complete becomes complete; one with failed attempts keeps its tries
        and becomes failed where the limits say so; nothing newer is overwritten.

        :return: how many simulations are terminal by it.
        """

    # --- people ---------------------------------------------------------------------------------

    @abstractmethod
    def cancel(self, ensemble: EnsembleKey, scope: Scope) -> list[tuple[str, str | None]]:
        """Fail unfinished simulations as ``cancelled`` and fence their attempts.

        :return: (id, chunk) of each, so that the caller can reach who runs it.
        """

    @abstractmethod
    def retry(self, ensemble: EnsembleKey, scope: Scope) -> int:
        """Send failed simulations back to pending with their counters at zero; return how many."""

    @abstractmethod
    def reopen_chunk(self, chunk: str) -> int:
        """Give the chunk its failed simulations back as dispatched, counters at zero.

        For a cleared task: only rows that no other batch owns or registered since.
        """

    @abstractmethod
    def forget(self, ensemble: EnsembleKey, entries: Sequence[Entry]) -> int:
        """Remove simulations, as :meth:`entries` has shown them, with all that came of them.

        What is dispatched or running, or was registered or tried again since, stays. Batches keep
        the simulations that are left. An id that comes back is new, and its attempts go on from
        where they were, so that no outcome of before can count.

        :return: how many were removed.
        """

    @abstractmethod
    def note_forgotten(self, ensemble: EnsembleKey, attempts: Mapping[str, int]) -> None:
        """Note what was forgotten in an index that is lost: :meth:`restore` then passes it over.

        :param attempts: how many attempts each had, by id.
        """

    @abstractmethod
    def counts(self, ensemble: EnsembleKey, scope: Scope = Scope()) -> Counts:
        """Count simulations by status."""

    @abstractmethod
    def simulation(self, ensemble: EnsembleKey, id: str) -> SimulationInfo | None:
        """Return what is known of one simulation, or None."""

    @abstractmethod
    def simulations(
        self, ensemble: EnsembleKey, scope: Scope = Scope(), limit: int | None = None
    ) -> Iterator[SimulationInfo]:
        """Yield simulations in table order."""

    @abstractmethod
    def entries(self, ensemble: EnsembleKey, scope: Scope = Scope()) -> Iterator[Entry]:
        """Yield the little by which a table is compared with the index, by position."""

    @abstractmethod
    def extent(self, ensemble: EnsembleKey) -> int:
        """Return the position after the last one that a registration has given so far."""

    @abstractmethod
    def attempts(self, ensemble: EnsembleKey, id: str) -> list[AttemptInfo]:
        """Return the unsuccessful attempts of one simulation, oldest first."""

    @abstractmethod
    def results(self, ensemble: EnsembleKey, scope: Scope = Scope()) -> Iterator[Result]:
        """Yield the newest complete results in table order."""

    # --- segments already read ------------------------------------------------------------------

    @abstractmethod
    def offsets(self, ensemble: EnsembleKey) -> dict[str, int]:
        """Return how many bytes of each segment (by name) have been recorded."""
