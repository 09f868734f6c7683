"""Whether what was read of a thread is still what its view shows.

A remembered answer stands on a `Stamp`: the version, hash and build of the view's head when it was read, and
when they were last compared. As long as that is fresh, the answer is used without asking. Then one look, a
single round trip for all threads that anybody asks about at that moment, tells which heads are the same: one
field for all answers of a thread, however many there are. Nothing is sent when a view changes, so nothing
can be lost: see docs/decisions/0013-pages-in-memory.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Protocol
from uuid import UUID

from redis.exceptions import RedisError

from services.errors import Unavailable

FRESH_S: Final = 0.025
"""Seconds for which a comparison holds."""
AHEAD_S: Final = 0.012
"""Seconds after which a thread in use is looked at ahead of time, so that nobody needs to wait."""
GRACE_S: Final = 1.0
"""Seconds since its last comparison for which an answer is used where Redis does not tell."""
PATIENCE_S: Final = 0.1
"""Seconds that a look may take before the answers of the last second go on without it."""
RETRY_S: Final = 0.1
"""Seconds between two looks while Redis is away."""
NEVER: Final = float("-inf")
"""When what is not to be used again was compared."""
_TOGETHER: Final = 1000
"""Threads in one look, at most."""

_AWAY: Final = (RedisError, Unavailable, OSError, TimeoutError)


class SeenHead(Protocol):
    """What is compared of a view's head: `services.readmodel.records.Head` has it."""

    @property
    def version(self) -> int: ...
    @property
    def hash(self) -> bytes: ...
    @property
    def build(self) -> str: ...
    @property
    def stale(self) -> bool: ...


class Stamp:
    """What a thread's view stood at, and when that was last known to be so, by `time.monotonic`.

    A view that is built anew may show something else at the same version: a parked thread has its erased
    texts taken out so.
    """

    __slots__ = ("build", "checked", "hash", "stale", "version")

    def __init__(self, head: SeenHead, checked: float, *, stale: bool | None = None) -> None:
        """`stale`: whether what was read is, where that does not follow from the head."""
        self.version = head.version
        self.hash = head.hash
        self.build = head.build
        self.stale = head.stale if stale is None else stale
        self.checked = checked

    def is_of(self, head: SeenHead) -> bool:
        """Whether the head is still the same."""
        return (
            head.version == self.version
            and head.hash == self.hash
            and head.build == self.build
            and head.stale == self.stale
        )


class Watched:
    """A thread of which answers are remembered. `stamp` is what its view was last seen at, if it was."""

    __slots__ = ("_seen", "answers", "stamp", "stream_id")

    def __init__(self, stream_id: UUID) -> None:
        self.stream_id = stream_id
        self.stamp: Stamp | None = None
        self.answers = 0
        """How many answers of it are remembered."""
        self._seen = 0.0

    def saw(self, head: SeenHead, asked: float) -> Stamp:
        """The view's head was read after `asked`; the stamp of what was read then."""
        stamp = self.stamp
        if stamp is not None and stamp.is_of(head):
            stamp.checked = max(stamp.checked, asked)
            self._seen = max(self._seen, asked)
            return stamp
        made = Stamp(head, asked)
        if asked >= self._seen:
            self.stamp, self._seen = made, asked
        else:
            made.checked = NEVER  # older news than what is known
        return made

    def missed(self, asked: float) -> None:
        """Read after `asked`, the view had no head."""
        if asked >= self._seen:
            self.stamp, self._seen = None, asked


class Looks:
    """Compares threads with their views' heads, many at a time, and never twice at once."""

    def __init__(
        self,
        heads: Callable[[Collection[UUID]], Awaitable[Mapping[UUID, SeenHead]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`heads` reads them from Redis; a thread without a view has none."""
        self._heads = heads
        self._clock = clock
        self._next: dict[UUID, Watched] = {}
        self._told: asyncio.Future[bool] | None = None
        self._running: asyncio.Task[None] | None = None
        self._began = 0.0
        self._retry_at = 0.0
        self.looks = 0
        """How many round trips were made."""

    def ahead(self, thread: Watched) -> None:
        """Look at the thread soon. Nobody waits for it."""
        if self._clock() >= self._retry_at:
            self._ask(thread)

    async def look(self, thread: Watched) -> bool:
        """Look at the thread now; False where Redis does not tell, or not in time."""
        now = self._clock()
        if now < self._retry_at or (self._running is not None and now - self._began > PATIENCE_S):
            return False
        told = self._ask(thread)
        await asyncio.wait((told,), timeout=PATIENCE_S)
        return told.done() and not told.cancelled() and told.result()

    def _ask(self, thread: Watched) -> asyncio.Future[bool]:
        loop = asyncio.get_running_loop()
        if self._told is None:
            self._told = loop.create_future()
        told = self._told
        self._next[thread.stream_id] = thread
        if self._running is None:
            # It begins in the loop's next turn, with all who ask in this one.
            self._began = self._clock()
            self._running = loop.create_task(self._run())
        return told

    async def _run(self) -> None:
        told: asyncio.Future[bool] | None = None
        try:
            while (told := self._told) is not None:
                threads, self._next, self._told = list(self._next.values()), {}, None
                answered = True
                for first in range(0, len(threads), _TOGETHER):
                    answered = answered and await self._look(threads[first : first + _TOGETHER])
                if not told.done():
                    told.set_result(answered)
        finally:
            self._running = None
            for left in (told, self._told):
                if left is not None and not left.done():
                    left.cancel()
            self._told = None

    async def _look(self, threads: list[Watched]) -> bool:
        self._began = asked = self._clock()
        self.looks += 1
        try:
            heads = await self._heads([thread.stream_id for thread in threads])
        except _AWAY:
            self._retry_at = self._clock() + RETRY_S
            return False
        for thread in threads:
            head = heads.get(thread.stream_id)
            if head is None:
                thread.missed(asked)
            else:
                thread.saw(head, asked)
        return True
