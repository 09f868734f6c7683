"""Votes: given what happened, when somebody votes, then what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from services.core.commands import Rules, VoteComment
from services.core.decide import decide
from services.core.deciding.events import NewEvent
from services.core.site import SiteSettings
from services.core.thread import CommentState
from services.errors import CommentNotFound, CommentNotOpen, Forbidden, OwnComment
from tests.factories import id_of, vote
from tests.given import Fact, deleted, folded, hidden, posted, removed, replied, then, voted

OWN = OwnComment("nobody votes on their own comment")
GUESTS = Forbidden("guests do not vote")
ENDINGS = [(hidden, "hidden"), (deleted, "deleted"), (removed, "removed")]


def cast(command: VoteComment, name: str, posted_at: int, value: int, previous: int) -> NewEvent:
    data: dict[str, Any] = {"comment_id": str(id_of(name)), "posted": posted_at}
    data |= {"value": value, "previous": previous}
    return NewEvent(command.event_id, "CommentVoted", data, command.actor.id)


@pytest.mark.parametrize("value", [1, -1])
def test_a_first_vote_is_cast(value: Literal[-1, 1]) -> None:
    when = vote("c1", value)
    then([posted("c1")], when, events=[cast(when, "c1", 1, value, 0)])


def test_a_vote_on_a_reply_names_the_version_that_posted_it() -> None:
    when = vote("r1", by="ann")
    then([posted("c1"), replied("r1", to="c1")], when, events=[cast(when, "r1", 2, 1, 0)])


@pytest.mark.parametrize(("before", "after"), [(1, -1), (-1, 1), (1, 0), (-1, 0)])
def test_a_vote_is_changed_or_withdrawn(before: int, after: Literal[-1, 0, 1]) -> None:
    when = vote("c1", after)
    given = [posted("c1"), voted("c1", before, by="bob")]
    then(given, when, events=[cast(when, "c1", 1, after, before)])


def test_a_withdrawn_vote_is_cast_again() -> None:
    given = [posted("c1"), voted("c1", 1, by="bob"), voted("c1", 0, by="bob", previous=1)]
    when = vote("c1", 1)
    then(given, when, events=[cast(when, "c1", 1, 1, 0)])


@pytest.mark.parametrize(
    ("before", "value"),
    [
        ([], 0),
        ([voted("c1", 1, by="bob")], 1),
        ([voted("c1", -1, by="bob")], -1),
        ([voted("c1", 1, by="bob"), voted("c1", 0, by="bob", previous=1)], 0),
    ],
)
def test_the_same_vote_again_adds_nothing(before: list[Fact], value: Literal[-1, 0, 1]) -> None:
    then([posted("c1"), *before], vote("c1", value), events=[])


def test_votes_are_of_one_person_on_one_comment() -> None:
    given = [posted("c1"), posted("c2"), voted("c1", 1, by="bob")]
    other_comment, other_person = vote("c2", 1), vote("c1", 1, by="carl")
    then(given, other_comment, events=[cast(other_comment, "c2", 2, 1, 0)])
    then(given, other_person, events=[cast(other_person, "c1", 1, 1, 0)])


@pytest.mark.parametrize("value", [1, -1, 0])
def test_nobody_votes_on_their_own_comment(value: Literal[-1, 0, 1]) -> None:
    then([posted("c1")], vote("c1", value, by="ann"), refuses=OWN)


@pytest.mark.parametrize("by", ["guest:0199c0de-0000-7000-8000-000000000000", None])
def test_guests_and_the_system_do_not_vote(by: str | None) -> None:
    then([posted("c1")], vote("c1", by=by), refuses=GUESTS)


def test_a_comment_that_is_not_there_takes_no_vote() -> None:
    then([posted("c1")], vote("c2"), refuses=CommentNotFound(id_of("c2")))


@pytest.mark.parametrize(("ending", "state"), ENDINGS)
@pytest.mark.parametrize("value", [1, 0])
def test_only_a_visible_comment_takes_votes(
    ending: Callable[[str], Fact], state: str, value: Literal[0, 1]
) -> None:
    given = [posted("c1"), voted("c1", 1, by="bob"), ending("c1")]
    then(given, vote("c1", value), refuses=CommentNotOpen(id_of("c1"), CommentState(state)))


def test_on_ones_own_hidden_comment_that_it_is_ones_own_is_said_first() -> None:
    then([posted("c1"), hidden("c1")], vote("c1", by="ann"), refuses=OWN)


def test_a_held_comment_does_not_exist_for_voters() -> None:
    thread = folded([posted("c1")])
    thread.comments[id_of("c1")].state = CommentState.HELD
    for by in ("bob", "ann"):
        decision = decide(vote("c1", by=by), thread, thread.recorded_at, Rules(SiteSettings()))
        assert isinstance(decision, CommentNotFound)
