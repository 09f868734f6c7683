"""The caller's inbox."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

import orjson
from aiohttp import hdrs, web

from services.api.answers import own
from services.api.bodies import NotificationsRead, body_of
from services.api.bundles import bundled
from services.api.context import Visit, visit
from services.api.deps import API
from services.api.gathering import gathered
from services.api.problems import invalid
from services.api.queries import NoQuery, NotificationsQuery, query_of
from services.core.node import decode
from services.core.pagejson import comment_json
from services.core.thread import CommentState, timestamp
from services.eventlog.inbox import Notification
from services.projection.reader import OneComment

_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


async def inbox(request: web.Request) -> web.Response:
    """The caller's notifications, newest first, each with its comment as it is now."""
    api = request.app[API]
    here = await visit(request)
    caller = here.signed_in()
    query = query_of(request, NotificationsQuery)
    site = here.site.name
    scope = f"{site}\n{query.state}\n{caller.id}".encode()
    after = None if query.after is None else api.cursors.identity(scope, query.after)
    found = await api.inbox.page(site, caller.id, query.state, after, query.limit + 1)
    shown = found[: query.limit]
    comments = await gathered(api, [(one.stream_id, one.comment_id) for one in shown])
    items = [item(here, notification, one) for notification, one in zip(shown, comments, strict=False)]
    shown = shown[: len(items)]
    body: dict[str, object] = {
        "items": items,
        "after": api.cursors.identified(scope, shown[-1].id) if len(found) > len(shown) else None,
        "unread": await api.inbox.unread(site, caller.id),
    }
    if query.bundles == "true":
        body["bundles"] = bundled(zip(shown, comments, strict=True), here.site.settings.language)
    return own(orjson.dumps(body))


async def mark_read(request: web.Request) -> web.Response:
    """Mark notifications as read: those named, or one and all before it."""
    api = request.app[API]
    here = await visit(request)
    caller = here.writer()
    query_of(request, NoQuery)
    asked, _ = await body_of(request, NotificationsRead)
    if asked.ids is not None:
        ids = [_uuid(raw, f"ids.{place}") for place, raw in enumerate(asked.ids)]
        await api.inbox.mark_read(here.site.name, caller.id, ids)
    elif asked.through is not None:
        await api.inbox.mark_read(here.site.name, caller.id, _uuid(asked.through, "through"))
    return web.Response(status=204, headers={hdrs.CACHE_CONTROL: "private, no-store"})


def _uuid(raw: str, field: str) -> UUID:
    if not _ID.fullmatch(raw):
        raise invalid(field, "is not an id")
    return UUID(raw)


def item(here: Visit, notification: Notification, found: OneComment | None) -> dict[str, object]:
    """A notification with its comment as it is now; None where that cannot be shown."""
    comment: orjson.Fragment | None = None
    actor: orjson.Fragment | None = None
    if found is not None:
        comment = orjson.Fragment(
            comment_json(
                found.picked,
                found.path,
                found.head,
                comment_url=here.site.settings.comment_url,
                reader=here.reader,
            )
        )
        node = decode(found.picked.raw)
        if node.state is CommentState.VISIBLE:
            actor = orjson.Fragment(node.author)
    return {
        "id": str(notification.id),
        "event_id": str(notification.event_id),
        "reason": notification.reason,
        "thread": {"key": notification.key, "title": notification.title, "url": notification.url},
        "comment": comment,
        "actor": actor,
        "created_at": timestamp(notification.created_at),
        "read": notification.read,
    }
