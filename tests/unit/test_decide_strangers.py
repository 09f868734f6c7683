"""What guests' reports count, and what does not exist for those who may not see it."""

from __future__ import annotations

from typing import Any

import pytest

from services.core.commands import Actor, EditComment, Rules
from services.core.decide import decide
from services.core.site import SiteSettings
from services.core.thread import CommentState, ThreadState
from services.errors import CommentNotFound
from tests.factories import at, delete, edit, id_of, report
from tests.given import folded, posted, reported


def rules(**settings: Any) -> Rules:
    return Rules(SiteSettings(**settings))


# --- guests -----------------------------------------------------------------------------------------------


def test_a_guests_report_is_recorded_and_weighs_nothing() -> None:
    decision = decide(report("c1", by="guest:7"), folded([posted("c1")]), at(60), rules(report_threshold=1))
    assert isinstance(decision, tuple)
    assert [(event.type, event.data["weight"]) for event in decision] == [("CommentReported", 0.0)]


def test_guests_hide_nothing_however_many_they_are() -> None:
    given = [posted("c1"), *(reported("c1", by=f"guest:{n}", weight=0.0) for n in range(20))]
    thread = folded(given)
    assert thread.comments[id_of("c1")].report_weight == 0.0
    decision = decide(report("c1", by="guest:x"), thread, at(60), rules(report_threshold=1))
    assert isinstance(decision, tuple)
    assert [event.type for event in decision] == ["CommentReported"]


def test_a_guest_does_not_carry_out_a_threshold_that_was_lowered() -> None:
    thread = folded([posted("c1"), *(reported("c1", by=f"u-{n}") for n in range(4))])
    decision = decide(report("c1", by="guest:7"), thread, at(60), rules(report_threshold=2))
    assert isinstance(decision, tuple)
    assert [event.type for event in decision] == ["CommentReported"]


def test_only_the_beginning_of_an_id_tells_a_guest() -> None:
    decision = decide(report("c1", by="my-guest:7"), folded([posted("c1")]), at(60), rules())
    assert isinstance(decision, tuple)
    assert decision[0].data["weight"] == 1.0


# --- held -------------------------------------------------------------------------------------------------

TO_A_HELD_ONE = [
    ("edit", edit("c1", by="bob")),
    ("delete", delete("c1", by="bob")),
    ("report", report("c1", by="bob")),
    ("edit by a guest", edit("c1", by="guest:7")),
]


def held() -> ThreadState:
    """A thread whose one comment, ann's, is held."""
    thread = folded([posted("c1")])
    thread.comments[id_of("c1")].state = CommentState.HELD
    return thread


@pytest.mark.parametrize(("_name", "command"), TO_A_HELD_ONE, ids=[name for name, _ in TO_A_HELD_ONE])
def test_what_is_held_does_not_exist_for_strangers(_name: str, command: Any) -> None:
    decision = decide(command, held(), at(60), rules())
    missing = decide(command, folded([posted("c2")]), at(60), rules())
    assert isinstance(decision, CommentNotFound)
    assert (type(decision), str(decision)) == (type(missing), str(missing))


@pytest.mark.parametrize("actor", [Actor("ann"), Actor("mia", moderator=True)], ids=["author", "moderator"])
def test_what_is_held_is_edited_and_ended_by_those_who_see_it(actor: Actor) -> None:
    by = actor.id or ""
    edited = decide(edit("c1", by=by, moderator=actor.moderator), held(), at(60), rules())
    ended = decide(delete("c1", by=by, moderator=actor.moderator), held(), at(60), rules())
    assert isinstance(edited, tuple)
    assert isinstance(ended, tuple)
    assert [event.type for event in edited] == ["CommentEdited"]
    assert [event.type for event in ended] == ["CommentRemoved" if actor.moderator else "CommentDeleted"]


def test_a_held_comment_is_found_before_its_revision_is_compared() -> None:
    command: EditComment = edit("c1", by="bob", revision=7)
    assert isinstance(decide(command, held(), at(60), rules(edit_window_seconds=0)), CommentNotFound)
