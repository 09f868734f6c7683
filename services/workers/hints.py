"""Hints that have gone stale: what they hint at was looked at after they were given.

A worker that comes back finds thousands of them, and most name the same threads again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final
from uuid import UUID

_SKEW_MS: Final = 2_000
"""By how much the clocks of who hints and who looks may differ. Where they differ by more, or one of them is
set back, a hint may be passed over that was not stale; then the sweeper finds what it hinted at, whose own
hints are never passed over."""
_LIMIT: Final = 50_000


class Looked:
    """When each thread was last looked at with success, for a bounded number of threads. Times are in Unix
    milliseconds."""

    def __init__(self, limit: int = _LIMIT, skew_ms: int = _SKEW_MS) -> None:
        self._limit = limit
        self._skew = skew_ms
        self._at: OrderedDict[UUID, int] = OrderedDict()

    @staticmethod
    def now() -> int:
        """The time to give to `looked`: taken before the look."""
        return time.time_ns() // 1_000_000

    def still(self, stream_ids: Iterable[UUID], poked_at: int | None) -> list[UUID]:
        """Those of the threads that nobody here has looked at since they were poked, each once. All of them
        where no time is given: who has seen that a thread is behind gives none."""
        each = dict.fromkeys(stream_ids)
        if poked_at is None:
            return list(each)
        return [stream_id for stream_id in each if self._at.get(stream_id, 0) <= poked_at + self._skew]

    def rest(self, stream_id: UUID, seconds: float) -> float:
        """Seconds that are left of so many since the thread was last looked at; 0 where it was not."""
        left = self._at.get(stream_id, 0) / 1000 + seconds - self.now() / 1000
        return min(max(0.0, left), seconds)  # a clock may be set back

    def looked(self, stream_id: UUID, began: int) -> None:
        """A look that began then has seen everything up to then."""
        self._at[stream_id] = began
        self._at.move_to_end(stream_id)
        while len(self._at) > self._limit:
            self._at.popitem(last=False)
