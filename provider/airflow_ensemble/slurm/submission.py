"""A submission happens once, whatever dies in between."""

from __future__ import annotations

import threading

from airflow_ensemble.engine.index.interface import JobInfo, OutputIndex
from airflow_ensemble.slurm.client import SlurmClient


def submit_once(
    index: OutputIndex,
    client: SlurmClient,
    job: JobInfo,
    *,
    patience: float = 300.0,
    stop: threading.Event | None = None,
    pause: float = 2.0,
) -> JobInfo:
    """Submit a staged job, or find the one that an earlier call has submitted.

    :param job: its folder holds ``job.sh``.
    :param patience: seconds until an attempt without an answer counts as not submitted, if the
        site says so.
    :param stop: ends the waiting.
    :param pause: seconds between two questions.
    :return: the job with its ``job_id``, as the index has it.
    :raises SlurmRefused: when the site says no; nothing is left open then.
    :raises SlurmUnavailable: when the site has not answered in time; the same call may work later.
    :raises Interrupted: when ``stop`` was set.
    """
    raise NotImplementedError
