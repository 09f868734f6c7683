"""Bounds on what one connection may hold, which aiohttp leaves open, at next to no cost for a request.

aiohttp closes a connection that is idle for `keepalive_timeout`. Here a request head that does not arrive,
and an answer that is not read, end it too. A timer runs only while one of the two is the case.

A request that came before, byte for byte, is answered here without being parsed, where what it asks for is
remembered (`services.api.pages.shortcut`). That is only tried between two requests, with nothing of another
one received and nothing left to be written; so answers keep the order of their requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import resource
import sys
import termios
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server

from services.api.pages.shortcut import LONGEST, Shortcut

HEAD_S: Final = 10.0
"""Seconds in which a request's head must have come once it began."""
STALL_S: Final = 15.0
"""Seconds between two looks at an answer that waits to be read."""
SLOWEST: Final = 1024
"""Bytes a second that a client must read of such an answer."""
MAX_FILES: Final = 65_536
"""Open files that a process asks for, where the system lets it."""

_READS: Final = (b"GET ", b"HEAD ")


class Connection(RequestHandler):
    """A connection that neither a slow head nor an unread answer holds for ever."""

    __slots__ = (
        "_between",
        "_head_timer",
        "_shortcut",
        "_stall_timer",
        "_unread",
        "head_seconds",
        "on_lost",
        "received",
        "stall_seconds",
    )

    def __init__(
        self,
        manager: Server,
        *,
        head_seconds: float,
        stall_seconds: float,
        shortcut: Shortcut | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(manager, **kwargs)
        self.head_seconds = head_seconds
        self.stall_seconds = stall_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self.on_lost: Callable[[], None] | None = None
        """Told when the connection is gone: a handler that waits (a live stream) is not told otherwise."""
        self._shortcut = shortcut
        self._between = True
        """Whether the parser holds nothing of a request that has not come whole."""
        self.received: bytes | None = None
        """All that came of the request under way, where it is a head alone and came at once."""

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        idle = self._between and waiter is not None and not waiter.done() and not self._messages
        if idle and data.startswith(_READS) and self._answered(data):
            return
        before = self._request_count
        super().data_received(data)
        # Behind the one request that came with these bytes, and has no body, nothing more came.
        self._between = (
            self._request_count == before + 1
            and data[-4:] == b"\r\n\r\n"
            and len(self._messages) == 1
            and self._messages[0][1] is EMPTY_PAYLOAD
            and not self._upgraded
        )
        self.received = data if idle and self._between and len(data) <= LONGEST else None
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            # Bytes came, and still no request: a head has begun.
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(self.head_seconds, self._cut)
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _answered(self, data: bytes) -> bool:
        """Whether the request was answered by the shortcut."""
        transport = self.transport
        if (
            self._shortcut is None
            or transport is None
            or len(data) > LONGEST
            or self._paused
            or self._close
            or self._force_close
            or not self._shortcut.answer(data, transport)
        ):
            return False
        self._request_count += 1
        if self._manager is not None:
            self._manager.requests_count += 1
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return True

    def _cut(self) -> None:
        self._head_timer = None
        if self._waiter is not None and not self._waiter.done():
            self.force_close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._look_later(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        self._abandon(transport)

    async def start(self) -> None:
        await super().start()
        self._abandon(self.transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stall_timer = None

    def _abandon(self, transport: asyncio.Transport | None) -> None:
        """A closed connection stays as long as its last answer is not read: not for ever."""
        if transport is not None and self._stall_timer is None and transport.get_write_buffer_size():
            self._look_later(transport)

    def _look_later(self, transport: asyncio.Transport) -> None:
        self._unread = _unread(transport)
        self._stall_timer = self._loop.call_later(self.stall_seconds, self._look, transport)

    def _look(self, transport: asyncio.Transport) -> None:
        self._stall_timer = None
        if not transport.get_write_buffer_size():
            return
        unread = _unread(transport)
        if unread > self._unread - SLOWEST * self.stall_seconds:
            transport.abort()
        else:
            self._look_later(transport)


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that the client has not taken yet: those that wait here, and those in the kernel's buffer, which
    makes room for more by megabytes."""
    waiting = transport.get_write_buffer_size()
    with contextlib.suppress(AttributeError, OSError, ValueError):
        file = transport.get_extra_info("socket").fileno()
        waiting += int.from_bytes(fcntl.ioctl(file, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return waiting


class _Server(Server):
    """Makes `Connection`s."""

    def __init__(self, made: Server, **kwargs: Any) -> None:
        super().__init__(made.request_handler, request_factory=made.request_factory)
        self._bounds = kwargs

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._bounds)


class Runner(web.AppRunner):
    """An AppRunner whose connections are bounded."""

    __slots__ = ("_bounds",)

    def __init__(
        self,
        app: web.Application,
        *,
        head_seconds: float = HEAD_S,
        stall_seconds: float = STALL_S,
        shortcut: Shortcut | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, **kwargs)
        self._bounds: dict[str, Any] = {
            "head_seconds": head_seconds,
            "stall_seconds": stall_seconds,
            "shortcut": shortcut,
        }

    async def _make_server(self) -> Server:
        made = await super()._make_server()
        return _Server(made, **self._bounds, **self._kwargs)


def raise_file_limit(limit: int = MAX_FILES) -> int:
    """Let this process open more files, a connection each: as many as the system lets it, at most `limit`.

    The number that it may open then.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
