"""Pull workers: they claim simulations from the output index and run them."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence

from airflow_ensemble.engine import storage
from airflow_ensemble.engine.errors import Fenced, Interrupted, UsageError
from airflow_ensemble.engine.index.interface import LEASE, Counts, EnsembleKey, OutputIndex
from airflow_ensemble.engine.pool.processes import Processes
from airflow_ensemble.engine.pool.task import Ended, Event
from airflow_ensemble.engine.simulation import Reason
from airflow_ensemble.engine.worker.appetite import Appetite
from airflow_ensemble.engine.worker.clerk import Clerk
from airflow_ensemble.engine.worker.push import stop_pool
from airflow_ensemble.engine.worker.recorder import Recorder
from airflow_ensemble.engine.worker.stop import Stop, charge_to_stop, stop_on_broken_root

logger = logging.getLogger(__name__)

#: Longest pause between two claims, seconds, while others still run, and of a worker that stays.
PAUSE = 5.0
SERVE_PAUSE = 30.0
#: Seconds to wait for stopped simulations to be gone, and to bring the last records into the index.
#: Together well below the 30 that Kubernetes leaves between SIGTERM and SIGKILL.
STOP_LIMIT = 5.0
FLUSH_LIMIT = 8.0
PROGRESS_INTERVAL = 10.0


def find_ensemble(index: OutputIndex, name: str, settings_hash: str | None = None) -> EnsembleKey:
    """Return the ensemble of a name with its newest settings, or with those of a hash.

    :param settings_hash: the hash or its beginning.
    :raises UsageError: naming what the index knows.
    """
    known = index.ensembles(name)
    for key in known:
        if settings_hash is None or key.settings_hash.startswith(settings_hash):
            return key
    names = sorted({key.name for key in index.ensembles()})
    hashes = [key.settings_hash[:8] for key in known]
    what = f"ensemble {name!r} with settings {settings_hash}" if known else f"ensemble {name!r}"
    raise UsageError(
        f"the output index has no {what}; it has {', '.join(hashes or names) or 'none'}: "
        "register it first"
    )


def pull_worker(
    index: OutputIndex,
    ensemble: EnsembleKey,
    *,
    cpus: int = 1,
    serve: bool = False,
    host: str | None = None,
    lease: float = LEASE,
    stop: Stop | None = None,
) -> int:
    """Claim and run simulations until all of the ensemble's are terminal.

    :param index: opened by the caller, and closed by it.
    :param ensemble: whose simulations to run.
    :param cpus: cores that simulations may occupy at one time.
    :param serve: never end by itself, but wait for more.
    :param host: what this host is called in the index; None is its own name. Whoever knows that
        the host has ended says so by it (:meth:`OutputIndex.dismiss`).
    :param lease: seconds without contact after which the simulations are given to others.
    :param stop: ends the work early; running simulations are recorded with its ``charge``.
    :return: 0 when all are complete, 1 when some failed, 3 when stopped.
    :raises UsageError: on an output root that cannot be used.
    :raises ModelError: when the model cannot be used at all; no attempt is charged.
    :raises Fenced: when the lease was lost; everything that ran is dead then.
    """
    recipe = index.recipe(ensemble)
    root = storage.open_root(recipe.output)
    root.check_writable()
    root.check_owner(recipe.ensemble, recipe.settings)
    token = secrets.token_hex(5)
    host = host or socket.gethostname()
    name = f"{host}.{token}"
    stop = Stop() if stop is None else stop
    recorder = Recorder(recipe, root, index=index.uuid, writer=name, submission=0, token=token)
    with recorder, Processes(recipe, token=token, cpus=cpus) as pool:
        clerk = Clerk(
            index,
            ensemble,
            worker=name,
            host=host,
            lease=lease,
            longest_pause=SERVE_PAUSE if serve else PAUSE,
            ends=not serve,
            notify=pool.wake,
        )
        logger.info(
            "worker %s: up to %d cores for %s (pid %d)", name, cpus, recipe.ensemble, os.getpid()
        )
        worker = PullWorker(pool, clerk, recorder, stop, name)
        with clerk, stop.notifying(pool.wake):
            counts = worker.run(serve)
    logger.info("worker %s: %s", name, recorder.tally.text)
    if counts is None:
        logger.warning("worker %s: stopped before the end: %s", name, stop.reason)
        return Interrupted.exit_code
    return 1 if counts.failed else 0


class PullWorker:
    """The loop of one pull worker.

    :param name: the worker's id.
    """

    def __init__(
        self, pool: Processes, clerk: Clerk, recorder: Recorder, stop: Stop, name: str
    ) -> None:
        self._pool = pool
        self._clerk = clerk
        self._recorder = recorder
        self._stop = stop
        self._name = name
        self._appetite = Appetite(pool.cpus)
        self._next_progress = time.monotonic() + PROGRESS_INTERVAL

    def run(self, serve: bool) -> Counts | None:
        """Work until the ensemble is drained, and return its counts; None when stopped."""
        try:
            while not self._stop:
                self._turn()
                counts = None if serve else self._drained()
                if counts is not None:
                    self._clerk.close(FLUSH_LIMIT)
                    return counts
            self._end()
        except BaseException as error:
            records = self._recorder.record(self._pool.abandon(Reason.INTERRUPTED, f"{error}"))
            self._pool.close()  # first of all: what runs may not be ours any more
            self._clerk.record(records)
            if not isinstance(error, Fenced):  # nothing is left to hand back then
                self._clerk.close(FLUSH_LIMIT)
            raise
        return None

    def _turn(self) -> None:
        self._clerk.check()
        lost = self._clerk.take_lost()
        if lost:
            self._pool.cancel(lost, Reason.CANCELLED, "cancelled while this worker held it")
        self._pool.submit(self._clerk.take())
        held = self._pool.waiting + len(self._pool.running)
        self._clerk.want(self._appetite.wanted(held, self._pool.mean_duration))
        events = charge_to_stop(self._stop, self._pool.wait(1.0))
        self._note(events)
        self._clerk.record(self._recorder.record(events))
        if self._appetite.is_stuck and self._pool.waiting:
            self._clerk.hand_back(self._pool.withdraw())
        stop_on_broken_root(self._stop, events)
        self._report()

    def _note(self, events: Sequence[Event]) -> None:
        ended = sum(isinstance(event, Ended) for event in events)
        self._appetite.note(ended, self._pool.is_busy, time.monotonic())

    def _drained(self) -> Counts | None:
        if self._pool.is_busy:
            return None
        return self._clerk.take_counts()

    def _end(self) -> None:
        self._clerk.record(stop_pool(self._pool, self._recorder, self._stop, STOP_LIMIT))
        if not self._clerk.close(FLUSH_LIMIT):
            logger.warning(
                "worker %s: the output index is out of reach; the last records are in its segment",
                self._name,
            )

    def _report(self) -> None:
        if time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + PROGRESS_INTERVAL
            logger.info("worker %s: %s", self._name, self._recorder.tally.text)
