"""Workers: they run simulations of one ensemble and tell what came of each.

A push worker runs one chunk file and needs no database. A pull worker claims simulations from the
output index until nothing is left. Both append what happens to a segment below the output root.
"""

from __future__ import annotations

from airflow_ensemble.engine.worker.pull import find_ensemble, pull_worker
from airflow_ensemble.engine.worker.push import push_worker
from airflow_ensemble.engine.worker.stop import Stop, stop_on_signals, stop_with_stdin

__all__ = [
    "Stop",
    "find_ensemble",
    "pull_worker",
    "push_worker",
    "stop_on_signals",
    "stop_with_stdin",
]
