"""Replay: rebuild what is derived of a thread from its events.

The view is built beside the one that serves and switched to; the decision state is repaired in place, under
the lane's lock, in one transaction. Nothing is sent: a replay knows no notification, mail or live event.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from services.core.addresses import lane_of
from services.core.thread import ThreadState
from services.eventlog import state
from services.eventlog.locks import LockClass
from services.eventlog.queries import QUERIES
from services.projection.advance import Projector


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay of one thread did. `rows` counts the rows of the decision state that it changed."""

    stream_id: UUID
    version: int
    rows: int
    seconds: float


class Replayer:
    """Rebuilds threads, while they are read and written."""

    def __init__(self, pool: asyncpg.Pool[Any], projector: Projector, lanes: int) -> None:
        self._pool = pool
        self._projector = projector
        self._lanes = lanes

    async def replay(self, stream_id: UUID) -> Replayed:
        """Rebuild one thread: its decision state, then its view.

        Raises PoisonEvent and UnknownEventType; the thread is then served as it was.
        """
        started = time.perf_counter()
        rows = await self._repair(stream_id)
        head = await self._projector.rebuild(stream_id)
        return Replayed(stream_id, 0 if head is None else head.version, rows, time.perf_counter() - started)

    async def _repair(self, stream_id: UUID) -> int:
        """Fold the thread without the lock, then, under it, what came since; write what differs."""
        thread = ThreadState(stream_id)
        await self._projector.structure(thread)
        lane = lane_of(stream_id, self._lanes)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("set local lock_timeout = '3s'")
            await connection.fetchval(QUERIES["lock_lane"], int(LockClass.LANE), lane)
            await self._projector.structure(thread)
            return await state.repair(connection, stream_id, lane, state.of_thread(thread))
