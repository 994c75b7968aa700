"""What ``sbatch`` is asked for: the ensemble file's options and what simulations need, as texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_ensemble.engine.simulation import Resources

#: Options of ``sbatch`` by name without ``--``; True is a bare flag.
Options = Mapping[str, "str | bool"]


def job_options(
    execution: Mapping[str, Any], defaults: Mapping[str, Any], resources: Resources
) -> dict[str, str | bool]:
    """Return the options of an array whose simulations need ``resources``.

    What the ensemble file says wins over the cluster's defaults. What a simulation needs is the
    least that is asked for.
    """
    raise NotImplementedError


def parse_time(text: str) -> int | None:
    """Return the seconds of a time limit as ``sbatch`` reads it; None for none or no such text."""
    raise NotImplementedError


def format_time(seconds: float) -> str:
    """Return a time limit for ``sbatch``, rounded up to whole seconds."""
    raise NotImplementedError


def parse_memory(text: str) -> int | None:
    """Return the MiB of an amount of memory as ``sbatch`` reads it; None for no such text."""
    raise NotImplementedError


def parse_resource_class(text: str) -> Resources:
    """Read what :attr:`Resources.resource_class` wrote."""
    raise NotImplementedError
