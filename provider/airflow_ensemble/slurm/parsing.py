"""From what Slurm's commands print to values; nothing here asks anybody."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from airflow_ensemble.slurm.arrays import JobId, parse_job_id
from airflow_ensemble.slurm.states import BLOCKING_REASONS, Phase, View, find_meaning, is_blocking

#: What ``squeue -O`` is asked for; name, reason and what follows are free text, so they come last.
QUEUE_FORMAT = (
    "JobArrayID:|,State:|,SubmitTime:|,StartTime:|,EndTime:|,exit_code:|,RestartCnt:|,NodeList:|,"
    "Name:|,Reason:|,WorkDir:|,Command:|,Comment:"
)
#: What ``sacct -o`` is asked for; likewise.
ACCOUNTING_FORMAT = "JobID,State,ExitCode,Submit,Start,End,NodeList,JobName,WorkDir,Comment"

#: The name of batch scripts in a job's folder.
SCRIPT = "job.sh"

_COMMENTED = re.compile(r"[/\s,;|]+")
_SUBMITTED = re.compile(
    r"(?P<words>Submitted batch job )?(?P<job>\d{1,12})"
    r"(?:;(?P<cluster>[\w.-]+)| on cluster (?P<other>[\w.-]+))?"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LIMIT = re.compile(r"\d{1,12}")


@dataclass(frozen=True)
class Row:
    """One line of ``squeue`` or ``sacct``.

    :param id: which job or elements it speaks of.
    :param name: of the job.
    :param word: Slurm's state, in its long form.
    :param reason: empty when there is none.
    :param exit_code: of the script; None when unknown or not ended.
    :param signal: that ended it; None for none.
    :param restarts: how often it was requeued, as far as the line says.
    :param submitted: Unix time by the cluster's clock; None when unknown. So are the next two.
    :param nodes: as Slurm writes them.
    :param folder: the job's working directory; empty when unknown. So are the next two.
    :param command: path of the script.
    :param comment: of the job.
    """

    id: JobId
    name: str
    word: str
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    restarts: int = 0
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    nodes: str = ""
    folder: str = ""
    command: str = ""
    comment: str = ""

    def is_of(self, name: str) -> bool:
        """Say whether this line speaks of the job that we call so, whatever the site calls it.

        The name is never used twice, and the job's folder and comment end with it. What somebody
        else submits from that folder has a script of its own, or is no array.
        """
        if name == self.name or name in _COMMENTED.split(self.comment):
            return True
        if self.command:
            return self.command.endswith(f"/{name}/{SCRIPT}")
        return self.id.elements is not None and self.is_in(name)

    def is_in(self, name: str) -> bool:
        """Say whether its job works in the folder of the job that we call so."""
        return self.folder.rpartition("/")[2] == name

    def view(self, blocking: Sequence[str] = BLOCKING_REASONS) -> View:
        """Return what this line says of each element that it speaks of."""
        meaning = find_meaning(self.word)
        phase = meaning.phase
        if phase is Phase.PENDING and is_blocking(self.reason, blocking):
            phase = Phase.BLOCKED
        has_ended = phase is Phase.ENDED
        return View(
            phase,
            meaning.word,
            meaning.end,
            self.reason,
            self.exit_code if has_ended else None,
            self.signal if has_ended else None,
            self.restarts,
            self.submitted,
            self.started,
            # Of what still runs, squeue prints when its time will be over.
            self.ended if has_ended else None,
            self.nodes,
        )


@dataclass
class JobRows:
    """The lines of one job: those of single elements, and those of many."""

    exact: dict[int, list[Row]] = field(default_factory=dict)
    wide: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Take a line in."""
        elements = row.id.elements
        if elements is None or elements.truncated or len(elements) != 1:
            self.wide.append(row)
        else:
            self.exact.setdefault(next(iter(elements)), []).append(row)

    def find(self, element: int) -> list[Row]:
        """Return the lines of one element. One of its own overrides what is said of a range."""
        if element in self.exact:
            return self.exact[element]
        named = [one for one in self.wide if one.id.elements is None or element in one.id.elements]
        return named or [one for one in self.wide if _may_hold(one, element)]


def _may_hold(row: Row, element: int) -> bool:
    """Return whether an element may be in what was left out of a truncated expression."""
    elements = row.id.elements
    if elements is None or not elements.truncated:
        return False
    return all(element > one[-1] for one in elements.ranges)


def group_rows(rows: Iterable[Row]) -> dict[tuple[str, str], JobRows]:
    """Return lines by job id and name: an id alone may have been another's before."""
    grouped: dict[tuple[str, str], JobRows] = {}
    for row in rows:
        grouped.setdefault((row.id.job, row.name), JobRows()).add(row)
    return grouped


def parse_queue(text: str) -> list[Row]:
    """Return the lines of ``squeue -h -O QUEUE_FORMAT``; whatever is no such line is left out."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|", 12)
        job = _job_id(parts[0])
        if job is None or len(parts) < 10:
            continue
        _, state, submitted, started, ended, code, restarts, nodes, name, reason = parts[:10]
        marks = (_none_as_empty(part) for part in parts[10:])
        exit_code, signal = _wait_status(code)
        rows.append(
            Row(
                job,
                name,
                find_meaning(state).word,
                _none_as_empty(reason.strip()),
                exit_code,
                signal,
                int(restarts) if _is_number(restarts) else 0,
                _seconds(submitted),
                _seconds(started),
                _seconds(ended),
                _none_as_empty(nodes),
                *marks,
            )
        )
    return rows


def parse_accounting(text: str) -> list[Row]:
    """Return the lines of ``sacct -n -P -o ACCOUNTING_FORMAT``, and nothing else."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|", 9)
        job = _job_id(parts[0])
        if job is None or len(parts) < 8:
            continue
        _, state, code, submitted, started, ended, nodes, name = parts[:8]
        folder, comment = [*parts[8:], "", ""][:2]
        exit_code, signal = _wait_status(code)
        rows.append(
            Row(
                job,
                name,
                find_meaning(state).word,
                "" if not state.startswith("CANCELLED by") else state.partition(" ")[2],
                exit_code,
                signal,
                0,
                _seconds(submitted),
                _seconds(started),
                _seconds(ended),
                _none_as_empty(nodes),
                folder,
                comment=comment,
            )
        )
    return rows


def parse_submitted(text: str) -> str | None:
    """Return the id that ``sbatch --parsable`` printed, ``123`` or ``123;cluster``.

    Banners and wrappers may have written lines before and after it. Where several numbers stand
    alone, such as a cost, none is taken for the id.
    """
    jobs = _submitted(text)
    if len(jobs) != 1:
        return None
    ((job, cluster),) = jobs.items()
    return f"{job};{cluster}" if cluster else job


def may_name_job(text: str) -> bool:
    """Return whether anything in what ``sbatch`` printed may be the id of a job."""
    return bool(_submitted(text))


def _submitted(text: str) -> dict[str, str]:
    """Return the ids that ``sbatch`` may have printed, each with its cluster or nothing."""
    lines = (_COLOUR.sub("", line).strip() for line in text.splitlines())
    found = [one for one in map(_SUBMITTED.fullmatch, lines) if one]
    jobs: dict[str, str] = {}
    for one in [one for one in found if one["words"]] or found:
        jobs[one["job"]] = one["cluster"] or one["other"] or jobs.get(one["job"], "")
    return jobs


def parse_config(text: str) -> dict[str, str]:
    """Return the settings that ``scontrol show config`` prints."""
    pairs = (line.partition(" = ") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equal, value in pairs if equal and key.strip()}


def parse_submit_limit(associations: str, qualities: str, account: str | None = None) -> int | None:
    """Return how many jobs and elements may be in the queue at once; None for no limit.

    :param associations: lines ``account|MaxSubmitJobs|GrpSubmitJobs|default QOS|QOS`` of the
        account's user, as ``sacctmgr -n -P`` prints them.
    :param qualities: lines ``name|MaxSubmitJobsPerUser|MaxSubmitJobsPerAccount|GrpSubmitJobs``.
    :param account: whose associations count; None for all, of which the smallest limit counts.
    """
    by_quality = {name: limits for name, *limits in _cells(qualities, 4)}
    found: list[str] = []
    for name, own, group, default, allowed in _cells(associations, 5):
        if account is not None and name != account:
            continue
        found += [own, group, *by_quality.get(default or allowed.split(",")[0], ())]
    return min((int(one) for one in found if _LIMIT.fullmatch(one)), default=None)


def parse_version(text: str) -> tuple[int, ...]:
    """Return the version in ``slurm 22.05.8`` or ``slurm 26.05.4pre``; empty when there is none."""
    found = re.search(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", text)
    return tuple(int(part) for part in found.groups() if part) if found else ()


def parse_seconds(text: str, default: float) -> float:
    """Return a time that ``scontrol show config`` prints, such as ``300 sec``."""
    first = text.split(None, 1)[0] if text.strip() else ""
    return float(first) if _is_number(first) else default


def read_integer(settings: Mapping[str, str], key: str, default: int) -> int:
    """Return an integer setting, or the default when it is missing or none."""
    value = settings.get(key, "")
    return int(value) if _is_number(value) else default


def _cells(text: str, count: int) -> list[list[str]]:
    rows = (line.strip().split("|") for line in text.splitlines())
    return [row for row in rows if len(row) == count]


def _job_id(text: str) -> JobId | None:
    try:
        return parse_job_id(text)
    except ValueError:
        return None


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,15}", text))


def _seconds(text: str) -> float | None:
    """Return a time printed under ``SLURM_TIME_FORMAT=%s``; ``N/A`` and ``Unknown`` are none."""
    return float(text) if _is_number(text) and int(text) else None


def _wait_status(text: str) -> tuple[int | None, int | None]:
    """Return exit code and signal: ``sacct`` prints ``3:0``, ``squeue`` the status of wait(2)."""
    code, colon, signal = text.strip().partition(":")
    if not _is_number(code):
        return None, None
    if colon:
        return int(code), int(signal) if _is_number(signal) and int(signal) else None
    status = int(code) & 0xFFFF
    if os.WIFSIGNALED(status):
        return 0, os.WTERMSIG(status)
    return status >> 8, None


def _none_as_empty(text: str) -> str:
    return "" if text in ("None", "(null)", "N/A", "None assigned", "n/a") else text
