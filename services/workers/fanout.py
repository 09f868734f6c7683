"""Telling the followers of large threads, by as many workers as are free.

A message only says that a thread's followers wait. Whoever begins with one part of them sends the next
message, so that the work spreads, and what is lost is found by the caretaker. Threads have their turns chunk
by chunk, so that a small one does not wait for a large one. The queue is its own: other threads'
notifications do not wait behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final
from uuid import UUID

from services.eventlog.fanouts import Fanouts
from services.pokes import FAN_OUT_ACTOR, Poker

AT_ONCE: Final = 2
"""Chunks under way in one process: the others of its connections are for those who wait for less."""
TURN_S: Final = 1.0
"""Seconds after which a message has had its turn, and another one follows."""
WAITING: Final = 10_000
"""Threads that wait here, at most; more are found by the caretaker."""


class FanningOut:
    """What one worker process does for fan-outs."""

    def __init__(self, fanouts: Fanouts, poker: Poker, told: Callable[[str, Collection[str]], None]) -> None:
        """`told` hears who was told on which site, after it is durable."""
        self._fanouts = fanouts
        self._poker = poker
        self._told = told
        self._under_way = 0
        self._waiting: dict[UUID, None] = {}
        """Threads that messages were about, in the order of their turns."""

    async def handle(self, stream_ids: Collection[UUID]) -> int:
        """Tell followers of these threads, and of those that wait, a chunk of each in turn, until nobody is
        left or this message's turn is over; how many were told. While enough chunks are under way here, it is
        left to whoever is at them."""
        for stream_id in stream_ids:
            if len(self._waiting) < WAITING:
                self._waiting.setdefault(stream_id)
        if self._under_way >= AT_ONCE:
            return 0
        self._under_way += 1
        try:
            return await self._turns()
        finally:
            self._under_way -= 1
            if self._waiting and not self._under_way:
                self._poker.poke(list(self._waiting), [FAN_OUT_ACTOR])
                self._waiting.clear()

    async def look(self) -> None:
        """Send messages about the followers that wait for too long."""
        if left := await self._fanouts.left():
            self._poker.poke(left, [FAN_OUT_ACTOR])

    async def _turns(self) -> int:
        until, count = time.monotonic() + TURN_S, 0
        begun: set[UUID] = set()
        while self._waiting and time.monotonic() < until:
            stream_id = next(iter(self._waiting))
            del self._waiting[stream_id]
            chunk = await self._fanouts.tell(stream_id)
            if chunk is None:
                continue
            self._waiting.setdefault(stream_id)
            if stream_id not in begun and chunk.recipients:
                begun.add(stream_id)
                self._poker.poke([stream_id], [FAN_OUT_ACTOR])  # others may help
            count += len(chunk.recipients)
            if chunk.recipients:
                self._told(chunk.site, chunk.recipients)
        return count
