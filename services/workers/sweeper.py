"""The sweeper: finds in the log what no message told the workers.

It walks a lane's positions from its checkpoint, window by window. A thread whose view exists and lies behind
an event or is marked stale, or whose notifier lies behind, is poked and remembered as a straggler with the
first such position; it is looked at again after 1, 2, 4 … 60 seconds until it has caught up or is parked, as
only a dead letter does. A head that cannot be read is a straggler too, and nobody else's fault.

What never happens is that an event is passed over: the stored checkpoint lies before the first position of
every straggler, and a sweeper that starts anew walks from there. What a stuck thread (its event is of a newer
release, say) does hold up is only that checkpoint: the walk itself goes on ahead of it, in memory.
The stragglers are bounded. While they are too many, the walk waits for some to catch up; if none does for a
minute, it goes on, poking without remembering more, and begins again from the checkpoint once it has reached
the end, at most once a minute.

Two sweepers of one lane at once do no harm, but to each other's pokes; the lock only saves work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final
from uuid import UUID

from redis.exceptions import RedisError

from services.eventlog.checkpoints import Followed, LaneCheckpoints, Projection, Span
from services.readmodel.records import Head
from services.readmodel.views import Views

WINDOW: Final = 1_000
"""Positions read at once."""

WINDOWS: Final = 10
"""Windows walked in one round."""

SETTLED_S: Final = 1.0
"""Events younger than this are left to their own messages."""

STRAGGLERS: Final = 10_000

_YOUNG_S: Final = 10.0
"""Events that stay too young to be looked at for so long are not young, whatever their clock says."""

_STUCK_S: Final = 60.0
_LONGEST_WAIT_S: Final = 60.0

Behind = Mapping[Projection, Collection[UUID]]


@dataclass(slots=True)
class _Straggler:
    version: int
    first: int
    recorded_at: datetime
    projections: frozenset[Projection]
    wait: float = 1.0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a projection is behind in a lane."""

    events: int
    seconds: float


class Walk(Enum):
    """Where a round's walk ended."""

    END = auto()
    """At the lane's end."""
    MORE = auto()
    """Somewhere before it: the next round may follow at once."""
    YOUNG = auto()
    """Before events that are still left to their own messages."""
    WAITS = auto()
    """Nowhere: it waits for stragglers."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found. `head` is the position of the lane's last event, as far as it was looked for."""

    lag: Mapping[Projection, Lag]
    walk: Walk
    head: int


@dataclass(slots=True)
class Sweeper:
    """Sweeps one lane. `poke` is called with the streams that are behind, by projection."""

    lane: int
    checkpoints: LaneCheckpoints
    views: Views
    poke: Callable[[Behind], None]
    window: int = WINDOW
    settled: float = SETTLED_S
    limit: int = STRAGGLERS
    clock: Callable[[], float] = time.monotonic
    _stragglers: dict[UUID, _Straggler] = field(default_factory=dict, init=False)
    _cursor: int | None = field(default=None, init=False)
    _stored: int = field(default=0, init=False)
    _forgotten: int | None = field(default=None, init=False)
    """The first position that was left behind without being remembered."""
    _caught_up_at: float = field(default=0.0, init=False)
    _began_at: float = field(default=0.0, init=False)
    _moved_at: float = field(default=0.0, init=False)
    """When the walk was at the lane's end, or came on, for the last time."""

    async def round(self) -> Round:
        """Look at the stragglers that are due, walk on, store how far everything is caught up."""
        if self._cursor is None:
            self._cursor = self._stored = await self.checkpoints.position(self.lane)
            self._caught_up_at = self._began_at = self._moved_at = self.clock()
        await self._revisit()
        walk = await self._walk()
        await self._store()
        lag, head = await self._lag(walk)
        return Round(lag, walk, head)

    async def _revisit(self) -> None:
        now = self.clock()
        due = [stream_id for stream_id, straggler in self._stragglers.items() if straggler.due <= now]
        for start in range(0, len(due), self.window):
            asked = {
                stream_id: self._stragglers[stream_id].version
                for stream_id in due[start : start + self.window]
            }
            behind = await self._behind(asked)
            for stream_id in asked:
                if stream_id in behind:
                    straggler = self._stragglers[stream_id]
                    straggler.projections = behind[stream_id]
                    straggler.due = now + straggler.wait
                    straggler.wait = min(2 * straggler.wait, _LONGEST_WAIT_S)
                else:
                    del self._stragglers[stream_id]
                    self._caught_up_at = now
            self._poke(behind)

    async def _walk(self) -> Walk:
        assert self._cursor is not None
        for _ in range(WINDOWS):
            if self._full() and self.clock() - self._caught_up_at < _STUCK_S:
                return Walk.WAITS
            spans = await self.checkpoints.window(self.lane, self._cursor, self.window, self.settled)
            if not spans:
                return await self._at_the_end(self._cursor)
            threads = {span.stream_id: span for span in spans if span.thread}
            behind = await self._behind({span.stream_id: span.version for span in threads.values()})
            for stream_id, projections in behind.items():
                self._remember(threads[stream_id], projections)
            self._poke(behind)
            self._cursor = max(span.last for span in spans)
            self._moved_at = self.clock()
        return Walk.MORE

    async def _at_the_end(self, cursor: int) -> Walk:
        young = await self.checkpoints.head(self.lane) > cursor
        if not young:
            self._moved_at = self.clock()
        if self._forgotten is not None and self.clock() - self._began_at >= _STUCK_S:
            self._cursor, self._forgotten, self._began_at = self._stored, None, self.clock()
            return Walk.MORE
        return Walk.YOUNG if young else Walk.END

    def _full(self) -> bool:
        return len(self._stragglers) >= self.limit

    def _remember(self, span: Span, projections: frozenset[Projection]) -> None:
        known = self._stragglers.get(span.stream_id)
        if known is not None:
            known.version = max(known.version, span.version)
            known.first = min(known.first, span.first)
        elif not self._full():
            now = self.clock()
            self._stragglers[span.stream_id] = _Straggler(
                span.version, span.first, span.recorded_at, projections, due=now + 1.0
            )
        elif self._forgotten is None:
            self._forgotten = span.first
        else:
            self._forgotten = min(self._forgotten, span.first)

    async def _behind(self, versions: Mapping[UUID, int]) -> dict[UUID, frozenset[Projection]]:
        """Which of these threads have not reached these versions, and in what."""
        if not versions:
            return {}
        followed = await self.checkpoints.followed(versions)
        heads, unreadable = await self._heads(list(versions))
        found = {}
        for stream_id, version in versions.items():
            projections = lacking(version, followed.get(stream_id), heads.get(stream_id))
            if stream_id in unreadable:
                projections |= {Projection.VIEW}
            if projections:
                found[stream_id] = projections
        return found

    async def _heads(self, stream_ids: list[UUID]) -> tuple[dict[UUID, Head], set[UUID]]:
        """The heads of these threads, and those whose head cannot be read: found by halves."""
        try:
            return await self.views.heads(stream_ids), set()
        except Exception as error:
            # What Redis says is of all threads, but for a key that holds something else than a head.
            if isinstance(error, (RedisError, OSError)) and "WRONGTYPE" not in str(error):
                raise
            if len(stream_ids) == 1:
                return {}, set(stream_ids)
            half = len(stream_ids) // 2
            heads, unreadable = await self._heads(stream_ids[:half])
            more_heads, more_unreadable = await self._heads(stream_ids[half:])
            return heads | more_heads, unreadable | more_unreadable

    def _poke(self, behind: Mapping[UUID, frozenset[Projection]]) -> None:
        if behind:
            self.poke(
                {
                    projection: [one for one, lacking in behind.items() if projection in lacking]
                    for projection in Projection
                }
            )

    async def _store(self) -> None:
        assert self._cursor is not None
        safe = self._cursor
        for straggler in self._stragglers.values():
            safe = min(safe, straggler.first - 1)
        if self._forgotten is not None:
            safe = min(safe, self._forgotten - 1)
        if safe > self._stored:
            await self.checkpoints.move(self.lane, safe)
            self._stored = safe

    async def _lag(self, walk: Walk) -> tuple[dict[Projection, Lag], int]:
        assert self._cursor is not None
        now = datetime.now(UTC)
        stood = self.clock() - self._moved_at
        # Beyond the cursor nobody has looked. Events that are young lack nothing yet, at the end are none.
        unseen = walk in (Walk.MORE, Walk.WAITS) or (walk is Walk.YOUNG and stood > self.settled + _YOUNG_S)
        ended = walk is Walk.END and not self._stragglers
        head = self._cursor if ended else await self.checkpoints.head(self.lane)
        lag = {}
        for projection in Projection:
            lacking = [one for one in self._stragglers.values() if projection in one.projections]
            first = min((one.first for one in lacking), default=self._cursor + 1 if unseen else head + 1)
            since = min((one.recorded_at for one in lacking), default=now)
            seconds = max((now - since).total_seconds(), stood if unseen else 0.0)
            lag[projection] = Lag(max(0, head - first + 1), seconds)
        return lag, head


def lacking(version: int, followed: Followed | None, head: Head | None) -> frozenset[Projection]:
    """What has not reached this version of a thread, of the view with this head and the notifier."""
    parked = followed.parked if followed is not None else frozenset()
    found = set()
    # A thread without a view lacks none. A mark without a dead letter, or a letter without the mark, is what
    # something cut short has left, or waits for a newer release.
    is_parked = head is not None and head.stale and Projection.VIEW in parked
    if head is not None and not is_parked and (head.stale or head.version < version):
        found.add(Projection.VIEW)
    notified = followed.notified if followed is not None else 0
    if notified < version and Projection.NOTIFICATIONS not in parked:
        found.add(Projection.NOTIFICATIONS)
    return frozenset(found)
