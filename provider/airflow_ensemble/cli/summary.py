"""What came of a run, at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.failures import read_failures, render_failures
from airflow_ensemble.cli.text import format_duration

if TYPE_CHECKING:
    from airflow_ensemble.engine.control import Control
    from airflow_ensemble.engine.index.interface import Registration


def summarise(
    control: Control,
    console: Console,
    registration: Registration,
    seconds: float,
    file_option: str,
) -> int:
    """Say what became of a batch, and return the exit code.

    :param control: the opened ensemble.
    :param console: where to.
    :param registration: the last one of the batch.
    :param seconds: that the run took.
    :param file_option: what hints need to name the same ensemble.
    :return: 0 when it is good enough by ``max_failed`` and nothing is left to others, else 1.
    """
    from airflow_ensemble.engine.batch import verdict
    from airflow_ensemble.engine.index.interface import Scope

    scope = Scope(batch=registration.batch)
    counts = control.index.counts(control.key, scope)
    judged = verdict(counts, control.ensemble.max_failed)
    console.say(
        f"{console.style(judged.message, 'good' if judged.ok else 'bad')} — "
        f"{format_duration(seconds)}, {control.ensemble.output}"
    )
    failures = render_failures(
        read_failures(control.index, control.key, counts, scope), file_option
    )
    if failures:
        console.say(f"\n{failures}")
    if registration.elsewhere:
        console.say(
            f"{registration.elsewhere:,} are left to another run, which owned them when this "
            "one registered; --wait waits for them"
        )
    return 0 if judged.ok and not registration.elsewhere else 1
