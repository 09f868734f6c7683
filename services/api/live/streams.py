"""`GET T/live`: a thread's events as they come (contract, section 9)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from typing import Final

import structlog
from aiohttp import hdrs, web
from aiohttp.http_writer import HttpVersion11

from services.api.connections import Connection
from services.api.context import Thread, Visit, single, thread_of, visit
from services.api.deps import API, Api
from services.api.headers import THREADLOG_VERSION
from services.api.live.frames import Batch, reset
from services.api.live.listener import Listener
from services.api.live.thread import FAULTS, LiveThread
from services.api.middleware import finish
from services.api.problems import Problem
from services.api.queries import LiveQuery, query_of
from services.errors import Unavailable

BEHIND: Final = 1_000
"""Events that a client may be behind; further back it is told to load the thread anew."""
KERNEL: Final = 128 * 1024
"""Bytes of a stream that the kernel may keep."""
EVENT_STREAM: Final = "text/event-stream"

RETRY: Final = b"retry: 3000\n\n"
_KEY_S: Final = 3600.0
"""Seconds after which a server key is looked at again: its stream ends, and begins anew where it holds."""
_VERSION: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_WEIGHT: Final = re.compile(r"q\s*=\s*([01](?:\.[0-9]{0,3})?)", re.ASCII)

_log = structlog.get_logger("threadlog.api")


async def follow(request: web.Request) -> web.StreamResponse:
    """The thread's events from now on, or after a version, as Server-Sent Events; to who polls, as JSON."""
    api = request.app[API]
    query = query_of(request, LiveQuery)
    here = await visit(request, any_media=True, token=query.access_token)
    polls = wants_json(request)
    thread = thread_of(request, here.site)
    resumed = last_event_id(request)
    after = query.after if resumed is None else resumed
    found = await api.log.head(thread.stream_id)
    head = 0 if found is None else found[0]
    if polls:
        return await _poll(api, here, thread, after, head)
    if request.method == "HEAD":
        return web.Response(content_type=EVENT_STREAM, headers={THREADLOG_VERSION: str(head)})
    with (
        api.live.place(api.addresses.bucket(request)),
        api.live.following(thread.stream_id, here.site.name, head) as followed,
    ):
        return await _Stream(request, api, here, followed).run(after, head, resumed=resumed is not None)


def last_event_id(request: web.Request) -> int | None:
    """The header Last-Event-ID as a version. Raises Problem `bad-header`."""
    given = single(request, "Last-Event-ID")
    if given is None:
        return None
    if not _VERSION.fullmatch(given):
        raise Problem("bad-header", "Last-Event-ID takes the id of an event, which is a whole number")
    return int(given)


def wants_json(request: web.Request) -> bool:
    """Whether the client polls: Accept prefers JSON to a stream. Raises Problem `not-acceptable`."""
    given = request.headers.getall(hdrs.ACCEPT, ())
    if not given or given == [EVENT_STREAM]:
        return False
    weights: dict[str, float] = {}
    for one in ",".join(given).lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        found = [match for parameter in parameters if (match := _WEIGHT.fullmatch(parameter))]
        weights[kind] = float(found[0][1]) if found else 1.0
    anything = weights.get("*/*", 0.0)
    stream = weights.get(EVENT_STREAM, weights.get("text/*", anything))
    json = weights.get("application/json", weights.get("application/*", anything))
    if weights.keys() == {""}:
        return False
    if not stream and not json:
        raise Problem("not-acceptable", "this answers with text/event-stream or application/json")
    return json > stream


def stream_response() -> web.StreamResponse:
    """The head of a stream of events."""
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: EVENT_STREAM,
            hdrs.CACHE_CONTROL: "private, no-store, no-transform",
            "X-Accel-Buffering": "no",  # nginx would keep events back else
        }
    )
    response.force_close()
    return response


def seconds_of(here: Visit) -> float | None:
    """After how many seconds the stream of this reader ends."""
    caller = here.caller
    if caller is None:
        return None
    return _KEY_S if caller.key else max(0.0, caller.expires - time.time())


def bound(transport: asyncio.Transport) -> None:
    """Let the kernel keep little for a reader who is slow: by itself it makes room for megabytes."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL)


def _is_far(after: int, head: int) -> bool:
    return after > head or head - after > BEHIND


async def _poll(api: Api, here: Visit, thread: Thread, after: int | None, head: int) -> web.Response:
    """The next events at once, at most 100."""
    teller = api.live.teller
    if after is None:
        batch = Batch(head, head, ())
    elif _is_far(after, head):
        api.live.resets += 1
        batch = reset(head, await teller.head(thread.stream_id, head))
    else:
        batch = await teller.after(thread.stream_id, here.site.name, after)
    return _polled(batch.items(here.reader), batch.to, max(head, batch.to))


def _polled(items: list[bytes], after: int, head: int) -> web.Response:
    return web.Response(
        body=b'{"items":[%b],"after":%d}' % (b",".join(items), after),
        content_type="application/json",
        headers={THREADLOG_VERSION: str(head)},
    )


class _Stream:
    """One open stream, from its head to its end."""

    def __init__(self, request: web.Request, api: Api, here: Visit, thread: LiveThread) -> None:
        self._request = request
        self._api = api
        self._here = here
        self._thread = thread
        self._response = stream_response()

    async def run(self, after: int | None, head: int, *, resumed: bool) -> web.StreamResponse:
        """Tell what the client missed, then everything, until the stream ends."""
        missed = await self._missed(after, head, resumed=resumed)
        response, request = self._response, self._request
        response.headers[THREADLOG_VERSION] = str(head)
        finish(request, response)
        await response.prepare(request)
        transport = request.transport
        work = asyncio.current_task()
        if transport is None or work is None:
            return response
        self._api.deadlines.end(work)
        bound(transport)
        position = head if after is None or _is_far(after, head) else after
        listener = Listener(
            transport,
            self._here.reader,
            position,
            chunked=request.version >= HttpVersion11,
            dropped=self._api.live.drop,
        )
        if isinstance(request.protocol, Connection):
            request.protocol.on_lost = listener.cut
        with self._api.live.listening(listener, seconds_of(self._here)):
            try:
                await response.write(RETRY)
                for batch in missed:
                    await self._tell(listener, batch)
                await self._catch_up(listener)
                in_order = await listener.ended
            except FAULTS as error:
                # The client resumes where it was: what it is not told now, it asks for then.
                if not isinstance(error, ConnectionError):
                    _log.warning("a live stream is cut off", error=type(error).__name__)
                in_order = False
            finally:
                self._thread.listeners.pop(listener, None)
        if not in_order and request.transport is not None:
            request.transport.abort()
        return response

    async def _missed(self, after: int | None, head: int, *, resumed: bool) -> list[Batch]:
        """What the stream begins with. A client that resumes was cut off, perhaps while tallies waited."""
        thread = self._thread
        if after is None:
            return []
        if _is_far(after, head):
            self._api.live.resets += 1
            return [reset(head, await self._api.live.teller.head(thread.stream_id, head))]
        missed = [await thread.waited(after)] if resumed and after else []
        if after < head:
            missed.append(await thread.replay(after))
        return missed

    async def _tell(self, listener: Listener, batch: Batch) -> None:
        """Write events, as fast as the client takes them."""
        for one in batch.pieces(self._here.reader):
            if listener.ended.done():
                return
            listener.wrote(one)
            await self._response.write(one.plain)
        listener.position = batch.to

    async def _catch_up(self, listener: Listener) -> None:
        """Let the stream listen, once it has been told all that those who listen were told, or more: of a
        thread that never rests nobody is told just as much."""
        thread = self._thread
        while listener.position < thread.position and not listener.ended.done():
            batch = await thread.replay(listener.position)
            if batch.to == listener.position:
                raise Unavailable("the log has lost events that were told")
            await self._tell(listener, batch)
        if not listener.ended.done():
            thread.join(listener)
