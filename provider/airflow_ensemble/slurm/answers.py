"""What ``sbatch`` and its relatives answered, and what it means for the caller."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from airflow_ensemble.slurm.parsing import may_name_job, parse_submitted

#: What an attempt's file ``answer`` holds when it was ended before ``sbatch`` was run.
FENCED = "fenced before sbatch was run"


class Outcome(str, Enum):
    """What became of one run of ``sbatch``."""

    SUBMITTED = "submitted"
    #: Slurm said no for good: nothing was submitted, and the same is refused again.
    REFUSED = "refused"
    #: Slurm said no for now: nothing was submitted.
    UNAVAILABLE = "unavailable"
    #: The job may exist.
    UNKNOWN = "unknown"
    #: Somebody else has made this attempt's folder first: ``sbatch`` was not run by us.
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


#: No connection was made, so that nothing was asked for.
_NOT_SENT = re.compile(r"unable to contact slurm controller \(connect failure\)", re.IGNORECASE)
#: After these the job may exist, whatever the exit code says (nextflow#970, Toil#5459).
_UNCLEAR = re.compile(
    r"socket timed out|unable to contact slurm controller|zero bytes were transmitted"
    r"|connection (?:timed out|reset|refused|aborted)|communication connection failure"
    r"|communications? shutdown|unexpected message|transport endpoint|broken pipe"
    r"|message (?:send|receive) failure|header lengths are longer|insane message length"
    r"|i/o error|network is unreachable|no route to host",
    re.IGNORECASE,
)
#: Slurm has looked at the request and put it off, or was not in charge.
_LATER = re.compile(
    r"temporarily unable to accept job|resource temporarily unavailable"
    r"|standby mode|job count exceeds|maximum job count|slurmctld is (?:starting|shutting)"
    r"|could not establish a configuration source|fetch_config|munge|authentication (?:error|fail)"
    r"|submissions? (?:is|are) (?:currently |temporarily )?disabled|try again later",
    re.IGNORECASE,
)
#: What to change, by what Slurm's refusal says. The first that fits counts.
_HINTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (
            r"(?:sbatch|scontrol|squeue)'?[^\n]{0,20}: (?:command )?not found"
            r"|failed to run command .{0,4}(?:sbatch|scontrol|squeue)",
            "Slurm's commands are not on the PATH of a shell without a terminal there: add their "
            "folder to PATH in ~/.bashrc or ~/.profile on the cluster, or connect to a login node",
        ),
        (
            r"invalid partition|partition .{0,80}(?:does not exist|not (?:found|available))",
            "set another 'partition' (`sinfo -s` on the cluster lists them)",
        ),
        (
            r"invalid account",
            "set another 'account' or 'partition' "
            "(`sacctmgr show assoc user=$USER` on the cluster lists the allowed ones)",
        ),
        (r"invalid qos", "set another 'qos' (`sacctmgr show qos` on the cluster lists them)"),
        (
            r"job submit limit|maxsubmit|max ?submit|too many (?:jobs|tasks)|policy",
            "the account may not have that many jobs or elements in the queue, or asks for too "
            "much: wait for others to end, use fewer chunks ('n_workers'), or ask for less",
        ),
        (
            r"invalid (?:--time|time limit)|time limit",
            "set 'time' as minutes, hours:minutes:seconds or days-hours:minutes, within the "
            "partition's limit",
        ),
        (
            r"invalid job array",
            "the array is larger than the site's MaxArraySize: use fewer chunks ('n_workers')",
        ),
        (
            r"memory specification|node configuration|node count|more processors|invalid feature"
            r"|generic resource|cpu count|too many cpus",
            "no node of the partition has what is asked for: change memory, cpus, gpus, "
            "'constraint' or 'partition'",
        ),
        (
            r"unrecognized option|invalid option|requires an argument|invalid --|ambiguous",
            "correct that option of 'execution': this version of sbatch does not take it as it is",
        ),
        (r"access|permission denied", "ask the site whether the account may submit there"),
        (
            r"disk quota|no space left",
            "free some space below the remote root, or set another one",
        ),
    )
)
_CODE = re.compile(r"^code=(\d{1,3})\s*\Z", re.MULTILINE)


def read_answer(text: str) -> Answer | None:
    """Return what the file ``answer`` of an attempt says; None while ``sbatch`` may still run.

    :param text: what ``sbatch`` printed, and a last line ``code=<exit code>``.
    """
    found = _CODE.search(text)
    if not found:
        return None
    return judge(text[: found.start()], int(found[1]))


def judge(text: str, code: int) -> Answer:
    """Return what a run of ``sbatch`` that has ended means.

    :param text: all that it printed.
    :param code: its exit code; 124 and more than 127 mean that it was ended from outside.
    """
    said = shorten(text)
    if said == FENCED:
        return Answer(Outcome.FENCED, said)
    job_id = parse_submitted(text)
    if code == 0 and job_id is not None:
        return Answer(Outcome.SUBMITTED, said, job_id)
    if code in (0, 124) or (code > 127 and code != 255) or may_name_job(text):
        how = "was ended before it answered" if code else "printed no clear job id"
        return Answer(
            Outcome.UNKNOWN, f"sbatch {how} (exit code {code}): {said or 'it said nothing'}"
        )
    if _NOT_SENT.search(text):
        return Answer(Outcome.UNAVAILABLE, f"the site's controller cannot be reached: {said}")
    if not said or _UNCLEAR.search(text):
        return Answer(Outcome.UNKNOWN, f"sbatch failed: {said or 'it said nothing'}")
    if _LATER.search(text):
        return Answer(Outcome.UNAVAILABLE, f"the site takes no job now: {said}")
    return Answer(Outcome.REFUSED, explain(f"sbatch refused the job: {said}", text))


def explain(message: str, text: str) -> str:
    """Return a message with what to change, if the site's words say so.

    :param text: what the site answered.
    """
    for pattern, hint in _HINTS:
        if pattern.search(text):
            return f"{message}. What to change: {hint}"
    return message


def is_transient(text: str) -> bool:
    """Return whether words of any of Slurm's commands mean that its daemon did not answer."""
    return bool(_UNCLEAR.search(text) or _LATER.search(text))


def shorten(text: str, limit: int = 600) -> str:
    """Return what a command printed in one line, its end if it is long."""
    lines = (re.sub(r"^s[a-z]+: (?:error: )?", "", line.strip()) for line in text.splitlines())
    plain = "; ".join(line for line in lines if line)
    return plain if len(plain) <= limit else f"…{plain[-limit:]}"
