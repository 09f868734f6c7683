"""What moderators decide of a comment: each state with each action, and what follows from an approval."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from services.core.commands import Action, Rules
from services.core.decide import decide
from services.core.moderation import MOVES
from services.core.site import SiteSettings
from services.core.thread import FINAL, CommentState
from services.errors import CommentNotFound, CommentNotOpen, DecisionNotPossible, Forbidden
from tests.factories import at, id_of, moderate, report, words
from tests.given import (
    Fact,
    approved,
    deleted,
    edited,
    erased,
    folded,
    hidden,
    hidden_by_moderator,
    posted,
    removed,
    reported,
    restored,
    then,
)

ACTIONS: tuple[Action, ...] = get_args(Action)
GIVEN: dict[str, list[Fact]] = {
    "visible": [],
    "visible, approved": [approved("c1")],
    "held": [],
    "hidden": [hidden("c1")],
    "hidden by a moderator": [hidden_by_moderator("c1")],
    "hidden, approved": [approved("c1"), hidden_by_moderator("c1")],
    "removed": [removed("c1")],
    "deleted": [deleted("c1")],
    "erased": [erased("c1")],
}
"""How a comment came to be what it is; `held` is set by hand, since nothing holds one yet."""

TABLE = """
                       approve          hide           restore           remove
visible                CommentApproved  CommentHidden  -                 CommentRemoved
visible, approved      nothing          CommentHidden  -                 CommentRemoved
held                   CommentApproved  -              -                 CommentRemoved
hidden                 CommentApproved  nothing        CommentRestored   CommentRemoved
hidden by a moderator  CommentApproved  nothing        CommentRestored   CommentRemoved
hidden, approved       CommentApproved  nothing        CommentRestored   CommentRemoved
removed                refused          refused        refused           refused
deleted                refused          refused        refused           refused
erased                 refused          refused        refused           refused
"""
"""What becomes of each decision: an event, nothing, `-` decision-not-possible, or comment-<state>."""


def cells() -> list[tuple[str, Action, str]]:
    actions, *rows = TABLE.strip("\n").splitlines()
    assert tuple(actions.split()) == ACTIONS
    named = [(row[:23].strip(), row[23:].split()) for row in rows]
    assert [name for name, _ in named] == list(GIVEN)
    return [(name, a, cell) for name, found in named for a, cell in zip(ACTIONS, found, strict=True)]


@pytest.mark.parametrize(("name", "action", "expected"), cells())
def test_each_state_takes_each_decision_as_the_contract_says(
    name: str, action: Action, expected: str
) -> None:
    thread = folded([posted("c1"), *GIVEN[name]])
    comment = thread.comments[id_of("c1")]
    if name == "held":
        comment.state = CommentState.HELD
    when = moderate("c1", action, reason=words("why"))

    decision = decide(when, thread, at(60), Rules(SiteSettings()))

    match expected:
        case "nothing":
            assert decision == ()
        case "-":
            assert isinstance(decision, DecisionNotPossible)
            assert (decision.state, decision.action) == (comment.state, action)
        case "refused":
            assert isinstance(decision, CommentNotOpen)
            assert decision.state == name
        case _:
            assert isinstance(decision, tuple)
            (event,) = decision
            more: dict[str, Any] = {
                "CommentApproved": {"from": comment.state.value},
                "CommentHidden": {"rule": "moderator"},
            }.get(expected, {})
            assert (event.type, event.actor_id, event.event_id) == (expected, "mod", when.event_id)
            assert event.data == {"comment_id": str(id_of("c1")), "posted": 1} | more
            assert when.reason is not None
            assert (event.sealed, event.key_id) == (when.reason.ciphertext, when.reason.key_id)


def test_the_table_knows_every_state_and_no_other_action() -> None:
    assert set(MOVES) | FINAL == set(CommentState)
    assert all(set(moves) <= set(ACTIONS) for moves in MOVES.values())


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("given", [[], [removed("c1")]], ids=["visible", "removed"])
def test_only_moderators_decide(given: list[Fact], action: Action) -> None:
    when = moderate("c1", action, by="ann", moderator=False)
    then([posted("c1"), *given], when, refuses=Forbidden("only moderators decide about comments"))


def test_a_moderator_decides_about_their_own_comment_too() -> None:
    decision = decide(moderate("c1", "hide"), folded([posted("c1", by="mod")]), at(60), Rules(SiteSettings()))
    assert isinstance(decision, tuple)
    assert [event.type for event in decision] == ["CommentHidden"]


@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_not_there_is_not_decided_about(action: Action) -> None:
    then([posted("c1")], moderate("c9", action), refuses=CommentNotFound(id_of("c9")))


REPORTS = [reported("c1", by=f"u-{number}") for number in range(3)]
IMMUNE = {
    "approved while visible": [approved("c1")],
    "approved when hidden by reports": [hidden("c1"), approved("c1")],
    "approved before an edit": [approved("c1"), edited("c1", "an ad")],
    "hidden by a moderator since, and restored": [
        approved("c1"),
        hidden_by_moderator("c1"),
        restored("c1"),
    ],
}


@pytest.mark.parametrize("given", IMMUNE.values(), ids=IMMUNE)
def test_reports_of_what_was_approved_count_and_never_hide_it(given: list[Fact]) -> None:
    thread = folded([posted("c1"), *REPORTS, *given])
    decision = decide(report("c1"), thread, at(60), Rules(SiteSettings(report_threshold=3)))
    assert isinstance(decision, tuple)
    assert [(event.type, event.data["weight"]) for event in decision] == [("CommentReported", 1.0)]


def test_a_report_of_what_was_only_restored_hides_it_again() -> None:
    thread = folded([posted("c1"), *REPORTS, hidden("c1"), restored("c1")])
    decision = decide(report("c1"), thread, at(60), Rules(SiteSettings(report_threshold=3)))
    assert isinstance(decision, tuple)
    assert [event.type for event in decision] == ["CommentReported", "CommentHidden"]
