"""Judges how processes load the model: patiently, but not for ever. Standard library only."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from airflow_ensemble.engine.command import signal_name
from airflow_ensemble.engine.errors import ModelError
from airflow_ensemble.engine.pool.process import Process
from airflow_ensemble.engine.recipe import Settings
from airflow_ensemble.engine.words import one_line

logger = logging.getLogger(__name__)

#: Seconds that loading the model may take.
LOAD_LIMIT = 600.0
MAX_LOAD_FAILURES = 3


class Loading:
    """Counts the failures to load one model.

    :param settings: name the model or the command.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failures = 0

    def watch(self, process: Process) -> None:
        """Look after a process that is not ready.

        :raises ModelError: when it takes far too long.
        """
        if time.monotonic() - process.born > LOAD_LIMIT and not process.is_leaving:
            raise ModelError(
                f"{self._name()} was not loaded after {LOAD_LIMIT:g} s: {_said(process)}"
            )

    def succeeded(self, process: Process) -> None:
        """Note that a process is ready; what it printed until now is no simulation's log."""
        self._failures = 0
        process.take_log().close()

    def failed(self, process: Process, report: Mapping[str, Any]) -> None:
        """Note that a process ended before it was ready.

        :param report: the warden's.
        :raises ModelError: when it was one too many.
        """
        if process.is_leaving:
            return
        self._failures += 1
        status = report["status"]
        how = f"killed by {signal_name(-status)}" if status < 0 else f"exit status {status}"
        what = report.get("why") or _said(process)
        message = f"{self._name()}: its process ended while loading it ({how}): {what}"
        if self._failures >= MAX_LOAD_FAILURES:
            raise ModelError(message)
        logger.warning("%s; trying again", message)

    def _name(self) -> str:
        model, command = self._settings.model, self._settings.command
        return f"model {model!r}" if model else f"command {command[0]!r}"


def _said(process: Process) -> str:
    log = process.take_log()
    try:
        return one_line(log.last_line()) or "it printed nothing"
    finally:
        log.close()
