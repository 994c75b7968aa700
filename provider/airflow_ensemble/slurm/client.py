"""Slurm's commands, sent through a runner, and what their answers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airflow_ensemble.engine.index.interface import JobInfo
from airflow_ensemble.slurm.answers import Answer
from airflow_ensemble.slurm.parsing import Row
from airflow_ensemble.slurm.runner import Runner
from airflow_ensemble.slurm.site import Site
from airflow_ensemble.slurm.states import View


@dataclass(frozen=True)
class Snapshot:
    """What the queue and the accounting said in one poll.

    :param now: Unix time by the cluster's clock.
    :param queue: rows of ``squeue`` by job name; None when it did not answer.
    :param accounting: likewise, of ``sacct``; None when it did not answer or was not asked.
    :param answered: whether an element that no row speaks of is really absent: the queue has
        answered, and the accounting has, too, or the site has none.
    :param problems: what went wrong, for people; the poll's other half counts all the same.
    """

    now: float
    queue: Mapping[str, Sequence[Row]] | None
    accounting: Mapping[str, Sequence[Row]] | None
    answered: bool = False
    problems: tuple[str, ...] = ()

    def view(self, job: JobInfo, element: int) -> View:
        """Return what the two say together of one element of a job that has its ``job_id``."""
        raise NotImplementedError


class SlurmClient:
    """Slurm of one place, for one account. As its runner, it serves one thread.

    :param runner: how commands get there; stays the caller's, who closes it.
    :param blocking: see :func:`airflow_ensemble.slurm.states.is_blocking`.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def site(
        self, python: str = "python3", *, account: str | None = None, refresh: bool = False
    ) -> Site:
        """Return what this Slurm is and allows; asked once.

        :param python: the interpreter that workers shall use.
        :param account: whose limits count; None for the smallest of the account's associations.
        :param refresh: ask again.
        :raises SlurmUnavailable: when Slurm does not answer now.
        :raises SlurmRefused: when there is no Slurm.
        """
        raise NotImplementedError

    def poll(self, jobs: Sequence[JobInfo]) -> Snapshot:
        """Ask for the state of every element of some jobs, with one remote command.

        ``sacct`` is asked only when the queue alone cannot say how something ended.
        """
        raise NotImplementedError

    def find(self, name: str) -> list[str] | None:
        """Return the ids of the jobs of that name, oldest first; None when Slurm did not answer."""
        raise NotImplementedError

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs (``123``) and elements (``123_4``); what has ended already is fine.

        :raises SlurmUnavailable: when Slurm does not answer now.
        """
        raise NotImplementedError

    def tail(self, path: str, limit: int = 4000) -> str:
        """Return the last bytes of a file on the cluster as text; nothing when there is none."""
        raise NotImplementedError

    def submit(self, folder: str, attempt: int, *, limit: float = 150.0) -> Answer:
        """Run ``sbatch --parsable job.sh`` in a job's folder, at most once per attempt for ever.

        The folder ``attempt-<n>`` is made first, by whoever comes first; its file ``answer`` keeps
        what ``sbatch`` said.

        :param limit: seconds after which ``sbatch`` is ended there.
        :raises OutcomeUnknown: when the connection broke in the middle.
        """
        raise NotImplementedError
