"""The projector's step for a message: advance every thread it names.

A thread whose next event cannot be applied is parked: a dead letter names the event, the view stays as it is,
marked stale, and all other threads go on. An event that a newer release wrote leaves the view behind without
a dead letter. A fault of a dependency is only counted: the sweeper finds the thread again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg
from redis.exceptions import RedisError

from services.errors import PoisonEvent, ThreadlogError, UnknownEventType
from services.eventlog.checkpoints import DeadLetters, Projection
from services.projection.advance import Projector

_log = logging.getLogger(__name__)

FAULTS: Final = (
    ThreadlogError,
    RedisError,
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)
"""What may go wrong with one stream without being wrong with the code."""

AT_ONCE: Final = 8
"""Threads that one process advances at the same time: each may hold a fold and a connection."""

_PARK_TRIES: Final = 3


class Following:
    """Keeps views up to the log, message by message."""

    def __init__(self, projector: Projector, letters: DeadLetters, *, at_once: int = AT_ONCE) -> None:
        self._projector = projector
        self._letters = letters
        self._slots = asyncio.Semaphore(at_once)
        self._running: set[UUID] = set()
        self._again: set[UUID] = set()

    async def project(self, stream_ids: Sequence[UUID]) -> int:
        """Bring the views of these threads up to the log; how many of them could not be brought there.

        Every one is tried, whatever happens to the others.
        """
        parked = await self._letters.among(Projection.VIEW, stream_ids)
        outcomes = await asyncio.gather(
            *(self._one(stream_id, parked.get(stream_id)) for stream_id in set(stream_ids)),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes.count(False)

    async def _one(self, stream_id: UUID, dead: int | None) -> bool:
        """Advance one thread; again if it is poked meanwhile, but never twice at once in this process."""
        if stream_id in self._running:
            self._again.add(stream_id)
            return True
        self._running.add(stream_id)
        try:
            while True:
                self._again.discard(stream_id)
                async with self._slots:
                    done = await self._advance(stream_id, dead)
                if not done or stream_id not in self._again:
                    return done
        finally:
            self._running.discard(stream_id)
            self._again.discard(stream_id)

    async def _advance(self, stream_id: UUID, dead: int | None) -> bool:
        try:
            head = await self._projector.advance(stream_id)
            if head is not None and head.stale and dead is None:
                # The dead letter is what parks a thread; without one the mark on its view is a left-over.
                await self._projector.views.unpark(stream_id, head.version)
                head = await self._projector.advance(stream_id)
            if dead is not None and head is not None and not head.stale and head.version >= dead:
                await self._letters.resurrect(Projection.VIEW, stream_id, head.version)
        except UnknownEventType as error:
            _log.warning("the view waits for a newer release: %s", error)
            return False
        except PoisonEvent as error:
            await self._park(error)
            return True
        except FAULTS as error:
            _log.warning("the view of %s was not advanced: %s: %s", stream_id, type(error).__name__, error)
            return False
        return True

    async def _park(self, error: PoisonEvent) -> None:
        _log.error("the thread is parked: %s", error)
        await self._letters.bury(Projection.VIEW, error)
        for _ in range(_PARK_TRIES):
            head = await self._projector.views.head(error.stream_id)
            if head is None or head.stale or head.version >= error.version:
                return
            if await self._projector.views.park(error.stream_id, head.version):
                return

    async def unpark(self, stream_id: UUID) -> None:
        """Let a parked thread be advanced again. Its dead letter goes once that has succeeded."""
        head = await self._projector.views.head(stream_id)
        if head is not None and head.stale:
            await self._projector.views.unpark(stream_id, head.version)
