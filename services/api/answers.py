"""Answers: JSON with the headers that reads and writes carry."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from aiohttp import hdrs, web
from multidict import istr

from services.api.context import Visit
from services.core.pagejson import Reader
from services.readmodel.keys import FORMAT
from services.readmodel.records import Head

THREADLOG_VERSION: Final = istr("Threadlog-Version")
THREADLOG_STALE: Final = istr("Threadlog-Stale")

_PUBLIC: Final = "public, max-age=0, must-revalidate"
_PRIVATE: Final = "private, max-age=0, must-revalidate"
_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_JSON: Final = "application/json"


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
    stale: bool = False


def head_of(head: Head | None, key: str) -> Head | Unwritten:
    """The head, or that of a thread without events."""
    return Unwritten(key) if head is None else head


def etag(head: Versioned, stream_id: UUID, visit: Visit, *query: object) -> str:
    """The tag of a thread's representation: format, version, reader class, the settings that show, query.

    The last event's hash is in it too: after a recovery to a point in time another event may have the same
    version.
    """
    shown = "\n".join(
        (FORMAT, stream_id.hex, _class_of(visit.reader), visit.site.settings.comment_url, *map(repr, query))
    )
    digest = hashlib.sha256(shown.encode() + head.hash).hexdigest()[:20]
    return f'"{head.version}-{digest}"'


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
        hdrs.CACHE_CONTROL: _PUBLIC if visit.caller is None else _PRIVATE,
        THREADLOG_VERSION: str(version),
    }
    if stale:
        headers[THREADLOG_STALE] = "true"
    given = request.headers.get(hdrs.IF_NONE_MATCH)
    if given is not None and (given.strip() == "*" or tag in _TAG.findall(given)):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=_JSON, headers=headers)


def own(body: bytes, version: int | None = None) -> web.Response:
    """200 with what is the caller's own, or the site's."""
    headers = {hdrs.CACHE_CONTROL: _PRIVATE}
    if version is not None:
        headers[THREADLOG_VERSION] = str(version)
    return web.Response(body=body, content_type=_JSON, headers=headers)


def written(
    status: int, version: int, body: bytes | None = None, location: str | None = None
) -> web.Response:
    """The answer to a write; `version` is the stream's after it."""
    headers = {THREADLOG_VERSION: str(version), hdrs.CACHE_CONTROL: "private, no-store"}
    if location is not None:
        headers[hdrs.LOCATION] = location
    if body is None:
        return web.Response(status=status, headers=headers)
    return web.Response(status=status, body=body, content_type=_JSON, headers=headers)
