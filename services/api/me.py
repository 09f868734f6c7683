"""All that is stored of the caller: to be had, and to be erased."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

import orjson
import structlog
from aiohttp import hdrs, web

from schema.events.envelope import Recorded
from schema.events.registry import UPCASTERS
from services.api.auth import Caller
from services.api.bodies import raw_body
from services.api.context import Visit, visit
from services.api.deps import API, Api
from services.api.headers import THREADLOG_VERSION
from services.api.middleware import finish
from services.api.queries import NoQuery, query_of
from services.api.writing import idempotency
from services.core.thread import timestamp
from services.eventlog.erasures import Erasure, announce
from services.eventlog.person import OwnComment, OwnReport, OwnThread, OwnVote, Person
from services.eventlog.preferences import NOTHING_SAID, forget
from services.projection.fold import open_text

LINES: Final = "application/x-ndjson"
_REVISIONS: Final = 20
_INBOX: Final = 500

_log = structlog.get_logger("threadlog.api")


async def export(request: web.Request) -> web.StreamResponse:
    """All that is stored of the caller, one JSON object a line, as it is read: whatever their number, few of
    them are in memory. Where a page cannot be read, the connection is cut off before the end."""
    api = request.app[API]
    here = await visit(request)
    caller = here.signed_in()
    query_of(request, NoQuery)
    response = web.StreamResponse(headers={hdrs.CACHE_CONTROL: "private, no-store"})
    response.content_type = LINES
    pages = _pages(api, here, caller)
    first = await anext(pages)
    finish(request, response)
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    if (work := asyncio.current_task()) is not None:
        api.deadlines.end(work)  # it may take as long as the caller reads
    try:
        await response.write(first)
        async for lines in pages:
            if lines:
                await response.write(lines)
        await response.write_eof()
    except Exception as error:  # noqa: BLE001 - the answer has begun, and cannot become another
        _log.warning("an export was cut off", error=type(error).__name__)
        if request.transport is not None:
            request.transport.abort()
    return response


async def erase(request: web.Request) -> web.Response:
    """Erase the caller: their key is destroyed before the answer; comments and views follow."""
    api = request.app[API]
    here = await visit(request)
    caller = here.signed_in()
    query_of(request, NoQuery)
    key = idempotency(request, here.site.stream_id, caller.id, await raw_body(request))
    site = here.site.name
    api.token_addresses.forget(site, caller.id)
    erasure = await api.erasures.request(site, caller.id, requested_by=caller.id, idempotency=key)
    if erasure is None:
        await forget(api.pool, site, caller.id)  # nothing was sealed, so no worker has anything to do
    version = here.site.version
    if erasure is not None:
        try:
            version = (await announce(api.appenders, erasure)).version
        except Exception as error:  # noqa: BLE001 - the key is gone, and that is answered; a worker tells of it
            _log.warning("an erasure is told of later", error=type(error).__name__)
    body = orjson.dumps(_status(erasure))
    headers = {THREADLOG_VERSION: str(version), hdrs.CACHE_CONTROL: "private, no-store"}
    return web.Response(status=202, body=body, content_type="application/json", headers=headers)


def _status(erasure: Erasure | None) -> dict[str, object]:
    if erasure is None:
        return {"state": "nothing", "requested_at": None, "done_at": None, "comments": None}
    return {
        "state": "running" if erasure.done_at is None else "done",
        "requested_at": timestamp(erasure.requested_at),
        "done_at": None if erasure.done_at is None else timestamp(erasure.done_at),
        "comments": erasure.comments,
    }


async def _pages(api: Api, here: Visit, caller: Caller) -> AsyncIterator[bytes]:
    site = here.site.name
    yield _lines([{"kind": "person", "site": site, "id": caller.id}])
    erasures = await api.erasures.of(site, caller.id)
    yield _lines({"kind": "erasure", **_status(one)} for one in erasures)
    person = Person(api.pool, site, caller.id)
    async for comments in person.comments():
        for one in comments:
            async for lines in _comment(api, one):
                yield lines
    async for reports in person.reports():
        yield _lines([await _report(api, one) for one in reports])
    async for votes in person.votes():
        yield _lines(map(_vote, votes))
    async for lines in _wishes(api, site, caller.id):
        yield lines
    after = None
    while told := await api.inbox.page(site, caller.id, "all", after, _INBOX):
        yield _lines(
            {
                "kind": "notification",
                "id": str(one.id),
                "event_id": str(one.event_id),
                "reason": one.reason,
                "thread": {"key": one.key, "title": one.title, "url": one.url},
                "comment_id": str(one.comment_id),
                "created_at": timestamp(one.created_at),
                "read": one.read,
            }
            for one in told
        )
        after = told[-1].id


async def _wishes(api: Api, site: str, author_id: str) -> AsyncIterator[bytes]:
    """What they follow and want, where their mail goes, and what was sent to them."""
    async for followed in api.subscriptions.of(site, author_id):
        yield _lines(
            {
                "kind": "subscription",
                "stream": str(one.stream_id),
                "thread": None if one.key is None else {"key": one.key, "title": one.title, "url": one.url},
                "level": one.level,
                "created_at": timestamp(one.created_at),
            }
            for one in followed
        )
    wanted = await api.preferences.of(site, author_id)
    if wanted != NOTHING_SAID:
        yield _lines(
            [
                {
                    "kind": "preferences",
                    "mail": wanted.mail,
                    "reasons": wanted.reasons,
                    "quiet": wanted.quiet,
                    "blocked": wanted.blocked,
                }
            ]
        )
    yield _lines(
        {
            "kind": "contact",
            "source": one.source,
            "email": one.email,
            "confirmed": one.confirmed,
            "refused": one.refused,
        }
        for one in await api.contacts.all(site, author_id)
    )
    async for deliveries in Person(api.pool, site, author_id).deliveries():
        yield _lines(
            {
                "kind": "delivery",
                "id": str(one.id),
                "channel": one.channel,
                "about": one.kind,
                "state": one.state,
                "event_id": None if one.event_id is None else str(one.event_id),
                "created_at": timestamp(one.created_at),
                "ended_at": None if one.ended_at is None else timestamp(one.ended_at),
                "reason": one.reason,
            }
            for one in deliveries
        )


def _lines(values: Iterable[dict[str, object]]) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


async def _comment(api: Api, one: OwnComment) -> AsyncIterator[bytes]:
    """A comment, then its revisions, each a line: they may be any number, some at a time are read."""
    stream_id = one.thread.stream_id
    versions, after = [one.posted], 0
    while versions:
        if one.text_version != one.posted:
            versions = await api.log.text_versions(stream_id, one.id, after, _REVISIONS)
        events = await api.log.events_at(stream_id, versions)
        events.sort(key=lambda event: event.version)
        texts = [await _opened(api, event) for event in events]
        lines = [_revision(one, event, text) for event, text in zip(events, texts, strict=True)]
        if after == 0:
            posting = texts[0] if texts else {}
            head: dict[str, object] = {
                "kind": "comment",
                "id": str(one.id),
                "thread": _thread(one.thread),
                "state": one.state,
                "created_at": timestamp(one.created_at),
                "name": posting.get("name"),
                "avatar": posting.get("avatar"),
                "badge": _badge(events[0]) if events else None,
            }
            lines.insert(0, head)
        yield _lines(lines)
        after += len(events)
        if len(versions) < _REVISIONS:
            return


def _badge(posting: Recorded) -> object:
    return UPCASTERS.payload(posting.type, posting.schema_version, posting.data).get("badge")


def _revision(one: OwnComment, event: Recorded, text: dict[str, str]) -> dict[str, object]:
    payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
    return {
        "kind": "revision",
        "comment_id": str(one.id),
        "revision": payload.get("revision", 1),
        "body": text.get("body"),
        "edited_at": timestamp(event.recorded_at),
        "edited_by": payload.get("by", "author"),
    }


async def _report(api: Api, one: OwnReport) -> dict[str, object]:
    (event,) = await api.log.events_at(one.thread.stream_id, [one.version])
    text = await _opened(api, event)
    return {
        "kind": "report",
        "thread": _thread(one.thread),
        "comment_id": str(one.comment_id),
        "reason": UPCASTERS.payload(event.type, event.schema_version, event.data)["reason"],
        "detail": text.get("detail"),
        "created_at": timestamp(event.recorded_at),
    }


def _vote(one: OwnVote) -> dict[str, object]:
    return {
        "kind": "vote",
        "thread": _thread(one.thread),
        "comment_id": str(one.comment_id),
        "value": one.value,
    }


def _thread(thread: OwnThread) -> dict[str, object]:
    return {"key": thread.key, "title": thread.title, "url": thread.url}


async def _opened(api: Api, event: Recorded) -> dict[str, str]:
    """What is sealed in an event; nothing where its key is destroyed."""
    keys = await api.keyring.by_id([] if event.key_id is None else [event.key_id])
    return open_text(event, keys) or {}
