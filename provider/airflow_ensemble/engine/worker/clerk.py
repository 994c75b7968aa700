"""The clerk: a thread that talks to the output index for a pull worker.

The worker itself never waits for the database. Records are kept until the index has them; the lease
is renewed with all traffic; once it may be over, nothing more is recorded and the worker must stop.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.errors import Fenced, IndexUnavailable
from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, OutputIndex
from airflow_ensemble.engine.segment import Finished
from airflow_ensemble.engine.worker.recorder import Record

logger = logging.getLogger(__name__)

FIRST_DELAY = 0.2
#: Seconds between two looks at what is still ours, so that a cancellation is noticed soon.
RENEW_INTERVAL = 5.0
_MAX_RETRY_DELAY = 5.0
_CLOSE_LIMIT = 10.0
#: Some 20 ms on SQLite: as long as that, other workers wait for the database.
_RECORDS_AT_ONCE = 4000


@dataclass
class BackOff:
    """Growing, jittered delays.

    :param longest: seconds.
    """

    longest: float
    delay: float = field(default=FIRST_DELAY)

    def next(self) -> float:
        """Return the next delay, seconds."""
        delay = self.delay * random.uniform(0.5, 1.0)
        self.delay = min(self.longest, self.delay * 2)
        return delay

    def reset(self) -> None:
        """Begin with short delays again."""
        self.delay = FIRST_DELAY


class Clerk:
    """Claims, records and renews for one worker; use it as a context manager.

    :param index: used by this thread alone while the clerk is at work.
    :param ensemble: whose simulations to claim.
    :param worker: the worker's id.
    :param host: where it runs.
    :param lease: seconds.
    :param longest_pause: between two claims while there is nothing to claim, seconds.
    :param notify: called when there is news.
    """

    def __init__(
        self,
        index: OutputIndex,
        ensemble: EnsembleKey,
        *,
        worker: str,
        host: str,
        lease: float,
        longest_pause: float,
        notify: Callable[[], None],
    ) -> None:
        self._index = index
        self._ensemble = ensemble
        self._worker = worker
        self._lease = lease
        self._renew_interval = min(lease / 3, RENEW_INTERVAL)
        self._notify = notify
        self._changed = threading.Condition()
        self._records: list[Record] = []
        self._claimed: list[Assignment] = []
        self._lost: set[str] = set()
        self._holding: set[tuple[str, int]] = set()
        self._wanted = 0
        self._next_renewal = 0.0
        self._counts: Counts | None = None
        self._next_claim = 0.0
        self._pause = BackOff(longest_pause)
        self._retry = BackOff(_MAX_RETRY_DELAY)
        self._is_closing = False
        self._error: BaseException | None = None
        index.enlist(ensemble, worker, host, lease)
        self._contact = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="clerk", daemon=True)

    def __enter__(self) -> Clerk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_LIMIT)

    # --- called by the worker -------------------------------------------------------------------

    def check(self) -> None:
        """Raise what went wrong.

        :raises Fenced: when the lease is over, or may be over because the index is out of reach.
        """
        if self._error is not None:
            raise self._error
        silence = time.monotonic() - self._contact
        if silence > self._lease:
            raise Fenced(
                f"worker {self._worker} had no contact with the output index for {silence:.0f} s: "
                "its simulations may run elsewhere by now"
            )

    def record(self, records: Sequence[Record]) -> None:
        """Have records brought into the index."""
        if records:
            with self._changed:
                self._records.extend(records)
                self._changed.notify()

    def want(self, number: int) -> None:
        """Have up to this many simulations claimed, besides those not yet taken."""
        with self._changed:
            if number > 0 and not self._wanted and not self._claimed:
                self._wanted = number
                self._changed.notify()

    def take(self) -> list[Assignment]:
        """Return what was claimed since the last call."""
        with self._changed:
            claimed, self._claimed = self._claimed, []
            return claimed

    def take_lost(self) -> set[str]:
        """Return the ids that the index says are no longer this worker's: they were cancelled."""
        with self._changed:
            lost, self._lost = self._lost, set()
            return lost

    def take_counts(self) -> Counts | None:
        """Return the ensemble's counts, taken when nothing was left to claim and to record."""
        with self._changed:
            counts, self._counts = self._counts, None
            return counts

    def flush(self, limit: float) -> bool:
        """Wait until all records are in the index; return whether that was so within ``limit``."""
        give_up = time.monotonic() + limit
        while self._records and self._thread.is_alive() and time.monotonic() < give_up:
            time.sleep(0.02)
        return not self._records

    # --- the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._is_closing:
                self._turn()
        except BaseException as error:
            self._error = error
        self._notify()

    def _turn(self) -> None:
        try:
            self._bring_records()
            self._claim()
            self._renew()
            self._retry.reset()
        except IndexUnavailable as error:
            delay = self._retry.next()
            logger.warning("worker %s: %s; again in %.1f s", self._worker, error, delay)
            time.sleep(delay)
            return
        with self._changed:
            if not self._has_work():
                self._changed.wait(self._leisure())

    def _has_work(self) -> bool:
        claim_is_due = self._wanted > 0 and time.monotonic() >= self._next_claim
        return bool(self._records or claim_is_due or self._is_closing)

    def _leisure(self) -> float:
        now = time.monotonic()
        due = self._next_renewal
        if self._wanted:
            due = min(due, self._next_claim)
        return max(0.01, due - now)

    def _bring_records(self) -> None:
        while self._records:
            batch = self._records[:_RECORDS_AT_ONCE]
            moment = time.monotonic()
            self._index.record(self._ensemble, batch, worker=self._worker)
            self._contact = moment
            with self._changed:
                del self._records[: len(batch)]
                self._holding.difference_update(
                    (record.outcome.id, record.outcome.attempt)
                    for record in batch
                    if isinstance(record, Finished)
                )
            if not self._holding:  # perhaps the last ones: look at once
                self._pause.reset()
                self._next_claim = 0.0

    def _claim(self) -> None:
        moment = time.monotonic()
        if not self._wanted or moment < self._next_claim:
            return
        claimed = self._index.claim(self._worker, self._wanted)
        counts = None
        if not claimed and not self._holding and not self._records:
            counts = self._index.counts(self._ensemble)
        self._contact = moment
        with self._changed:
            self._counts = counts
            if claimed:
                self._pause.reset()
            else:
                self._next_claim = time.monotonic() + self._pause.next()
            self._wanted = 0
            self._claimed.extend(claimed)
            self._holding.update((a.simulation.id, a.attempt) for a in claimed)
        self._notify()

    def _renew(self) -> None:
        moment = time.monotonic()
        if moment < self._next_renewal:
            return
        self._next_renewal = moment + self._renew_interval
        held = self._index.renew(self._worker)
        self._contact = moment
        with self._changed:
            gone = self._holding - held
            self._holding -= gone
            self._lost.update(id for id, _ in gone)
        if gone:
            self._notify()
