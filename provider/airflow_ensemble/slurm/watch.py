"""Looking at many array elements at once: one poll, one reading of results, one answer for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.index.interface import ElementInfo, JobInfo
from airflow_ensemble.slurm.client import SlurmClient
from airflow_ensemble.slurm.decision import Deadlines, Over
from airflow_ensemble.slurm.states import View

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control, Ledger


@dataclass(frozen=True)
class Watched:
    """An array element to look at.

    :param job: the array job.
    :param element: its array index.
    :param chunk: the chunk that it runs; None for a job that runs none, such as a collection.
    :param submission: of that chunk.
    :param batch: the chunk's batch.
    :param deadlines: how long to wait for what.
    """

    job: JobInfo
    element: int
    chunk: str | None
    submission: int
    batch: str
    deadlines: Deadlines = field(default_factory=Deadlines)

    @property
    def key(self) -> str:
        """Return a name for it, unique for ever."""
        return f"{self.job.name}_{self.element}"

    @property
    def id(self) -> str:
        """Return Slurm's own name for it, such as ``123_4``, or its key before it has one."""
        return f"{self.job.job_id}_{self.element}" if self.job.job_id else self.key

    @property
    def log(self) -> str:
        """Return the path of its log on the cluster."""
        return f"{self.job.folder}/logs/{self.element}.log"

    @classmethod
    def of(
        cls,
        element: ElementInfo,
        control: Control,
        *,
        queue_deadline: float | None = None,
        run_deadline: float | None = None,
    ) -> Watched:
        """Return what to watch for an element of the index.

        :param element: with a job that has its ``job_id``.
        :param control: the opened ensemble; its ``execution`` gives the deadlines.
        :param queue_deadline: seconds; overrides ``execution.queue_deadline``.
        :param run_deadline: seconds; overrides ``execution.run_deadline``.
        """
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Watched:
        """Read what :meth:`as_dict` gave."""
        raise NotImplementedError


@dataclass(frozen=True)
class News:
    """What is known of a watched element now.

    :param view: what Slurm said, now or last.
    :param unfinished: its chunk's unfinished simulations; None when that is not known.
    :param text: one line for people, without times: equal texts mean that nothing has changed.
    :param over: set when nothing more is to be waited for.
    :param log_tail: the last 4,000 characters of its log when it has ended badly; else empty.
    """

    view: View
    unfinished: int | None
    text: str
    over: Over | None = None
    log_tail: str = ""


class ClusterWatch:
    """Looks at elements of one cluster, and remembers since when each is as it is.

    :param client: of the cluster.
    """

    def __init__(self, client: SlurmClient) -> None:
        self._client = client

    def look(
        self, watched: Sequence[Watched], ledger_of: Callable[[Watched], Ledger | None]
    ) -> dict[str, News]:
        """Ask Slurm once, bring new results in once for each ledger, and say what is over.

        What cannot be reached now leaves everything as it was seen last, and the text says so.

        :param watched: elements; those of earlier looks that are not among them are forgotten.
        :param ledger_of: where an element's results are entered; the same object for those that
            share one. None for an element without a chunk.
        :return: by :attr:`Watched.key`.
        :raises AccessRefused: when the cluster does not let us in.
        """
        raise NotImplementedError
