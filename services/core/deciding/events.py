"""Events as they are decided, and what all decisions are made of."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple
from uuid import UUID

from services.core.commands import Command, Sealed
from services.core.thread import Comment, ThreadState
from services.errors import CommentNotFound, Refusal


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


def first(command: Command, type: str, data: dict[str, Any], text: Sealed | None = None) -> NewEvent:
    """A command's first event."""
    return NewEvent(
        event_id=command.event_id,
        type=type,
        data=data,
        actor_id=command.actor.id,
        sealed=None if text is None else text.ciphertext,
        key_id=None if text is None else text.key_id,
    )


def find(thread: ThreadState, comment_id: UUID) -> Comment | CommentNotFound:
    """The comment that a command is about."""
    return thread.comments.get(comment_id) or CommentNotFound(comment_id)


def about(comment: Comment) -> dict[str, Any]:
    """How an event names the comment that it is about."""
    return {"comment_id": str(comment.id), "posted": comment.posted}
