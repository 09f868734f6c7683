"""The routes of what is the caller's own: inbox, preferences, mail, and all that is stored of them."""

from __future__ import annotations

from typing import Final

from services.api import bodies, mail_pages, me, newest, notifications, preferences, queries, shapes
from services.api.live import inbox
from services.api.problems import Code
from services.api.route import Route, S

_OF_FORMS: Final[tuple[Code, ...]] = ("request-timeout", "too-large", "not-json")

OWN_ROUTES: Final[tuple[Route, ...]] = (
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
        S + "/me/notifications/live",
        inbox.follow,
        "The caller's notifications as they come",
        who="signed in",
        query=queries.InboxLiveQuery,
        answers={200: shapes.InboxLiveShape},
        stream=True,
        refusals=("overloaded", "cursor-invalid"),
    ),
    Route(
        "GET",
        S + "/me/preferences",
        preferences.show,
        "What the caller wants to be told of",
        who="signed in",
        answers={200: shapes.PreferencesShape},
    ),
    Route(
        "PATCH",
        S + "/me/preferences",
        preferences.change,
        "Change what the caller wants to be told of",
        who="signed in",
        body=bodies.PreferencesChange,
        answers={200: shapes.PreferencesShape},
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
        S + "/confirm",
        mail_pages.show_confirm,
        "The page that a mail's link to confirm an address leads to",
        query=queries.LinkQuery,
        answers={200: None, 410: None},
        media=mail_pages.MEDIA,
    ),
    Route(
        "POST",
        S + "/confirm",
        mail_pages.confirm,
        "Confirm an address",
        query=queries.LinkQuery,
        answers={200: None, 410: None},
        media=mail_pages.MEDIA,
        refusals=_OF_FORMS,
    ),
    Route(
        "GET",
        S + "/unsubscribe",
        mail_pages.show_unsubscribe,
        "The page that a mail's link to unsubscribe leads to",
        query=queries.LinkQuery,
        answers={200: None, 410: None},
        media=mail_pages.MEDIA,
    ),
    Route(
        "POST",
        S + "/unsubscribe",
        mail_pages.unsubscribe,
        "End somebody's mails, or change what they get; also by a mail program's own button (RFC 8058)",
        query=queries.LinkQuery,
        answers={200: None, 410: None},
        media=mail_pages.MEDIA,
        refusals=(*_OF_FORMS, "invalid"),
    ),
)
