"""How much a pull worker takes on, and how many look at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_ensemble.engine.worker.appetite import (
    AHEAD,
    FIRST_SPREAD,
    LONGEST_SPREAD,
    MAX_AHEAD,
    STUCK,
    Appetite,
    Spread,
)


def test_before_anything_is_known_it_takes_what_is_free() -> None:
    appetite = Appetite(4)
    assert appetite.wanted(0, None) == 4
    assert appetite.wanted(3, None) == 1
    assert appetite.wanted(4, None) == 0


def test_it_takes_twice_as_much_until_its_pace_is_known() -> None:
    appetite = Appetite(1)
    appetite.note(0, True, 0.0)
    assert appetite.wanted(0, None) == 1
    for ended, wanted in ((1, 3), (3, 9), (9, 27)):
        appetite.note(ended, True, 0.1)
        assert appetite.wanted(0, 1e-4) == wanted


def test_long_simulations_are_not_hoarded() -> None:
    appetite = Appetite(2)
    for second in range(1, 50):
        appetite.note(1, True, float(second))
    assert appetite.wanted(0, 600.0) == 2
    assert appetite.wanted(2, 600.0) == 0


def test_short_ones_promise_nothing_of_a_long_one() -> None:
    """One that fails at once, and behind it one of hours: others must get what waits."""
    appetite = Appetite(1)
    appetite.note(0, True, 0.0)
    appetite.note(1, True, 0.1)
    assert appetite.wanted(1, 1e-4) == 2
    appetite.note(0, True, 0.1 + STUCK)
    assert not appetite.is_stuck
    appetite.note(0, True, 0.2 + STUCK)
    assert appetite.is_stuck
    assert appetite.wanted(1, 1e-4) == 0
    appetite.note(1, True, 0.3 + STUCK)
    assert not appetite.is_stuck


def test_where_cores_are_crowded_its_own_pace_decides() -> None:
    """Each takes a millisecond of a core, but this worker gets ten a second done."""
    appetite = Appetite(1)
    for second in range(10):
        appetite.note(10, True, float(second))
    assert appetite.wanted(0, 0.001) == 1 + int(AHEAD * 10)


def test_idle_time_says_nothing_about_the_pace() -> None:
    appetite = Appetite(1)
    for second in range(5):
        appetite.note(100, True, float(second))
    appetite.note(100, False, 5.0)
    appetite.note(0, False, 500.0)
    appetite.note(0, True, 1000.0)
    assert appetite.wanted(0, 0.001) == 1 + int(AHEAD * 100)


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.integers(0, 1000), st.booleans(), st.floats(0, 10)), max_size=30),
    st.integers(0, 10_000),
    st.none() | st.floats(0, 1e6),
)
def test_it_is_never_negative_and_never_boundless(
    cpus: int, history: list[tuple[int, bool, float]], held: int, mean: float | None
) -> None:
    appetite = Appetite(cpus)
    now = 0.0
    for ended, is_busy, seconds in history:
        now += seconds
        appetite.note(ended, is_busy, now)
    wanted = appetite.wanted(held, mean)
    assert held + max(0, wanted) <= max(held, cpus + MAX_AHEAD)
    if held < cpus:
        assert wanted >= cpus - held, "a free core is never left idle"


def test_who_waits_alone_looks_at_once_and_a_crowd_spreads_out() -> None:
    spread = Spread()
    assert spread.next() == 0
    spread.came_in_vain()
    assert 0 <= spread.next() <= FIRST_SPREAD
    for _ in range(20):
        spread.came_in_vain()
    delays = [spread.next() for _ in range(200)]
    assert max(delays) <= LONGEST_SPREAD
    assert max(delays) > LONGEST_SPREAD / 2
    for _ in range(20):
        spread.found_some()
    assert spread.next() == 0
