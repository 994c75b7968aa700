"""A submission happens once, whatever dies in between.

The intent stands in the index before ``sbatch`` is run, and whoever makes the folder
``attempt-<n>`` on the cluster is the only one who may run it for that attempt. A later call reads
what the attempt has left; where that says nothing, the job's name is looked up until the deadline.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from airflow_ensemble.engine.errors import Fenced, Interrupted
from airflow_ensemble.engine.index.interface import JobInfo, OutputIndex
from airflow_ensemble.slurm.answers import Answer, Outcome
from airflow_ensemble.slurm.client import SlurmClient, Trace, plain_id
from airflow_ensemble.slurm.errors import (
    ClusterError,
    OutcomeUnknown,
    SlurmRefused,
    SlurmUnavailable,
    Unreachable,
)

log = logging.getLogger(__name__)

#: Seconds for ``sbatch``, which itself may try again for 120 s.
SBATCH_LIMIT = 150.0
#: Seconds by which ``sbatch`` may outlive its limit.
SLACK = 10.0
#: Positive answers in a row, after the deadline, that make an absence certain: Slurm may be about
#: to take up a request that it had received long before.
ABSENCES = 2


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
    :raises Unreachable: when the cluster cannot be reached; likewise.
    :raises Interrupted: when ``stop`` was set.
    """
    return _Submission(index, client, patience, stop or threading.Event(), pause).run(job)


@dataclass(frozen=True)
class _Submission:
    """One call of :func:`submit_once`."""

    index: OutputIndex
    client: SlurmClient
    patience: float
    stop: threading.Event
    pause: float

    def run(self, job: JobInfo) -> JobInfo:
        """Resolve what earlier attempts left, then make new ones until one is answered."""
        give_up = time.monotonic() + self.patience
        job = self._reload(job)
        while job.job_id is None:
            found = self._resolve(job) if job.attempt else []
            job = self._note(job, found) if found else self._attempt(job, give_up)
        return job

    def _reload(self, job: JobInfo) -> JobInfo:
        """Return what the index knows now: another process may have come first."""
        elements = self.index.elements(job=job.name)
        return elements[0].job if elements else job

    # --- a new attempt ----------------------------------------------------------------------------

    def _attempt(self, job: JobInfo, give_up: float) -> JobInfo:
        """Run ``sbatch`` under a new attempt; without an id afterwards, it is to be resolved."""
        try:
            begun = self.index.begin_attempt(job.name, self.patience, after=job.attempt)
        except Fenced:
            return self._reload(job)
        if begun.job_id is not None:
            return begun
        log.info("job %s: attempt %d to submit begins", job.name, begun.attempt)
        try:
            answer = self.client.submit(begun.folder, begun.attempt, limit=self._limit)
        except OutcomeUnknown as error:
            log.warning("job %s: the answer of sbatch was lost: %s", job.name, error)
            return begun
        if answer.outcome is Outcome.SUBMITTED and answer.job_id is not None:
            return self._note(begun, [answer.job_id])
        if answer.outcome is Outcome.REFUSED:
            raise SlurmRefused(f"job {job.name}: {answer.text}")
        if answer.outcome is Outcome.UNAVAILABLE:
            if time.monotonic() > give_up:
                raise SlurmUnavailable(f"job {job.name}: {answer.text}. Try again later")
            log.warning("job %s: %s", job.name, answer.text)
            self._wait(begun, self.pause * min(begun.attempt, 15))
            return begun
        log.warning("job %s: it is not clear what was submitted: %s", job.name, answer.text)
        return self._reload(begun)

    @property
    def _limit(self) -> float:
        """Return the seconds for ``sbatch``: it is over when the attempt's deadline passes."""
        return max(1.0, min(SBATCH_LIMIT, self.patience / 2))

    def _note(self, job: JobInfo, ids: Sequence[str]) -> JobInfo:
        """Note the first id, and cancel whatever else has our name.

        The index decides first: two processes that each cancelled what the other one had found
        would leave nothing.
        """
        noted = self.index.note_submitted(job.name, ids[0])
        log.info("job %s is %s", job.name, noted.job_id)
        try:
            # An attempt that was given up may have led to a job after all.
            late = self.client.find(job.name) if job.attempt > 1 else None
            self._cancel_others(noted, [*ids, *(late or [])])
        except ClusterError:
            log.exception("job %s: look for other jobs of that name, and cancel them", job.name)
        return noted

    def _cancel_others(self, job: JobInfo, ids: Iterable[str]) -> None:
        """Cancel jobs of our name that are not the one that counts."""
        ours = plain_id(job.job_id or "")
        others = sorted({plain_id(one) for one in ids} - {ours}, key=int)
        if others:
            log.warning(
                "job %s was submitted more than once: %s counts, %s cancelled",
                job.name,
                ours,
                ", ".join(others) + (" is" if len(others) == 1 else " are"),
            )
            self.client.cancel(others)

    # --- an attempt of which nobody here knows the end ------------------------------------------

    def _resolve(self, job: JobInfo) -> Sequence[str]:
        """Return the ids that attempts led to, oldest first; none when that is certain.

        What is not answered is no absence: it is asked again, until long after the deadline.
        """
        absences = 0
        overrun = max(job.deadline, self.index.now()) + self.patience
        while True:
            # Only what was asked after the deadline can be an absence.
            is_late = self.index.now() > job.deadline
            is_over = False
            problem = "the site has not said whether the job exists"
            try:
                trace = self.client.look(job.folder, job.attempt)
                if trace.fenced or _submitted_nothing(trace.answer):
                    return []
                if trace.answer is not None and trace.answer.job_id is not None:
                    return [trace.answer.job_id]
                found = self._find(job, trace)
                if found:
                    return found
                is_over = trace.answer is not None or trace.age > self._limit + SLACK
                absences = absences + 1 if found is not None and is_late and is_over else 0
            except (Unreachable, OutcomeUnknown, SlurmUnavailable) as error:
                absences, problem = 0, str(error)
            if absences >= ABSENCES:
                log.warning(
                    "job %s: attempt %d was not submitted: no job that the site shows is it",
                    job.name,
                    job.attempt,
                )
                return []
            if self.index.now() > overrun + (0 if is_over else self._limit + SLACK):
                raise SlurmUnavailable(
                    f"job {job.name}: it is not known whether attempt {job.attempt} was submitted: "
                    f"{problem}. Nothing is submitted until that is known: try again later"
                )
            self._wait(job, self.pause)

    def _find(self, job: JobInfo, trace: Trace) -> list[str] | None:
        """Return the jobs that we call so, oldest first; None when Slurm did not answer."""
        known = self.client.find(job.name)
        ids = sorted({*trace.started, *(known or [])}, key=int)
        if ids:
            log.warning("job %s: attempt %d turned up as %s", job.name, job.attempt, ids[0])
        return ids or known

    def _wait(self, job: JobInfo, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Interrupted(f"job {job.name}: stopped while its submission was not settled")


def _submitted_nothing(answer: Answer | None) -> bool:
    """Return whether an attempt has ended for certain without a job: a new one may be made."""
    return answer is not None and answer.outcome in (
        Outcome.REFUSED,
        Outcome.UNAVAILABLE,
        Outcome.FENCED,
    )
