"""What a rate limit lets through, and what its headers say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.limits.local import LocalLimits
from services.api.limits.policy import Charge, Limit, policy_of

SECOND = 1_000_000


class Clock:
    """Microseconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def charge(
    *keys: str, author: int | None = None, address: int | None = None, site: int | None = None
) -> Charge:
    return Charge(tuple(key.encode() for key in keys), policy_of(author, address, site))


def test_a_quota_may_be_used_at_once_and_then_comes_back_evenly() -> None:
    clock = Clock()
    limits = LocalLimits(now=clock)
    ann = charge("ann", author=30)
    taken = [limits.charge(ann)[0] >= 0 for _ in range(31)]
    assert taken == [True] * 30 + [False]
    clock.now = 2 * SECOND - 1
    assert limits.charge(ann)[0] < 0
    clock.now = 2 * SECOND
    assert limits.charge(ann)[0] >= 0
    assert limits.charge(ann)[0] < 0
    clock.now = 2 * SECOND + 60 * SECOND
    assert [limits.charge(ann)[0] >= 0 for _ in range(31)] == [True] * 30 + [False]


def test_a_refused_write_counts_nowhere() -> None:
    clock = Clock()
    limits = LocalLimits(now=clock)
    narrow = charge("ann", "here", author=1, address=2)
    limits.charge(narrow)
    for _ in range(10):
        assert limits.charge(narrow)[0] < 0
    # the address was charged once, not eleven times
    assert limits.charge(charge("bob", "here", author=1, address=2))[0] >= 0
    assert limits.charge(charge("eve", "here", author=1, address=2))[0] < 0
    # and ann's next one is no later than it was
    clock.now = 60 * SECOND
    assert limits.charge(charge("ann", author=1))[0] >= 0


def test_the_process_remembers_a_bounded_number_of_authors() -> None:
    limits = LocalLimits(limit=100)
    for number in range(1000):
        limits.charge(charge(f"u-{number}", author=1))
    assert len(limits) == 100
    assert limits.charge(charge("u-999", author=1))[0] < 0


@given(
    st.integers(1, 1_000_000),
    st.lists(st.integers(0, 5 * SECOND), max_size=60),
    st.sampled_from(["author", "site"]),
)
def test_no_window_takes_more_than_two_quotas_and_the_headers_do_not_lie(
    quota: int, pauses: list[int], kind: str
) -> None:
    quota = min(quota, 100_000)
    policy = policy_of(quota, None, None) if kind == "author" else policy_of(None, None, quota)
    limit = policy.limits[0]
    clock = Clock()
    limits = LocalLimits(now=clock)
    one = Charge((b"key",), policy)
    times: list[int] = []
    for pause in pauses:
        clock.now += pause
        used = limits.charge(one)[0]
        if used >= 0:
            times.append(clock.now)
        said = re.fullmatch(rf'"{kind}";r=(\d+);t=(\d+)', policy.left([used if used >= 0 else -1 - used]))
        assert said is not None
        remaining, seconds = int(said[1]), int(said[2])
        assert (remaining == 0) >= (used < 0)
        assert remaining <= limit.room // limit.interval
        assert 0 < seconds <= -(-limit.interval // SECOND)
        if used < 0:
            assert 0 < limit.wait(-1 - used) <= seconds * SECOND
    within = [sum(begin <= at < begin + limit.room for at in times) for begin in times]
    assert max(within, default=0) <= 2 * (limit.room // limit.interval)


def test_the_headers_are_structured_fields_of_the_draft() -> None:
    policy = policy_of(30, 120, 50)
    assert policy.header == '"author";q=30;w=60, "address";q=120;w=60, "site";q=50;w=1'
    assert policy.left([60 * SECOND, 500_000, 20_000]) == (
        '"author";r=0;t=2, "address";r=119;t=1, "site";r=49;t=1'
    )


@pytest.mark.parametrize(("quota", "window"), [(1, 60), (7, 60), (30, 60), (1_000_000, 60), (100_000, 1)])
def test_an_interval_gives_a_window_its_quota(quota: int, window: int) -> None:
    limit = Limit("author", quota, window)
    assert limit.interval * quota <= limit.room < limit.interval * (quota + 1)
