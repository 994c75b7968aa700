"""One thread and one connection for everything that waits for batches in one output index."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from airflow_ensemble.engine.errors import EnsembleError
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import Counts, EnsembleKey, OutputIndex, Scope
from airflow_ensemble.triggers.poll_thread import LINGER, Pace, PollThread, Trouble

log = logging.getLogger(__name__)

#: Seconds between two polls, at most, while the index answers: a drained batch is not kept waiting.
CEILING = 30.0


@dataclass(frozen=True)
class BatchAddress:
    """Which batch somebody waits for.

    :param ensemble: the ensemble's name.
    :param settings_hash: which of its settings.
    :param batch: the batch's id.
    """

    ensemble: str
    settings_hash: str
    batch: str


@dataclass(frozen=True)
class BatchNews:
    """What the index says of a batch.

    :param counts: its simulations by status.
    :param workers: the pull workers of its ensemble whose lease holds.
    """

    counts: Counts
    workers: int


Listener = Callable[["BatchNews | Trouble"], None]


@dataclass(frozen=True)
class Subscription:
    """Somebody who waits for a batch."""

    address: BatchAddress
    listener: Listener


class IndexPoller(PollThread[Subscription]):
    """Reads the counts of batches for all who wait for them in this process.

    :param location: of the index: a path, or a DSN, which is never logged.
    :param interval: seconds between two polls, at least.
    :param linger: seconds that the index is kept open when nothing waits any more.
    """

    def __init__(self, location: str, interval: float, linger: float = LINGER) -> None:
        super().__init__("poll an output index", Pace(interval, CEILING), linger)
        self._location = location
        self._seen: dict[BatchAddress, BatchNews] = {}

    @contextmanager
    def watching(self, address: BatchAddress, listener: Listener) -> Iterator[None]:
        """Watch a batch while the block runs.

        :param listener: called in the poller's thread after each poll.
        """
        with self.subscribed(Subscription(address, listener)):
            yield

    # --- in the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        desk = _Desk(self._location)
        try:
            while self._wait_until_due():
                self._turn(desk)
        finally:
            desk.close()

    def _turn(self, desk: _Desk) -> None:
        with self._changed:
            subscriptions = self._begin_turn()
        try:
            pause = self._poll(desk, subscriptions)
        except (EnsembleError, OSError) as error:
            _tell(subscriptions, Trouble(str(error)))
            pause = self._pace.back_off()
        except Exception as error:
            log.exception("polling an output index failed")
            _tell(subscriptions, Trouble(f"polling failed: {error!r}", error=error))
            pause = self._pace.back_off()
        self._end_turn(pause)

    def _poll(self, desk: _Desk, subscriptions: Sequence[Subscription]) -> float:
        addresses = {subscription.address for subscription in subscriptions}
        news = {address: desk.look(address) for address in addresses}
        for subscription in subscriptions:
            subscription.listener(news[subscription.address])
        changed, self._seen = news != self._seen, news
        return self._pace.quicken() if changed else self._pace.slacken()


@dataclass
class _Desk:
    """What the thread holds open."""

    location: str = field(repr=False)
    _index: OutputIndex | None = None
    _keys: dict[tuple[str, str], EnsembleKey] = field(default_factory=dict)

    def look(self, address: BatchAddress) -> BatchNews:
        """Return how a batch is.

        :raises EnsembleError: when the index cannot be reached, or does not know its ensemble.
        """
        if self._index is None:
            self._index = open_index(self.location)
        key = self._key(self._index, address)
        counts = self._index.counts(key, Scope(batch=address.batch))
        return BatchNews(counts, len(self._index.workers(key)))

    def close(self) -> None:
        """Close the index."""
        if self._index is not None:
            self._index.close()

    def _key(self, index: OutputIndex, address: BatchAddress) -> EnsembleKey:
        known = self._keys.get((address.ensemble, address.settings_hash))
        if known is not None:
            return known
        for key in index.ensembles(address.ensemble):
            if key.settings_hash == address.settings_hash:
                return self._keys.setdefault((address.ensemble, address.settings_hash), key)
        raise EnsembleError(
            f"the output index no longer knows ensemble {address.ensemble!r} with settings "
            f"{address.settings_hash[:8]}"
        )


def _tell(subscriptions: Sequence[Subscription], trouble: Trouble) -> None:
    for subscription in subscriptions:
        subscription.listener(trouble)


# --- one poller for each index --------------------------------------------------------------------

_POLLERS: dict[str, IndexPoller] = {}
_POLLERS_LOCK = threading.Lock()


def index_poller_of(location: str, interval: float) -> IndexPoller:
    """Return this process's one poller for the index at a location.

    :param interval: seconds between two polls, at least; who comes first says so.
    """
    with _POLLERS_LOCK:
        return _POLLERS.setdefault(location, IndexPoller(location, interval))
