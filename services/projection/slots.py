"""Places for work that takes memory and time: so many at once, so many that wait, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.errors import Overloaded


class Slots:
    """Places for `count` at the same time, and for `waiting` more that wait for one. `what` is waited for."""

    def __init__(self, what: str, count: int, waiting: int) -> None:
        self._what = what
        self._free = asyncio.Semaphore(count)
        self._left = count + waiting

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold one of the places. Raises Overloaded."""
        if not self._left:
            raise Overloaded(self._what)
        self._left -= 1
        try:
            async with self._free:
                yield
        finally:
            self._left += 1
