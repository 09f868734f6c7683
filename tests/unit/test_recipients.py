"""Who is told of a reply."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.core.recipients import Notice, Reason, Reply, Standing, recipients

PARENT, REPLY = UUID(int=1), UUID(int=2)
BOB = Standing("bob", visible=True)
SAID = Reply(REPLY, PARENT, "ann", imported=False, created_at=datetime(2026, 11, 23, 5, tzinfo=UTC))


def told(reply: Reply = SAID, *, parent: Standing | None = BOB, visible: bool = True) -> list[str]:
    comments = {REPLY: Standing(reply.author_id, visible)}
    if parent is not None:
        comments[PARENT] = parent
    return [notice.recipient_id for notice in recipients(reply, comments)]


def test_a_reply_is_told_to_its_parents_author() -> None:
    comments = {REPLY: Standing("ann", True), PARENT: Standing("bob", True)}
    assert recipients(SAID, comments) == (Notice("bob", Reason.REPLY, REPLY, REPLY, "ann", SAID.created_at),)


def test_nobody_is_told_of_their_own_reply() -> None:
    assert told(parent=Standing("ann", True)) == []


@pytest.mark.parametrize("author", [None, "import:7", "guest:0199a"])
def test_authors_without_an_inbox_are_not_told(author: str | None) -> None:
    assert told(parent=Standing(author, True)) == []


def test_a_guest_who_replies_is_told_of() -> None:
    assert told(replace(SAID, author_id="guest:0199a")) == ["bob"]


def test_imports_tell_nobody() -> None:
    assert told(replace(SAID, imported=True)) == []


def test_a_reply_that_is_not_visible_by_now_is_not_told() -> None:
    assert told(visible=False) == []


def test_a_reply_that_the_decision_state_does_not_hold_is_not_told() -> None:
    assert recipients(SAID, {PARENT: Standing("bob", True)}) == ()


def test_a_missing_parent_is_nobody() -> None:
    assert told(parent=None) == []


def test_the_author_of_a_parent_since_deleted_is_told() -> None:
    assert told(parent=Standing("bob", False)) == ["bob"]
