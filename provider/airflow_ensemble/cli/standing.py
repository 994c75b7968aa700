"""What there is to say of the table of simulations against the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_ensemble.cli.text import format_count

if TYPE_CHECKING:
    from airflow_ensemble.engine.standing import Standing


def describe_standing(standing: Standing | None, file_option: str = "") -> list[str]:
    """Return where table and index differ, one fact a line; nothing where they agree.

    :param standing: of the table; None where all that the index knows is meant.
    :param file_option: what hints need to name the same ensemble.
    """
    if standing is None:
        return []
    facts = []
    if standing.unregistered:
        facts.append(
            f"{format_count(standing.unregistered, 'simulation')} of the table "
            f"{_is(standing.unregistered)} not registered yet: `ensemble run{file_option}` or "
            f"`ensemble register{file_option}` does that"
        )
    if standing.changed:
        facts.append(
            f"{format_count(standing.changed, 'simulation')} of the table "
            f"{_is(standing.changed)} registered with other parameters "
            f"({_named(standing.changed_ids, standing.changed)}), whose results are not taken: "
            f"give new ids, or `ensemble run --replace{file_option}`"
        )
    if standing.others:
        facts.append(describe_others(standing.others, file_option))
    return facts


def describe_others(others: int, file_option: str = "") -> str:
    """Return one line about what the index knows and the table does not have.

    :param others: how many there are.
    :param file_option: what the hint needs to name the same ensemble.
    """
    return (
        f"{others:,} other {'simulation' if others == 1 else 'simulations'} {_is(others)} in the "
        f"index and not in the table: `ensemble forget{file_option}` removes "
        f"{'it' if others == 1 else 'them'}"
    )


def standing_record(standing: Standing | None) -> dict[str, Any] | None:
    """Return where table and index differ as JSON values; None where there is no table."""
    if standing is None:
        return None
    return {
        "total": standing.total,
        "unregistered": standing.unregistered,
        "changed": standing.changed,
        "others": standing.others,
    }


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _named(ids: Sequence[str], number: int) -> str:
    return ", ".join(ids) + (", …" if number > len(ids) else "")
