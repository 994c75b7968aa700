"""Whether an array element is over: decided from Slurm's answers and the index, nothing else.

Nothing here asks anybody anything. All times are Unix seconds by the cluster's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ensemble.slurm.states import End, View


@dataclass(frozen=True)
class Deadlines:
    """How long to wait for what, in seconds.

    :param queue: an element may wait in the queue; None for ever.
    :param run: an element may run; None for as long as Slurm lets it.
    :param lag: Slurm may know nothing of an element before it counts as vanished.
    :param late_results: results may come after an element's good end, or a requeue after a bad one.
    :param late_failure: results may come after any other end.
    :param blocked: an element may have a reason for waiting that does not go away by itself.
    """

    queue: float | None = None
    run: float | None = None
    lag: float = 300.0
    late_results: float = 60.0
    late_failure: float = 10.0
    blocked: float = 60.0


@dataclass(frozen=True)
class Over:
    """An element of which nothing more is to be waited for.

    :param end: how it ended.
    :param detail: one line for people, with Slurm's reason.
    :param view: what Slurm said last.
    :param submission: the chunk's submission that it ran; None when nobody compares it.
    """

    end: End
    detail: str
    view: View
    submission: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Over:
        """Read what :meth:`as_dict` gave."""
        raise NotImplementedError
