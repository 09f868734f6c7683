"""The views' budget of memory: past it, those that were least recently read are dropped, whole.

Redis' own eviction takes single keys, and a view that lost one is no view: it is to run with `noeviction`.
Only what somebody reads is worth its memory: a dropped view comes back when it is read.
Views in the formats of other releases count too. What such a release has not entered in the register
(recency.py) was last read nobody knows when, and goes first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from services.readmodel import keys
from services.readmodel.recency import READS, member
from services.readmodel.remains import Remains
from services.readmodel.views import Views

LOW: Final = 0.95
"""The part of the budget that is left when dropping ends: not every round is to begin again."""

OF_MAXMEMORY: Final = 0.75
"""The part of the server's `maxmemory` that is the budget where none is set."""

RECENT_S: Final = 10.0
"""Views read within so many seconds are dropped only when there is nothing else."""

ROUND_S: Final = 2.0
"""Seconds of dropping in one round, at most."""

_AT_ONCE: Final = 100
_LOOK_S: Final = 600.0
"""Seconds between two searches for views that no register has: each goes through every key."""
_FREEING_S: Final = 0.5
_POLL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Spent:
    """What one round found: bytes in use and the budget (0: none), how many views there are, how many views
    the round dropped."""

    used: int
    budget: int
    views: int
    dropped: int


class Budget:
    """Keeps the views of one Redis within `limit` bytes of the server's memory; without one, within
    OF_MAXMEMORY of what the server may use, or in no bounds. `redis` must not decode answers."""

    def __init__(self, redis: Redis, views: Views, limit: int | None = None) -> None:
        self._redis = redis
        self._views = views
        self._remains = Remains(redis)
        self._limit = limit
        self._looked = float("-inf")

    async def round(self) -> Spent:
        """Drop views where they take too much. Raises redis.exceptions.RedisError."""
        used, budget = await self._measure()
        dropped = 0
        if budget and used > budget:
            dropped = await self._shrink(int(budget * LOW))
            used, budget = await self._measure()
        return Spent(used, budget, await self._views.recency.count(), dropped)

    async def _shrink(self, goal: int) -> int:
        dropped = 0
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            dropped += await self._drop_others(set())
        until, ends = time.time() - RECENT_S, time.monotonic() + ROUND_S
        while time.monotonic() < ends and await self._used() > goal:
            oldest = await self._views.recency.oldest(_AT_ONCE, until)
            if not oldest:
                if until == float("inf"):
                    break
                until = float("inf")
                continue
            if _format(oldest[0]) != keys.FORMAT:
                others = {one for one in oldest if _format(one) != keys.FORMAT}
                await self._views.recency.gone(others)
                dropped += await self._drop_others(others)
                continue
            # Out of the register first: a view that is built meanwhile enters itself again.
            await self._views.recency.gone([oldest[0]])
            dropped += await self._drop(oldest[0], is_read=until == float("inf"))
        return dropped

    async def _drop(self, entry: str, *, is_read: bool) -> bool:
        try:
            stream_id = UUID(entry.partition(":")[2])
        except ValueError:
            return False
        if await self._views.head(stream_id) is None:
            return False
        if is_read:  # its readers would have it built at once, and dropped again, and so on
            with suppress(OutOfMemoryError):  # dropping frees memory
                await self._views.leases.no_room(stream_id)
        await self._views.drop(stream_id)
        return True

    async def _drop_others(self, entries: set[str]) -> int:
        """Drop these views, of other formats, and those that are in no register; how many there were."""
        gone: set[str] = set()
        async for found in self._remains.other_formats():
            names = {name: _entry(name) for part in found.values() for name in part}
            each = sorted(set(names.values()))
            scores = await cast(Awaitable[list[Any]], self._redis.zmscore(READS, each))
            unknown = {entry for entry, score in zip(each, scores, strict=True) if score is None}
            doomed = [name for name, entry in names.items() if entry in entries or entry in unknown]
            for begin in range(0, len(doomed), _AT_ONCE):
                await self._remains.unlink(doomed[begin : begin + _AT_ONCE])
            gone.update(names[name] for name in doomed)
        return len(gone)

    async def _used(self) -> int:
        return (await self._measure())[0]

    async def _measure(self) -> tuple[int, int]:
        """Bytes in use, once what was unlinked is freed, and the budget."""
        ends = time.monotonic() + _FREEING_S
        while True:
            told: dict[str, Any] = await self._redis.info("memory")
            if not told.get("lazyfree_pending_objects") or time.monotonic() > ends:
                break
            await asyncio.sleep(_POLL_S)
        budget = int(int(told.get("maxmemory", 0)) * OF_MAXMEMORY) if self._limit is None else self._limit
        return int(told["used_memory"]), budget


def _format(entry: str) -> str:
    return entry.partition(":")[0]


def _entry(name: bytes) -> str:
    """The entry in the register of the view that a key belongs to."""
    _, format_, stream, _ = name.split(b":", 3)
    return member(UUID(stream.strip(b"{}").decode()), format_.decode())
