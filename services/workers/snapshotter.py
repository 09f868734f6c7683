"""Writing snapshots of long threads as they grow, in the background of a worker process, one at a time.

A thread that moved, by an import too, is looked at when it has grown far enough, and at once when a replay
has removed its snapshots. What was missed is found by looking through all threads, some each minute. Whatever
is lost or done twice costs time only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Final
from uuid import UUID

from services.eventlog.log import NIL
from services.projection.snapshotting import LEAST, SnapshotWriter, is_due
from services.workers.faults import told
from services.workers.metrics import WorkerMetrics

_log = logging.getLogger(__name__)

LOOK_S: Final = 60.0
"""Seconds between two looks at some of all threads."""

_STREAMS: Final = 10_000
_KNOWN: Final = 10_000
_QUEUE: Final = 1_000
_REST_S: Final = 5.0


class Snapshotter:
    """Writes what snapshots are due, from `run` until that is cancelled."""

    def __init__(
        self, writer: SnapshotWriter, metrics: WorkerMetrics | None = None, *, look: float = LOOK_S
    ) -> None:
        self._writer = writer
        self._metrics = metrics
        self._look = look
        self._known: OrderedDict[UUID, int] = OrderedDict()
        """The version of a thread's last snapshot, as this process knows it."""
        self._queue: OrderedDict[UUID, tuple[int, float]] = OrderedDict()
        """The versions of those that are due, and since when they are, by the monotonic clock."""
        self._due = asyncio.Event()
        self._after = NIL
        self._counted = (0, 0)

    def moved(self, stream_id: UUID, version: int) -> None:
        """A thread is at this version. Costs next to nothing."""
        if version >= LEAST and is_due(version, self._known.get(stream_id, 0)) and len(self._queue) < _QUEUE:
            _, since = self._queue.get(stream_id, (0, time.monotonic()))
            self._queue[stream_id] = (version, since)
            self._due.set()

    def lost(self, stream_id: UUID, version: int) -> None:
        """A thread at this version has no snapshot any more."""
        self._known.pop(stream_id, None)
        self.moved(stream_id, version)

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
                stream_id, (version, _) = self._queue.popitem(last=False)
                await self._write(stream_id, version)
            if not self._queue:
                self._due.clear()
            self._count()

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

    def _count(self) -> None:
        if self._metrics is None:
            return
        written, size = self._writer.written, self._writer.bytes
        self._metrics.snapshots.inc(written - self._counted[0])
        self._metrics.snapshot_bytes.inc(size - self._counted[1])
        self._counted = (written, size)
        now = time.monotonic()
        since = min((since for _, since in self._queue.values()), default=now)
        self._metrics.snapshots_wait.set(now - since)

    async def _look_through(self) -> None:
        try:
            found, self._after = await self._writer.snapshots.due(self._after, LEAST, _STREAMS)
        except Exception as error:  # noqa: BLE001 - it is looked for again
            _log.warning("threads without snapshots were not looked for: %s", told(error))
            return
        for stream_id, version, snapshot in found:
            if is_due(version, snapshot):
                if stream_id in self._known:
                    self._known[stream_id] = snapshot  # others may have removed what this process wrote
                self.moved(stream_id, version)
