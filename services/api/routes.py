"""Every route: where it is, who handles it, what it takes and answers. `/openapi.json` is made from this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from aiohttp.typedefs import Handler
from pydantic import BaseModel

from services.api import (
    bodies,
    comments,
    health,
    notifications,
    openapi,
    queries,
    reports,
    revisions,
    shapes,
    site_settings,
    threads,
)
from services.core.site import SiteSettings

Who = Literal["anyone", "signed in", "moderator", "admin", "network"]


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


S: Final = "/v1/sites/{site}"
T: Final = S + "/threads/{thread}"
C: Final = T + "/comments/{comment}"

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        T + "/comments",
        comments.post,
        "Post a comment",
        who="signed in",
        body=bodies.NewComment,
        answers={201: shapes.CommentShape},
        idempotent=True,
    ),
    Route(
        "GET",
        T + "/comments",
        comments.page,
        "A page of comments",
        query=queries.PageQuery,
        answers={200: shapes.PageShape},
        conditional=True,
    ),
    Route(
        "GET",
        C,
        comments.one,
        "One comment",
        query=queries.ReadQuery,
        answers={200: shapes.CommentShape},
        conditional=True,
    ),
    Route(
        "PATCH",
        C,
        comments.edit,
        "Edit a comment",
        who="signed in",
        body=bodies.CommentEdit,
        answers={200: shapes.CommentShape},
        idempotent=True,
        revision=True,
    ),
    Route(
        "DELETE",
        C,
        comments.delete,
        "Delete one's own comment, or remove another's",
        who="signed in",
        answers={204: None},
        idempotent=True,
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
        who="moderator",
        query=queries.EventsQuery,
        answers={200: shapes.EventsShape},
        conditional=True,
    ),
    Route(
        "GET",
        S + "/settings",
        site_settings.show,
        "The site's settings",
        who="admin",
        answers={200: SiteSettings},
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
    ),
    Route("GET", "/healthz", health.healthz, "Whether the process lives", answers={200: shapes.HealthShape}),
    Route(
        "GET",
        "/readyz",
        health.readyz,
        "Whether it can serve",
        answers={200: shapes.HealthShape, 503: shapes.HealthShape},
    ),
    Route("GET", "/metrics", health.metrics, "Metrics for Prometheus", who="network", answers={200: None}),
    Route("GET", "/openapi.json", openapi.document, "This document", answers={200: None}),
    Route("GET", "/docs", openapi.page, "This document as a page", answers={200: None}),
)
