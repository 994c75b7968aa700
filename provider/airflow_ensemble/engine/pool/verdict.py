"""Why a simulation ended: judged from its process's message, or from that process's death.

Pure functions: what they judge was read by the caller. Standard library only.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ensemble.engine.command import signal_name
from airflow_ensemble.engine.pool.task import Verdict
from airflow_ensemble.engine.recipe import Settings
from airflow_ensemble.engine.simulation import Product, ProductStatus, Reason

#: What leads from a verdict to the program's last words; with other reasons they explain nothing.
_SAID = {
    Reason.ERROR: ": ",
    Reason.CRASHED: ": ",
    Reason.TIMEOUT: "; it said last: ",
    Reason.OUT_OF_MEMORY: "; it said last: ",
    Reason.MISSING_PRODUCT: "; it said last: ",
}


@dataclass(frozen=True)
class Result:
    """What a process says about a simulation that it has done.

    :param started: Unix seconds.
    :param duration: seconds.
    :param reason: None when it completed.
    :param was_killed: whether its program, not its process, was killed by SIGKILL.
    :param kept: where its working directory is, if that was to be kept.
    """

    started: float
    duration: float
    reason: Reason | None
    detail: str
    products: tuple[Product, ...]
    was_killed: bool
    kept: str


def parse_result(message: Mapping[str, Any]) -> Result:
    """Read a process's message.

    :raises LookupError, TypeError, ValueError, AttributeError: when it makes no sense.
    """
    return Result(
        started=float(message["started"]),
        duration=float(message["duration"]),
        reason=Reason(message["reason"]) if message.get("reason") else None,
        detail=str(message.get("detail") or ""),
        products=tuple(Product.from_dict(product) for product in message.get("products", ())),
        was_killed=message.get("signal") == signal.SIGKILL,
        kept=str(message.get("kept") or ""),
    )


def verdict_of_death(status: int, *, ran_out_of_memory: bool) -> Verdict:
    """Judge the death of a process while a simulation ran in it.

    :param status: exit status; a signal's number is negative.
    :param ran_out_of_memory: whether the kernel killed for memory meanwhile.
    """
    if status >= 0:
        return Reason.CRASHED, f"its process ended with exit status {status} before it was done"
    if status == -signal.SIGKILL:
        return verdict_of_kill("its process was killed by SIGKILL", ran_out_of_memory)
    return Reason.CRASHED, f"its process was killed by {signal_name(-status)}"


def verdict_of_kill(detail: str, ran_out_of_memory: bool) -> Verdict:
    """Judge a kill by SIGKILL that was not the pool's own."""
    if ran_out_of_memory:
        return Reason.OUT_OF_MEMORY, f"{detail}: the kernel ran out of memory"
    return Reason.CRASHED, detail


def with_last_words(verdict: Verdict, words: str) -> Verdict:
    """Add what a program said last to the verdict, where that may tell why it ended.

    :param words: the end of its output; may be empty.
    """
    reason, detail = verdict
    said = _SAID.get(reason)
    return (reason, f"{detail}{said}{words}") if said and words else verdict


def failed_products(settings: Settings) -> tuple[Product, ...]:
    """Return the records of the declared products of a simulation that made none."""
    return tuple(Product(spec.name, ProductStatus.FAILED) for spec in settings.products)
