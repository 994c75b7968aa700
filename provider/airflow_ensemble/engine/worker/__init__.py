"""Workers: they run simulations of one ensemble and tell what came of each.

A push worker runs one chunk file and needs no database. A pull worker claims simulations from the
output index until nothing is left. Both append what happens to a segment below the output root.
"""

from __future__ import annotations

from airflow_ensemble.engine.worker.push import push_worker

__all__ = ["push_worker"]
