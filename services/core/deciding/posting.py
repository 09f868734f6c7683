"""Posting, editing, deleting, erasing: what authors do with comments."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from services.core.commands import DeleteComment, EditComment, EraseComments, PostComment, Rules
from services.core.deciding.events import Decision, NewEvent, about, find, first, following_id
from services.core.site import SiteSettings
from services.core.thread import FINAL, MAX_DEPTH, CommentState, ThreadState, timestamp
from services.errors import (
    CommentNotFound,
    CommentNotOpen,
    EditWindowClosed,
    FieldInvalid,
    NotAuthor,
    ParentNotFound,
    ParentNotOpen,
    RevisionMismatch,
    ThreadNotOpen,
    TooDeep,
)


def takes_posts(settings: SiteSettings, *, closed: bool, described_by: str | None) -> bool:
    """Whether a thread takes new comments."""
    return not closed and (settings.open_threads or described_by == "site")


def post(command: PostComment, thread: ThreadState, rules: Rules) -> Decision:
    """Post a comment or a reply."""
    if command.event_id in thread.comments:
        return ()
    open_ = takes_posts(rules.settings, closed=thread.closed, described_by=thread.described_by)
    if not open_ and command.imported is None:
        return ThreadNotOpen("the thread takes no new comments")
    data = _said(command)
    if command.parent_id is not None:
        parent = thread.comments.get(command.parent_id)
        if parent is None or parent.state is CommentState.HELD:
            return ParentNotFound(command.parent_id)
        if parent.state is not CommentState.VISIBLE and command.imported is None:
            return ParentNotOpen(parent.id, parent.state)
        if parent.depth >= MAX_DEPTH:
            return TooDeep(MAX_DEPTH)
        data |= {"parent_id": str(parent.id), "parent": parent.posted, "depth": parent.depth + 1}
        return (first(command, "ReplyPosted", data, command.text),)
    posted = first(command, "CommentPosted", data, command.text)
    if thread.version > 0:
        return (posted,)
    opens = {"site": command.site, "key": command.key}
    if command.describe is None:
        data["opens"] = opens
        return (posted,)
    if command.describe.url is not None and not rules.settings.takes_url(command.describe.url):
        return FieldInvalid("thread.url", "is not on one of the site's origins")
    return (
        NewEvent(
            event_id=following_id(command.event_id, 1),
            type="ThreadDescribed",
            data={
                "title": command.describe.title,
                "url": command.describe.url,
                "by": "client",
                "opens": opens,
            },
            actor_id=command.actor.id,
            causation_id=command.event_id,
        ),
        posted,
    )


def _said(command: PostComment) -> dict[str, Any]:
    """What a comment's event says wherever it stands."""
    data: dict[str, Any] = {"text_mac": "" if command.text is None else command.text.text_mac}
    if command.actor.badge is not None:
        data["badge"] = command.actor.badge
    if command.imported is not None:
        data["imported"] = {
            "created_at": timestamp(command.imported.created_at),
            "source_id": command.imported.source_id,
        }
        if command.imported.tombstone:
            data["tombstone"] = True
    return data


def edit(command: EditComment, thread: ThreadState, now: datetime, rules: Rules) -> Decision:
    """Give a comment a new text."""
    comment = find(thread, command.comment_id)
    if isinstance(comment, CommentNotFound):
        return comment
    own = comment.author_id == command.actor.id
    if comment.state is CommentState.ERASED:
        return CommentNotOpen(comment.id, comment.state)  # it has no author who might be told apart
    if not own and not command.actor.moderator:
        if comment.state is CommentState.HELD:
            return CommentNotFound(command.comment_id)  # for strangers it does not exist
        return NotAuthor("only its author or a moderator edits a comment")
    if comment.state in FINAL or comment.state is CommentState.HIDDEN:
        return CommentNotOpen(comment.id, comment.state)
    window = rules.settings.edit_window
    if not command.actor.moderator and window is not None and now - comment.created_at > window:
        return EditWindowClosed(window)
    if command.revision != comment.revision:
        return RevisionMismatch(command.revision, comment.revision)
    if command.text.text_mac == comment.text_mac:
        return ()
    data = about(comment) | {
        "revision": comment.revision + 1,
        "by": "author" if own else "moderator",
        "text_mac": command.text.text_mac,
    }
    return (first(command, "CommentEdited", data, command.text),)


def delete(command: DeleteComment, thread: ThreadState) -> Decision:
    """Take a comment back; by a moderator on another's, remove it."""
    comment = find(thread, command.comment_id)
    if isinstance(comment, CommentNotFound):
        return comment
    own = comment.author_id == command.actor.id
    if comment.state is CommentState.ERASED:
        return CommentNotOpen(comment.id, comment.state)
    if not own and not command.actor.moderator:
        if comment.state is CommentState.HELD:
            return CommentNotFound(command.comment_id)  # for strangers it does not exist
        return NotAuthor("only its author or a moderator deletes a comment")
    if own:
        if comment.state is CommentState.DELETED:
            return ()
        if comment.state in FINAL:
            return CommentNotOpen(comment.id, comment.state)
        return (first(command, "CommentDeleted", about(comment)),)
    if comment.state is CommentState.REMOVED:
        return ()
    if comment.state in FINAL:
        return CommentNotOpen(comment.id, comment.state)
    return (first(command, "CommentRemoved", about(comment)),)


def erase(command: EraseComments, thread: ThreadState) -> Decision:
    """Whatever state a comment is in, once each: what is erased already is passed over."""
    found = [thread.comments.get(comment_id) for comment_id in command.comment_ids]
    due = [
        comment
        for comment in found
        if comment is not None
        and comment.key_id == command.key_id
        and comment.state is not CommentState.ERASED
    ]
    return tuple(
        NewEvent(
            event_id=following_id(command.event_id, place) if place else command.event_id,
            type="CommentErased",
            data=about(comment),
            actor_id=command.actor.id,
            causation_id=command.cause,
        )
        for place, comment in enumerate(due)
    )
