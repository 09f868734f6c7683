"""The state of a thread, and its fold.

`evolve` serves everyone: the appender folds onto the few comments that its decisions need, the projector
onto those that a batch touches, a replay onto the whole thread. Structure only: no text is opened here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from schema.events.envelope import EPOCH, GENESIS, Recorded
from schema.events.registry import UPCASTERS, TypeUnknown
from services.errors import PoisonEvent, UnknownEventType

MAX_DEPTH: Final = 1000
PATH_LENGTH: Final = 32
"""How many ancestors a comment's `path` names."""


class CommentState(StrEnum):
    """Where a comment is in its life (contract, section 2)."""

    VISIBLE = "visible"
    HELD = "held"
    HIDDEN = "hidden"
    REMOVED = "removed"
    DELETED = "deleted"
    ERASED = "erased"


NO_VOTE: Final = (0, 0)
"""The vote of somebody who has not voted."""

FINAL: Final = frozenset({CommentState.REMOVED, CommentState.DELETED, CommentState.ERASED})


@dataclass(slots=True)
class Comment:
    """One comment. `posted` is the version of the event that posted it, `parent` that of its parent's (0 for
    a root), `version` that of the last event about it, `text_version` that of the event with its text."""

    id: UUID
    posted: int
    parent: int
    depth: int
    created_at: datetime
    author_id: str | None = None
    key_id: UUID | None = None
    text_mac: str = ""
    state: CommentState = CommentState.VISIBLE
    revision: int = 1
    edited_at: datetime | None = None
    edited_by: str | None = None
    version: int = 0
    text_version: int = 0
    report_weight: float = 0.0
    approved: bool = False
    """Whether a moderator has approved it: reports never hide it again."""
    up: int = 0
    down: int = 0
    path: bytes = b""
    """The ids of its last 32 ancestors, root first, 16 bytes each."""


@dataclass(slots=True)
class ThreadState:
    """A thread's stream folded up to `version`, whole or as far as `comments` holds it."""

    stream_id: UUID
    site: str = ""
    key: str = ""
    version: int = 0
    last_hash: bytes = GENESIS
    recorded_at: datetime = EPOCH
    title: str | None = None
    url: str | None = None
    described_by: str | None = None
    closed: bool = False
    visible: int = 0
    comments: dict[UUID, Comment] = field(default_factory=dict)
    reported: dict[tuple[UUID, str], int] = field(default_factory=dict)
    """Who reported which comment, and the version of the report."""
    votes: dict[tuple[UUID, str], tuple[int, int]] = field(default_factory=dict)
    """Who voted on which comment: the vote as it is now (0: withdrawn), and the version of its event."""
    voters: bool = True
    """Whether `votes` is kept: a view needs the counts only, and a thread may have millions."""
    posted: dict[int, Comment] | None = field(default=None, repr=False, compare=False)
    """`comments` by posting version, where the thread is folded from its beginning: events name the comments
    that they are about by both, and to parse an id takes ten times as long as to write one."""


def timestamp(when: datetime) -> str:
    """RFC 3339 in UTC with microseconds and a Z."""
    return when.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def evolve(thread: ThreadState, event: Recorded, payload: dict[str, Any] | None = None) -> Comment | None:
    """Apply one event in place; the comment that it is about, if there is one. `payload` is what `event.data`
    holds, where the caller knows it already.

    Raises PoisonEvent where the event cannot follow this state, UnknownEventType where a newer release wrote
    it. The state is then as it was.
    """
    if event.version != thread.version + 1:
        raise _poison(event, f"follows version {thread.version}")
    try:
        if payload is None:
            payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
        apply = _APPLY.get(event.type)
        if apply is None:
            raise _poison(event, f"{event.type} is no event of a thread")
        comment = apply(thread, event, payload)
    except TypeUnknown as error:
        raise UnknownEventType(event.stream_id, event.version, event.event_id, str(error)) from error
    except (PoisonEvent, MemoryError):
        raise
    except Exception as error:  # no I/O here: whatever it is, it is this event that cannot be applied
        raise _poison(event, f"{type(error).__name__}: {error}") from error
    thread.version = event.version
    thread.last_hash = event.hash
    thread.recorded_at = event.recorded_at
    return comment


def _poison(event: Recorded, reason: str) -> PoisonEvent:
    return PoisonEvent(event.stream_id, event.version, event.event_id, reason)


def _created_at(event: Recorded, payload: dict[str, Any]) -> datetime:
    imported = payload.get("imported")
    return event.recorded_at if imported is None else datetime.fromisoformat(imported["created_at"])


def _open(thread: ThreadState, payload: dict[str, Any]) -> None:
    if opens := payload.get("opens"):
        thread.site, thread.key = opens["site"], opens["key"]


def _add(thread: ThreadState, comment: Comment) -> Comment:
    thread.comments[comment.id] = comment
    if thread.posted is not None:
        thread.posted[comment.posted] = comment
    if comment.state is CommentState.VISIBLE:
        thread.visible += 1
    return comment


def _posted(
    event: Recorded, parent: int, depth: int, created_at: datetime, text_mac: str, state: CommentState
) -> Comment:
    """The comment that `event` posts. Its fields go by their places: by name they take twice as long."""
    version = event.version
    return Comment(
        event.event_id,
        version,
        parent,
        depth,
        created_at,
        event.actor_id,
        event.key_id,
        text_mac,
        state,
        1,
        None,
        None,
        version,
        version,
    )


def _comment_posted(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    created_at, text_mac = _created_at(event, payload), payload["text_mac"]
    _open(thread, payload)
    return _add(
        thread,
        _posted(
            event,
            0,
            0,
            created_at,
            text_mac,
            CommentState.DELETED if payload.get("tombstone") else CommentState.VISIBLE,
        ),
    )


def _reply_posted(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    parent = _named(thread, payload["parent"], payload["parent_id"])
    if not (isinstance(payload["parent"], int) and 0 < payload["parent"] < event.version):
        raise _poison(event, "a reply to no earlier comment")
    comment = _posted(
        event,
        payload["parent"],
        payload["depth"],
        _created_at(event, payload),
        payload["text_mac"],
        CommentState.VISIBLE,
    )
    if parent is not None:
        comment.path = (parent.path + parent.id.bytes)[-16 * PATH_LENGTH :]
    return _add(thread, comment)


def _named(thread: ThreadState, posted: int | None, comment_id: str) -> Comment | None:
    """The comment with this id, which an event says was posted at this version."""
    comment = None if thread.posted is None or posted is None else thread.posted.get(posted)
    if comment is not None and str(comment.id) == comment_id:
        return comment
    return thread.comments.get(UUID(comment_id))


def _subject(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _named(thread, payload.get("posted"), payload["comment_id"])
    if comment is None:
        raise _poison(event, f"no comment {payload['comment_id']}")
    return comment


def _move(thread: ThreadState, comment: Comment, state: CommentState) -> None:
    thread.visible += (state is CommentState.VISIBLE) - (comment.state is CommentState.VISIBLE)
    comment.state = state


def _comment_edited(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _subject(thread, event, payload)
    comment.revision, comment.text_mac, comment.edited_by = (
        payload["revision"],
        payload["text_mac"],
        payload["by"],
    )
    comment.edited_at = event.recorded_at
    comment.version = comment.text_version = event.version
    return comment


def _comment_deleted(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _subject(thread, event, payload)
    _move(thread, comment, CommentState.DELETED)
    comment.version = event.version
    return comment


def _comment_removed(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _subject(thread, event, payload)
    _move(thread, comment, CommentState.REMOVED)
    comment.version = event.version
    return comment


def _comment_hidden(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _subject(thread, event, payload)
    _move(thread, comment, CommentState.HIDDEN)
    comment.version = event.version
    return comment


def _comment_approved(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _comment_restored(thread, event, payload)
    comment.approved = True
    return comment


def _comment_restored(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _subject(thread, event, payload)
    _move(thread, comment, CommentState.VISIBLE)
    comment.version = event.version
    return comment


def _comment_erased(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _subject(thread, event, payload)
    _move(thread, comment, CommentState.ERASED)
    comment.author_id, comment.text_mac = None, ""
    comment.version = event.version
    return comment


def _comment_reported(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _subject(thread, event, payload)
    comment.report_weight += payload["weight"]
    if event.actor_id is not None:
        thread.reported[comment.id, event.actor_id] = event.version
    comment.version = event.version
    return comment


TALLY: Final = {1: (1, 0), 0: (0, 0), -1: (0, 1)}
"""What each vote adds to (up, down)."""


def _comment_voted(thread: ThreadState, event: Recorded, payload: dict[str, Any]) -> Comment:
    comment = _subject(thread, event, payload)
    value: int = payload["value"]
    (up, down), (up_before, down_before) = TALLY[value], TALLY[payload["previous"]]
    if event.actor_id is None:
        raise _poison(event, "a vote without a voter")
    comment.up += up - up_before
    comment.down += down - down_before
    if thread.voters:
        thread.votes[comment.id, event.actor_id] = (value, event.version)
    comment.version = event.version
    return comment


def _thread_described(thread: ThreadState, _event: Recorded, payload: dict[str, Any]) -> None:
    title, url, by = payload["title"], payload["url"], payload["by"]
    _open(thread, payload)
    thread.title, thread.url, thread.described_by = title, url, by


def _thread_closed(thread: ThreadState, _event: Recorded, _payload: dict[str, Any]) -> None:
    thread.closed = True


def _thread_reopened(thread: ThreadState, _event: Recorded, _payload: dict[str, Any]) -> None:
    thread.closed = False


_APPLY: Final[dict[str, Callable[[ThreadState, Recorded, dict[str, Any]], Comment | None]]] = {
    "CommentPosted": _comment_posted,
    "ReplyPosted": _reply_posted,
    "CommentEdited": _comment_edited,
    "CommentDeleted": _comment_deleted,
    "CommentRemoved": _comment_removed,
    "CommentApproved": _comment_approved,
    "CommentHidden": _comment_hidden,
    "CommentRestored": _comment_restored,
    "CommentErased": _comment_erased,
    "CommentReported": _comment_reported,
    "CommentVoted": _comment_voted,
    "ThreadDescribed": _thread_described,
    "ThreadClosed": _thread_closed,
    "ThreadReopened": _thread_reopened,
}
