"""The answers as models. They describe, and tests hold real answers against them; hot paths put answers
together from fragments and build no model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from schema.events.payloads import Badge

Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Shape(BaseModel):
    """A JSON object that an answer holds."""

    model_config = ConfigDict(extra="forbid")


class AuthorShape(Shape):
    """Who wrote a comment, as they were called when posting."""

    id: str
    name: str | None
    avatar: str | None
    badge: Badge | None


class GuestShape(Shape):
    """A new guest: the token to sign in with, and how their comments will be signed."""

    token: str
    author: AuthorShape


class VotesShape(Shape):
    """Votes counted."""

    up: int
    down: int


class TallyShape(VotesShape):
    """Votes counted, and the caller's own among them (0: none)."""

    value: Literal[-1, 0, 1]


class CommentShape(Shape):
    """A comment. Where its text is not for the reader, `body`, `html` and `author` are null."""

    id: Id
    thread: str
    parent_id: Id | None
    depth: int
    path: list[Id]
    author: AuthorShape | None
    body: str | None
    html: str | None
    state: Literal["visible", "held", "hidden", "removed", "deleted", "erased"]
    created_at: Time
    edited_at: Time | None
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
    pinned: list[Id]
    version: int


class PageShape(Shape):
    """A page of comments."""

    thread: ThreadShape
    comments: list[PagedCommentShape]
    after: str | None


class CommentsShape(Shape):
    """Comments, newest first."""

    items: list[CommentShape]
    after: str | None


class CountsShape(RootModel[dict[str, Annotated[int, Field(ge=0)]]]):
    """How many comments of each thread are visible, by its key."""


class AllowedShape(Shape):
    """What the caller may do in a thread, as far as the thread and the site tell: a comment's own state and
    rate limits may still refuse it."""

    post: bool
    vote: bool
    report: bool


class MineShape(Shape):
    """What the caller did in a thread, to be laid over pages that are the same for everyone."""

    votes: dict[Id, Literal[-1, 1]]
    reports: list[Id]
    held: list[Id]
    subscription: Literal["all", "mentions", "muted"] | None
    can: AllowedShape
    banned_until: Time | None


class SubscriptionShape(Shape):
    """How the caller follows a thread."""

    level: Literal["all", "mentions", "muted"]


class ReasonsShape(Shape):
    """What somebody is told of."""

    reply: bool
    mention: bool
    follow: bool
    ancestor: bool
    moderation: bool


class QuietShape(Shape):
    """When no mail goes, each day."""

    since: str = Field(alias="from")
    to: str
    zone: str


class PreferencesShape(Shape):
    """What somebody wants to be told of, and how. `email` is the address that they gave, else the token's;
    `email_state` is what is known of it. While a given one is not confirmed, mail goes to the token's."""

    email: str | None
    email_state: Literal["token", "confirmed", "unconfirmed", "refused"] | None
    mail: Literal["now", "hourly", "daily", "weekly", "off"]
    reasons: ReasonsShape
    quiet: QuietShape | None
    blocked: list[str]


class RevisionShape(Shape):
    """One text of a comment."""

    revision: int
    body: str | None
    html: str | None
    edited_at: Time
    edited_by: Literal["author", "moderator"]


class RevisionsShape(Shape):
    """Revisions, oldest first."""

    items: list[RevisionShape]
    after: str | None


class EventShape(Shape):
    """An event as recorded."""

    position: int
    """One of its lane."""
    lane: int
    stream: Id
    version: int
    event_id: Id
    type: str
    schema_version: int
    actor: str | None
    correlation_id: str | None
    causation_id: Id | None
    recorded_at: Time
    data: dict[str, object] | None
    """None where it is no JSON object, and in `data_base64`."""
    data_base64: str | None = None
    hash: str


class LiveThreadShape(Shape):
    """How far the thread is."""

    comments: int
    version: int


class LiveDataShape(Shape):
    """What a live event is about; a comment is absent from a thread's own event, and from a `reset`."""

    comment: CommentShape | None = None
    thread: LiveThreadShape


class LiveEventShape(Shape):
    """A live event. `event` is the event's type, or `reset`: load the thread anew, then go on."""

    id: int
    event: str
    data: LiveDataShape


class LiveShape(Shape):
    """Live events, polled; `after` is the version to go on after."""

    items: list[LiveEventShape]
    after: int


class EventsShape(Shape):
    """Events, in order; `after` is a version, null at the end."""

    items: list[EventShape]
    after: int | None


class LogEventShape(EventShape):
    """An event of the whole log. `opened` and `shut` are there where `open=1` asked for them: what is sealed
    in it, or why that stays shut; both null where nothing is."""

    opened: dict[str, str] | None = None
    shut: Literal["no key", "broken"] | None = None


class LogShape(Shape):
    """Events of all streams, each stream's in order; without any, that was all for now. `after` is where to
    go on, always."""

    items: list[LogEventShape]
    after: str


class NamedThreadShape(Shape):
    """The thread that a notification is about."""

    key: str
    title: str | None
    url: str | None


class NotificationShape(Shape):
    """Somebody was told of something."""

    id: Id
    event_id: Id
    reason: Literal["reply", "mention", "follow", "ancestor", "moderation"]
    thread: NamedThreadShape
    comment: CommentShape | None
    actor: AuthorShape | None
    created_at: Time
    read: bool


class BundleShape(Shape):
    """Items of a page that belong together. `actors` are the latest of those who did it, three at most;
    `others` is how many there are beside the first."""

    reason: Literal["reply", "mention", "follow", "ancestor", "moderation"]
    thread: NamedThreadShape
    parent_id: Id | None
    """The comment that they answer; null for what is no reply."""
    ids: list[Id]
    actors: list[AuthorShape]
    count: int
    others: int
    sentence: str
    """In the site's language."""
    created_at: Time
    """Of the newest."""
    read: bool


class InboxShape(Shape):
    """Notifications, newest first; where it was asked for, with what belongs together."""

    items: list[NotificationShape]
    after: str | None
    unread: int
    bundles: list[BundleShape] | None = None


class InboxDataShape(Shape):
    """A new notification, and how many are unread by then; a `reset` has no notification."""

    notification: NotificationShape | None = None
    unread: int


class InboxEventShape(Shape):
    """A live event of an inbox. `reset`: load the inbox anew, then go on."""

    id: str
    event: Literal["notification", "reset"]
    data: InboxDataShape


class InboxLiveShape(Shape):
    """Live events of an inbox, polled; `after` is where to go on."""

    items: list[InboxEventShape]
    after: str


class ErasureShape(Shape):
    """How far an erasure is; "nothing" where nothing was left to erase."""

    state: Literal["nothing", "running", "done"]
    requested_at: Time | None
    done_at: Time | None
    comments: int | None


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
