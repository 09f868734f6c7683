"""Every route: where it is, who handles it, what it takes and answers. `/openapi.json` is made from this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from aiohttp.typedefs import Handler
from pydantic import BaseModel

from services.api import (
    atom,
    bodies,
    comments,
    counts,
    feeds,
    guests,
    health,
    log,
    me,
    mine,
    newest,
    notifications,
    openapi,
    queries,
    reading,
    reports,
    revisions,
    shapes,
    site_settings,
    threads,
    votes,
)
from services.api.live import streams
from services.api.problems import Code
from services.core.site import SiteSettings

Who = Literal["anyone", "signed in", "member", "moderator", "overseer", "admin", "operator", "network"]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `answers` gives the model of each success, None for an empty one."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler
    summary: str
    who: Who = "anyone"
    query: type[queries.Query] = queries.NoQuery
    body: type[BaseModel] | None = None
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=dict)
    idempotent: bool = False
    """Whether it takes an Idempotency-Key."""
    revision: bool = False
    """Whether it needs If-Match."""
    conditional: bool = False
    """Whether it has an ETag."""
    tagged: bool = False
    """Whether it has an ETag, but belongs to no thread and so has no version."""
    reads: bool = False
    """Whether it writes nothing though it is a POST (`services.api.context.READS_BY_POST`)."""
    versioned: bool = False
    """Whether it tells Threadlog-Version; what is idempotent or conditional does."""
    media: str = "application/json"
    """What a success is that has no model and yet a body."""
    stream: bool = False
    """Whether it answers with Server-Sent Events, and with its model to who asks for JSON."""
    refusals: tuple[Code, ...] = ()
    """Codes of problems that do not follow from the rest (`services.api.route_codes`)."""


S: Final = "/v1/sites/{site}"
T: Final = S + "/threads/{thread}"
C: Final = T + "/comments/{comment}"

_FINAL: Final[tuple[Code, ...]] = ("comment-deleted", "comment-removed", "comment-erased")
_OF_HISTORY: Final[tuple[Code, ...]] = ("unauthenticated", "forbidden")
_NOT_OPEN: Final[tuple[Code, ...]] = ("comment-hidden", *_FINAL)

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        S + "/guests",
        guests.join,
        "Become a guest",
        body=bodies.NewGuest,
        answers={201: shapes.GuestShape},
        refusals=("guests-not-allowed",),
    ),
    Route(
        "POST",
        T + "/comments",
        comments.post,
        "Post a comment",
        who="signed in",
        body=bodies.NewComment,
        answers={201: shapes.CommentShape},
        idempotent=True,
        refusals=(
            "guests-not-allowed",
            "parent-not-found",
            "thread-closed",
            "parent-not-open",
            "too-deep",
            "comment-erased",
        ),
    ),
    Route(
        "GET",
        T + "/comments",
        reading.page,
        "A page of comments",
        query=queries.PageQuery,
        answers={200: shapes.PageShape},
        conditional=True,
        refusals=(*_OF_HISTORY, "parent-not-found", "comment-not-found"),
    ),
    Route(
        "GET",
        C,
        reading.one,
        "One comment",
        query=queries.HistoryQuery,
        answers={200: shapes.CommentShape},
        conditional=True,
        refusals=_OF_HISTORY,
    ),
    Route(
        "PATCH",
        C,
        comments.edit,
        "Edit a comment",
        who="member",
        body=bodies.CommentEdit,
        answers={200: shapes.CommentShape},
        idempotent=True,
        revision=True,
        refusals=("guests-not-allowed", "not-author", "edit-window-closed", *_NOT_OPEN),
    ),
    Route(
        "DELETE",
        C,
        comments.delete,
        "Delete one's own comment, or remove another's",
        who="signed in",
        answers={204: None},
        idempotent=True,
        refusals=("guests-not-allowed", "not-author", *_FINAL),
    ),
    Route(
        "GET",
        C + "/revisions",
        revisions.revisions,
        "The texts that a comment has had",
        who="signed in",
        query=queries.ListQuery,
        answers={200: shapes.RevisionsShape},
        conditional=True,
        refusals=("not-author",),
    ),
    Route(
        "POST",
        C + "/reports",
        reports.report,
        "Report a comment",
        who="signed in",
        body=bodies.Report,
        answers={202: shapes.EmptyShape},
        idempotent=True,
        refusals=("guests-not-allowed", "own-comment", "already-reported", *_NOT_OPEN),
    ),
    Route(
        "PUT",
        C + "/vote",
        votes.vote,
        "Vote on a comment, change the vote or withdraw it",
        who="member",
        body=bodies.Vote,
        answers={200: shapes.TallyShape},
        idempotent=True,
        refusals=("guests-not-allowed", "own-comment", *_NOT_OPEN),
    ),
    Route(
        "GET",
        T,
        threads.one,
        "The thread",
        query=queries.ReadQuery,
        answers={200: shapes.ThreadShape},
        conditional=True,
    ),
    Route(
        "PATCH",
        T,
        threads.change,
        "Describe, close or reopen the thread",
        who="moderator",
        body=bodies.ThreadChange,
        answers={200: shapes.ThreadShape},
        idempotent=True,
    ),
    Route(
        "GET",
        T + "/events",
        threads.events,
        "The thread's log",
        who="overseer",
        query=queries.EventsQuery,
        answers={200: shapes.EventsShape},
        conditional=True,
    ),
    Route(
        "GET",
        T + "/live",
        streams.follow,
        "The thread's events as they come",
        query=queries.LiveQuery,
        answers={200: shapes.LiveShape},
        versioned=True,
        stream=True,
        refusals=("overloaded",),
    ),
    Route(
        "GET",
        T + "/mine",
        mine.mine,
        "What the caller did in the thread, and may do",
        who="signed in",
        query=queries.MineQuery,
        answers={200: shapes.MineShape},
        conditional=True,
    ),
    Route(
        "GET",
        T + "/feed.atom",
        feeds.of_thread,
        "The thread's newest comments, as Atom",
        query=queries.ReadQuery,
        answers={200: None},
        media=atom.MEDIA,
        conditional=True,
    ),
    Route(
        "GET",
        S + "/feed.atom",
        feeds.of_site,
        "The site's newest comments, as Atom",
        answers={200: None},
        media=atom.MEDIA,
        tagged=True,
    ),
    Route(
        "GET",
        S + "/comments",
        newest.of_site,
        "The site's newest comments",
        query=queries.NewestQuery,
        answers={200: shapes.CommentsShape},
        tagged=True,
    ),
    Route(
        "POST",
        S + "/counts",
        counts.by_body,
        "How many comments threads have",
        body=bodies.CountsAsked,
        answers={200: shapes.CountsShape},
        reads=True,
    ),
    Route(
        "GET",
        S + "/counts",
        counts.by_query,
        "How many comments threads have",
        query=queries.CountsQuery,
        answers={200: shapes.CountsShape},
    ),
    Route(
        "GET",
        S + "/settings",
        site_settings.show,
        "The site's settings",
        who="admin",
        answers={200: SiteSettings},
        versioned=True,
    ),
    Route(
        "PATCH",
        S + "/settings",
        site_settings.change,
        "Change the site's settings",
        who="admin",
        body=SiteSettings,
        answers={200: SiteSettings},
        idempotent=True,
    ),
    Route(
        "GET",
        S + "/me/notifications",
        notifications.inbox,
        "The caller's notifications",
        who="signed in",
        query=queries.NotificationsQuery,
        answers={200: shapes.InboxShape},
    ),
    Route(
        "POST",
        S + "/me/notifications/read",
        notifications.mark_read,
        "Mark notifications as read",
        who="signed in",
        body=bodies.NotificationsRead,
        answers={204: None},
        refusals=("guests-not-allowed",),
    ),
    Route(
        "GET",
        S + "/me/comments",
        newest.of_caller,
        "What the caller has written, newest first",
        who="signed in",
        query=queries.NewestQuery,
        answers={200: shapes.CommentsShape},
    ),
    Route(
        "GET",
        S + "/me",
        me.export,
        "All that is stored of the caller, as JSON lines",
        who="signed in",
        answers={200: None},
        media="application/x-ndjson",
    ),
    Route(
        "DELETE",
        S + "/me",
        me.erase,
        "Erase the caller",
        who="signed in",
        answers={202: shapes.ErasureShape},
        idempotent=True,
    ),
    Route(
        "GET",
        "/v1/events",
        log.events,
        "The whole log",
        who="operator",
        query=queries.LogQuery,
        answers={200: shapes.LogShape},
    ),
    Route("GET", "/healthz", health.healthz, "Whether the process lives", answers={200: shapes.HealthShape}),
    Route(
        "GET",
        "/readyz",
        health.readyz,
        "Whether it can serve",
        answers={200: shapes.HealthShape, 503: shapes.HealthShape},
    ),
    Route(
        "GET",
        "/metrics",
        health.metrics,
        "Metrics for Prometheus",
        who="network",
        answers={200: None},
        media="text/plain",
    ),
    Route("GET", "/openapi.json", openapi.document, "This document", answers={200: None}),
    Route("GET", "/docs", openapi.page, "This document as a page", answers={200: None}, media="text/html"),
)
