"""The projector's step for a message: advance every thread it names.

A thread whose next event cannot be applied is parked: a dead letter names the event, the view stays as it is,
marked stale, and all other threads go on. Only a dead letter of this very release keeps a thread parked: one
of another release is tried again, and a mark without a letter is a left-over. An event that a newer release
wrote marks the view stale without a dead letter; that, and any fault, the sweeper finds and has tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from services.errors import PoisonEvent, UnknownEventType
from services.eventlog.checkpoints import DeadLetters, Parked, Projection
from services.projection.advance import Projector
from services.readmodel.records import Head
from services.workers.faults import told
from services.workers.hints import Looked

_log = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Threads that one process advances at the same time: each may hold a fold and a connection."""

REST_S: Final = 0.03
"""Seconds from one look of this process at a thread to its next: however many pokes come, and however few
events each tells of, a busy thread is brought up with all that gathered."""

_MARK_TRIES: Final = 3


class Following:
    """Keeps views up to the log, message by message.

    `announce` is told of each thread the version that its view has reached; 0 where nobody has asked for one.
    """

    def __init__(
        self,
        projector: Projector,
        letters: DeadLetters,
        *,
        at_once: int = AT_ONCE,
        announce: Callable[[UUID, int], None] = lambda _stream_id, _version: None,
    ) -> None:
        self._announce = announce
        self._projector = projector
        self._letters = letters
        self._slots = asyncio.Semaphore(at_once)
        self._running: set[UUID] = set()
        self._again: dict[UUID, Parked | None] = {}
        self._going_on: set[asyncio.Task[bool]] = set()
        self._looked = Looked()

    async def project(self, stream_ids: Sequence[UUID], poked_at: int | None) -> int:
        """Bring the views of these threads up to the log; how many of them could not be brought there. They
        were poked at that time, in Unix milliseconds.

        Every one is tried, whatever happens to the others.
        """
        stream_ids = self._looked.still(stream_ids, poked_at)
        if not stream_ids:
            return 0
        parked = await self._letters.among(Projection.VIEW, stream_ids)
        outcomes = await asyncio.gather(
            *(self._one(stream_id, parked.get(stream_id)) for stream_id in stream_ids),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes.count(False)

    async def retry(self, stream_id: UUID) -> Head | None:
        """Bring a parked thread up to the log, whatever release has parked it; None for one without events.

        Raises PoisonEvent once it is parked again, UnknownEventType once its view is marked, and any fault.
        """
        head = await self._projector.views.head(stream_id)
        if head is not None and head.stale:
            await self._projector.views.unpark(stream_id, head.version)
        try:
            head = await self._projector.advance(stream_id)
        except UnknownEventType as error:
            await self._letters.resurrect(Projection.VIEW, stream_id, error.version - 1)
            await self._mark(error)
            raise
        except PoisonEvent as error:
            await self._park(error)
            raise
        if head is not None and not head.stale:
            self._announce(stream_id, head.version)
            await self._letters.resurrect(Projection.VIEW, stream_id, head.version)
        return head

    async def stop(self) -> None:
        """End what goes on behind the messages."""
        for task in self._going_on:
            task.cancel()
        await asyncio.gather(*self._going_on, return_exceptions=True)

    async def _one(self, stream_id: UUID, parked: Parked | None) -> bool:
        """Advance one thread; again if it is poked meanwhile, but never twice at once in this process."""
        if stream_id in self._running:
            self._again[stream_id] = parked
            return True
        self._running.add(stream_id)
        done = False
        try:
            await asyncio.sleep(self._looked.rest(stream_id, REST_S))
            while True:
                self._again.pop(stream_id, None)
                async with self._slots:
                    began = self._looked.now()
                    done = await self._advance(stream_id, parked)
                if done:
                    self._looked.looked(stream_id, began)
                if done or stream_id not in self._again:
                    return done
                parked = self._again[stream_id]
        finally:
            self._running.discard(stream_id)
            if stream_id in self._again:
                parked = self._again.pop(stream_id)
                if done:  # no message waits for as long as its threads are busy
                    task = asyncio.create_task(self._one(stream_id, parked))
                    self._going_on.add(task)
                    task.add_done_callback(self._going_on.discard)

    async def _advance(self, stream_id: UUID, parked: Parked | None) -> bool:
        try:
            try:
                await self._step(stream_id, parked)
            except UnknownEventType as error:
                _log.warning("thread %s waits at version %d for a newer release", stream_id, error.version)
                await self._mark(error)
                return False
            except PoisonEvent as error:
                await self._park(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other threads go on
            _log.warning("the view of %s was not advanced: %s", stream_id, told(error))
            return False
        return True

    async def _step(self, stream_id: UUID, parked: Parked | None) -> None:
        head = await self._projector.follow(stream_id)
        if head is not None and head.stale:
            # It may have been parked since the message came.
            parked = (await self._letters.among(Projection.VIEW, [stream_id])).get(stream_id)
            if parked is None or parked.build != self._letters.build:
                await self._projector.views.unpark(stream_id, head.version)
                head = await self._projector.advance(stream_id)
        self._announce(stream_id, 0 if head is None else head.version)
        if parked is not None and head is not None and not head.stale and head.version >= parked.version:
            await self._letters.resurrect(Projection.VIEW, stream_id, head.version)

    async def _park(self, error: PoisonEvent) -> None:
        _log.error(
            "thread %s is parked before version %d, event %s",
            *(error.stream_id, error.version, error.event_id),
        )
        await self._letters.bury(Projection.VIEW, error)
        await self._mark(error)

    async def _mark(self, error: PoisonEvent) -> None:
        """Mark the view stale, at the version before this event."""
        views = self._projector.views
        for _ in range(_MARK_TRIES):
            head = await views.head(error.stream_id)
            if head is None or head.stale or head.version >= error.version:
                return
            if head.version < error.version - 1:
                # The event came in one chunk with good ones: a rebuild ends right before it, marked.
                with suppress(PoisonEvent):
                    await self._projector.rebuild(error.stream_id)
            elif await views.park(error.stream_id, head.version):
                return
