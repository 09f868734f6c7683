"""One open live stream, as the hub writes to it: bytes straight to its connection, no task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from services.api.live.frames import Piece, piece
from services.core.pagejson import Reader

BUFFERED: Final = 256 * 1024
"""Bytes that may wait for a reader who is slow; one with more of them is cut off, and may resume."""

HEARTBEAT: Final = piece(b": \n\n", 0)


class Listener:
    """A stream of events to one client.

    `position` is the version that the client was told everything up to. `ended` is done once the stream is to
    end; its result says whether in good order.
    """

    __slots__ = ("_chunked", "_dropped", "_id", "_transport", "ended", "position", "reader", "slot", "timer")

    def __init__(
        self,
        transport: asyncio.Transport,
        reader: Reader,
        position: int,
        *,
        chunked: bool,
        dropped: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._chunked = chunked
        self._dropped = dropped
        self._id = position
        self.reader = reader
        self.position = position
        self.slot = 0
        self.timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def tell(self, pieces: Sequence[Piece], position: int) -> None:
        """Write events, after which the client has been told everything up to `position`."""
        for one in pieces:
            if not self.write(one):
                return
            self._id = one.last_id
        self.position = position

    def wrote(self, one: Piece) -> None:
        """This piece was, or is about to be, written by somebody else: no heartbeat goes back behind it."""
        self._id = one.last_id

    def beat(self) -> None:
        """Write a heartbeat; with the version, where it went on by events that this reader may not see."""
        if self.position <= self._id:
            self.write(HEARTBEAT)
        elif self.write(piece(b": \nid: %d\n\n" % self.position, self.position)):
            self._id = self.position

    def write(self, one: Piece) -> bool:
        """Write, unless too much waits already: then the client is cut off. Whether it was written."""
        transport = self._transport
        if self.ended.done():
            return False
        if transport.is_closing():
            self.cut()
            return False
        if transport.get_write_buffer_size() > BUFFERED:
            self._dropped()
            self.cut()
            return False
        transport.write(one.chunk if self._chunked else one.plain)
        return True

    def end(self) -> None:
        """End the stream in good order."""
        self._end(in_order=True)

    def cut(self) -> None:
        """End the stream at once, as it is."""
        if not self.ended.done():
            self._end(in_order=False)
            self._transport.abort()

    def _end(self, *, in_order: bool) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if not self.ended.done():
            self.ended.set_result(in_order)
