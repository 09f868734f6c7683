"""Which hints a worker passes over."""

from uuid import UUID

from services.workers.hints import Looked

A, B = UUID(int=1), UUID(int=2)


def test_a_thread_that_was_looked_at_since_is_passed_over() -> None:
    looked = Looked(skew_ms=100)
    looked.looked(A, 1_000)
    assert looked.still([A, B, A], 899) == [B]


def test_a_hint_that_may_be_later_than_the_look_is_followed() -> None:
    looked = Looked(skew_ms=100)
    looked.looked(A, 1_000)
    assert looked.still([A], 900) == [A]
    assert looked.still([A], 5_000) == [A]


def test_threads_that_nobody_looked_at_are_looked_at_once_each() -> None:
    assert Looked().still([B, A, B], 0) == [B, A]


def test_only_so_many_threads_are_remembered() -> None:
    looked = Looked(limit=1, skew_ms=0)
    looked.looked(A, 1_000)
    looked.looked(B, 1_000)
    assert looked.still([A, B], 500) == [A]


def test_who_has_seen_that_a_thread_is_behind_is_followed_whatever_the_clocks_say() -> None:
    looked = Looked(skew_ms=0)
    looked.looked(A, 9_999_999_999_999)
    assert looked.still([A, A], None) == [A]
