"""The output index, written once over the seam of :mod:`.database`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.errors import UsageError
from airflow_ensemble.engine.index import jobs, ownership, recording, registration, restoring, rows
from airflow_ensemble.engine.index.database import Database, Session, prepare
from airflow_ensemble.engine.index.interface import (
    LEASE,
    AttemptInfo,
    BatchInfo,
    ChunkInfo,
    Counts,
    ElementInfo,
    EnsembleKey,
    Entry,
    JobInfo,
    OutputIndex,
    Registration,
    Result,
    Scope,
    SimulationInfo,
    WorkerInfo,
)
from airflow_ensemble.engine.recipe import Recipe
from airflow_ensemble.engine.segment import Finished, Started
from airflow_ensemble.engine.simulation import Reason, Simulation, canonical_json

_PAGE = 2000
_ALL = Scope()
#: Seconds to wait for pending rows that a registration holds.
_LOCKED = 5.0
_CANCELLED = "cancelled on request"


class DatabaseIndex(OutputIndex):
    """The output index in a database.

    :param database: where its rows are.
    :param create: make the index when there is none.
    :param uuid: the uuid that it must have; None accepts any.
    :param read_only: whether nothing is to be written; then it is found out whether it could be.
    """

    def __init__(
        self,
        database: Database,
        *,
        create: bool = False,
        uuid: str | None = None,
        read_only: bool = False,
    ) -> None:
        self._database = database
        try:
            self.uuid = prepare(database, create=create, uuid=uuid)
            self.may_write = not read_only or database.may_write()
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def now(self) -> float:
        """Return the database's time, Unix seconds."""
        (now,) = self._database.read(lambda session: session.rows("clock"))[0]
        return float(now)

    # --- ensembles and registration -------------------------------------------------------------

    def define(self, recipe: Recipe) -> EnsembleKey:
        """Make the ensemble known, or find it."""
        return self._database.transact(lambda session: _define(session, recipe))

    def ensembles(self, name: str | None = None) -> list[EnsembleKey]:
        """Return the known ensembles, newest settings first."""
        found = self._database.read(lambda session: session.rows("ensemble_list", name=name))
        return [EnsembleKey(*row) for row in found]

    def recipe(self, ensemble: EnsembleKey) -> Recipe:
        """Return the recipe that pull workers follow."""
        row = self._database.read(
            lambda session: session.row("ensemble_recipe", ensemble=ensemble.number)
        )
        if row is None:
            raise UsageError(f"ensemble {ensemble.name!r} is not defined in this output index")
        return Recipe.from_dict(json.loads(row[0]))

    def register(
        self,
        ensemble: EnsembleKey,
        simulations: Iterable[Simulation],
        *,
        batch_key: str,
        skip_existing: bool = True,
        replace: bool = False,
    ) -> Registration:
        """Register simulations: idempotent, streamed, safe beside other registrations."""
        request = registration.Request(ensemble, batch_key, skip_existing, replace)
        return registration.register(self._database, request, simulations)

    # --- push: dispatch, chunks -----------------------------------------------------------------

    def dispatch(
        self,
        ensemble: EnsembleKey,
        batch: str,
        *,
        backend: str,
        n_chunks: int,
        max_chunk_size: int | None = None,
    ) -> list[ChunkInfo]:
        """Move the batch's pending simulations to ``dispatched``, dealt to chunks."""
        return self._database.transact(
            lambda session: ownership.dispatch(
                session, ensemble, batch, backend, n_chunks, max_chunk_size
            )
        )

    def chunks(self, batch: str) -> list[ChunkInfo]:
        """Return the chunks of a batch by number."""
        return self._database.read(lambda session: ownership.chunks(session, batch))

    def chunk(self, id: str) -> ChunkInfo:
        """Return one chunk."""
        return self._database.read(lambda session: ownership.chunk(session, id))

    def chunk_owner(self, id: str) -> tuple[EnsembleKey, BatchInfo]:
        """Return the ensemble and the batch that a chunk belongs to."""
        return self._database.read(lambda session: ownership.chunk_owner(session, id))

    def assignments(self, chunk: str) -> list[Assignment]:
        """Return the unfinished simulations that the chunk owns, in order."""
        return self._database.read(lambda session: ownership.assignments(session, chunk))

    def resubmit(
        self,
        chunk: str,
        *,
        reason: Reason = Reason.LOST,
        detail: str = "",
        submission: int | None = None,
    ) -> ChunkInfo:
        """Give every unfinished simulation of the chunk a new attempt."""
        ended = ownership.Ended(reason, detail, submission)
        return self._database.transact(lambda session: ownership.resubmit(session, chunk, ended))

    def charge(
        self,
        chunk: str,
        *,
        reason: Reason = Reason.LOST,
        detail: str = "",
        submission: int | None = None,
    ) -> int:
        """Charge the chunk's ``running`` rows, because its newest execution has ended."""
        ended = ownership.Ended(reason, detail, submission)
        return self._database.transact(lambda session: ownership.charge(session, chunk, ended))

    def settle(
        self,
        chunk: str,
        *,
        reason: Reason = Reason.LOST,
        detail: str = "",
        submission: int | None = None,
    ) -> int:
        """End the chunk: the unfinished ones return to ``pending``."""
        ended = ownership.Ended(reason, detail, submission)
        return self._database.transact(lambda session: ownership.settle(session, chunk, ended))

    # --- push: array jobs of a cluster ----------------------------------------------------------

    def prepare_job(
        self,
        batch: str,
        chunks: Sequence[tuple[str, int]],
        *,
        place: str,
        parent: str,
        prefix: str = "ens",
    ) -> JobInfo:
        """Enter the intent to submit chunks as one array, or find the job that has them."""
        return self._database.transact(
            lambda session: jobs.prepare(session, batch, chunks, place, parent, prefix)
        )

    def begin_attempt(self, job: str, patience: float, *, after: int | None = None) -> JobInfo:
        """Note that ``sbatch`` is about to be run."""
        deadlines: list[float] = []

        def work(session: Session) -> JobInfo:
            known = jobs.find(session, job)
            if known.attempt and known.deadline in deadlines:
                # The commit of an earlier try went through, only its answer was lost.
                return known
            (now,) = session.row("clock") or (0.0,)
            deadlines.append(now + patience)
            return jobs.begin_attempt(session, job, deadlines[-1], after)

        return self._database.transact(work)

    def note_submitted(self, job: str, job_id: str) -> JobInfo:
        """Note the id that the cluster gave; the first one noted stays."""
        return self._database.transact(lambda session: jobs.note_submitted(session, job, job_id))

    def jobs(self, ensemble: EnsembleKey, batch: str | None = None) -> list[JobInfo]:
        """Return the array jobs of an ensemble or one of its batches, oldest first."""
        scope = {} if batch is None else {"batch": batch}
        found = self._database.read(
            lambda session: session.rows(
                "job_list", ["scope_job_batch"] * len(scope), ensemble=ensemble.number, **scope
            )
        )
        return [rows.job_info(row) for row in found]

    def elements(
        self, *, batch: str | None = None, job: str | None = None, chunk: str | None = None
    ) -> list[ElementInfo]:
        """Return elements of a batch's open chunks, of a job or of a chunk."""
        return self._database.read(lambda session: jobs.elements(session, batch, job, chunk))

    def end_element(self, chunk: str, submission: int, end: str, detail: str = "") -> None:
        """Note how an element ended; the first note stays."""
        self._database.transact(
            lambda session: jobs.end_element(session, chunk, submission, end, detail)
        )

    def open_batches(self, ensemble: EnsembleKey) -> list[BatchInfo]:
        """Return the batches with at least one open chunk, oldest first."""
        found = self._database.read(
            lambda session: session.rows("batch_open", ensemble=ensemble.number)
        )
        return [rows.batch_info(row) for row in found]

    # --- pull: workers, claims, leases ----------------------------------------------------------

    def enlist(self, ensemble: EnsembleKey, worker: str, host: str, lease: float = LEASE) -> None:
        """Announce a pull worker; its lease begins."""
        self._database.transact(
            lambda session: session.run(
                "worker_enlist",
                ensemble=ensemble.number,
                worker=worker,
                host=host,
                lease=float(lease),
            )
        )

    def claim(self, worker: str, limit: int) -> list[Assignment]:
        """Claim up to ``limit`` pending simulations of the worker's ensemble."""
        times: list[float] = []

        def work(session: Session) -> list[Assignment]:
            for when in times:
                # The commit of an earlier try went through, only its answer was lost.
                if found := session.rows("claimed_at", worker=worker, time=when):
                    return ownership.in_order(found)
            claimed, now = ownership.claim(session, worker, limit)
            times.append(now)
            return claimed

        claimed = self._database.transact(work)
        deadline = time.monotonic() + _LOCKED
        while limit and not claimed and self._is_claimable(worker) and time.monotonic() < deadline:
            # A registration holds what is pending, and claims pass by locked rows: not drained.
            time.sleep(0.05)
            claimed = self._database.transact(work)
        return claimed

    def renew(self, worker: str) -> frozenset[tuple[str, int]]:
        """Renew the lease; return (id, attempt) of all that the worker still holds."""

        def work(session: Session) -> frozenset[tuple[str, int]]:
            ownership.renew(session, worker)
            held = session.rows("worker_holds", worker=worker)
            return frozenset((id, attempt) for id, attempt in held)

        return self._database.transact(work)

    def has_pending(self, ensemble: EnsembleKey) -> bool:
        """Return whether there is anything to claim."""
        return self._has("has_pending", ensemble)

    def drained(self, ensemble: EnsembleKey) -> Counts | None:
        """Return the counts when every simulation is terminal, else None."""
        # Counting reads an entry for each simulation: not as long as pull workers hold any.
        if self._has("has_pending", ensemble) or self._has("has_held", ensemble):
            return None
        counts = self.counts(ensemble)
        return None if counts.unfinished else counts

    def await_news(self, ensemble: EnsembleKey, seconds: float, wake: int) -> bool:
        """Wait until there may be more to claim, or less to wait for."""
        return self._database.await_news(ensemble.number, seconds, wake)

    def hurry(self, patience: float) -> None:
        """Give a database that is out of reach up after so many seconds from now on."""
        self._database.hurry(patience)

    def hand_back(self, worker: str, ids: Sequence[str]) -> int:
        """Let others claim what the worker has claimed and not begun."""
        return self._database.transact(lambda session: ownership.hand_back(session, worker, ids))

    def discharge(self, worker: str) -> int:
        """Hand back all that the worker holds, and forget the worker."""
        return self._database.transact(lambda session: ownership.discharge(session, worker))

    def dismiss(self, host: str, reason: Reason, detail: str) -> int:
        """Take back what the workers of a host hold, because they are known to have ended."""
        return self._database.transact(
            lambda session: ownership.dismiss(session, host, reason, detail)
        )

    def workers(self, ensemble: EnsembleKey) -> list[WorkerInfo]:
        """Return the ensemble's pull workers whose lease holds, by id."""
        found = self._database.read(
            lambda session: session.rows("worker_list", ensemble=ensemble.number)
        )
        return [WorkerInfo(*row) for row in found]

    # --- both: what happened --------------------------------------------------------------------

    def record(
        self,
        ensemble: EnsembleKey,
        records: Sequence[Started | Finished],
        *,
        worker: str | None = None,
        offsets: Mapping[str, int] | None = None,
    ) -> int:
        """Bring started and finished attempts into the index, in bulk."""
        if not records and not offsets and worker is None:
            return 0

        def work(session: Session) -> int:
            if worker is not None:
                ownership.renew(session, worker)
            counted = recording.record(
                session, ensemble, records, locks_rows=self._database.locks_rows
            )
            for name, consumed in sorted((offsets or {}).items()):
                session.run("segment_note", ensemble=ensemble.number, name=name, consumed=consumed)
            return counted

        return self._database.transact(work)

    def expire(self) -> int:
        """Take back what workers with an expired lease hold."""
        return self._database.transact(ownership.expire)

    def restore(self, ensemble: EnsembleKey, finished: Iterable[Finished]) -> int:
        """Rebuild: put finished attempts back."""
        return restoring.restore(self._database, ensemble, finished)

    # --- people ---------------------------------------------------------------------------------

    def cancel(self, ensemble: EnsembleKey, scope: Scope) -> list[tuple[str, str | None]]:
        """Fail unfinished simulations as ``cancelled`` and fence their attempts."""
        names, parameters = _conditions(scope)
        parameters["ensemble"] = ensemble.number
        times: list[float] = []

        def work(session: Session) -> list[tuple[Any, ...]]:
            for when in times:
                # The commit of an earlier try went through, only its answer was lost.
                if found := session.rows("cancelled_at", ensemble=ensemble.number, time=when):
                    return found
            (now,) = session.row("clock") or (0.0,)
            times.append(now)
            if self._database.locks_rows:
                session.rows("cancel_lock", names, **parameters)
            session.run("cancel_note", names, detail=_CANCELLED, **parameters)
            return session.rows("cancel", names, detail=_CANCELLED, **parameters)

        found = sorted(self._database.transact(work), key=lambda row: int(row[2]))
        return [(id, chunk) for id, chunk, _ in found]

    def retry(self, ensemble: EnsembleKey, scope: Scope) -> int:
        """Send failed simulations back to pending with their counters at zero."""
        names, parameters = _conditions(scope)

        def work(session: Session) -> int:
            sent_back = session.run("retry", names, ensemble=ensemble.number, **parameters)
            if sent_back:
                session.announce(ensemble.number)
            return sent_back

        return self._database.transact(work)

    def reopen_chunk(self, chunk: str) -> int:
        """Give the chunk its failed simulations back as dispatched, counters at zero."""
        return self._database.transact(lambda session: ownership.reopen_chunk(session, chunk))

    def forget(self, ensemble: EnsembleKey, entries: Sequence[Entry]) -> int:
        """Remove simulations with all that came of them."""
        number = ensemble.number
        seen = {(one.id, one.attempt, one.registered_by) for one in entries}
        ids = json.dumps([one.id for one in entries])
        # Also by a try whose commit went through, and only its answer was lost.
        removed: set[str] = set()

        def work(session: Session) -> int:
            free = session.rows("forget_choose", ensemble=number, ids=ids)
            going = [row for row in free if tuple(row) in seen]
            gone = json.dumps([id for id, _, _ in going])
            attempts = json.dumps([(id, attempt) for id, attempt, _ in going])
            session.run("forget_note", ensemble=number, attempts=attempts)
            session.run("forget_attempts", ensemble=number, ids=gone)
            session.run("forget_rows", ensemble=number, ids=gone)
            removed.update(id for id, _, _ in going)
            return len(removed)

        return self._database.transact(work)

    def note_forgotten(self, ensemble: EnsembleKey, attempts: Mapping[str, int]) -> None:
        """Note what was forgotten in an index that is lost."""
        given = json.dumps(sorted(attempts.items()))
        self._database.transact(
            lambda session: session.run("forget_note", ensemble=ensemble.number, attempts=given)
        )

    def counts(self, ensemble: EnsembleKey, scope: Scope = _ALL) -> Counts:
        """Count simulations by status."""
        names, parameters = _conditions(scope)
        statement = "count"
        if names == ["scope_batch"]:
            names, statement = [], "count_batch"
        parameters["ensemble"] = ensemble.number
        return rows.counts(
            self._database.read(lambda session: session.rows(statement, names, **parameters))
        )

    def simulation(self, ensemble: EnsembleKey, id: str) -> SimulationInfo | None:
        """Return what is known of one simulation, or None."""
        return next(self.simulations(ensemble, Scope(ids=[id])), None)

    def simulations(
        self, ensemble: EnsembleKey, scope: Scope = _ALL, limit: int | None = None
    ) -> Iterator[SimulationInfo]:
        """Yield simulations in table order."""
        return map(rows.simulation_info, self._pages("page", ensemble, scope, limit))

    def entries(self, ensemble: EnsembleKey, scope: Scope = _ALL) -> Iterator[Entry]:
        """Yield the little by which a table is compared with the index, by position."""
        return map(rows.entry, self._pages("entries", ensemble, scope, None))

    def extent(self, ensemble: EnsembleKey) -> int:
        """Return the position after the last one that a registration has given so far."""
        row = self._database.read(
            lambda session: session.row("ensemble_extent", ensemble=ensemble.number)
        )
        return int(row[0]) if row else 0

    def attempts(self, ensemble: EnsembleKey, id: str) -> list[AttemptInfo]:
        """Return the unsuccessful attempts of one simulation, oldest first."""
        found = self._database.read(
            lambda session: session.rows("attempts", ensemble=ensemble.number, id=id)
        )
        return [rows.attempt_info(row) for row in found]

    def results(self, ensemble: EnsembleKey, scope: Scope = _ALL) -> Iterator[Result]:
        """Yield the newest complete results in table order."""
        return map(rows.result, self._pages("results", ensemble, scope, None))

    # --- segments already read ------------------------------------------------------------------

    def offsets(self, ensemble: EnsembleKey) -> dict[str, int]:
        """Return how many bytes of each segment have been recorded."""
        found = self._database.read(
            lambda session: session.rows("segment_list", ensemble=ensemble.number)
        )
        return {name: int(consumed) for name, consumed in found}

    def _has(self, statement: str, ensemble: EnsembleKey) -> bool:
        return bool(
            self._database.read(lambda session: session.rows(statement, ensemble=ensemble.number))
        )

    def _is_claimable(self, worker: str) -> bool:
        return bool(self._database.read(lambda session: session.rows("claimable", worker=worker)))

    def _pages(
        self, statement: str, ensemble: EnsembleKey, scope: Scope, limit: int | None
    ) -> Iterator[tuple[Any, ...]]:
        # Page by page, so that no transaction is open between two rows and memory stays flat.
        names, parameters = _conditions(scope)
        parameters["ensemble"] = ensemble.number
        after, left = -1, limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            read = _reader(statement, names, {**parameters, "after": after, "limit": size})
            page = self._database.read(read)
            yield from page
            if len(page) < size:
                return
            after = page[-1][0]
            left = None if left is None else left - len(page)


def _reader(
    statement: str, names: list[str], parameters: dict[str, Any]
) -> Callable[[Session], list[tuple[Any, ...]]]:
    return lambda session: session.rows(statement, names, **parameters)


def _define(session: Session, recipe: Recipe) -> EnsembleKey:
    session.script("define_lock")
    taken = session.row("ensemble_with_output", output=recipe.output, name=recipe.ensemble)
    if taken:
        raise UsageError(
            f"the output root {recipe.output} belongs to ensemble {taken[0]!r}: give ensemble "
            f"{recipe.ensemble!r} another output"
        )
    settings_hash = recipe.settings.hash
    session.run(
        "ensemble_define",
        name=recipe.ensemble,
        settings_hash=settings_hash,
        output=recipe.output,
        recipe=canonical_json(recipe.as_dict()),
        max_attempts=recipe.limits.max_attempts,
        max_interruptions=recipe.limits.max_interruptions,
    )
    row = session.row("ensemble_find", name=recipe.ensemble, settings_hash=settings_hash)
    assert row is not None
    return EnsembleKey(int(row[0]), recipe.ensemble, settings_hash)


def _conditions(scope: Scope) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the conditions that a scope means, and their parameters."""
    names: list[str] = []
    parameters: dict[str, Any] = {}
    if scope.batch is not None:
        names.append("scope_batch")
        parameters["scope_batch"] = scope.batch
    if scope.chunk is not None:
        names.append("scope_chunk")
        parameters["scope_chunk"] = scope.chunk
    if scope.ids is not None:
        names.append("scope_ids")
        parameters["ids"] = json.dumps(list(scope.ids))
    if scope.statuses is not None:
        names.append("scope_statuses")
        parameters["statuses"] = json.dumps([status.value for status in scope.statuses])
    return names, parameters
