"""The ensemble file, its settings and its table of simulations."""

from __future__ import annotations

from airflow_ensemble.engine.ensemble.file import KEYS, MERGED, Ensemble, build, load, merge

__all__ = ["KEYS", "MERGED", "Ensemble", "build", "load", "merge"]
