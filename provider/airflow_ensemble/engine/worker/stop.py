"""The wish that a worker stop: a signal, the end of its standard input, or a call.

Standard library only.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from airflow_ensemble.engine.pool.task import Ended, Event
from airflow_ensemble.engine.simulation import Reason
from airflow_ensemble.engine.words import one_line

#: What a signal means for what runs. A batch system sends SIGUSR1 when its time limit is near.
_SIGNALS = {
    signal.SIGTERM: Reason.INTERRUPTED,
    signal.SIGINT: Reason.INTERRUPTED,
    signal.SIGHUP: Reason.INTERRUPTED,
    signal.SIGUSR1: Reason.TIME_LIMIT,
}

#: Seconds until a worker has noticed the signal that one of its simulations has died of, and those
#: that any failure is worth, because a program may end in its own way when it is told to.
NOTICE, GLANCE = 2.0, 0.02
#: What a simulation that is told to end may seem to have ended with.
_MAY_BE_STOPPED = frozenset({Reason.CRASHED, Reason.ERROR, Reason.MISSING_PRODUCT})


class Stop:
    """Whether and why to stop. Safe to use from any thread and from signal handlers."""

    def __init__(self) -> None:
        # Set in one step: one signal's handler may interrupt another's.
        self._first: tuple[str, Reason] | None = None
        self._listeners: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return self._first is not None

    @property
    def reason(self) -> str:
        """Return why, as one line for people; empty as long as nobody has asked."""
        return self._first[0] if self._first else ""

    @property
    def charge(self) -> Reason:
        """Return what running simulations end with."""
        return self._first[1] if self._first else Reason.INTERRUPTED

    def request(self, reason: str, charge: Reason = Reason.INTERRUPTED) -> None:
        """Ask the worker to stop; the first reason counts, but a job's time limit before others.

        It is the cause of the signals that follow it, whose handlers may interrupt its own.

        :param reason: one line for people.
        :param charge: what running simulations end with.
        """
        if self._first is None or charge is Reason.TIME_LIMIT:
            self._first = (reason, charge)
        for listener in self._listeners:
            listener()

    @contextmanager
    def notifying(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call ``listener`` on every request while the block runs."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)


def stop_on_broken_root(stop: Stop, events: Iterable[Event]) -> None:
    """Ask to stop when products could not be published: the next ones would fare no better.

    Such simulations end as interrupted, which nothing but a request to stop does otherwise.
    """
    for event in events:
        if isinstance(event, Ended) and event.reason is Reason.INTERRUPTED and not stop:
            stop.request(f"{event.assignment.simulation.id}: {one_line(event.detail)}")


def charge_to_stop(stop: Stop, events: Sequence[Event]) -> list[Event]:
    """Return the events, with what the stop of the whole job has ended charged to the stop.

    A batch system signals all processes of a job at once, so that simulations may be gone before
    the worker has noticed that it is to stop.
    """
    suspects = [e for e in events if isinstance(e, Ended) and e.reason in _MAY_BE_STOPPED]
    if suspects:
        names_it = any(signal.SIGTERM.name in event.detail for event in suspects)
        give_up = time.monotonic() + (NOTICE if names_it else GLANCE)
        while not stop and time.monotonic() < give_up:
            time.sleep(GLANCE)
    if not suspects or not stop:
        return list(events)
    return [_charged(e, stop) if isinstance(e, Ended) and e in suspects else e for e in events]


def _charged(event: Ended, stop: Stop) -> Ended:
    return replace(event, reason=stop.charge, detail=f"{stop.reason} ({event.detail})")


@contextmanager
def stop_on_signals(stop: Stop, *, stdin: bool = False) -> Iterator[None]:
    """Turn signals into a request while the block runs (main thread only).

    SIGTERM, SIGINT and SIGHUP interrupt; SIGUSR1 says that the job's time is nearly over.

    :param stop: what to request.
    :param stdin: also when standard input ends.
    """

    def handle(number: int, _: FrameType | None) -> None:
        charge, name = _SIGNALS[signal.Signals(number)], signal.Signals(number).name
        told = "its job's time limit is near: " if charge is Reason.TIME_LIMIT else ""
        stop.request(f"{told}the worker got {name}", charge)

    if stdin:
        stop_with_stdin(stop)
    old = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def stop_with_stdin(stop: Stop) -> None:
    """Request a stop when standard input ends, because whoever held it is gone."""

    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        stop.request("the worker's standard input has ended: its parent is gone")

    threading.Thread(target=watch, name="stdin-watch", daemon=True).start()
