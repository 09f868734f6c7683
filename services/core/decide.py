"""The decisions: what a command adds to its stream, or why it adds nothing. Pure.

`decide` sees the state under the lane's lock. Whatever it takes from outside the stream (a setting, a
report's weight) is written into the event, so that a replay repeats the decision without asking again.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import ValidationError

from services.core.commands import (
    GUEST,
    ChangeSettings,
    ChangeThread,
    Command,
    DeleteComment,
    EditComment,
    EraseAuthor,
    EraseComments,
    ModerateComment,
    PostComment,
    ReportComment,
    Rules,
    Sealed,
    ThreadCommand,
    VoteComment,
)
from services.core.moderation import event_of
from services.core.site import SiteSettings, SiteState
from services.core.thread import FINAL, MAX_DEPTH, NO_VOTE, Comment, CommentState, ThreadState, timestamp
from services.errors import (
    AlreadyReported,
    CommentNotFound,
    CommentNotOpen,
    EditWindowClosed,
    FieldInvalid,
    Forbidden,
    NotAuthor,
    OwnComment,
    ParentNotFound,
    ParentNotOpen,
    Refusal,
    RevisionMismatch,
    ThreadNotOpen,
    TooDeep,
)

REPORT_WEIGHT = 1.0
"""What a report counts: 1 for everyone until reporters have a record; a guest's counts nothing."""


class NewEvent(NamedTuple):
    """An event decided but not yet placed in the log."""

    event_id: UUID
    type: str
    data: dict[str, Any]
    actor_id: str | None
    causation_id: UUID | None = None
    sealed: bytes | None = None
    key_id: UUID | None = None


Decision = tuple[NewEvent, ...] | Refusal


def following_id(event_id: UUID, place: int) -> UUID:
    """The id of a command's event number `place` (from 1): fixed by the first one's id, so that a command
    whose fate is unknown has the same ids when it is tried again. UUIDv7 of the same millisecond."""
    digest = hashlib.sha256(event_id.bytes + place.to_bytes(2, "big")).digest()
    value = int.from_bytes(event_id.bytes[:6] + digest[:10], "big")
    value = value & ~(0xF000 << 64) | 0x7000 << 64
    return UUID(int=value & ~(0xC000 << 48) | 0x8000 << 48)


def decide(command: ThreadCommand, thread: ThreadState, now: datetime, rules: Rules) -> Decision:
    """The events that `command` adds to `thread` at `now` (UTC), none for a no-op, or why it is refused."""
    match command:
        case PostComment():
            return _post(command, thread, rules)
        case EditComment():
            return _edit(command, thread, now, rules)
        case DeleteComment():
            return _delete(command, thread)
        case ReportComment():
            return _report(command, thread, rules)
        case VoteComment():
            return _vote(command, thread)
        case ModerateComment():
            return _moderate(command, thread)
        case ChangeThread():
            return _change_thread(command, thread)
        case EraseComments():
            return _erase(command, thread)
        case _:
            raise TypeError(f"no decision for {type(command).__name__}")


def decide_site(command: ChangeSettings | EraseAuthor, site: SiteState) -> Decision:
    """The events that `command` adds to the site's stream."""
    if isinstance(command, EraseAuthor):
        erased: dict[str, Any] = {"author_id": command.author_id, "key_id": str(command.key_id)}
        if site.version == 0:
            erased["opens"] = {"site": command.site}
        return (_first(command, "AuthorErased", erased),)
    try:
        changed = site.settings.changed(command.changes)
    except ValidationError as error:
        first = error.errors()[0]
        return FieldInvalid(".".join(map(str, first["loc"])), first["msg"])
    if changed == site.settings:
        return ()
    data: dict[str, Any] = {"changes": command.changes}
    if site.version == 0:
        data["opens"] = {"site": command.site}
    return (_first(command, "SiteSettingsChanged", data),)


def _first(command: Command, type: str, data: dict[str, Any], text: Sealed | None = None) -> NewEvent:
    return NewEvent(
        event_id=command.event_id,
        type=type,
        data=data,
        actor_id=command.actor.id,
        sealed=None if text is None else text.ciphertext,
        key_id=None if text is None else text.key_id,
    )


def takes_posts(settings: SiteSettings, *, closed: bool, described_by: str | None) -> bool:
    """Whether a thread takes new comments."""
    return not closed and (settings.open_threads or described_by == "site")


def _post(command: PostComment, thread: ThreadState, rules: Rules) -> Decision:
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
        return (_first(command, "ReplyPosted", data, command.text),)
    posted = _first(command, "CommentPosted", data, command.text)
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


def _find(thread: ThreadState, comment_id: UUID) -> Comment | CommentNotFound:
    return thread.comments.get(comment_id) or CommentNotFound(comment_id)


def _about(comment: Comment) -> dict[str, Any]:
    return {"comment_id": str(comment.id), "posted": comment.posted}


def _edit(command: EditComment, thread: ThreadState, now: datetime, rules: Rules) -> Decision:
    comment = _find(thread, command.comment_id)
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
    data = _about(comment) | {
        "revision": comment.revision + 1,
        "by": "author" if own else "moderator",
        "text_mac": command.text.text_mac,
    }
    return (_first(command, "CommentEdited", data, command.text),)


def _delete(command: DeleteComment, thread: ThreadState) -> Decision:
    comment = _find(thread, command.comment_id)
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
        return (_first(command, "CommentDeleted", _about(comment)),)
    if comment.state is CommentState.REMOVED:
        return ()
    if comment.state in FINAL:
        return CommentNotOpen(comment.id, comment.state)
    return (_first(command, "CommentRemoved", _about(comment)),)


def _report(command: ReportComment, thread: ThreadState, rules: Rules) -> Decision:
    comment = _find(thread, command.comment_id)
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
    data = _about(comment) | {
        "revision": comment.revision,
        "reason": command.reason,
        "weight": weight,
    }
    report = _first(command, "CommentReported", data, command.detail)
    total = comment.report_weight + weight
    if comment.approved or not weight or total < rules.settings.report_threshold:
        return (report,)
    hidden = NewEvent(
        event_id=following_id(command.event_id, 1),
        type="CommentHidden",
        data=_about(comment)
        | {"rule": "reports", "threshold": float(rules.settings.report_threshold), "total": total},
        actor_id=None,
        causation_id=command.event_id,
    )
    return (report, hidden)


def _vote(command: VoteComment, thread: ThreadState) -> Decision:
    comment = _find(thread, command.comment_id)
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
    data = _about(comment) | {"value": command.value, "previous": previous}
    return (_first(command, "CommentVoted", data),)


def _moderate(command: ModerateComment, thread: ThreadState) -> Decision:
    if not command.actor.moderator:
        return Forbidden("only moderators decide about comments")
    comment = _find(thread, command.comment_id)
    if isinstance(comment, CommentNotFound):
        return comment
    event = event_of(command.action, comment)
    if event is None:
        return ()
    if isinstance(event, Refusal):
        return event
    data = _about(comment)
    if event == "CommentApproved":
        data["from"] = comment.state.value
    elif event == "CommentHidden":
        data["rule"] = "moderator"
    return (_first(command, event, data, command.reason),)


def _erase(command: EraseComments, thread: ThreadState) -> Decision:
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
            data=_about(comment),
            actor_id=command.actor.id,
            causation_id=command.cause,
        )
        for place, comment in enumerate(due)
    )


def _change_thread(command: ChangeThread, thread: ThreadState) -> Decision:
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
