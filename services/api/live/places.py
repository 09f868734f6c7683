"""Room for reading what live streams tell: a few threads at a time, and no thread is held up by slow ones.

Most readings take milliseconds. One of a long thread without a view takes a second, and some of those at the
same time would have all other streams wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

AT_ONCE: Final = 4
"""Readings that go on at the same time, those that were set aside left out."""
ASIDE: Final = 100
"""Readings that are set aside, at most. What they read has bounds of its own: the folds at once."""
PATIENCE_S: Final = 0.1
"""Seconds after which a reading is set aside."""


class _Hold:
    __slots__ = ("aside", "timer")

    def __init__(self) -> None:
        self.aside = False
        self.timer: asyncio.TimerHandle | None = None


class Places:
    """AT_ONCE places. Whoever holds one for long gives it to the next, and goes on beside."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)
        self._aside = 0

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold a place."""
        await self._free.acquire()
        hold = _Hold()
        self._watch(hold)
        try:
            yield
        finally:
            if hold.timer is not None:
                hold.timer.cancel()
            if hold.aside:
                self._aside -= 1
            else:
                self._free.release()

    def _watch(self, hold: _Hold) -> None:
        hold.timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._set_aside, hold)

    def _set_aside(self, hold: _Hold) -> None:
        if self._aside >= ASIDE:
            self._watch(hold)
            return
        hold.aside = True
        self._aside += 1
        self._free.release()
