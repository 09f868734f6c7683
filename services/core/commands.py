"""What clients ask for. A command may be refused; an event has happened.

A command is complete before the lane is locked: ids chosen, text normalised and sealed. `decide` only
compares it with the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final, Literal, NamedTuple
from uuid import UUID

from schema.events.payloads import Badge
from services.core.site import SiteSettings

Action = Literal["approve", "hide", "restore", "remove"]
"""What a moderator decides of a comment."""

GUEST: Final = "guest:"
"""What the id of a guest begins with, and nobody else's."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who sends a command: an author's id, or None for the system, whether it may moderate, and the badge
    that its comments carry."""

    id: str | None
    moderator: bool = False
    badge: Badge | None = None


class Sealed(NamedTuple):
    """Encrypted text, the key it needs, and a keyed digest by which equal texts are known."""

    ciphertext: bytes
    key_id: UUID
    text_mac: str


class Idempotency(NamedTuple):
    """MACs of an Idempotency-Key in its scope, and of the request it came with."""

    key_mac: bytes
    request_mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What every command carries. `event_id` is that of its first event, chosen before the first try."""

    site: str
    stream_id: UUID
    event_id: UUID
    actor: Actor
    correlation_id: str | None = None
    idempotency: Idempotency | None = None

    success: ClassVar[int] = 200
    """The HTTP status that an Idempotency-Key is remembered with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadCommand(Command):
    """A command to a thread's stream; `key` is the client's own key for the thread."""

    key: str


@dataclass(frozen=True, slots=True)
class Description:
    """What a page is called and where it is."""

    title: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class Import:
    """Where an imported comment comes from. A tombstone stands for a parent that its source lost."""

    created_at: datetime
    source_id: str
    tombstone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PostComment(ThreadCommand):
    """Post a comment, below `parent_id` where it is given; the first one opens the thread."""

    text: Sealed | None
    parent_id: UUID | None = None
    describe: Description | None = None
    imported: Import | None = None

    success: ClassVar[int] = 201


@dataclass(frozen=True, slots=True, kw_only=True)
class EditComment(ThreadCommand):
    """Give a comment a new text; `revision` is the one that the editor saw."""

    comment_id: UUID
    revision: int
    text: Sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteComment(ThreadCommand):
    """Take a comment back; by a moderator on another's comment, remove it."""

    comment_id: UUID

    success: ClassVar[int] = 204


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportComment(ThreadCommand):
    """Report a comment to the moderators. `detail` is sealed under the reporter's key."""

    comment_id: UUID
    reason: str
    detail: Sealed | None = None

    success: ClassVar[int] = 202


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteComment(ThreadCommand):
    """Vote on a comment, change the vote, or withdraw it (0)."""

    comment_id: UUID
    value: Literal[-1, 0, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerateComment(ThreadCommand):
    """Decide about a comment. `reason` is sealed under the key of its author."""

    comment_id: UUID
    action: Action
    reason: Sealed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeThread(ThreadCommand):
    """Describe, close or reopen a thread, opened or not. `describe` holds what is to change of `title` and
    `url` (None clears); what is not named stays."""

    describe: dict[Literal["title", "url"], str | None]
    closed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseComments(ThreadCommand):
    """Mark comments of one thread as erased: those among `comment_ids` that were sealed under `key_id`, which
    is destroyed. `cause` is the AuthorErased that they follow from. At most some dozens in one command."""

    key_id: UUID
    comment_ids: tuple[UUID, ...]
    cause: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseAuthor(Command):
    """Tell the site's stream that an author's key was destroyed."""

    author_id: str
    key_id: UUID

    success: ClassVar[int] = 202


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSettings(Command):
    """Change a site's settings; `changes` is validated by SiteSettings."""

    changes: dict[str, str | int | float | bool | list[str] | None]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a decision takes from outside its stream."""

    settings: SiteSettings
