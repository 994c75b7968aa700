"""From what Slurm's commands print to values; nothing here asks anybody."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_ensemble.slurm.arrays import JobId


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
