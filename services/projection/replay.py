"""Replay: rebuild what is derived of a thread from its events.

The view is built beside the one that serves and switched to; the decision state is repaired in place, under
the lane's lock, in one transaction. Nothing is sent: a replay knows no notification, mail or live event.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.core.addresses import lane_of
from services.core.thread import ThreadState
from services.eventlog import state
from services.eventlog.checkpoints import DeadLetters, Projection
from services.eventlog.locks import LockClass
from services.eventlog.queries import QUERIES
from services.eventlog.snapshots import Snapshots
from services.projection.advance import Projector

SLICE: Final = 1000
"""Rows repaired in one hold of the lane's lock."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay of one thread did. `rows` counts the rows of the decision state that it changed."""

    stream_id: UUID
    version: int
    rows: int
    seconds: float


class Replayer:
    """Rebuilds threads, while they are read and written."""

    def __init__(
        self, pool: asyncpg.Pool[Any], projector: Projector, letters: DeadLetters, lanes: int
    ) -> None:
        self._pool = pool
        self._projector = projector
        self._letters = letters
        self._lanes = lanes

    async def replay(self, stream_id: UUID) -> Replayed:
        """Rebuild one thread: its decision state, then its view. A dead letter of the view goes with it, and
        its snapshots: they are written again as they are needed.

        Raises PoisonEvent and UnknownEventType; the view then serves what comes before that event.
        """
        started = time.perf_counter()
        whole = await self._projector.whole(stream_id)
        rows = 0
        if whole.poison is None:
            rows = await self._repair(whole.thread)
            await self._projector.reindex(whole)
        snapshots = Snapshots(self._pool)
        await snapshots.remove(stream_id, await snapshots.versions(stream_id))
        head = await self._projector.rebuild(stream_id, whole)
        version = 0 if head is None else head.version
        if version:
            await self._letters.resurrect(Projection.VIEW, stream_id, version)
        return Replayed(stream_id, version, rows, time.perf_counter() - started)

    async def remove_strays(self) -> int:
        """Remove the rows of the decision state that no event made; how many there were.

        A row and its event are committed together, so none of a batch under way is among them.
        """
        removed = 0
        async with self._pool.acquire() as connection:
            while (found := await state.strays(connection, SLICE)).comments or found.reports or found.votes:
                removed += await state.remove(connection, found)
        return removed

    async def _repair(self, thread: ThreadState) -> int:
        """Compare without the lock; write what differs under it, a slice at a time, as it is by then.

        A row that agreed then is right now: what was added since was decided on it.
        """
        async with self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                kept = await state.stored(connection, thread.stream_id)
            compared = ThreadState(thread.stream_id) if thread.version > kept.end else thread
            await self._projector.structure(compared, to=kept.end)
            found = await asyncio.to_thread(state.suspects, kept, state.of_thread(compared))
            lane = lane_of(thread.stream_id, self._lanes)
            for part in found.slices(SLICE):
                async with connection.transaction():
                    await connection.execute("set local lock_timeout = '3s'")
                    await connection.fetchval(QUERIES["lock_lane"], int(LockClass.LANE), lane)
                    await self._projector.structure(compared)
                    await state.repair(connection, lane, compared, part)
        return found.rows
