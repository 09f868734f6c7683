"""`GET S/me/notifications/live`: the caller's notifications as they come (contract, section 9).

An event's id says what was seen of the inbox: a snapshot of Postgres' transactions, and a place behind it. So
whoever comes back is told what was committed since, in whatever order that was, and nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final, NamedTuple

import orjson
import structlog
from aiohttp import hdrs, web
from aiohttp.http_writer import HttpVersion11

from services.api.answers import own
from services.api.connections import Connection
from services.api.context import Visit, single, visit
from services.api.deps import API, Api
from services.api.gathering import gathered
from services.api.live.frames import EVENTS, PIECE, RESET, piece
from services.api.live.listener import Listener
from services.api.live.streams import (
    BEHIND,
    EVENT_STREAM,
    RETRY,
    bound,
    seconds_of,
    stream_response,
    wants_json,
)
from services.api.live.thread import FAULTS
from services.api.middleware import finish
from services.api.notifications import item
from services.api.problems import Problem
from services.api.queries import InboxLiveQuery, query_of
from services.errors import CursorInvalid
from services.eventlog.inbox import News, Seen

NOTIFICATION: Final = "notification"

_log = structlog.get_logger("threadlog.api")


class _Event(NamedTuple):
    """An event; who was told it has `seen` that."""

    name: str
    data: bytes
    seen: Seen


async def follow(request: web.Request) -> web.StreamResponse:
    """The caller's notifications from now on, or after an event, as events; as JSON to who polls."""
    api = request.app[API]
    query = query_of(request, InboxLiveQuery)
    here = await visit(request, any_media=True, token=query.access_token)
    reader = _Reader(api, here)
    polls = wants_json(request)
    seen = _resumed(request, reader) or (None if query.after is None else reader.seen_in(query.after))
    if polls:
        return await _poll(reader, seen)
    if request.method == hdrs.METH_HEAD:
        return web.Response(content_type=EVENT_STREAM)
    with api.live.place(api.addresses.bucket(request)):
        return await _Stream(request, reader, seen or await api.inbox.present()).run()


def _resumed(request: web.Request, reader: _Reader) -> Seen | None:
    """What the header Last-Event-ID says. Raises Problem `bad-header`."""
    given = single(request, "Last-Event-ID")
    try:
        return None if given is None else reader.seen_in(given)
    except CursorInvalid:
        raise Problem("bad-header", "Last-Event-ID takes the id of an event of this inbox") from None


async def _poll(reader: _Reader, seen: Seen | None) -> web.Response:
    """The next events at once, at most 100."""
    if seen is None:
        after, found = await reader.api.inbox.present(), []
    else:
        news = await reader.news(seen)
        found = [event async for events in reader.events(news, EVENTS) for event in events]
        after = found[-1].seen if found else news.now
    items = [
        {"id": reader.id_of(one.seen), "event": one.name, "data": orjson.Fragment(one.data)} for one in found
    ]
    return own(orjson.dumps({"items": items, "after": reader.id_of(after)}))


class _Reader:
    """Somebody's inbox, as its events are made."""

    def __init__(self, api: Api, here: Visit) -> None:
        """Raises Problem `unauthenticated`."""
        self.api = api
        self.here = here
        self.site = here.site.name
        self.person = here.signed_in().id
        self._scope = f"{self.site}\nlive\n{self.person}".encode()

    def id_of(self, seen: Seen) -> str:
        """The id of an event after which that was seen."""
        return self.api.cursors.seen(self._scope, seen)

    def seen_in(self, given: str) -> Seen:
        """What an event's id says. Raises CursorInvalid."""
        return self.api.cursors.seen_in(self._scope, given)

    async def news(self, seen: Seen) -> News:
        """What came since, one more than anybody is told."""
        return await self.api.inbox.since(self.site, self.person, seen, BEHIND + 1)

    async def events(self, news: News, limit: int = BEHIND) -> AsyncIterator[list[_Event]]:
        """The first events, some at a time; a `reset` alone where it is too much to tell.

        Raises Overloaded or Unavailable where a comment cannot be read just now.
        """
        if news.ahead or len(news.items) > BEHIND:
            self.api.live.resets += 1
            unread = await self.api.inbox.unread(self.site, self.person)
            yield [_Event(RESET, b'{"unread":%d}' % unread, news.now)]
            return
        done, end = 0, min(limit, len(news.items))
        while done < end:
            some = news.items[done : min(end, done + EVENTS)]
            places = [(one.stream_id, one.comment_id) for one in some]
            comments = await gathered(self.api, places, whole=True)
            unread = await self.api.inbox.unread(self.site, self.person)
            yield [
                _Event(
                    NOTIFICATION,
                    orjson.dumps({"notification": item(self.here, one, comment), "unread": unread}),
                    seen,
                )
                for one, comment, seen in zip(some, comments, news.seen[done:], strict=False)
            ]
            done += len(comments)


class _Listener(Listener):
    """An inbox's stream, whose heartbeat is written once it was looked at."""

    __slots__ = ("looked_at",)
    looked_at: _Stream

    def beat(self) -> None:
        self.looked_at.due()


class _Stream:
    """One open stream, from its head to its end."""

    def __init__(self, request: web.Request, reader: _Reader, seen: Seen) -> None:
        self._request = request
        self._reader = reader
        self._api = reader.api
        self._listener: _Listener | None = None
        self.site = reader.site
        self.person = reader.person
        self.seen = seen

    async def run(self) -> web.StreamResponse:
        """Tell what the client missed, then everything, until the stream ends."""
        news = await self._reader.news(self.seen)
        response, request = stream_response(), self._request
        finish(request, response)
        await response.prepare(request)
        transport, work = request.transport, asyncio.current_task()
        if transport is None or work is None:
            return response
        self._api.deadlines.end(work)
        bound(transport)
        listener = self._listener = _Listener(
            transport,
            self._reader.here.reader,
            0,
            chunked=request.version >= HttpVersion11,
            dropped=self._api.live.drop,
        )
        listener.looked_at = self
        if isinstance(request.protocol, Connection):
            request.protocol.on_lost = listener.cut
        with self._api.live.listening(listener, seconds_of(self._reader.here)):
            try:
                await response.write(RETRY + self._id())
                await self._catch_up(response, listener, news)
                with self._api.inboxes.following(self):
                    in_order = await listener.ended
            except FAULTS as error:
                # The client resumes where it was: what it is not told now, it asks for then.
                if not isinstance(error, ConnectionError):
                    _log.warning("an inbox's stream is cut off", error=type(error).__name__)
                in_order = False
        if not in_order and request.transport is not None:
            request.transport.abort()
        return response

    async def _catch_up(self, response: web.StreamResponse, listener: Listener, news: News) -> None:
        """Tell what was missed, as fast as the client takes it."""
        async for events in self._reader.events(news):
            for part, seen in self._pieces(events):
                if listener.ended.done():
                    return
                self.seen = seen  # before it waits: no heartbeat says less than what is written
                await response.write(part)
        if not news.items:
            self.seen = news.now

    async def tell(self) -> None:
        """Tell what came. Raises FAULTS."""
        listener = self._listener
        assert listener is not None
        news = await self._reader.news(self.seen)
        async for events in self._reader.events(news):
            for part, seen in self._pieces(events):
                if not listener.write(piece(part, 0)):
                    return
                self.seen = seen
        if not news.items and not news.ahead:
            self.seen = news.now

    def due(self) -> None:
        """It is time for a heartbeat."""
        self._api.inboxes.beat(self)

    def beat(self) -> None:
        """Write a heartbeat that says what has been seen."""
        if self._listener is not None:
            self._listener.write(piece(b": \n" + self._id(), 0))

    def _id(self) -> bytes:
        return f"id: {self._reader.id_of(self.seen)}\n\n".encode()

    def _pieces(self, events: Sequence[_Event]) -> Iterator[tuple[bytes, Seen]]:
        """The events as they go over the wire, some of them together, and what was seen with each."""
        blocks: list[bytes] = []
        size, seen = 0, self.seen
        for one in events:
            made = b"id: %b\nevent: %b\ndata: %b\n\n" % (
                self._reader.id_of(one.seen).encode(),
                one.name.encode(),
                one.data,
            )
            if blocks and size + len(made) > PIECE:
                yield b"".join(blocks), seen
                blocks.clear()
                size = 0
            blocks.append(made)
            size += len(made)
            seen = one.seen
        if blocks:
            yield b"".join(blocks), seen
