"""Every word of Slurm, and what a late answer may not undo."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.slurm.states import (
    COMPACT,
    MEANINGS,
    End,
    Phase,
    View,
    advance,
    find_meaning,
    is_blocking,
    is_newer_run,
)

#: The words of squeue(1) and sacct(1) of 26.05, those that the code prints besides, and flags.
WORDS = [
    *("PENDING", "CONFIGURING", "POWER_UP_NODE", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
    *("SPECIAL_EXIT", "RESV_DEL_HOLD", "RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING"),
    *("RESIZING", "EXPEDITING", "STOPPED", "SUSPENDED", "COMPLETED", "FAILED", "TIMEOUT"),
    *("OUT_OF_MEMORY", "DEADLINE", "CANCELLED", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"),
    *("LAUNCH_FAILED", "RECONFIG_FAIL", "GETENV_FAILED", "UPDATE_DB"),
]
views = st.builds(
    View,
    phase=st.sampled_from([Phase.PENDING, Phase.BLOCKED, Phase.RUNNING, Phase.UNKNOWN]),
    restarts=st.integers(0, 2),
    submitted=st.none() | st.floats(1, 3),
) | st.builds(
    View,
    phase=st.just(Phase.ENDED),
    end=st.sampled_from(End),
    exit_code=st.none() | st.integers(0, 3),
    restarts=st.integers(0, 2),
    submitted=st.none() | st.floats(1, 3),
)


def test_the_table_is_closed() -> None:
    assert set(MEANINGS) == set(WORDS)
    assert all((one.end is not None) == (one.phase is Phase.ENDED) for one in MEANINGS.values())


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_understood_in_every_form(word: str) -> None:
    meaning = MEANINGS[word]
    forms = [word, f" {word} ", *(compact for compact, long in COMPACT.items() if long == word)]
    assert [find_meaning(form) for form in forms] == [meaning] * len(forms)


@pytest.mark.parametrize("text", ["CANCELLED by 1000", "CANCELLED by 0", "CANCELLED+", "CA"])
def test_snakemake_slurm_22_cancelled_by_somebody_is_cancelled(text: str) -> None:
    assert find_meaning(text).end is End.CANCELLED


@pytest.mark.parametrize(
    ("text", "word"), [("OUT_OF_ME+", "OUT_OF_MEMORY"), ("NODE_+", "NODE_FAIL")]
)
def test_truncated_words_are_understood(text: str, word: str) -> None:
    assert find_meaning(text).word == word


@pytest.mark.parametrize("word", ["COMPLETING", "CG", "REQUEUED", "STOPPED", "SOMETHING_NEW", ""])
def test_dagster_slurm_what_is_not_over_is_no_end(word: str) -> None:
    assert find_meaning(word).end is None
    assert find_meaning(word).phase is not Phase.ENDED


@given(st.text(max_size=30))
def test_any_text_has_a_meaning(text: str) -> None:
    meaning = find_meaning(text)
    assert (meaning.end is not None) == (meaning.phase is Phase.ENDED)


@pytest.mark.parametrize(
    "reason",
    [
        "DependencyNeverSatisfied",
        "(JobHeldAdmin)",
        "launch failed requeued held",
        "launch_failed_requeued_held",
        "job requeued in held state",
        "ReqNodeNotAvail, UnavailableNodes:n1",
        "QOSMaxWallDurationPerJobLimit",
        "AssocMaxMemPerJob",
        "PartitionTimeLimit",
        "InvalidAccount",
    ],
)
def test_burrmill_15_reasons_that_never_pass(reason: str) -> None:
    assert is_blocking(reason)


@pytest.mark.parametrize(
    "reason",
    ["", "None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "AssocGrpCpuLimit"],
)
def test_reasons_that_pass(reason: str) -> None:
    assert not is_blocking(reason)


def test_the_blocking_reasons_can_be_chosen() -> None:
    assert is_blocking("Licenses", ["licenses"])
    assert not is_blocking("JobHeldUser", ["licenses"])


@given(views, views)
def test_only_a_requeue_leads_back(before: View, after: View) -> None:
    order = [Phase.UNKNOWN, Phase.PENDING, Phase.RUNNING, Phase.ENDED]
    plain = {Phase.BLOCKED: Phase.PENDING}
    chosen = advance(before, after)
    assert chosen in (before, after)
    was = order.index(plain.get(before.phase, before.phase))
    now = order.index(plain.get(chosen.phase, chosen.phase))
    if now < was and chosen.phase is not Phase.UNKNOWN:
        assert is_newer_run(before, after)
    assert not (before.end and chosen.phase is Phase.UNKNOWN), "an end that was read was forgotten"


@given(st.none() | views, views)
def test_the_same_answer_twice_changes_nothing(before: View | None, after: View) -> None:
    once = advance(before, after)
    assert advance(once, after) == once


def test_a_late_answer_does_not_revive_what_has_ended() -> None:
    ended = View(Phase.ENDED, "FAILED", End.FAILED, exit_code=1, submitted=10.0)
    for phase in (Phase.PENDING, Phase.RUNNING, Phase.UNKNOWN):
        assert advance(ended, View(phase, submitted=10.0)) == ended


@pytest.mark.parametrize("end", [End.PREEMPTED, End.NODE_FAILURE, End.FAILED])
def test_reframe_3608_a_requeued_element_is_alive_again(end: End) -> None:
    ended = View(Phase.ENDED, "X", end, submitted=10.0)
    again = View(Phase.PENDING, "PENDING", restarts=1, submitted=11.0)
    assert advance(ended, again) == again
    assert advance(again, ended) == again


def test_accounting_which_counts_no_restarts_ends_a_requeued_run() -> None:
    running = View(Phase.RUNNING, "RUNNING", restarts=1, submitted=11.0)
    ended = View(Phase.ENDED, "FAILED", End.FAILED, exit_code=1, submitted=11.0)
    assert advance(running, ended) == ended
    assert advance(ended, running) == ended


def test_the_exit_code_may_come_later() -> None:
    ended = View(Phase.ENDED, "FAILED", End.FAILED)
    known = replace(ended, exit_code=3)
    assert advance(ended, known) == known
    assert advance(known, ended) == known
