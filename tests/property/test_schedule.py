"""When what failed is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.core.schedule import (
    ASKED_LEAST_S,
    ASKED_MOST_S,
    ATTEMPTS,
    FAILURES_TO_OPEN,
    FIRST_S,
    LONGEST_S,
    OPEN_LONGEST_S,
    longest_wait,
    open_for,
    wait,
)

DAY = 24 * 3600.0
DRAWN = st.floats(0, 1, exclude_max=True)
NUMBERS = st.integers(1, 32_000)


@given(attempts=NUMBERS, drawn=DRAWN)
def test_a_wait_is_within_what_the_attempt_allows(attempts: int, drawn: float) -> None:
    assert 0 <= wait(attempts, drawn) <= longest_wait(attempts) <= LONGEST_S


@given(attempts=NUMBERS, low=DRAWN, high=DRAWN)
def test_a_wait_is_spread_over_all_of_it(attempts: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert wait(attempts, low) <= wait(attempts, high)
    assert wait(attempts, 0.0) == 0.0
    assert wait(attempts, 0.999) > 0.99 * longest_wait(attempts)


@given(attempts=NUMBERS)
def test_the_longest_wait_never_shrinks(attempts: int) -> None:
    assert FIRST_S <= longest_wait(attempts) <= longest_wait(attempts + 1)


def test_all_attempts_take_some_three_days() -> None:
    longest = sum(longest_wait(attempts) for attempts in range(1, ATTEMPTS))
    assert 2.5 * DAY < longest / 2 < 3.5 * DAY, "on average a wait is half of the longest"
    assert longest < 6 * DAY


@given(attempts=NUMBERS, drawn=DRAWN, asked=st.floats(0, 1e9))
def test_what_the_other_side_asks_for_is_kept_within_bounds(
    attempts: int, drawn: float, asked: float
) -> None:
    waited = wait(attempts, drawn, asked)
    assert ASKED_LEAST_S <= waited < 1.1 * ASKED_MOST_S
    if ASKED_LEAST_S <= asked <= ASKED_MOST_S:
        assert asked <= waited < 1.1 * asked or waited == asked


@given(failures=NUMBERS, drawn=DRAWN)
def test_a_circuit_opens_after_some_failures_and_for_ever_longer(failures: int, drawn: float) -> None:
    opened = open_for(failures, drawn)
    if failures < FAILURES_TO_OPEN:
        assert opened == 0
    else:
        assert FIRST_S / 2 <= opened <= OPEN_LONGEST_S
        assert opened <= open_for(failures + 1, drawn)
