"""What a site's Slurm is and allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One Slurm, as one account sees it.

    :param version: such as ``(26, 5, 4)``.
    :param version_text: as Slurm prints it.
    :param cluster: its name.
    :param max_array_size: one more than the largest array index.
    :param min_job_age: seconds for which the queue shows what has ended.
    :param accounting: whether ``sacct`` answers, or would if its database were up.
    :param max_submit: elements that the account may have in the queue at once; None for no limit.
    :param queued: elements that it has there now.
    :param python: version of the workers' interpreter; empty when it cannot be run.
    :param home: the account's home folder there.
    :param clock_skew: seconds by which the cluster's clock is ahead of ours.
    """

    version: tuple[int, ...]
    version_text: str
    cluster: str
    max_array_size: int
    min_job_age: float
    accounting: bool
    max_submit: int | None
    queued: int
    python: str
    home: str
    clock_skew: float
