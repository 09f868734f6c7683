"""The limits of one process, in its memory: what holds while Redis is away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic_ns

from services.api.limits.policy import Charge, Used


class LocalLimits:
    """As the script, on this process' clock. Remembers at most `limit` keys, those last written by."""

    def __init__(
        self, limit: int = 50_000, *, now: Callable[[], int] = lambda: monotonic_ns() // 1000
    ) -> None:
        """`now` gives microseconds that never go back."""
        self._limit = limit
        self._now = now
        self._due: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due)

    def charge(self, charge: Charge) -> Used:
        """Take the write, or refuse it."""
        now, due = self._now(), self._due
        used = [max(due.get(key, now) - now, 0) for key in charge.keys]
        limits = charge.policy.limits
        if any(limit.wait(taken) > 0 for limit, taken in zip(limits, used, strict=True)):
            return [-1 - taken for taken in used]
        for place, (key, limit) in enumerate(zip(charge.keys, limits, strict=True)):
            used[place] += limit.interval
            due[key] = now + used[place]
            due.move_to_end(key)
        while len(due) > self._limit:
            due.popitem(last=False)
        return used
