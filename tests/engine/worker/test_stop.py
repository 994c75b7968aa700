"""Why a worker is asked to stop, when several ask at once."""

from __future__ import annotations

from airflow_ensemble.engine.simulation import Reason
from airflow_ensemble.engine.worker import Stop


def test_the_first_reason_counts() -> None:
    stop = Stop()
    assert not stop
    stop.request("first")
    stop.request("second")
    assert (bool(stop), stop.reason, stop.charge) == (True, "first", Reason.INTERRUPTED)


def test_a_time_limit_explains_the_signals_that_overtake_it() -> None:
    stop = Stop()
    stop.request("the worker got SIGTERM")
    stop.request("its job's time limit is near", Reason.TIME_LIMIT)
    stop.request("the worker got SIGTERM")
    assert (stop.reason, stop.charge) == ("its job's time limit is near", Reason.TIME_LIMIT)
