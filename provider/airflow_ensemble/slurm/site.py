"""What a site's Slurm is and allows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_ensemble.slurm.answers import explain, is_transient, shorten
from airflow_ensemble.slurm.commands import Section
from airflow_ensemble.slurm.errors import SlurmRefused, SlurmUnavailable
from airflow_ensemble.slurm.parsing import (
    parse_config,
    parse_seconds,
    parse_submit_limit,
    parse_version,
    read_integer,
)

#: The interpreter of workers for which the ensemble file names none.
PYTHON = "python3"
#: What stands for the version when the login shell ended well and never came to the interpreter.
SILENT = "silent"
#: Why that is so, at a place.
SHELL_LEFT = (
    "the login shell of this account never comes to its command on {place}: a start-up file, "
    "such as ~/.bash_profile, replaces it with another shell (exec tcsh) or ends it, and every job "
    "would end at once with nothing done. Let the file do so in interactive shells only: "
    "[[ $- == *i* ]] && exec tcsh"
)
_VERSION = re.compile(r"[0-9]+\.[0-9]+(?:\.[0-9]+)?")


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
    :param python: version of the workers' interpreter; empty when it cannot be run, ``unknown``
        when it did not start in time.
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


def interpreter(execution: Mapping[str, Any]) -> str:
    """Return the interpreter in which workers run there.

    :param execution: of the ensemble file, or a connection's extra.
    """
    return str(execution.get("python") or PYTHON)


def read_site(
    sections: Sequence[Section], place: str, clock: float, account: str | None = None
) -> Site:
    """Return what the answers of a site say.

    :param sections: of :func:`airflow_ensemble.slurm.commands.site_text`.
    :param place: for messages.
    :param clock: our time, Unix seconds, while they were made.
    :param account: see :func:`airflow_ensemble.slurm.parsing.parse_submit_limit`.
    :raises SlurmUnavailable: when Slurm's daemon did not answer.
    :raises SlurmRefused: when there is no Slurm.
    """
    found = {one.kind: one for one in sections}
    none = Section("", 1, "")
    config = found.get("config", none)
    if config.code != 0:
        raise _no_config(config, place)
    settings = parse_config(config.text)
    version = settings.get("SLURM_VERSION", "")
    associations, qualities = found.get("associations", none), found.get("qualities", none)
    limit = parse_submit_limit(associations.text, qualities.text, account)
    accounting = found.get("accounting", none)
    queued = found.get("queued", none).text.strip()
    home = found.get("home", none).text.splitlines()
    python = found.get("python", none)
    return Site(
        parse_version(version),
        version,
        settings.get("ClusterName", ""),
        read_integer(settings, "MaxArraySize", 1001),
        parse_seconds(settings.get("MinJobAge", ""), 300.0),
        not is_accounting_off(accounting),
        limit,
        int(queued) if queued.isdecimal() else 0,
        _read_python(python),
        home[-1] if home else "",
        (found["now"].code if "now" in found else clock) - clock,
    )


def _read_python(answer: Section) -> str:
    """Return the version that an interpreter has printed last, after what the profile says."""
    if answer.code == 124:
        return "unknown"
    version = (answer.text.split() or [""])[-1]
    if answer.code == 0 and not _VERSION.fullmatch(version):
        return SILENT
    return version if answer.code == 0 else ""


def is_accounting_off(answer: Section) -> bool:
    """Return whether an answer of ``sacct`` says that this site records nothing.

    A database that is down is something else: it comes back.
    """
    text = answer.text.lower()
    off = "accounting storage is disabled" in text or "accounting_storage/none" in text
    return answer.code != 0 and (off or answer.code in (126, 127))


def _no_config(config: Section, place: str) -> SlurmUnavailable | SlurmRefused:
    said = shorten(config.text) or "nothing"
    if config.code == 124 or is_transient(config.text):
        return SlurmUnavailable(
            f"Slurm on {place} does not answer now: {said}. Try again when slurmctld is up there"
        )
    return SlurmRefused(explain(f"there is no usable Slurm on {place}: {said}", config.text))
