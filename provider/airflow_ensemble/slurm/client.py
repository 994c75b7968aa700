"""Slurm's commands, sent through a runner, and what their answers say."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from airflow_ensemble.engine.index.interface import JobInfo
from airflow_ensemble.slurm import commands
from airflow_ensemble.slurm.answers import (
    Answer,
    Outcome,
    explain,
    is_transient,
    read_answer,
    shorten,
)
from airflow_ensemble.slurm.arrays import format_elements, parse_job_id
from airflow_ensemble.slurm.commands import PATIENCE, Section, split_sections
from airflow_ensemble.slurm.errors import OutcomeUnknown, SlurmRefused, SlurmUnavailable
from airflow_ensemble.slurm.parsing import (
    JobRows,
    Row,
    group_rows,
    parse_accounting,
    parse_queue,
)
from airflow_ensemble.slurm.runner import Completed, Runner
from airflow_ensemble.slurm.site import PYTHON, Site, is_accounting_off, read_site
from airflow_ensemble.slurm.states import BLOCKING_REASONS, Phase, View

log = logging.getLogger(__name__)

#: Seconds that jobs may lie further back than our own records say: clocks differ.
MARGIN = 86400
_TOLERATED = ("invalid job id", "already completing or completed", "already finished")

_T = TypeVar("_T")
Rows = Mapping[tuple[str, str], JobRows]
_ById = Mapping[str, Sequence[JobRows]]


@dataclass(frozen=True)
class Snapshot:
    """What the queue and the accounting said in one poll.

    :param now: Unix time by the cluster's clock.
    :param queue: rows of ``squeue`` by job id and shown name; None when it did not answer.
    :param accounting: likewise, of ``sacct``; None when it did not answer or was not asked.
    :param answered: whether an element that no row speaks of is really absent: the queue has
        answered, and the accounting has, too, or the site has none.
    :param problems: what went wrong, for people; the poll's other half counts all the same.
    :param blocking: see :func:`airflow_ensemble.slurm.states.is_blocking`.
    :param missing: names of jobs with elements that the queue did not show when asked for.
    :param foreign: ids that are shown, but of jobs that bear no mark of ours.
    """

    now: float
    queue: Rows | None
    accounting: Rows | None
    answered: bool = False
    problems: tuple[str, ...] = ()
    blocking: tuple[str, ...] = BLOCKING_REASONS
    missing: set[str] = field(default_factory=set, compare=False, repr=False)
    foreign: set[str] = field(default_factory=set, compare=False, repr=False)

    def view(self, job: JobInfo, element: int) -> View:
        """Return what the two say together of one element of a job that has its ``job_id``."""
        queued = self._newest(self._queue, job, element)
        accounted = self._newest(self._accounting, job, element)
        if queued is None:
            self.missing.add(job.name)
        view = judge(queued, accounted, queue_answered=self.queue is not None)
        id = plain_id(job.job_id or "")
        if queued is None and accounted is None and id in self.foreign:
            return replace(view, reason=f"the job that is shown as {id} bears no mark of ours")
        return view

    def _newest(self, rows: _ById, job: JobInfo, element: int) -> View | None:
        id = plain_id(job.job_id or "")
        shown = [row for one in rows.get(id, ()) for row in one.find(element)]
        ours = [row for row in shown if row.is_of(job.name) or row.is_in(job.name)]
        if shown and not ours:
            self.foreign.add(id)
        return max((row.view(self.blocking) for row in ours), key=_recency, default=None)

    @cached_property
    def _queue(self) -> _ById:
        return _by_id(self.queue)

    @cached_property
    def _accounting(self) -> _ById:
        return _by_id(self.accounting)


def _by_id(rows: Rows | None) -> _ById:
    found: dict[str, list[JobRows]] = {}
    for (id, _), some in (rows or {}).items():
        found.setdefault(id, []).append(some)
    return found


def _recency(view: View) -> tuple[float, bool]:
    """Order runs of one element by age; of two lines of one run, what has ended is newer."""
    return view.submitted or 0.0, view.phase is Phase.ENDED


def judge(queued: View | None, accounted: View | None, *, queue_answered: bool) -> View:
    """Return what queue and accounting say together of one element.

    The queue is right about what is alive. The accounting lags behind: what it shows as alive, but
    the queue does not show, is unknown; but it remembers ends that the queue has forgotten, and
    those that ``COMPLETING`` hides.
    """
    if accounted is None:
        return queued or View(Phase.UNKNOWN)
    if queued is None:
        if accounted.phase is Phase.ENDED or not queue_answered:
            return accounted
        return View(Phase.UNKNOWN, accounted.word)
    if _is_later(accounted, queued):
        return accounted
    has_ended = accounted.phase is Phase.ENDED and not _is_later(queued, accounted)
    if queued.word == "COMPLETING" and has_ended:
        return accounted
    if queued.phase is Phase.ENDED and has_ended and queued.exit_code is None:
        return replace(queued, exit_code=accounted.exit_code, signal=accounted.signal)
    return queued


def _is_later(one: View, other: View) -> bool:
    return one.submitted is not None and one.submitted > (other.submitted or one.submitted)


@dataclass(frozen=True)
class Trace:
    """What an attempt to submit has left in its job's folder.

    :param fenced: nothing at all: its folder was made just now, so it can never submit.
    :param answer: what ``sbatch`` said; None while it may still run.
    :param age: seconds since the attempt began, by the file system's clock.
    :param started: ids of the jobs whose elements have begun to run there.
    """

    fenced: bool
    answer: Answer | None = None
    age: float = 0.0
    started: tuple[str, ...] = ()


class SlurmClient:
    """Slurm of one place, for one account. As its runner, it serves one thread.

    :param runner: how commands get there; stays the caller's, who closes it.
    :param blocking: see :func:`airflow_ensemble.slurm.states.is_blocking`.
    """

    def __init__(self, runner: Runner, *, blocking: Sequence[str] = BLOCKING_REASONS) -> None:
        self.runner = runner
        self._blocking = tuple(blocking)
        self._has_accounting: bool | None = None
        #: Answers by interpreter and account, and when they were asked for.
        self._sites: dict[tuple[str, str | None], tuple[float, Site]] = {}
        #: Jobs of which the last poll missed elements: the next one asks the accounting.
        self._missing: set[str] = set()
        #: Ids that the last poll has shown as those of other jobs: they are not ours to cancel.
        self._foreign: set[str] = set()

    def site(
        self, python: str = PYTHON, *, account: str | None = None, max_age: float = math.inf
    ) -> Site:
        """Return what this Slurm is and allows; asked once, or again when that is too long ago.

        :param python: the interpreter that workers shall use.
        :param account: whose limits count; None for the smallest of the account's associations.
        :param max_age: seconds for which an answer serves.
        :raises SlurmUnavailable: when Slurm does not answer now.
        :raises SlurmRefused: when there is no Slurm.
        """
        key = (python, account)
        asked, site = self._sites.get(key, (-math.inf, None))
        if site is None or time.monotonic() - asked > max_age:
            asked, before = time.monotonic(), time.time()
            done = self.runner.run(commands.site_text(python), timeout=7 * PATIENCE)
            # The cluster prints its time before it asks Slurm anything.
            sections = split_sections(done.out)
            if not any(one.kind == "config" for one in sections):
                raise SlurmUnavailable(_broken_off(f"asking {self.runner.place}", done))
            site = read_site(sections, self.runner.place, before, account)
            self._has_accounting = site.accounting
            self._sites[key] = (asked, site)
        return site

    def poll(self, jobs: Sequence[JobInfo]) -> Snapshot:
        """Ask for the state of every element of some jobs, with one remote command.

        ``sacct`` is asked only when the queue does not show a job or, in the last poll, one of its
        elements. Jobs without a ``job_id`` are left out.
        """
        known = [job for job in jobs if job.job_id]
        if not known:
            return Snapshot(time.time(), {}, {}, True, (), self._blocking)
        by_cluster = _ids_by_cluster(known)
        age = max(0.0, time.time() - min(job.submitted or 0.0 for job in known)) + MARGIN
        text = commands.poll_text(
            by_cluster,
            ask_accounting=self._accounting_mode(known),
            age=int(age),
        )
        lines = [
            f"{cluster or '-'} {','.join(batch)}"
            for cluster, ids in by_cluster.items()
            for batch in _batches(ids, commands.BATCH)
        ]
        patience = PATIENCE * (len(by_cluster) + len(lines) + 1)
        done = self.runner.run(text, input=_as_input(lines), timeout=patience)
        snapshot = self._read_poll(done, len(by_cluster))
        self._missing, self._foreign = snapshot.missing, snapshot.foreign
        return snapshot

    def _accounting_mode(self, jobs: Iterable[JobInfo]) -> str:
        if self._has_accounting is False:
            return "never"
        return "always" if any(job.name in self._missing for job in jobs) else "missing"

    def _read_poll(self, done: Completed, clusters: int) -> Snapshot:
        sections = split_sections(done.out)
        clock = next((float(one.code) for one in sections if one.kind == "now"), time.time())
        queues = [one for one in sections if one.kind == "queue"]
        accounts = [one for one in sections if one.kind == "accounting"]
        self._notice_accounting(accounts)
        problems = _describe_problems("squeue", queues)
        if not queues:
            problems = (_broken_off("the poll", done),)
        if self._has_accounting is not False:
            problems += _describe_problems("sacct", accounts)
        queue = _rows(queues, parse_queue, clusters)
        accounting = _rows(accounts, parse_accounting, 1)
        answered = queue is not None and (accounting is not None or self._has_accounting is False)
        return Snapshot(clock, queue, accounting, answered, problems, self._blocking)

    def _notice_accounting(self, answers: Sequence[Section]) -> None:
        if any(is_accounting_off(one) for one in answers):
            self._has_accounting = False
        elif any(one.code == 0 for one in answers):
            self._has_accounting = True

    def find(self, name: str) -> list[str] | None:
        """Return the ids of the jobs that we call so, oldest first; None without Slurm's answer.

        The site may call them otherwise: see :meth:`airflow_ensemble.slurm.parsing.Row.is_of`.

        One that is found counts even if only one of queue and accounting has answered; absence
        needs both, or the queue alone where there is no accounting.
        """
        text = commands.find_text(name, accounting=self._has_accounting is not False)
        sections = split_sections(self.runner.run(text, timeout=4 * PATIENCE).out)
        queues = [one for one in sections if one.kind == "queue"]
        accounts = [one for one in sections if one.kind == "accounting"]
        self._notice_accounting(accounts)
        rows = [row for one in queues if one.code == 0 for row in parse_queue(one.text)]
        rows += [row for one in accounts if one.code == 0 for row in parse_accounting(one.text)]
        ids = sorted({row.id.job for row in rows if row.is_of(name)}, key=int)
        answered = _all_answered(queues) and (
            self._has_accounting is False or _all_answered(accounts)
        )
        return ids if ids or answered else None

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs (``123``) and elements (``123_4``); what has ended already is fine.

        Those whose id the last poll has shown to be another job's are left alone.

        :raises SlurmUnavailable: when Slurm does not answer now.
        :raises SlurmRefused: when it says no.
        """
        foreign = sorted(self._foreign & {parse_job_id(id).job for id in ids})
        if foreign:
            log.warning("not cancelled, for the id is another job's now: %s", ", ".join(foreign))
        lines = _cancel_lines(id for id in ids if parse_job_id(id).job not in foreign)
        if not lines:
            return
        patience = PATIENCE * (len(lines) + 1)
        done = self.runner.run(commands.cancel_text(), input=_as_input(lines), timeout=patience)
        answers = [one for one in split_sections(done.out) if one.kind == "cancel"]
        if len(answers) < len(lines):
            raise SlurmUnavailable(f"scancel on {self.runner.place} did not come to its end")
        for answer in answers:
            self._check_cancelled(answer)

    def _check_cancelled(self, answer: Section) -> None:
        said = [
            line
            for line in answer.text.splitlines()
            if line.strip() and not any(one in line.lower() for one in _TOLERATED)
        ]
        if answer.code == 0 or (not said and answer.code != 124):
            return
        text = "\n".join(said)
        if answer.code == 124 or is_transient(text):
            raise SlurmUnavailable(
                f"scancel on {self.runner.place} was not answered: {shorten(text)}"
            )
        message = f"scancel on {self.runner.place} was refused: {shorten(text)}"
        raise SlurmRefused(explain(message, text))

    def tail(self, path: str, limit: int = 4000) -> str:
        """Return the last bytes of a file on the cluster as text; nothing when there is none."""
        script = f"tail -c {limit:d} -- {shlex.quote(path)} 2>/dev/null"
        return self.runner.run(script, timeout=PATIENCE).out

    def submit(self, folder: str, attempt: int, *, limit: float = 150.0) -> Answer:
        """Run ``sbatch --parsable job.sh`` in a job's folder, at most once per attempt for ever.

        The folder ``attempt-<n>`` is made first, by whoever comes first; its file ``answer`` keeps
        what ``sbatch`` said.

        :param limit: seconds after which ``sbatch`` is ended there.
        :raises SlurmRefused: when the job's folder is missing or cannot be written.
        :raises OutcomeUnknown: when the connection broke in the middle.
        """
        text = commands.submit_text(folder, attempt, max(1.0, limit))
        done = self.runner.run(text, timeout=limit + PATIENCE)
        found = {one.kind: one for one in split_sections(done.out)}
        self._check_folder(folder, found)
        if "fenced" in found:
            return Answer(Outcome.FENCED, "another process has begun this attempt")
        answer = read_answer(found["answer"].text) if "answer" in found else None
        return answer or Answer(Outcome.UNKNOWN, "what sbatch answered could not be read")

    def look(self, folder: str, attempt: int) -> Trace:
        """Return what an attempt has left behind; one that has not begun is fenced by it.

        :raises SlurmRefused: when the job's folder is missing or cannot be written.
        :raises OutcomeUnknown: when the connection broke in the middle.
        """
        done = self.runner.run(commands.look_text(folder, attempt), timeout=PATIENCE)
        found = {one.kind: one for one in split_sections(done.out)}
        self._check_folder(folder, found)
        if "fenced" in found:
            return Trace(True)
        if not {"age", "started", "answer"} <= found.keys():
            raise OutcomeUnknown(f"{folder} on {self.runner.place} could not be looked at")
        started = tuple(found["started"].text.split())
        return Trace(False, read_answer(found["answer"].text), float(found["age"].code), started)

    def _check_folder(self, folder: str, found: Mapping[str, Section]) -> None:
        if "nofolder" in found:
            raise SlurmRefused(
                f"the job's folder {folder} is missing on {self.runner.place}: it was removed, or "
                "the remote root is another one now. Cancel the batch and start it again"
            )
        if "unwritable" in found:
            said = shorten(found["unwritable"].text)
            raise SlurmRefused(
                explain(f"{folder} on {self.runner.place} cannot be written: {said}", said)
            )


def element_id(job: JobInfo, element: int) -> str:
    """Return what :meth:`SlurmClient.cancel` calls one element of a job."""
    plain, semicolon, cluster = (job.job_id or "").partition(";")
    return f"{plain}_{element}{semicolon}{cluster}"


def plain_id(job_id: str) -> str:
    """Return a job's id without the cluster that ``sbatch`` may have named with it."""
    return job_id.partition(";")[0]


def _ids_by_cluster(jobs: Iterable[JobInfo]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for job in jobs:
        plain, _, cluster = (job.job_id or "").partition(";")
        ids = found.setdefault(cluster, [])
        if plain not in ids:
            ids.append(plain)
    return found


def _cancel_lines(ids: Iterable[str]) -> list[str]:
    """Return ids by cluster, elements of one array put together, a bounded number in a line."""
    wanted: dict[tuple[str, str], set[int] | None] = {}
    for text in ids:
        parsed, cluster = parse_job_id(text), text.partition(";")[2]
        elements = wanted.setdefault((cluster, parsed.job), set())
        if parsed.elements is None:
            wanted[cluster, parsed.job] = None
        elif elements is not None:
            elements.update(parsed.elements)
    words: dict[str, list[str]] = {}
    for (cluster, job), elements in wanted.items():
        expressions = words.setdefault(cluster, [])
        if elements is None:
            expressions.append(job)
            continue
        for batch in _batches(sorted(elements), commands.BATCH):
            expressions.append(f"{job}_[{format_elements(batch)}]")
    return [
        f"{cluster or '-'} {' '.join(batch)}"
        for cluster, expressions in words.items()
        for batch in _batches(expressions, 50)
    ]


def _batches(items: Sequence[_T], size: int) -> Iterable[Sequence[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _as_input(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _all_answered(sections: Sequence[Section]) -> bool:
    return bool(sections) and all(one.code == 0 for one in sections)


def _rows(
    sections: Sequence[Section], parse: Callable[[str], list[Row]], least: int
) -> dict[tuple[str, str], JobRows] | None:
    """Return the rows of some answers; None unless all have come."""
    if len(sections) < least or not _all_answered(sections):
        return None
    return group_rows(row for one in sections for row in parse(one.text))


def _broken_off(what: str, done: Completed) -> str:
    said = shorten(done.err) or "nothing"
    return f"{what} broke off with exit code {done.code}; the shell there said: {said}"


def _describe_problems(command: str, sections: Sequence[Section]) -> tuple[str, ...]:
    failed = [one for one in sections if one.code != 0]
    return tuple(
        f"{command} did not answer (exit code {one.code}): {shorten(one.text) or 'it said nothing'}"
        for one in failed[:1]
    )
