"""Writing snapshots of long threads as they grow, in the background of a worker process, one at a time.

A thread whose view was advanced is looked at when it has grown far enough. The others, that nobody reads, are
found by looking through all threads, some each minute. Whatever is lost or done twice costs time only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from typing import Final
from uuid import UUID

from services.eventlog.log import NIL
from services.projection.snapshotting import LEAST, SnapshotWriter, is_due
from services.workers.faults import told

_log = logging.getLogger(__name__)

LOOK_S: Final = 60.0
"""Seconds between two looks at some of all threads."""

_STREAMS: Final = 1_000
_KNOWN: Final = 10_000
_QUEUE: Final = 1_000
_REST_S: Final = 5.0


class Snapshotter:
    """Writes what snapshots are due, from `run` until that is cancelled."""

    def __init__(self, writer: SnapshotWriter, *, look: float = LOOK_S) -> None:
        self._writer = writer
        self._look = look
        self._known: OrderedDict[UUID, int] = OrderedDict()
        """The version of a thread's last snapshot, as this process knows it."""
        self._queue: OrderedDict[UUID, int] = OrderedDict()
        self._due = asyncio.Event()
        self._after = NIL

    def moved(self, stream_id: UUID, version: int) -> None:
        """A thread is at this version. Costs next to nothing."""
        if version >= LEAST and is_due(version, self._known.get(stream_id, 0)) and len(self._queue) < _QUEUE:
            self._queue[stream_id] = version
            self._due.set()

    async def run(self) -> None:
        """Write, and look for what to write; after a fault, again."""
        clock = asyncio.get_running_loop().time
        look = clock() + self._look
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look):
                    await self._due.wait()
            # However much there is to write.
            if clock() >= look:
                await self._look_through()
                look = clock() + self._look
            if self._queue:
                await self._write(*self._queue.popitem(last=False))
            if not self._queue:
                self._due.clear()

    async def _write(self, stream_id: UUID, version: int) -> None:
        try:
            last = await self._writer.bring_up(stream_id)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other threads go on
            _log.warning("no snapshot of %s was written: %s", stream_id, told(error))
            last = None
            await asyncio.sleep(_REST_S)
        # Where it failed, or another process is at it, this one looks again when the thread has grown.
        self._known[stream_id] = version if last is None else last
        self._known.move_to_end(stream_id)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    async def _look_through(self) -> None:
        try:
            found, self._after = await self._writer.snapshots.due(self._after, LEAST, _STREAMS)
        except Exception as error:  # noqa: BLE001 - it is looked for again
            _log.warning("threads without snapshots were not looked for: %s", told(error))
            return
        for stream_id, version, snapshot in found:
            if is_due(version, snapshot):
                self.moved(stream_id, version)
