"""Telling the followers of large threads, by as many workers as are free.

A message only says that a thread's followers wait. Whoever begins with one part of them sends the next
message, so that the work spreads, and what is lost is found by the caretaker. The queue is its own: other
threads' notifications do not wait behind it.
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


class FanningOut:
    """What one worker process does for fan-outs."""

    def __init__(self, fanouts: Fanouts, poker: Poker, told: Callable[[str, Collection[str]], None]) -> None:
        """`told` hears who was told on which site, after it is durable."""
        self._fanouts = fanouts
        self._poker = poker
        self._told = told
        self._under_way = 0

    async def handle(self, stream_ids: Collection[UUID]) -> int:
        """Tell followers of these threads until nobody is left or its turn is over; how many were told."""
        return sum([await self._of(stream_id) for stream_id in stream_ids])

    async def look(self) -> None:
        """Send messages about the followers that wait for too long."""
        if left := await self._fanouts.left():
            self._poker.poke(left, [FAN_OUT_ACTOR])

    async def _of(self, stream_id: UUID) -> int:
        if self._under_way >= AT_ONCE:
            return 0  # this process is at it: the message is for another one
        began, count = time.monotonic(), 0
        self._under_way += 1
        try:
            while (chunk := await self._fanouts.tell(stream_id)) is not None:
                if not count or time.monotonic() - began > TURN_S:
                    self._poker.poke([stream_id], [FAN_OUT_ACTOR])
                count += len(chunk.recipients)
                if chunk.recipients:
                    self._told(chunk.site, chunk.recipients)
                if time.monotonic() - began > TURN_S:
                    break
        finally:
            self._under_way -= 1
        return count
