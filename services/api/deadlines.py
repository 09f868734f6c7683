"""How long a request may be worked on.

A timeout of its own would cost each request a timer. Here the requests under way are remembered in the order
in which they began, and one timer for all of them looks at the oldest once a second.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

REQUEST_S: Final = 30.0
"""Seconds that a request may take, live streams aside."""
_LOOK_S: Final = 1.0


class Deadlines:
    """Cancels the work on requests that take longer than `seconds`."""

    def __init__(self, seconds: float = REQUEST_S) -> None:
        self.seconds = seconds
        self._under_way: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, work: asyncio.Task[object], now: float) -> None:
        """`work` began at `now`, by `time.monotonic`."""
        self._under_way[work] = now
        if self._timer is None:
            self._timer = work.get_loop().call_later(min(_LOOK_S, self.seconds), self._look)

    def end(self, work: asyncio.Task[object]) -> None:
        """`work` is done, or (a live stream) may take as long as it likes."""
        self._under_way.pop(work, None)

    def missed(self, work: asyncio.Task[object]) -> bool:
        """Whether `work` was cancelled because of its time; it is then to go on, to answer so."""
        if work not in self._late:
            return False
        self._late.discard(work)
        return work.uncancel() == 0

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        until = time.monotonic() - self.seconds
        while self._under_way:
            work, began = next(iter(self._under_way.items()))
            if began > until:
                self._timer = loop.call_later(min(_LOOK_S, self.seconds), self._look)
                return
            del self._under_way[work]
            if not work.done():
                self._late.add(work)
                work.cancel()
