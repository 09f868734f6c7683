"""Who is told of one event."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.core.recipients import Happening, Notice, Reason, Wishes, recipients

STREAM, COMMENT = UUID(int=1), UUID(int=2)
SAID = Happening(
    event_id=COMMENT,
    stream_id=STREAM,
    comment_id=COMMENT,
    version=7,
    actor_id="ann",
    author_id="ann",
    created_at=datetime(2026, 11, 23, 5, tzinfo=UTC),
)
EVERYTHING = replace(
    SAID, parent_author="bob", named=("bob",), followers=("bob",), ancestors=("bob",), moderated="bob"
)
ALL_OFF = dict.fromkeys((each.value for each in Reason), False)


def told(happening: Happening, **wishes: Wishes) -> list[tuple[str, str]]:
    return [(one.recipient_id, one.reason.value) for one in recipients(happening, wishes)]


def test_a_notice_says_who_why_of_what_and_by_whom() -> None:
    assert recipients(replace(SAID, parent_author="bob"), {}) == (
        Notice("bob", Reason.REPLY, COMMENT, STREAM, COMMENT, "ann", SAID.created_at),
    )


def test_each_person_is_told_once_for_the_strongest_reason() -> None:
    happening = replace(SAID, parent_author="bob", named=("cem", "bob"), followers=("bob", "cem", "dee"))
    assert told(happening) == [("bob", "reply"), ("cem", "mention"), ("dee", "follow")]


@pytest.mark.parametrize(
    ("off", "reason"),
    [
        ((), "reply"),
        (("reply",), "mention"),
        (("reply", "mention"), "follow"),
        (("reply", "mention", "follow"), "moderation"),
        (("reply", "mention", "follow", "moderation"), None),
    ],
)
def test_a_reason_that_is_switched_off_leaves_the_next(off: tuple[str, ...], reason: str | None) -> None:
    wishes = Wishes(reasons=dict.fromkeys(off, False))
    assert told(EVERYTHING, bob=wishes) == ([] if reason is None else [("bob", reason)])


def test_earlier_authors_are_told_only_if_they_ask() -> None:
    below = replace(SAID, ancestors=("bob",))
    assert told(below) == []
    assert told(below, bob=Wishes(reasons={"ancestor": True})) == [("bob", "ancestor")]


def test_nobody_is_told_of_what_they_did_themselves() -> None:
    happening = replace(EVERYTHING, actor_id="bob")
    assert told(happening) == []


def test_nobody_who_muted_the_thread_is_told_of_anything() -> None:
    assert told(EVERYTHING, bob=Wishes(level="muted", reasons={"ancestor": True})) == []


def test_nobody_is_told_of_what_comes_from_somebody_they_blocked() -> None:
    happening = replace(EVERYTHING, moderated=None)
    assert told(happening, bob=Wishes(blocked=frozenset({"ann"}))) == []
    assert told(replace(happening, actor_id="mod"), bob=Wishes(blocked=frozenset({"ann"}))) == []
    assert told(happening, bob=Wishes(blocked=frozenset({"cem"}))) == [("bob", "reply")]


def test_a_decision_on_ones_own_comment_is_told_without_who_made_it() -> None:
    decided = replace(SAID, actor_id="mod", author_id="bob", moderated="bob")
    [notice] = recipients(decided, {"bob": Wishes(blocked=frozenset({"mod"}))})
    assert (notice.reason, notice.actor_id) == (Reason.MODERATION, None)


def test_the_level_mentions_leaves_what_is_said_to_oneself() -> None:
    at_mentions = Wishes(level="mentions", reasons={"ancestor": True})
    happening = replace(SAID, followers=("bob",), ancestors=("bob",))
    assert told(happening, bob=at_mentions) == []
    assert told(replace(happening, named=("bob",)), bob=at_mentions) == [("bob", "mention")]
    assert told(replace(happening, parent_author="bob"), bob=at_mentions) == [("bob", "reply")]
    assert told(replace(happening, moderated="bob"), bob=at_mentions) == [("bob", "moderation")]


def test_guests_are_told_where_they_can_be_reached() -> None:
    happening = replace(SAID, parent_author="guest:7")
    assert told(happening) == []
    wishes = {"guest:7": Wishes(reached=True)}
    assert [one.recipient_id for one in recipients(happening, wishes)] == ["guest:7"]


def test_who_was_imported_is_told_of_nothing() -> None:
    assert told(replace(SAID, parent_author="import:7", named=("import:8",))) == []


def test_who_wants_nothing_is_told_of_nothing() -> None:
    assert told(EVERYTHING, bob=Wishes(level="all", reasons=ALL_OFF)) == []
