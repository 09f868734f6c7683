"""Which views were read, and when: what the budget of memory goes by.

    tl:reads                               zset    every view, of any format: member = <format>:<stream>;
                                                   score = when it was built or last read, Unix seconds
    tl:log                                 hash    format -> of which log its views were made, and by which
                                                   Redis they were kept (projection/restored.py)

Without the format in its key, so that a release also knows the views of the one before it, which lie beside
its own during a deploy. A view is entered before it is switched to: what stands here and is no view costs a
look, a view that does not stand here would never be dropped.
Hot pages never reach Redis, so the API's processes gather what they read and report it every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Collection
from contextlib import suppress
from typing import Final, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from services.readmodel import keys

_log = logging.getLogger(__name__)

READS: Final = "tl:reads"
LOG: Final = "tl:log"

REPORT_S: Final = 2.0
"""Seconds between two reports of an API process."""

MOST: Final = 50_000
"""Threads that a process remembers between two reports; reads of more are forgotten."""

_AT_ONCE: Final = 1000


class Reads:
    """The threads that this process has read since it last reported. `add` is cheap enough for every read."""

    __slots__ = ("_streams",)

    def __init__(self) -> None:
        self._streams: set[UUID] = set()

    def add(self, stream_id: UUID) -> None:
        """The thread's view, or a page made of it, was read."""
        if len(self._streams) < MOST:
            self._streams.add(stream_id)

    def take(self) -> set[UUID]:
        """What was read since this was last called."""
        taken, self._streams = self._streams, set()
        return taken


def member(stream_id: UUID, format_: str = keys.FORMAT) -> str:
    """How a view is entered."""
    return f"{format_}:{stream_id.hex}"


class Recency:
    """The register of views in one Redis. Its methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def built(self, stream_id: UUID) -> None:
        """Enter a view that is about to be there."""
        await self.read([stream_id])

    async def read(self, stream_ids: Collection[UUID]) -> None:
        """Enter that these threads were read just now."""
        now = time.time()
        members = [member(stream_id) for stream_id in stream_ids]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for begin in range(0, len(members), _AT_ONCE):
                pipeline.zadd(READS, dict.fromkeys(members[begin : begin + _AT_ONCE], now))
            await pipeline.execute()

    async def gone(self, members: Collection[str]) -> None:
        """Take views that were dropped out of the register."""
        if members:
            await self._redis.zrem(READS, *members)

    async def oldest(self, limit: int, until: float) -> list[str]:
        """The members that were last read by `until` (Unix seconds), the least recently read first."""
        found = await self._redis.zrangebyscore(READS, "-inf", until, start=0, num=limit)
        return [one.decode() for one in cast(list[bytes], found)]

    async def count(self) -> int:
        """How many views there are, of all formats."""
        return int(await self._redis.zcard(READS))

    async def entered(self, cursor: int) -> tuple[int, list[UUID]]:
        """Where to go on from `cursor` (0 to begin, and at the end), and some of the threads that have a view
        of this format. One that is there all the while is among them, perhaps more than once.
        """
        cursor, found = cast(
            tuple[int, list[tuple[bytes, float]]], await self._redis.zscan(READS, cursor, count=_AT_ONCE)
        )
        ours = f"{keys.FORMAT}:".encode()
        return cursor, [UUID(one[len(ours) :].decode()) for one, _ in found if one.startswith(ours)]

    async def told(self) -> str | None:
        """What `tell` was told last."""
        told = await cast(Awaitable[bytes | None], self._redis.hget(LOG, keys.FORMAT))
        return None if told is None else told.decode()

    async def tell(self, log: str) -> None:
        """Keep of which log the views are."""
        await self._redis.hset(LOG, keys.FORMAT, log)

    async def server(self) -> str:
        """Names this run of the server: another one may have lost what the last one held."""
        return str((await self._redis.info("server"))["run_id"])

    async def report(self, reads: Reads) -> None:
        """Report what a process reads, every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(REPORT_S)
            if taken := reads.take():
                # Those that Redis does not take are reported by the next read of them.
                with suppress(RedisError, OutOfMemoryError):
                    await self.read(taken)
