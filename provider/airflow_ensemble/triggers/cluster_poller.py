"""One thread, one connection and one poll for everything that waits for one cluster.

The thread connects, polls, reads results and opens output indexes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from airflow_ensemble.engine.control import Ledger
from airflow_ensemble.engine.errors import EnsembleError
from airflow_ensemble.engine.index import open_index
from airflow_ensemble.engine.index.interface import OutputIndex
from airflow_ensemble.hooks.slurm import SlurmSettings
from airflow_ensemble.slurm.cluster import Cluster
from airflow_ensemble.slurm.errors import AccessRefused
from airflow_ensemble.slurm.remote_root import open_output
from airflow_ensemble.slurm.watch import ClusterWatch, News, Watched
from airflow_ensemble.triggers.poll_thread import LINGER, Pace, PollThread, Trouble

log = logging.getLogger(__name__)

#: Seconds for which a cancellation that does not get through is tried again.
CANCEL_PATIENCE = 900.0


@dataclass(frozen=True)
class LedgerAddress:
    """Where the results of a watched element are entered.

    :param index: location of the output index: a path, or a DSN, which is never logged.
    :param ensemble: the ensemble's name.
    :param settings_hash: which of its settings.
    :param output: path or URI of the output root, as the worker sees it.
    """

    index: str = field(repr=False)
    ensemble: str
    settings_hash: str
    output: str


Listener = Callable[["News | Trouble"], None]


@dataclass(frozen=True)
class Subscription:
    """Somebody who waits for an element."""

    watched: Watched
    address: LedgerAddress
    listener: Listener


class Watch(Protocol):
    """What the poller asks of :class:`~airflow_ensemble.slurm.watch.ClusterWatch`."""

    def look(
        self, watched: Sequence[Watched], ledger_of: Callable[[Watched], Ledger | None]
    ) -> dict[str, News]:
        """Return what is new of each element."""


class ClusterPoller(PollThread[Subscription]):
    """Polls one cluster for all who wait for it in this process.

    :param settings: what the connection to the cluster says.
    :param watch: makes what looks; a test may give another.
    :param linger: seconds that the connection is kept when nothing waits any more.
    """

    def __init__(
        self,
        settings: SlurmSettings,
        *,
        watch: Callable[[Cluster], Watch] = lambda cluster: ClusterWatch(cluster.client),
        linger: float = LINGER,
    ) -> None:
        super().__init__(f"poll {settings.conn_id}", Pace(settings.poll_interval), linger)
        self._settings = settings
        self._make_watch = watch
        self._cancellations: dict[str, float] = {}

    def use(self, settings: SlurmSettings) -> None:
        """Take what the connection says now: with the next poll, another login is used."""
        with self._changed:
            if settings != self._settings:
                self._settings = settings
                self._pace = Pace(settings.poll_interval)
                self._hasten(self._pace.quicken())
                self._changed.notify()

    @contextmanager
    def watching(
        self, watched: Watched, address: LedgerAddress, listener: Listener
    ) -> Iterator[None]:
        """Watch an element while the block runs.

        :param listener: called in the poller's thread after each poll.
        """
        with self.subscribed(Subscription(watched, address, listener)):
            yield

    def cancel(self, element: str) -> None:
        """Cancel an element soon, in one command with others, until the cluster has taken it.

        :param element: such as ``123_4``.
        """
        with self._changed:
            self._cancellations.setdefault(element, time.monotonic() + CANCEL_PATIENCE)
            self._hasten()
            self._work_on()

    # --- in the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        desk = _Desk(self._settings, self._make_watch)
        try:
            while self._wait_until_due():
                if desk.settings is not self._settings:
                    desk.close()
                    desk = _Desk(self._settings, self._make_watch)
                self._turn(desk)
        finally:
            desk.close()

    def _is_needed(self) -> bool:
        return bool(self._subscriptions or self._cancellations)

    def _turn(self, desk: _Desk) -> None:
        with self._changed:
            subscriptions = self._begin_turn()
            cancellations = dict(self._cancellations)
        try:
            self._send_cancellations(desk, cancellations)
            pause = self._poll(desk, subscriptions)
        except AccessRefused as error:
            # One of them is to look the connection up again: it may have been mended.
            _tell(subscriptions[:1], Trouble(str(error), refused=True))
            _tell(subscriptions[1:], Trouble(str(error)))
            pause = self._pace.back_off()
        except (EnsembleError, OSError) as error:
            _tell(subscriptions, Trouble(str(error)))
            pause = self._pace.back_off()
        except Exception as error:
            log.exception("polling %s failed", self._settings.conn_id)
            _tell(subscriptions, Trouble(f"polling failed: {error!r}", error=error))
            pause = self._pace.back_off()
        self._end_turn(pause)

    def _send_cancellations(self, desk: _Desk, cancellations: dict[str, float]) -> None:
        if not cancellations:
            return
        try:
            desk.cluster.client.cancel(list(cancellations))
            log.info("cancelled %s", ", ".join(cancellations))
            given_up = set(cancellations)
        except (EnsembleError, OSError) as error:
            given_up = {id for id, until in cancellations.items() if time.monotonic() > until}
            for id in given_up:
                log.error("element %s could not be cancelled: %s", id, error)
            raise
        finally:
            with self._changed:
                for id in given_up:
                    self._cancellations.pop(id, None)

    def _poll(self, desk: _Desk, subscriptions: list[Subscription]) -> float:
        if not subscriptions:
            return self._pace.floor
        changed = desk.look(subscriptions)
        return self._pace.quicken() if changed else self._pace.slacken()


class _Desk:
    """What the thread holds open: the cluster, what watches it, and the output indexes."""

    def __init__(self, settings: SlurmSettings, watch: Callable[[Cluster], Watch]) -> None:
        self.settings = settings
        self._make_watch = watch
        self._indexes: dict[str, OutputIndex] = {}
        self._ledgers: dict[LedgerAddress, Ledger] = {}
        self._troubles: dict[LedgerAddress, Trouble] = {}
        self._seen: dict[str, tuple[str, int | None]] = {}

    @cached_property
    def cluster(self) -> Cluster:
        """Return the cluster, which is connected when it is first asked."""
        return self.settings.cluster()

    @cached_property
    def _watch(self) -> Watch:
        return self._make_watch(self.cluster)

    def look(self, subscriptions: Sequence[Subscription]) -> bool:
        """Poll once and tell everybody; return whether anything has changed."""
        addresses = {s.watched.key: s.address for s in subscriptions}
        self._close_others(set(addresses.values()))
        self._troubles.clear()
        news = self._watch.look(
            [s.watched for s in {s.watched.key: s for s in subscriptions}.values()],
            lambda watched: self._ledger(addresses[watched.key]) if watched.chunk else None,
        )
        for subscription in subscriptions:
            for item in (self._troubles.get(subscription.address), news[subscription.watched.key]):
                if item is not None:
                    subscription.listener(item)
        seen = {key: (item.text, item.unfinished) for key, item in news.items()}
        changed = seen != self._seen
        self._seen = seen
        return changed

    def close(self) -> None:
        """Close everything."""
        for index in self._indexes.values():
            index.close()
        if "cluster" in self.__dict__:
            self.cluster.client.runner.close()

    def _ledger(self, address: LedgerAddress) -> Ledger | None:
        """Return an open ledger; None, for now, when it cannot be opened."""
        if address not in self._ledgers:
            try:
                self._ledgers[address] = self._open(address)
            except EnsembleError as error:
                self._troubles[address] = Trouble(f"results cannot be entered: {error}")
                return None
        return self._ledgers[address]

    def _open(self, address: LedgerAddress) -> Ledger:
        if address.index not in self._indexes:
            self._indexes[address.index] = open_index(address.index)
        index = self._indexes[address.index]
        for key in index.ensembles(address.ensemble):
            if key.settings_hash == address.settings_hash:
                root = open_output(address.output, self.cluster.client.runner)
                return Ledger(index, key, root)
        raise EnsembleError(
            f"the output index no longer knows ensemble {address.ensemble!r} with settings "
            f"{address.settings_hash[:8]}"
        )

    def _close_others(self, needed: set[LedgerAddress]) -> None:
        for address in self._ledgers.keys() - needed:
            del self._ledgers[address]
        for location in self._indexes.keys() - {address.index for address in needed}:
            self._indexes.pop(location).close()


def _tell(subscriptions: Sequence[Subscription], news: News | Trouble) -> None:
    for subscription in subscriptions:
        subscription.listener(news)


# --- one poller for each connection ---------------------------------------------------------------

_POLLERS: dict[str, ClusterPoller] = {}
_POLLERS_LOCK = threading.Lock()


def poller_of(settings: SlurmSettings) -> ClusterPoller:
    """Return this process's one poller for the connection that ``settings`` were read from."""
    with _POLLERS_LOCK:
        poller = _POLLERS.setdefault(settings.conn_id, ClusterPoller(settings))
    poller.use(settings)
    return poller
