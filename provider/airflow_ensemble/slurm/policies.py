"""What to do when an array element has ended badly, by how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_ensemble.slurm.states import End

RETRY = "retry"
GIVE_UP = "give-up"


@dataclass(frozen=True)
class Policy:
    """What follows from one kind of end.

    :param action: ``retry`` or ``give-up``.
    :param memory: factor of the memory that a retry asks for.
    :param time: factor of the time limit that a retry asks for.
    """

    action: str = RETRY
    memory: float = 1.0
    time: float = 1.0


def read_policies(execution: Mapping[str, Any]) -> dict[End, Policy]:
    """Return the policy of every kind of end: the ensemble file's, else the default."""
    raise NotImplementedError


def compound(policies: Mapping[End, Policy], history: Sequence[str | None]) -> tuple[float, float]:
    """Return the factors of memory and time after a history of ends, multiplied up.

    :param history: how the chunk's earlier submissions ended, as the index notes it.
    """
    raise NotImplementedError
