"""The ``ensemble`` command: all that can be done with an ensemble, without Airflow."""

from __future__ import annotations

from airflow_ensemble.cli.application import main

__all__ = ["main"]
