"""Looking at many array elements at once: one poll, one reading of results, one answer for each."""

from __future__ import annotations

import logging
import secrets
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_ensemble.engine.errors import EnsembleError
from airflow_ensemble.engine.evidence import STALE_AFTER
from airflow_ensemble.engine.index.interface import ChunkInfo, ElementInfo, JobInfo
from airflow_ensemble.engine.ingest import ingest
from airflow_ensemble.slurm.client import SlurmClient, Snapshot
from airflow_ensemble.slurm.decision import (
    Deadlines,
    Over,
    Sight,
    consult_log,
    decide,
    describe_view,
    is_absent,
)
from airflow_ensemble.slurm.errors import (
    AccessRefused,
    ClusterError,
    OutcomeUnknown,
    SlurmUnavailable,
    Unreachable,
)
from airflow_ensemble.slurm.states import End, Phase, View, advance, is_newer_run

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control, Ledger

log = logging.getLogger(__name__)

#: Characters of a log that are shown, and logs that one command reads.
TAIL = 4000
_LOGS_AT_ONCE = 64
#: Seconds between two questions to Slurm at first, where looks may slacken.
_FLOOR = 2.0
_NOTHING = View(Phase.UNKNOWN)


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

    @cached_property
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
        execution = control.ensemble.execution
        deadlines = Deadlines(
            queue=queue_deadline or execution.get("queue_deadline"),
            run=run_deadline or execution.get("run_deadline"),
        )
        return cls(
            element.job,
            element.element,
            element.chunk,
            element.submission,
            element.job.batch,
            deadlines,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Watched:
        """Read what :meth:`as_dict` gave."""
        job, deadlines = JobInfo(**record["job"]), Deadlines(**record["deadlines"])
        return cls(**{**record, "job": job, "deadlines": deadlines})


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
    :param ceiling: seconds between two questions to Slurm to which looks slacken, while results
        alone say how things go; 0 asks with every look.
    :param clock: seconds that only grow.
    """

    def __init__(
        self,
        client: SlurmClient,
        *,
        ceiling: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._clock = clock
        self._ceiling = ceiling
        self._interval, self._asked = _FLOOR, float("-inf")
        self._awaits_results = False
        self._memories: dict[str, _Memory] = {}

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
        snapshot, problem = self._poll(watched)
        tallies = _read_results(watched, ledger_of)
        self._remember(watched, snapshot)
        overs = {}
        for one in watched:
            over = decide(self._sight(one, snapshot, tallies[one.key]), one.deadlines)
            if over is not None and not (over.end is End.VANISHED and self.shows_life(one)):
                overs[one.key] = replace(over, submission=one.submission)
        self._awaits_results = any(
            memory.ended is not None and key not in overs for key, memory in self._memories.items()
        )
        bad = [one for one in watched if _is_bad(overs.get(one.key), tallies[one.key])]
        tails = self._read_tails(bad)
        news = {}
        for one in watched:
            tail = tails.get(one.key, "")
            over = overs.get(one.key)
            over = consult_log(over, tail) if over else None
            view, tally = self._memories[one.key].view, tallies[one.key]
            text = _describe(one, view, tally, over, problem)
            news[one.key] = News(view, tally.unfinished, text, over, tail)
        return news

    def _poll(self, watched: Sequence[Watched]) -> tuple[Snapshot | None, str]:
        jobs = {one.job.name: one.job for one in watched if one.job.job_id is not None}
        if not jobs or not self._is_due():
            return None, ""
        try:
            snapshot = self._client.poll(list(jobs.values()))
        except AccessRefused:
            raise
        except (Unreachable, OutcomeUnknown, SlurmUnavailable) as error:
            return None, str(error)
        return snapshot, "; ".join(snapshot.problems)

    def _is_due(self) -> bool:
        """Say whether Slurm is to be asked with this look, and slacken."""
        now = self._clock()
        if self._awaits_results:
            self._interval = _FLOOR  # an end may be followed by a requeue, and must be judged soon
        if now - self._asked < min(self._interval, self._ceiling):
            return False
        self._asked = now
        self._interval = min(self._interval * 1.5, self._ceiling)
        return True

    def _remember(self, watched: Sequence[Watched], snapshot: Snapshot | None) -> None:
        now = self._clock()
        known, self._memories = self._memories, {}
        for one in watched:
            memory = known.get(one.key, _Memory())
            if snapshot is not None and one.job.job_id is not None:
                view = snapshot.view(one.job, one.element)
                memory = memory.updated(view, now, is_asked=snapshot.queue is not None)
            self._memories[one.key] = memory

    def _sight(self, one: Watched, snapshot: Snapshot | None, tally: _Tally) -> Sight:
        memory, now = self._memories[one.key], self._clock()
        return Sight(
            memory.view,
            snapshot.now if snapshot else None,
            tally.unfinished,
            tally.is_read,
            snapshot.answered if snapshot else False,
            _since(memory.absent, now) if snapshot and snapshot.queue is not None else None,
            _since(memory.blocked, now),
            _since(memory.ended, now),
        )

    def shows_life(self, one: Watched) -> bool:
        """Say whether the worker of an element has touched its lock file a short time ago.

        What cannot be seen now counts as alive.
        """
        if one.chunk is None:
            return False
        lock = f"{one.job.folder}/{one.chunk}.{one.submission}.jsonl.lock"
        try:
            clock = self._client.runner.run("date +%s").out
            touched = self._client.runner.stat(lock).modified
            return float(clock) - touched < STALE_AFTER
        except FileNotFoundError:
            return False
        except (ClusterError, OSError, ValueError) as error:
            log.warning("%s: cannot look at %s: %s", one.id, lock, error)
            return True

    def _read_tails(self, wanted: Sequence[Watched]) -> dict[str, str]:
        tails: dict[str, str] = {}
        for start in range(0, len(wanted), _LOGS_AT_ONCE):
            some = wanted[start : start + _LOGS_AT_ONCE]
            try:
                texts = read_tails(self._client, [one.log for one in some])
            except ClusterError as error:
                texts = [f"(its log cannot be read now: {error})"] * len(some)
            tails.update(zip((one.key for one in some), texts))
        return tails


def read_tails(client: SlurmClient, paths: Sequence[str], limit: int = TAIL) -> list[str]:
    """Return the ends of some files on the cluster, with one command; empty for a missing one."""
    mark = f"--{secrets.token_hex(8)}--"
    files = " ".join(map(shlex.quote, paths))
    script = f'for f in {files}; do printf %s {mark}; tail -c {limit} "$f" 2>/dev/null; done; :'
    return client.runner.run(script).out.split(mark)[1:]


@dataclass(frozen=True)
class _Memory:
    """What was seen of an element, and since when, by the watch's own clock.

    :param view: what Slurm said last.
    :param absent: since when the queue has known nothing of it; None when it is there.
    :param blocked: since when it has been blocked.
    :param ended: since when it has been known to have ended.
    """

    view: View = _NOTHING
    absent: float | None = None
    blocked: float | None = None
    ended: float | None = None

    def updated(self, view: View, now: float, *, is_asked: bool) -> _Memory:
        """Return the memory after another look.

        :param is_asked: whether the queue has answered, so that absence means something.
        """
        if not is_asked and view.phase is Phase.UNKNOWN:
            return self
        started_anew = is_newer_run(self.view, view)
        believed = advance(None if self.view is _NOTHING else self.view, view)
        phase = believed.phase
        before = _Memory() if started_anew else self
        return _Memory(
            believed,
            _first(before.absent, now) if is_absent(believed) else None,
            _first(before.blocked, now) if phase is Phase.BLOCKED else None,
            _first(before.ended, now) if phase is Phase.ENDED else None,
        )


@dataclass(frozen=True)
class _Tally:
    """What the index says of a watched element's chunk.

    :param unfinished: simulations that are not finished; None when it has no chunk, or when that is
        not known.
    :param is_read: whether the results that there are have been read.
    :param problem: why not.
    """

    unfinished: int | None = None
    is_read: bool = True
    problem: str = ""


def _read_results(
    watched: Sequence[Watched], ledger_of: Callable[[Watched], Ledger | None]
) -> dict[str, _Tally]:
    """Bring new results in, once for each ledger, and count what each chunk has left."""
    by_ledger: dict[int, tuple[Ledger, list[Watched]]] = {}
    tallies = {one.key: _Tally() for one in watched}
    for one in watched:
        ledger = ledger_of(one) if one.chunk is not None else None
        if ledger is not None:
            by_ledger.setdefault(id(ledger), (ledger, []))[1].append(one)
    for ledger, some in by_ledger.values():
        tallies.update(_tally(ledger, some))
    return tallies


def _tally(ledger: Ledger, watched: Sequence[Watched]) -> dict[str, _Tally]:
    batches = {one.batch for one in watched}
    problem = ""
    try:
        ingest(ledger, batch=next(iter(batches)) if len(batches) == 1 else None)
    except AccessRefused:
        raise
    except (EnsembleError, OSError) as error:
        problem = f"results cannot be read now: {error}"
    try:
        chunks = _chunks(ledger, batches)
    except EnsembleError as error:
        return {
            one.key: _Tally(None, False, f"the index cannot be read: {error}") for one in watched
        }
    return {
        one.key: _Tally(_unfinished(one, chunks.get(one.chunk)), not problem, problem)
        for one in watched
    }


def _chunks(ledger: Ledger, batches: Iterable[str]) -> dict[str | None, ChunkInfo]:
    return {chunk.id: chunk for batch in batches for chunk in ledger.index.chunks(batch)}


def _unfinished(one: Watched, chunk: ChunkInfo | None) -> int:
    # A settled chunk has nothing left: what it gave back belongs to others.
    return chunk.unfinished if chunk is not None and chunk.state == "open" else 0


def _is_bad(over: Over | None, tally: _Tally) -> bool:
    return over is not None and (over.end is not End.COMPLETED or bool(tally.unfinished))


def _describe(one: Watched, view: View, tally: _Tally, over: Over | None, problem: str) -> str:
    parts = [f"element {one.id}: {describe_view(view)}"]
    if tally.unfinished is not None:
        parts.append(f"{tally.unfinished} simulations unfinished")
    if over is not None:
        parts.append(f"{over.end.value}: {over.detail}")
    if problem:
        parts.append(f"as seen last, for the cluster did not answer: {problem}")
    if tally.problem:
        parts.append(tally.problem)
    return "; ".join(parts)


def _first(since: float | None, now: float) -> float:
    return now if since is None else since


def _since(moment: float | None, now: float) -> float | None:
    return None if moment is None else now - moment
