"""Reporting and voting: what readers say of comments."""

from __future__ import annotations

from typing import Final

from services.core.commands import GUEST, ReportComment, Rules, VoteComment
from services.core.deciding.events import Decision, NewEvent, about, find, first, following_id
from services.core.thread import NO_VOTE, CommentState, ThreadState
from services.errors import (
    AlreadyReported,
    CommentNotFound,
    CommentNotOpen,
    FieldInvalid,
    Forbidden,
    OwnComment,
)

REPORT_WEIGHT: Final = 1.0
"""What a report counts: 1 for everyone until reporters have a record; a guest's counts nothing."""


def report(command: ReportComment, thread: ThreadState, rules: Rules) -> Decision:
    """Report a comment; at the site's threshold it is hidden, too."""
    comment = find(thread, command.comment_id)
    if isinstance(comment, CommentNotFound) or comment.state is CommentState.HELD:
        return CommentNotFound(command.comment_id)
    reporter = command.actor.id
    if reporter is None:
        return Forbidden("a report has a reporter")
    if comment.author_id == reporter:
        return OwnComment("nobody reports their own comment")
    if (comment.id, reporter) in thread.reported:
        return AlreadyReported("you have reported this comment before")
    if comment.state is not CommentState.VISIBLE:
        return CommentNotOpen(comment.id, comment.state)
    if command.reason not in rules.settings.report_reasons:
        return FieldInvalid("reason", f"is not one of {', '.join(rules.settings.report_reasons)}")
    weight = 0.0 if reporter.startswith(GUEST) else REPORT_WEIGHT  # guests are as many as one likes
    data = about(comment) | {
        "revision": comment.revision,
        "reason": command.reason,
        "weight": weight,
    }
    report = first(command, "CommentReported", data, command.detail)
    total = comment.report_weight + weight
    if comment.approved or not weight or total < rules.settings.report_threshold:
        return (report,)
    hidden = NewEvent(
        event_id=following_id(command.event_id, 1),
        type="CommentHidden",
        data=about(comment)
        | {"rule": "reports", "threshold": float(rules.settings.report_threshold), "total": total},
        actor_id=None,
        causation_id=command.event_id,
    )
    return (report, hidden)


def vote(command: VoteComment, thread: ThreadState) -> Decision:
    """Vote, change the vote or withdraw it."""
    comment = find(thread, command.comment_id)
    if isinstance(comment, CommentNotFound) or comment.state is CommentState.HELD:
        return CommentNotFound(command.comment_id)
    voter = command.actor.id
    if voter is None or voter.startswith(GUEST):
        return Forbidden("guests do not vote")
    if comment.author_id == voter:
        return OwnComment("nobody votes on their own comment")
    if comment.state is not CommentState.VISIBLE:
        return CommentNotOpen(comment.id, comment.state)
    previous, _ = thread.votes.get((comment.id, voter), NO_VOTE)
    if command.value == previous:
        return ()
    data = about(comment) | {"value": command.value, "previous": previous}
    return (first(command, "CommentVoted", data),)
