"""Commands on their way to Redis: the next are prepared while those before them are carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from redis.exceptions import ResponseError

from services.readmodel.line import Line

CALL_BYTES: Final = 1 << 20
"""What is sent at once, in bytes, unless it is one command: more would keep readers waiting."""


class Sending:
    """Sends packed commands in their order, some `CALL_BYTES` at a time. Used by one task."""

    __slots__ = ("_gathered", "_line", "_under_way", "_weight")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._gathered: list[bytes] = []
        self._weight = 0
        self._under_way: asyncio.Future[list[Any]] | None = None

    async def put(self, commands: Iterable[bytes]) -> None:
        """Send these, now or with those that follow. Raises redis.exceptions.RedisError, as `done` does,
        perhaps for commands before."""
        for command in commands:
            if self._gathered and self._weight + len(command) > CALL_BYTES:
                await self._send()
            self._gathered.append(command)
            self._weight += len(command)

    async def done(self) -> None:
        """Wait until all are carried out. Raises redis.exceptions.RedisError: ResponseError where one was
        refused."""
        await self._send()
        await self._answered()

    async def settle(self) -> None:
        """Wait until nothing is under way, whatever became of it."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
            self._under_way.exception()
            self._under_way = None

    async def _send(self) -> None:
        await self._answered()
        if self._gathered:
            commands, self._gathered, self._weight = self._gathered, [], 0
            self._under_way = asyncio.ensure_future(self._line.tell(*commands))
            await asyncio.sleep(0)  # lets them go out

    async def _answered(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            for answer in await under_way:
                if isinstance(answer, ResponseError):
                    raise answer
