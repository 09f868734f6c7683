"""Remembered answers as bytes, ready to be written: the same from the handler and from the shortcut.

Only the request's id and the date differ from one answer to the next; they stand last in the head.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Final, Literal, NamedTuple

from aiohttp import ClientConnectionResetError, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from services.api import headers
from services.api.pages.encodings import Coding
from services.api.pages.memory import HEADS, Entry

Status = Literal[200, 304]

_TAG: Final = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_LINES: Final[dict[Status, bytes]] = {
    200: b"HTTP/1.1 200 OK\r\n",
    304: b"HTTP/1.1 304 Not Modified\r\n",
}
_POOL: Final = 4096
_SEPARATE: Final = 32 * 1024
"""Bytes from which a body is handed to the transport by itself, which spares a copy."""


class Condition(NamedTuple):
    """What an If-None-Match names: tags without quotes, or any.

    A tag stands for one coding alone, here too: a cache that names the tags of all that it keeps would take
    a 304 for leave to send what this client cannot read (RFC 9110, section 13.1.2).
    """

    tags: frozenset[str] = frozenset()
    any: bool = False

    @classmethod
    def of(cls, header: str | None) -> Condition:
        """What the header names; nothing where there is none."""
        if header is None:
            return _NONE
        if header.strip() == "*":
            return cls(any=True)
        return cls(frozenset(_TAG.findall(header)))

    def holds(self, tag: str) -> bool:
        """Whether the client has what that tag, without quotes, stands for."""
        return self.any or tag in self.tags


_NONE: Final = Condition()


def tag_in(tag: str, coding: Coding) -> str:
    """The tag of a body in a coding, without quotes: strong ones tell codings apart (RFC 9110, section
    8.8.3)."""
    return tag if coding == "identity" else f"{tag}+{coding}"


def fields(entry: Entry, coding: Coding, cache: str) -> dict[str, str]:
    """The headers of an answer that both a 200 and a 304 have, those of every answer left out."""
    found: dict[str, str] = {
        hdrs.ETAG: f'"{tag_in(entry.tag, coding)}"',
        hdrs.CACHE_CONTROL: cache,
        headers.THREADLOG_VERSION: str(entry.version),
    }
    if entry.stale:
        found[headers.THREADLOG_STALE] = "true"
    return found


def _lines(fields: Mapping[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()]).encode("ascii")


_ENDS: Final = _lines({**headers.EVERYWHERE, headers.CSP: headers.NOTHING}) + b"%b: " % (
    headers.X_REQUEST_ID.encode()
)
"""What all heads have, up to the request's id."""
_SHARED_ENDS: Final = (
    _lines({hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*", hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: headers.EXPOSED})
    + _ENDS
)


def head(entry: Entry, coding: Coding, status: Status, length: int, *, shared: bool) -> bytes:
    """The head of an answer to somebody not signed in, up to the request's id. `shared`: across origins."""
    made = entry.heads.get((coding, status, shared))
    if made is not None:
        return made
    found = fields(entry, coding, headers.PUBLIC)
    if status == 200:
        if coding != "identity":
            found[hdrs.CONTENT_ENCODING] = coding
        found[hdrs.CONTENT_TYPE] = headers.JSON
        found[hdrs.CONTENT_LENGTH] = str(length)
    made = _LINES[status] + _lines(found) + (_SHARED_ENDS if shared else _ENDS)
    if len(entry.heads) < HEADS:
        entry.heads[coding, status, shared] = made
    return made


class Ends:
    """What ends the head of each answer: the request's id and the date."""

    __slots__ = ("_at", "_clock", "_date", "_ids", "_until")

    def __init__(self) -> None:
        self._ids = b""
        self._at = 0
        self._date = b""
        self._until = 0.0

    def request_id(self) -> bytes:
        """A new request id: 128 random bits in hexadecimal. One call of the system makes many."""
        at = self._at
        if at >= len(self._ids):
            self._ids, at = os.urandom(_POOL).hex().encode(), 0
        self._at = at + 32
        return self._ids[at : at + 32]

    def date(self, now: float) -> bytes:
        """The Date line and the head's end. `now` is of `time.monotonic`."""
        if now >= self._until:
            seconds = time.time()
            self._date = f"\r\nDate: {formatdate(seconds, usegmt=True)}\r\n\r\n".encode()
            self._until = now + 1.0 - seconds % 1.0
        return self._date


def write(transport: asyncio.Transport, start: bytes, request_id: bytes, date: bytes, body: bytes) -> int:
    """Write an answer to a connection, and tell how many bytes it had."""
    if len(body) > _SEPARATE:
        top = b"".join((start, request_id, date))
        transport.write(top)
        transport.write(body)
        return len(top) + len(body)
    whole = b"".join((start, request_id, date, body))
    transport.write(whole)
    return len(whole)


class Prepared(web.StreamResponse):
    """An answer that is bytes already. For requests of HTTP/1.1 whose connection stays open."""

    def __init__(self, status: Status, start: bytes, date: bytes, body: bytes) -> None:
        """`start` is the head up to the request's id, `body` empty for HEAD and 304."""
        super().__init__(status=status)
        self._start_bytes = start
        self._date_bytes = date
        self._body_bytes = body
        self.request_id = b""

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Write it whole."""
        if self._eof_sent:
            return None
        self._eof_sent = True
        self._keep_alive = request.keep_alive
        self._req = request
        writer, transport = request.writer, request.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the connection is closing")
        writer.output_size += write(
            transport, self._start_bytes, self.request_id, self._date_bytes, self._body_bytes
        )
        await writer.drain()
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """It is written already."""
