"""The clerk: a thread that talks to the output index for a pull worker.

The worker itself never waits for the database. Records are kept until the index has them; the lease
is renewed with all traffic; once it may be over, nothing more is recorded and the worker must stop.
While there is nothing to claim the clerk waits until the index tells of more, where it can, and
looks now and then all the same.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from airflow_ensemble.engine.bell import Bell, wait_readable
from airflow_ensemble.engine.chunk import Assignment
from airflow_ensemble.engine.errors import EnsembleError, Fenced, IndexUnavailable
from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, OutputIndex
from airflow_ensemble.engine.segment import Finished
from airflow_ensemble.engine.worker.appetite import Spread
from airflow_ensemble.engine.worker.recorder import Record

logger = logging.getLogger(__name__)

FIRST_DELAY = 0.2
#: Seconds between two looks at what is still ours, so that a cancellation is noticed soon.
RENEW_INTERVAL = 5.0
_MAX_RETRY_DELAY = 5.0
#: Seconds for which a statement that is under way may still answer.
_ANSWER_LIMIT = 3.0
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
    :param ends: whether the worker wants to know when everything is terminal.
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
        ends: bool,
        notify: Callable[[], None],
    ) -> None:
        self._index = index
        self._ensemble = ensemble
        self._worker = worker
        self._host = host
        self._lease = lease
        self._ends = ends
        self._notify = notify
        self._bell = Bell()
        self._changed = threading.Lock()
        self._records: list[Record] = []
        self._claimed: list[Assignment] = []
        self._returned: list[Assignment] = []
        self._lost: set[str] = set()
        self._holding: set[tuple[str, int]] = set()
        self._wanted = 0
        self._counts: Counts | None = None
        self._next_look = 0.0
        self._next_claim = 0.0
        self._is_told = False
        self._has_signed_off = False
        self._spread = Spread()
        self._pause = BackOff(longest_pause)
        self._retry = BackOff(_MAX_RETRY_DELAY)
        self._is_closing = threading.Event()
        self._error: BaseException | None = None
        index.enlist(ensemble, worker, host, lease)
        self._contact = self._last_look = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="clerk", daemon=True)

    def __enter__(self) -> Clerk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close(0.0)

    def close(self, limit: float) -> bool:
        """Bring the last records into the index, hand the rest back and sign off.

        :param limit: seconds after which a database that is out of reach is left alone: the
            records are in the segment, and the lease will run out.
        :return: whether the index knows all.
        """
        if not self._is_closing.is_set():
            self._index.hurry(limit)
            self._is_closing.set()
            self._bell.ring()
            self._thread.join(limit + _ANSWER_LIMIT)
            if not self._thread.is_alive():
                self._bell.close()
        return self._has_signed_off

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
            self._bell.ring()

    def want(self, number: int) -> None:
        """Have up to this many simulations claimed, besides those not yet taken."""
        with self._changed:
            if number > 0 and not self._wanted and not self._claimed:
                self._wanted = number
                self._bell.ring()

    def hand_back(self, assignments: Sequence[Assignment]) -> None:
        """Have simulations handed back that were claimed and not begun."""
        if assignments:
            with self._changed:
                self._returned.extend(assignments)
            self._bell.ring()

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

    # --- the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._is_closing.is_set():
                self._turn()
            self._sign_off()
        except BaseException as error:
            self._error = error
        self._notify()

    def _sign_off(self) -> None:
        try:
            self._bring_records()
            handed_back = self._index.discharge(self._worker)
        except EnsembleError as error:
            logger.warning("worker %s could not sign off: %s", self._worker, error)
            return
        self._has_signed_off = True
        if handed_back:
            logger.info("worker %s: handed %d simulations back", self._worker, handed_back)

    def _turn(self) -> None:
        self._bell.hush()
        try:
            self._bring_records()
            self._hand_back()
            self._claim()
            self._look()
            self._retry.reset()
        except IndexUnavailable as error:
            delay = self._retry.next()
            logger.warning("worker %s: %s; again in %.1f s", self._worker, error, delay)
            self._is_closing.wait(delay)
            return
        if not self._has_work():
            self._rest()

    def _has_work(self) -> bool:
        claim_is_due = self._wanted > 0 and time.monotonic() >= self._next_claim
        has_news = self._records or self._returned
        return bool(has_news or claim_is_due or self._is_closing.is_set())

    def _rest(self) -> None:
        due = min(self._next_look, self._next_claim) if self._wanted else self._next_look
        seconds = max(0.01, due - time.monotonic())
        if not self._wanted:
            wait_readable([self._bell.fileno()], seconds)
        elif self._index.await_news(self._ensemble, seconds, self._bell.fileno()):
            self._is_told = True
            self._next_claim = min(self._next_claim, time.monotonic() + self._spread.next())

    def _bring_records(self) -> None:
        while self._records:
            batch = self._records[:_RECORDS_AT_ONCE]
            moment = time.monotonic()
            self._index.record(self._ensemble, batch, worker=self._worker)
            self._heard(moment)
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

    def _hand_back(self) -> None:
        if not self._returned:
            return
        moment, returned = time.monotonic(), list(self._returned)
        self._index.hand_back(self._worker, [a.simulation.id for a in returned])
        self._heard(moment)
        logger.info(
            "worker %s: handed %d simulations back that waited for long ones",
            *(self._worker, len(returned)),
        )
        with self._changed:
            del self._returned[: len(returned)]
            self._holding.difference_update((a.simulation.id, a.attempt) for a in returned)

    def _claim(self) -> None:
        moment = time.monotonic()
        if not self._wanted or moment < self._next_claim:
            return
        claimed = self._claim_told() if self._is_told else self._claim_now()
        counts = None
        if self._ends and not claimed and not self._holding and not self._records:
            counts = self._index.drained(self._ensemble)
        with self._changed:
            self._counts = counts
            if claimed:
                self._pause.reset()
            else:
                self._next_claim = time.monotonic() + self._pause.next()
            self._wanted = 0
            self._claimed.extend(claimed)
            self._holding.update((a.simulation.id, a.attempt) for a in claimed)
            if claimed:
                self._next_look = min(self._next_look, moment + self._look_interval)
        self._notify()

    def _claim_told(self) -> list[Assignment]:
        """Claim after news, unless others that heard of it were quicker."""
        self._is_told = False
        # A look costs much less than a claim in vain.
        claimed = self._claim_now() if self._index.has_pending(self._ensemble) else []
        if claimed:
            self._spread.found_some()
        else:
            self._spread.came_in_vain()
        return claimed

    def _claim_now(self) -> list[Assignment]:
        moment = time.monotonic()
        claimed = self._index.claim(self._worker, self._wanted)
        self._heard(moment)
        return claimed

    def _look(self) -> None:
        """See what is still ours, and renew the lease by that."""
        moment = time.monotonic()
        if moment < self._next_look:
            return
        held = self._index.renew(self._worker)
        self._contact = self._last_look = moment
        self._next_look = moment + self._look_interval
        if held and not self._holding:
            self._start_over(len(held))
        with self._changed:
            gone = self._holding - held
            self._holding -= gone
            self._lost.update(id for id, _ in gone)
        if gone:
            self._notify()

    def _start_over(self, number: int) -> None:
        """Hand back what the index holds for us and we have done with: it was set back.

        As by a failover to a standby that had not heard of the last outcomes.
        """
        logger.warning(
            "worker %s: the output index has forgotten what became of %d simulations; they are to "
            "run again",
            self._worker,
            number,
        )
        self._index.discharge(self._worker)
        self._index.enlist(self._ensemble, self._worker, self._host, self._lease)

    @property
    def _look_interval(self) -> float:
        """Return the seconds between two looks: nothing can be taken from who holds nothing."""
        renewal = self._lease / 3
        return min(renewal, RENEW_INTERVAL) if self._holding else renewal

    def _heard(self, moment: float) -> None:
        """Note a moment from which on the lease has run anew."""
        self._contact = moment
        if not self._holding:  # then the lease is all that a look is for, nearly always
            self._next_look = min(moment + self._look_interval, self._last_look + self._lease)
