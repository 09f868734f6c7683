"""A thread: what it is, what changes of it, and its log."""

from __future__ import annotations

from typing import Literal

import orjson
from aiohttp import web

from services.api import outcomes
from services.api.answers import etag, head_of, read, remembered, tag_of, written
from services.api.asking import ASKING
from services.api.bodies import ThreadChange, body_of
from services.api.comments import title_text, url_text
from services.api.context import thread_of, visit
from services.api.deps import API
from services.api.pages.memory import Read
from services.api.queries import EventsQuery, NoQuery, query_of
from services.api.writing import command_fields
from services.core.commands import ChangeThread
from services.core.pagejson import thread_json
from services.errors import VersionNotReached
from services.eventlog.lines import recorded
from services.readmodel.records import Head


async def one(request: web.Request) -> web.StreamResponse:
    """The thread; one that has no events yet is empty, at version 0."""
    api = request.app[API]
    here = await visit(request)
    asked = request.app[ASKING].thread(request, here.site)
    thread = asked.thread

    async def reading(min_version: int | None) -> Read:
        found, stale = await api.reader.thread(thread.stream_id, min_version)
        head = head_of(found, thread.key)
        return Read(head, thread_json(head), tag_of(head, thread.stream_id.hex, "thread"), stale, frozenset())

    entry = await api.pages.get(asked.name, thread.stream_id, reading, asked.min_version)
    return await remembered(request, api, here, asked.name, entry, asked.min_version)


async def change(request: web.Request) -> web.Response:
    """Describe, close or reopen the thread, opened or not."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    caller = here.moderator()
    query_of(request, NoQuery)
    asked, raw = await body_of(request, ThreadChange)
    given = asked.model_fields_set
    describe: dict[Literal["title", "url"], str | None] = {}
    if "title" in given:
        describe["title"] = title_text(asked.title, "title")
    if "url" in given:
        describe["url"] = url_text(asked.url, "url")
    closed = asked.state == "closed" if "state" in given else None
    appended = await api.appenders.submit(
        ChangeThread(
            **command_fields(request, here, thread, caller, raw),
            describe=describe,
            closed=closed,
        )
    )
    answer = await outcomes.thread_now(api, thread, appended, describe, closed=closed)
    return written(appended.status, appended.version, answer)


async def events(request: web.Request) -> web.Response:
    """The thread's log as recorded, without what is sealed."""
    api = request.app[API]
    here = await visit(request)
    thread = thread_of(request, here.site)
    here.overseer()
    query = query_of(request, EventsQuery)
    head = await api.log.head(thread.stream_id)
    version, last_hash = (0, b"") if head is None else head
    if query.min_version is not None and query.min_version > version:
        raise VersionNotReached(query.min_version, version)
    found = await api.log.events_after(thread.stream_id, query.after, query.limit)
    after = found[-1].version if found and found[-1].version < version else None
    body = orjson.dumps({"items": [recorded(event) for event in found], "after": after})
    name = head_of(Head(version, last_hash), thread.key)
    tag = etag(name, thread.stream_id, here, "events", query.after, query.limit)
    return read(request, here, body, tag, version)
