"""What moderators decide: of comments, and of a thread as a whole."""

from __future__ import annotations

from typing import Any

from services.core.commands import ChangeThread, ModerateComment
from services.core.deciding.events import Decision, NewEvent, about, find, first, following_id
from services.core.moderation import event_of
from services.core.thread import ThreadState
from services.errors import CommentNotFound, Forbidden, Refusal


def moderate(command: ModerateComment, thread: ThreadState) -> Decision:
    """Approve, hide, restore or remove a comment."""
    if not command.actor.moderator:
        return Forbidden("only moderators decide about comments")
    comment = find(thread, command.comment_id)
    if isinstance(comment, CommentNotFound):
        return comment
    event = event_of(command.action, comment)
    if event is None:
        return ()
    if isinstance(event, Refusal):
        return event
    data = about(comment)
    if event == "CommentApproved":
        data["from"] = comment.state.value
    elif event == "CommentHidden":
        data["rule"] = "moderator"
    return (first(command, event, data, command.reason),)


def change_thread(command: ChangeThread, thread: ThreadState) -> Decision:
    """Describe, close or reopen a thread."""
    if not command.actor.moderator:
        return Forbidden("only moderators change a thread")
    wanted: list[tuple[str, dict[str, Any]]] = []
    present = {"title": thread.title, "url": thread.url}
    described = present | command.describe
    if command.describe and (thread.described_by != "site" or described != present):
        wanted.append(("ThreadDescribed", {**described, "by": "site"}))
    if command.closed is not None and command.closed != thread.closed:
        if thread.version == 0 and not wanted:
            wanted.append(("ThreadDescribed", {"title": None, "url": None, "by": "site"}))
        wanted.append(("ThreadClosed" if command.closed else "ThreadReopened", {}))
    if wanted and thread.version == 0:
        wanted[0][1]["opens"] = {"site": command.site, "key": command.key}
    return tuple(
        NewEvent(
            event_id=following_id(command.event_id, place) if place else command.event_id,
            type=type,
            data=data,
            actor_id=command.actor.id,
            causation_id=command.event_id if place else None,
        )
        for place, (type, data) in enumerate(wanted)
    )
