"""Ctrl-C and SIGTERM as a request to stop, and only the second one as an order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from airflow_ensemble.cli.console import Console

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = "stopping: what runs is stopped and recorded; once more to stop at once"


@contextmanager
def stop_on_signals(console: Console, message: str = STOPPING) -> Iterator[threading.Event]:
    """Give an event that the first signal sets; a second one raises ``KeyboardInterrupt``.

    Outside the main thread, where signals cannot be caught, the event is never set.

    :param console: where the first signal is answered.
    :param message: the answer.
    """
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        console.note(message)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
