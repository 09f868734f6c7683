"""The answers as models. They describe, and tests hold real answers against them; hot paths put answers
together from fragments and build no model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """A JSON object that an answer holds."""

    model_config = ConfigDict(extra="forbid")


class AuthorShape(Shape):
    """Who wrote a comment, as they were called when posting."""

    id: str
    name: str | None
    avatar: str | None
    badge: str | None


class VotesShape(Shape):
    """Votes counted."""

    up: int
    down: int


class CommentShape(Shape):
    """A comment. Where its text is not for the reader, `body`, `html` and `author` are null."""

    id: str
    thread: str
    parent_id: str | None
    depth: int
    path: list[str]
    author: AuthorShape | None
    body: str | None
    html: str | None
    state: Literal["visible", "held", "hidden", "removed", "deleted", "erased"]
    created_at: str
    edited_at: str | None
    edited_by: Literal["author", "moderator"] | None
    revision: int
    votes: VotesShape
    children: int
    descendants: int
    pinned: bool
    permalink: str | None
    version: int


class RepliesShape(Shape):
    """The first replies below a comment; `more` are left out."""

    items: list[PagedCommentShape]
    after: str | None
    more: int


class PagedCommentShape(CommentShape):
    """A comment on a page."""

    replies: RepliesShape


class ThreadShape(Shape):
    """A thread; `comments` counts the visible ones."""

    key: str
    title: str | None
    url: str | None
    state: Literal["open", "closed"]
    comments: int
    pinned: list[str]
    version: int


class PageShape(Shape):
    """A page of comments."""

    thread: ThreadShape
    comments: list[PagedCommentShape]
    after: str | None


class RevisionShape(Shape):
    """One text of a comment."""

    revision: int
    body: str | None
    html: str | None
    edited_at: str
    edited_by: Literal["author", "moderator"]


class RevisionsShape(Shape):
    """Revisions, oldest first."""

    items: list[RevisionShape]
    after: str | None


class EventShape(Shape):
    """An event as recorded."""

    position: int
    stream: str
    version: int
    event_id: str
    type: str
    schema_version: int
    actor: str | None
    correlation_id: str | None
    causation_id: str | None
    recorded_at: str
    data: dict[str, object]
    hash: str


class EventsShape(Shape):
    """Events, in order; `after` is a version, null at the end."""

    items: list[EventShape]
    after: int | None


class NamedThreadShape(Shape):
    """The thread that a notification is about."""

    key: str
    title: str | None
    url: str | None


class NotificationShape(Shape):
    """Somebody was told of something."""

    id: str
    event_id: str
    reason: Literal["reply", "mention", "follow", "ancestor", "moderation"]
    thread: NamedThreadShape
    comment: CommentShape | None
    actor: AuthorShape | None
    created_at: str
    read: bool


class InboxShape(Shape):
    """Notifications, newest first."""

    items: list[NotificationShape]
    after: str | None
    unread: int


class EmptyShape(Shape):
    """An empty object."""


class CheckShape(Shape):
    """How one dependency does."""

    status: Literal["ok", "failed"]
    detail: str


class HealthShape(Shape):
    """How the process does."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, CheckShape]


class FieldErrorShape(Shape):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemShape(Shape):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldErrorShape] | None = None
