"""Writing the snapshots of long threads, from the last one and the events behind it.

Each is whole: it is written from columns in memory, some 60 bytes a comment, and needs no other. Of the older
ones some are kept, for `as_of`: one in each of the 8 to 16 equal parts of the thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final
from uuid import UUID

from services.core.segments import OF_COMMENTS, Key
from services.core.snapshot import SnapshotBroken, decode, head_json, whole, written
from services.core.steps import Unfoldable, fold, read_payloads
from services.core.structure import Step, Structure
from services.eventlog.log import EventLog
from services.eventlog.snapshots import Snapshots, batched

LEAST: Final = 2_000
"""Threads of fewer events have no snapshot, and no snapshot has fewer events behind it than this."""

_SHARE: Final = 50
"""Nor less than this part of a thread."""

_NEAREST: Final = 2_048
_CHUNK: Final = 5_000


def is_due(version: int, snapshot: int) -> bool:
    """Whether a thread at `version`, whose last snapshot is at `snapshot` (0: none), should have another."""
    return version - snapshot >= max(LEAST, version // _SHARE)


def grid(version: int) -> int:
    """How far apart the kept snapshots of a thread are, in versions: a power of two, so that those which were
    kept while it was shorter are some of those to keep."""
    return max(_NEAREST, 1 << max(version.bit_length() - 4, 0))


def superfluous(versions: Sequence[int]) -> list[int]:
    """Those of a thread's snapshots that need not be kept, beside the last and the first in each part."""
    if not versions:
        return []
    apart = grid(versions[-1])
    kept = {versions[-1]}
    seen: set[int] = set()
    for version in versions:
        if version // apart not in seen:
            seen.add(version // apart)
            kept.add(version)
    return [version for version in versions if version not in kept]


class SnapshotWriter:
    """Writes and removes the snapshots of threads, one thread after the other."""

    def __init__(self, log: EventLog, snapshots: Snapshots) -> None:
        self._log = log
        self.snapshots = snapshots
        self._one = asyncio.Lock()
        self.written = 0
        """How many snapshots were written."""
        self.bytes = 0
        """How many bytes they take, compressed."""

    async def bring_up(self, stream_id: UUID) -> int | None:
        """Write what snapshots the thread should have by now and has not; the version of its last one, 0
        where it has none.

        None where another process is at it. An event that cannot be folded ends what is written. A million
        comments without any snapshot take about a minute and 200 MB, away from the event loop.
        """
        async with self._one, self.snapshots.lease(stream_id) as mine:
            return await self._bring_up(stream_id) if mine else None

    async def _bring_up(self, stream_id: UUID) -> int:
        head = await self._log.head(stream_id)
        versions = await self.snapshots.versions(stream_id)
        last = versions[-1] if versions else 0
        if head is None or not is_due(head[0], last):
            return last
        # First, since one of them may stand where another is to be.
        await self.snapshots.remove_older(stream_id)
        try:
            await self._written(await self._last(stream_id), stream_id, head[0])
        except SnapshotBroken:
            await self.snapshots.remove(stream_id, versions)
            await self._written(Structure(orders=False), stream_id, head[0])
        versions = await self.snapshots.versions(stream_id)
        if spare := superfluous(versions):
            await self.snapshots.remove(stream_id, spare)
        return versions[-1] if versions else 0

    async def _written(self, thread: Structure, stream_id: UUID, head: int) -> None:
        """Fold up to version `head` and write it down there and at some places on the way."""
        for stop in _stops(thread.version, head):
            await self._fold(thread, stream_id, stop)
            await self._write(thread, stream_id)
            if thread.version < stop:
                return

    async def _last(self, stream_id: UUID) -> Structure:
        """The thread as its last snapshot has it, whole; empty where there is none.

        Raises SnapshotBroken.
        """
        base = await self.snapshots.at(stream_id)
        if base is None:
            return Structure(orders=False)
        found = Structure(base)
        await self.load(found, stream_id)
        return await asyncio.to_thread(whole, found)

    async def load(self, thread: Structure, stream_id: UUID, kinds: Iterable[str] = OF_COMMENTS) -> None:
        """Load all segments of these kinds. Raises SnapshotBroken."""
        for kind in kinds:
            async for some in self.snapshots.all_segments(stream_id, thread.base.version, kind):
                try:
                    await asyncio.to_thread(_load, thread, some)
                except (ValueError, IndexError) as error:
                    raise SnapshotBroken(str(error)) from error
        lost = {(kind, n) for kind in OF_COMMENTS for n in range(len(thread.base.firsts))} - set(
            thread.segments
        )
        if lost:
            raise SnapshotBroken(f"it lacks {min(lost)}")

    async def _fold(self, thread: Structure, stream_id: UUID, to: int) -> None:
        """Fold up to version `to`, or to an event that cannot be folded. Raises SnapshotBroken."""
        while thread.version < to:
            after = thread.version
            steps = await self.snapshots.steps(stream_id, after - 1 if after else 0, to, _CHUNK + 1)
            if after:
                if not steps or steps[0].version != after or steps[0].hash != thread.last_hash:
                    raise SnapshotBroken("it tells another story than the log")
                steps = steps[1:]
            if not await asyncio.to_thread(fold_on, thread, steps) or not steps:
                return

    async def _write(self, thread: Structure, stream_id: UUID) -> None:
        if thread.size:
            base, segments = await asyncio.to_thread(written, thread)
            before = self.bytes
            if await self.snapshots.write(stream_id, base, head_json(base), self._batches(segments)):
                self.written += 1
            else:
                self.bytes = before  # another has written the same

    async def _batches(self, segments: Iterator[tuple[Key, bytes]]) -> AsyncIterator[list[tuple[Key, bytes]]]:
        while some := await asyncio.to_thread(batched, segments):
            self.bytes += sum(len(data) for _, data in some)
            yield some


def fold_on(thread: Structure, steps: list[Step]) -> bool:
    """Fold these steps; whether all of them could be."""
    payloads, stopped = read_payloads(steps)
    try:
        fold(thread, steps, payloads)
    except Unfoldable:
        return False
    return stopped is None


def _load(thread: Structure, some: list[tuple[Key, bytes]]) -> None:
    for key, data in some:
        thread.load(key, decode(key[0], data))


def _stops(version: int, head: int) -> Iterator[int]:
    """Where snapshots are written on the way from `version` to `head`."""
    apart = grid(head)
    first = (version // apart + 1) * apart
    for stop in range(first, head, apart):
        if head - stop >= LEAST:
            yield stop
    yield head
