"""The caller's inbox."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

import orjson
import structlog
from aiohttp import hdrs, web

from services.api.answers import own
from services.api.bodies import NotificationsRead, body_of
from services.api.context import Visit, visit
from services.api.deps import API, Api
from services.api.problems import invalid
from services.api.queries import NoQuery, NotificationsQuery, query_of
from services.core.node import decode
from services.core.pagejson import comment_json
from services.core.thread import CommentState, timestamp
from services.errors import (
    CommentNotFound,
    Overloaded,
    PoisonEvent,
    StreamBroken,
    ThreadParked,
    Unavailable,
)
from services.eventlog.inbox import Notification
from services.projection.reader import OneComment

_AT_ONCE: Final = 32
"""Notifications between two looks at the clock."""
_THREADS: Final = 4
"""Threads of one answer that are read at the same time: fewer than there are connections for all requests."""

_log = structlog.get_logger("threadlog.api")

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
    comments = await _comments(api, shown)
    items = [_item(here, notification, one) for notification, one in zip(shown, comments, strict=False)]
    shown = shown[: len(items)]
    body = {
        "items": items,
        "after": api.cursors.identified(scope, shown[-1].id) if len(found) > len(shown) else None,
        "unread": await api.inbox.unread(site, caller.id),
    }
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


async def _comments(api: Api, notifications: Sequence[Notification]) -> list[OneComment | None]:
    """The comments of these notifications as they are now, None where one cannot be shown.

    Each may need its thread's view built. So only a few threads are read at the same time, and reading ends
    after `api.inbox_seconds`: the list may be shorter than what is asked for, never empty.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + api.inbox_seconds
    found: dict[tuple[UUID, UUID], OneComment | None] = {}
    slots = asyncio.Semaphore(_THREADS)

    async def of_thread(stream_id: UUID, comment_ids: Iterable[UUID]) -> None:
        async with slots:
            for comment_id in comment_ids:
                found[stream_id, comment_id] = await _comment(api, stream_id, comment_id)

    comments: list[OneComment | None] = []
    for start in range(0, len(notifications), _AT_ONCE):
        if start and loop.time() >= until:
            break
        some = notifications[start : start + _AT_ONCE]
        threads: dict[UUID, dict[UUID, None]] = {}
        for one in some:
            if (one.stream_id, one.comment_id) not in found:
                threads.setdefault(one.stream_id, {})[one.comment_id] = None
        await asyncio.gather(*(of_thread(stream_id, ids) for stream_id, ids in threads.items()))
        comments += [found[one.stream_id, one.comment_id] for one in some]
    return comments


async def _comment(api: Api, stream_id: UUID, comment_id: UUID) -> OneComment | None:
    try:
        return await api.reader.comment(stream_id, comment_id)
    except (CommentNotFound, Overloaded, PoisonEvent, StreamBroken, ThreadParked, Unavailable) as error:
        # One thread that cannot be shown is no reason to withhold what happened in all the others.
        if not isinstance(error, CommentNotFound):
            _log.warning("a notification is told without its comment", error=type(error).__name__)
        return None


def _item(here: Visit, notification: Notification, found: OneComment | None) -> dict[str, object]:
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
