"""Who is told of a comment.

A reply is told to its parent's author: never to oneself, nor to somebody who has no inbox here, nor of a
comment that was imported, nor of one that is not visible at the end of the read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

NO_INBOX: Final = ("import:", "guest:")
"""How the ids of authors begin who cannot sign in to read an inbox."""


class Reason(StrEnum):
    """Why somebody is told (contract, section 11)."""

    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as its event brought it. Its id is the event's; `created_at` is when it was recorded."""

    id: UUID
    parent_id: UUID
    author_id: str | None
    imported: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """A comment at the end of the read: who wrote it, and whether everyone may see it."""

    author_id: str | None
    visible: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """One person to be told of one event."""

    recipient_id: str
    reason: Reason
    event_id: UUID
    comment_id: UUID
    actor_id: str | None
    created_at: datetime


def recipients(reply: Reply, comments: Mapping[UUID, Standing]) -> tuple[Notice, ...]:
    """Who is told of `reply`, given how it and its parent stand at the end of the read."""
    itself, parent = comments.get(reply.id), comments.get(reply.parent_id)
    if reply.imported or itself is None or not itself.visible or parent is None:
        return ()
    recipient = parent.author_id
    if recipient is None or recipient == reply.author_id or recipient.startswith(NO_INBOX):
        return ()
    return (Notice(recipient, Reason.REPLY, reply.id, reply.id, reply.author_id, reply.created_at),)
