"""Waiting for what other runs own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_ensemble.cli.console import Console
from airflow_ensemble.engine.errors import Interrupted

if TYPE_CHECKING:
    from airflow_ensemble.engine.batch import Settler
    from airflow_ensemble.engine.control import Control

#: Seconds between two looks at simulations that another run owns.
WAIT_INTERVAL = 2.0


def wait_for_others(
    control: Control,
    console: Console,
    stop: threading.Event,
    interval: float = WAIT_INTERVAL,
    settlers: Mapping[str, Settler] | None = None,
) -> bool:
    """Wait until nobody owns a simulation of the table; return whether anybody did.

    :param control: the opened ensemble.
    :param console: where to say that it waits.
    :param stop: set it to stop waiting.
    :param interval: seconds between two looks.
    :param settlers: settle what dead runs left on clusters, by backend.
    :raises Interrupted: when stopped.
    """
    from airflow_ensemble.engine.batch import reconcile

    waited = False
    while True:
        reconcile(control, settlers=settlers or {})
        if not _is_owned(control):
            return waited
        if not waited:
            console.note("waiting for simulations that another run owns")
        waited = True
        if stop.wait(interval):
            raise Interrupted("stopped while waiting for another run")


def _is_owned(control: Control) -> bool:
    """Return whether anybody owns a simulation of the table; what else is owned is not ours."""
    from airflow_ensemble.engine.index.interface import Scope
    from airflow_ensemble.engine.simulation import OWNED

    scope = Scope(statuses=tuple(OWNED))
    owned = {entry.id for entry in control.index.entries(control.key, scope)}
    return bool(owned) and any(one.id in owned for one in control.ensemble.read_simulations())
