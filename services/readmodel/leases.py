"""Who folds a thread that has no view: one of all processes, the others wait for what it makes.

    tl:<format>:{<stream>}:lease           string  the token of the process that builds the thread's view; it
                                                   expires unless that process renews it
    tl:<format>:{<stream>}:wanted          string  "1" for a while after a reader has missed the view of a
                                                   long thread; "0" for a while after it was dropped though it
                                                   was being read: there is no room for it

A lease only saves work: a view is made by compare-and-set, and any number may build the same one. A holder
that dies is gone after LEASE_S, and so is one whose event loop stands still for as long.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Final, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.readmodel import keys

LEASE_S: Final = 3.0
"""Seconds after which the lease of a holder that says nothing more runs out."""

WANTED_S: Final = 600
"""Seconds for which a view that a reader missed is wanted: longer than the longest build."""

NO_ROOM_S: Final = 600
"""Seconds for which a long thread is read from the log after there was no room for its view: to build it may
take a worker a minute, and other views are dropped for it."""

_RENEWALS: Final = 3


def lease_key(stream_id: UUID) -> str:
    """Where the lease on building this thread's view lies."""
    return keys.prefix(stream_id) + "lease"


def wanted_key(stream_id: UUID) -> str:
    """Where readers say that they miss this thread's view."""
    return keys.prefix(stream_id) + "wanted"


class Leases:
    """The leases in one Redis. Its methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis, seconds: float = LEASE_S) -> None:
        self._redis = redis
        self._seconds = seconds
        path = files("services.readmodel").joinpath("scripts", "lease.lua")
        self._script = redis.register_script(path.read_text(encoding="utf-8"))

    @asynccontextmanager
    async def held(self, stream_id: UUID) -> AsyncIterator[bool]:
        """Hold the thread's lease inside, renewing it; gives False, and holds nothing, where another does."""
        token = secrets.token_hex(8)
        name = lease_key(stream_id)
        if not await self._redis.set(name, token, nx=True, px=self._milliseconds):
            yield False
            return
        renewing = asyncio.create_task(self._renew(name, token))
        try:
            yield True
        finally:
            renewing.cancel()
            with suppress(RedisError):  # it runs out by itself
                await self._change(name, token, "")

    async def taken(self, stream_id: UUID) -> bool:
        """Whether somebody holds the thread's lease."""
        return bool(await self._redis.exists(lease_key(stream_id)))

    async def want(self, stream_id: UUID) -> bool:
        """Tell the workers that the view of this long thread is missed; False where there was no room."""
        known = await self._redis.set(wanted_key(stream_id), "1", ex=WANTED_S, nx=True, get=True)
        return known in (None, b"1")

    async def wanted(self, stream_id: UUID) -> bool:
        """Whether a reader has missed the thread's view lately, and there is room for it."""
        return bool(await self._redis.get(wanted_key(stream_id)) == b"1")

    async def no_room(self, stream_id: UUID) -> None:
        """Have the view of this thread left unbuilt for a while, if it was built since it was missed."""
        await self._redis.set(wanted_key(stream_id), "0", ex=NO_ROOM_S, xx=True)

    @property
    def _milliseconds(self) -> int:
        return int(self._seconds * 1000)

    async def _renew(self, name: str, token: str) -> None:
        while True:
            await asyncio.sleep(self._seconds / _RENEWALS)
            with suppress(RedisError):
                if not await self._change(name, token, self._milliseconds):
                    return  # it ran out: another may hold it

    async def _change(self, name: str, token: str, milliseconds: int | str) -> bool:
        answer = self._script(keys=[name], args=[token, milliseconds])
        return bool(await cast(Awaitable[object], answer))
