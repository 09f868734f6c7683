"""What moderators may decide of a comment: one table, by the state that it is in.

`services.core.decide` makes the events; what is drawn of the states and moves is drawn from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.core.commands import Action
from services.core.thread import FINAL, Comment, CommentState
from services.errors import CommentNotOpen, DecisionNotPossible, Refusal

MOVES: Final[Mapping[CommentState, Mapping[Action, str | None]]] = {
    CommentState.VISIBLE: {
        "approve": "CommentApproved",
        "hide": "CommentHidden",
        "remove": "CommentRemoved",
    },
    CommentState.HELD: {
        "approve": "CommentApproved",
        "remove": "CommentRemoved",
    },
    CommentState.HIDDEN: {
        "approve": "CommentApproved",
        "hide": None,
        "restore": "CommentRestored",
        "remove": "CommentRemoved",
    },
}
"""The event of each action that is possible in each state; None where it changes nothing."""


def event_of(action: Action, comment: Comment) -> str | Refusal | None:
    """The type of the event that a moderator's `action` adds, None where it changes nothing, or why it is
    refused."""
    if comment.state in FINAL:
        return CommentNotOpen(comment.id, comment.state)
    moves = MOVES[comment.state]
    if action not in moves:
        return DecisionNotPossible(comment.id, comment.state, action)
    if action == "approve" and comment.approved and comment.state is CommentState.VISIBLE:
        return None
    return moves[action]
