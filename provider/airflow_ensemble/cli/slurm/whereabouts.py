"""Where on the cluster a simulation ran: array job, element, and Slurm's own log of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_ensemble.engine.index.interface import OutputIndex


@dataclass(frozen=True)
class Whereabouts:
    """The array element that ran a simulation last, or will.

    :param job: the array job's id; None until the cluster has given one.
    :param name: the array job's name.
    :param element: the array index.
    :param place: where it was sent: an Airflow connection's id, or ``local``.
    :param log: path of what the element printed, on the cluster.
    :param end: how it ended; None while it may live.
    :param detail: one line more on that.
    """

    job: str | None
    name: str
    element: int
    place: str
    log: str
    end: str | None
    detail: str

    @property
    def title(self) -> str:
        """Return the element as Slurm's commands take it, and how it ended."""
        title = f"{self.job}_{self.element}" if self.job else f"not submitted yet ({self.name})"
        if self.end is None:
            return title
        return f"{title}: {self.end}" + (f", {self.detail}" if self.detail else "")


def find_whereabouts(index: OutputIndex, chunk: str | None) -> Whereabouts | None:
    """Return where the newest submission of a chunk runs; None if it was never given to Slurm.

    :param index: the open index.
    :param chunk: the chunk's id; None for a simulation that has none.
    """
    elements = index.elements(chunk=chunk) if chunk else []
    if not elements:
        return None
    newest = elements[-1]
    return Whereabouts(
        job=newest.job.job_id,
        name=newest.job.name,
        element=newest.element,
        place=newest.job.place,
        log=f"{newest.job.folder}/logs/{newest.element}.log",
        end=newest.end,
        detail=newest.detail,
    )


def as_record(found: Whereabouts | None) -> dict[str, Any] | None:
    """Return whereabouts as JSON values; None when there are none."""
    return None if found is None else dict(found.__dict__)
