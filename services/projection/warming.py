"""Folding a short thread that has no view, for all who ask for it, and writing its view behind their answers.

Of all processes, the one that gets the thread's lease folds it. The others wait for the view, but no longer
than they would take for a fold of their own: which is what they do then, and where the holder died. Readers
of one process share its fold, which is kept for a second at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import UUID

from services.errors import PoisonEvent
from services.projection.advance import Projector
from services.projection.whole import Whole
from services.readmodel.views import Views

_log = logging.getLogger(__name__)

FRESH_S: Final = 1.0
"""Seconds for which a fold is read after it began."""

KEPT_COMMENTS: Final = 50_000
"""Comments that all kept folds have together, at most, and all those whose views wait to be written."""

PATIENCE_S: Final = 0.5
"""Seconds that a view is waited for which another process is writing."""

_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 0.02

Folded = Whole | None
"""A fold to read from; None where a view is there by now."""


class Warming:
    """Folds threads, and has their views written."""

    def __init__(self, projector: Projector, views: Views) -> None:
        self._projector = projector
        self._views = views
        self._running: dict[UUID, asyncio.Task[Folded]] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._unwritten = 0
        """The size of all folds whose views are being written, or wait for that."""
        self._kept: OrderedDict[UUID, Whole] = OrderedDict()
        self._readers: Counter[UUID] = Counter()
        self._leaving = asyncio.Condition()
        self._hurried: set[UUID] = set()
        """Threads whose view somebody of this process waits for."""
        self.folds = 0
        """How many threads were folded."""

    @asynccontextmanager
    async def reading(self, stream_id: UUID) -> AsyncIterator[None]:
        """Whoever reads the thread does so inside: its view is written once they all have left."""
        self._readers[stream_id] += 1
        try:
            yield
        finally:
            self._readers[stream_id] -= 1
            if not self._readers[stream_id]:
                del self._readers[stream_id]
                async with self._leaving:
                    self._leaving.notify_all()

    def kept(self, stream_id: UUID, least: int) -> Whole | None:
        """A fresh fold of the thread of at least that version, where there is one at hand."""
        whole = self._kept.get(stream_id)
        if whole is None:
            return None
        if time.monotonic() - whole.began > FRESH_S:
            self._drop(whole)
            return None
        return whole if whole.thread.version >= least else None

    async def fold(self, stream_id: UUID, least: int) -> Folded:
        """A fold of the thread, shared by those who ask at the same time. It may have begun before, and not
        reach that version."""
        if (kept := self.kept(stream_id, least)) is not None:
            return kept
        running = self._running.get(stream_id)
        if running is None:
            running = asyncio.create_task(self._begin(stream_id))
            self._running[stream_id] = running
            running.add_done_callback(lambda _: self._running.pop(stream_id, None))
        return await asyncio.shield(running)

    async def cut(self, whole: Whole, error: PoisonEvent) -> None:
        """Keep a fold of what comes before this event, which does not open, in the place of `whole`."""
        stream_id = whole.thread.stream_id
        known = self._kept.get(stream_id)
        if known is None or known is whole:
            before = await self._projector.whole(stream_id, to=error.version - 1)
            before.poison = error
            self._keep(before)

    async def stop(self) -> None:
        """End the writing of views."""
        for writing in list(self._writing):
            writing.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _begin(self, stream_id: UUID) -> Folded:
        folded: asyncio.Future[Folded] = asyncio.get_running_loop().create_future()
        writing = asyncio.create_task(self._fold_and_write(stream_id, folded))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await folded

    async def _fold_and_write(self, stream_id: UUID, folded: asyncio.Future[Folded]) -> None:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not folded.done():
                async with self._views.leases.held(stream_id) as mine:
                    if mine:
                        await self._alone(stream_id, folded)
                if mine:  # whoever came for a later event meanwhile has left it to this process
                    await self._projector.bring_up(stream_id)
                else:
                    await self._wait(stream_id, folded, deadline)
        except asyncio.CancelledError:
            folded.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - its readers are told, or answered; the next one tries again
            if folded.done():
                _log.warning("the view of %s was not written: %s", stream_id, type(error).__name__)
            else:
                folded.set_exception(error)

    async def _alone(self, stream_id: UUID, folded: asyncio.Future[Folded]) -> None:
        """What the holder of the lease does."""
        if await self._views.head(stream_id) is not None:
            folded.set_result(None)
            return
        whole = await self._fold(stream_id)
        folded.set_result(whole)
        size = _size(whole)
        if self._unwritten and self._unwritten + size > KEPT_COMMENTS:
            return  # folding is quicker than writing: a later reader's fold will be written
        self._unwritten += size
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answered(stream_id), PATIENCE_S)
            await self._projector.rebuild(stream_id, whole)
        finally:
            self._unwritten -= size
        self._drop(whole)

    async def _answered(self, stream_id: UUID) -> None:
        async with self._leaving:
            await self._leaving.wait_for(lambda: stream_id not in self._readers or stream_id in self._hurried)

    async def _wait(self, stream_id: UUID, folded: asyncio.Future[Folded], deadline: float) -> None:
        """Wait until the view is there, its lease is free, or waiting is longer than a fold."""
        self._hurried.add(stream_id)  # it may be this process that holds it, and waits for its readers
        try:
            async with self._leaving:
                self._leaving.notify_all()
            pause = _FIRST_PAUSE_S
            while time.monotonic() < deadline:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                if await self._views.head(stream_id) is not None:
                    folded.set_result(None)
                    return
                if not await self._views.leases.taken(stream_id):
                    return
        finally:
            self._hurried.discard(stream_id)
        folded.set_result(await self._fold(stream_id))

    async def _fold(self, stream_id: UUID) -> Whole:
        self.folds += 1
        whole = await self._projector.whole(stream_id)
        self._keep(whole)
        return whole

    def _keep(self, whole: Whole) -> None:
        left = whole.began + FRESH_S - time.monotonic()
        if left <= 0:
            return  # only those who waited for it may have it
        stream_id = whole.thread.stream_id
        self._kept[stream_id] = whole
        self._kept.move_to_end(stream_id)
        while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > KEPT_COMMENTS:
            self._kept.popitem(last=False)
        # Not the fold itself, which would stay in memory though it is kept no more.
        asyncio.get_running_loop().call_later(left, self._expire, stream_id, whole.began)

    def _expire(self, stream_id: UUID, began: float) -> None:
        whole = self._kept.get(stream_id)
        if whole is not None and whole.began == began:
            del self._kept[stream_id]

    def _drop(self, whole: Whole) -> None:
        if self._kept.get(whole.thread.stream_id) is whole:
            del self._kept[whole.thread.stream_id]


def _size(whole: Whole) -> int:
    """Comments, and some for the fold itself."""
    return len(whole.thread.comments) + 10
