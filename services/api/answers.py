"""Answers: JSON with the headers that reads and writes carry."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from multidict import istr

from services.api.connections import Connection
from services.api.context import Visit
from services.api.deps import Api
from services.api.headers import JSON, PRIVATE, PUBLIC, THREADLOG_STALE, THREADLOG_VERSION
from services.api.pages.encodings import taken
from services.api.pages.memory import Entry
from services.api.pages.shortcut import Way
from services.api.pages.wire import Condition, Prepared, Status, fields, tag_in
from services.api.pages.wire import head as head_bytes
from services.core.pagejson import Reader
from services.readmodel.keys import FORMAT
from services.readmodel.records import Head

_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class Versioned(Protocol):
    """What an ETag takes of a thread's head."""

    @property
    def version(self) -> int: ...
    @property
    def hash(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Unwritten:
    """The head of a thread that has no events yet."""

    key: str
    title: str | None = None
    url: str | None = None
    closed: bool = False
    visible: int = 0
    version: int = 0
    hash: bytes = b""
    build: str = ""
    stale: bool = False


def head_of(head: Head | None, key: str) -> Head | Unwritten:
    """The head, or that of a thread without events."""
    return Unwritten(key) if head is None else head


def etag(head: Versioned, stream_id: UUID, visit: Visit, *query: object, stale: bytes = b"") -> str:
    """The ETag of what this reader is shown of a thread. `stale` as in `tag_of`."""
    shown = (_class_of(visit.reader), visit.site.settings.comment_url, *map(repr, query))
    return f'"{tag_of(head, stream_id.hex, *shown, stale=stale)}"'


def tag_of(head: Versioned, *shown: str, stale: bytes = b"") -> str:
    """A tag without its quotes: the version, and all else that the answer depends on: format, thread, reader
    class, the settings that show, the query.

    The last event's hash is in it too: after a recovery to a point in time another event may have the same
    version. `stale` is the body of an answer that is marked so: a parked thread stays at its version when a
    text that was erased is taken out of it.
    """
    named = "\n".join((FORMAT, *shown)).encode()
    return f"{head.version}-{hashlib.sha256(named + head.hash + stale).hexdigest()[:20]}"


def _class_of(reader: Reader) -> str:
    """Readers of one class are shown the same: everyone, moderators, and each author beside the public."""
    if reader.moderator:
        return "moderators"
    return "public" if reader.author_id is None else f"author {reader.author_id}"


def read(
    request: web.Request, visit: Visit, body: bytes, tag: str, version: int, *, stale: bool = False
) -> web.Response:
    """200 with the body, or 304 where the reader has it."""
    headers = {
        hdrs.ETAG: tag,
        hdrs.CACHE_CONTROL: PUBLIC if visit.caller is None else PRIVATE,
        THREADLOG_VERSION: str(version),
    }
    if stale:
        headers[THREADLOG_STALE] = "true"
    given = request.headers.get(hdrs.IF_NONE_MATCH)
    if given is not None and (given.strip() == "*" or tag in _TAG.findall(given)):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=JSON, headers=headers)


async def remembered(
    request: web.Request, api: Api, visit: Visit, key: object, entry: Entry, min_version: int | None
) -> web.StreamResponse:
    """200 with an answer from memory, in the coding that the client takes best, or 304 where it has it.

    Where somebody who is not signed in may ask so again, the shortcut learns what these bytes lead to.
    """
    accepted = taken(_joined(request, hdrs.ACCEPT_ENCODING))
    condition = Condition.of(_joined(request, hdrs.IF_NONE_MATCH))
    coding = accepted.of(len(entry.body))
    status: Status = 304 if condition.holds(tag_in(entry.tag, coding)) else 200
    body = await api.pages.body(entry, coding) if status == 200 else b""
    if visit.caller is not None or request.version != HttpVersion11 or not request.keep_alive:
        headers = fields(entry, coding, PUBLIC if visit.caller is None else PRIVATE)
        if status == 304:
            return web.Response(status=304, headers=headers)
        if coding != "identity":
            headers[hdrs.CONTENT_ENCODING] = coding
        return web.Response(body=body, content_type=JSON, headers=headers)
    shared = hdrs.ORIGIN in request.headers
    slot, connection = api.pages.slot(key), request.protocol
    if (
        slot is not None
        and isinstance(connection, Connection)
        and connection.received is not None
        and api.shortcut.wants(connection.received)
    ):
        resource = request.match_info.route.resource
        way = Way(
            slot,
            visit.site,
            method="GET" if request.method == hdrs.METH_GET else "HEAD",
            route="other" if resource is None else resource.canonical,
            taken=accepted,
            condition=condition,
            shared=shared,
            min_version=min_version or 0,
        )
        api.shortcut.learn(connection.received, request, way)
    start = head_bytes(entry, coding, status, len(body), shared=shared)
    date = api.shortcut.ends.date(api.pages.clock())
    return Prepared(status, start, date, b"" if request.method == hdrs.METH_HEAD else body)


def _joined(request: web.Request, name: istr) -> str | None:
    """All lines of a header as one (RFC 9110, section 5.3)."""
    values = request.headers.getall(name, None)
    return None if values is None else values[0] if len(values) == 1 else ",".join(values)


def tagged(
    request: web.Request,
    visit: Visit,
    body: bytes,
    seconds: int,
    *,
    media: str = JSON,
    version: int | None = None,
    stale: bool = False,
) -> web.Response:
    """200 with what is the same for everyone and may be kept for some seconds on the way, or 304 where the
    reader has it. Its tag is of the body itself, which comes from many threads."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    kept = "public" if visit.caller is None else "private"
    headers = {hdrs.ETAG: tag, hdrs.CACHE_CONTROL: f"{kept}, max-age={seconds}"}
    if version is not None:
        headers[THREADLOG_VERSION] = str(version)
    if stale:
        headers[THREADLOG_STALE] = "true"
    given = request.headers.get(hdrs.IF_NONE_MATCH)
    if given is not None and (given.strip() == "*" or tag in _TAG.findall(given)):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=media, headers=headers)


def own(body: bytes, version: int | None = None) -> web.Response:
    """200 with what is the caller's own, or the site's."""
    headers = {hdrs.CACHE_CONTROL: PRIVATE}
    if version is not None:
        headers[THREADLOG_VERSION] = str(version)
    return web.Response(body=body, content_type=JSON, headers=headers)


def written(
    status: int, version: int, body: bytes | None = None, location: str | None = None
) -> web.Response:
    """The answer to a write; `version` is the stream's after it."""
    headers = {THREADLOG_VERSION: str(version), hdrs.CACHE_CONTROL: "private, no-store"}
    if location is not None:
        headers[hdrs.LOCATION] = location
    if body is None:
        return web.Response(status=status, headers=headers)
    return web.Response(status=status, body=body, content_type=JSON, headers=headers)
