"""What ``sbatch`` and its relatives answered, and what it means for the caller."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(str, Enum):
    """What became of one run of ``sbatch``."""

    SUBMITTED = "submitted"
    #: Slurm said no for good: nothing was submitted, and the same is refused again.
    REFUSED = "refused"
    #: Slurm said no for now: nothing was submitted.
    UNAVAILABLE = "unavailable"
    #: The job may exist.
    UNKNOWN = "unknown"
    #: Somebody else has made this attempt's folder: ``sbatch`` was not run here.
    FENCED = "fenced"


@dataclass(frozen=True)
class Answer:
    """What became of an attempt to submit.

    :param outcome: see :class:`Outcome`.
    :param text: for people: what the site answered, and what to change.
    :param job_id: that the job got, ``123`` or ``123;cluster``; None unless submitted.
    """

    outcome: Outcome
    text: str = ""
    job_id: str | None = None
