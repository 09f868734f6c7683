"""Snapshots of threads as the database keeps them, and the keyed reads that go with a page from the log.

A snapshot is complete or absent: it is written in one transaction. All of it is disposable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.core.segments import Base, Key
from services.core.snapshot import FORMAT, SnapshotBroken, read_head
from services.core.structure import Step
from services.eventlog.locks import LockClass
from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES

LAST: Final = 2**63 - 1
"""A version that no stream reaches."""

_TOGETHER: Final = 200
"""Segments sent in one statement."""


class Snapshots:
    """The snapshots of one database, on a pool of connections."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    # --- the log, as a page needs it --------------------------------------------------------------------

    async def steps(self, stream_id: UUID, after: int, to: int, limit: int) -> list[Step]:
        """The events of a stream after version `after` up to `to`, oldest first, at most `limit`."""
        rows = await self._pool.fetch(QUERIES["steps_after"], stream_id, after, to, limit)
        return list(map(Step._make, rows))

    async def ids(self, stream_id: UUID, versions: Iterable[int]) -> dict[int, UUID]:
        """The ids of the events at these versions."""
        rows = await self._pool.fetch(QUERIES["ids_at"], stream_id, list(versions))
        return {row["version"]: row["event_id"] for row in rows}

    async def posted(self, stream_id: UUID, comment_id: UUID) -> int | None:
        """The version that posted a comment of this stream; None where it has no such comment."""
        version: int | None = await self._pool.fetchval(QUERIES["comment_version"], comment_id, stream_id)
        return version

    async def states(self, comment_ids: Iterable[UUID]) -> dict[UUID, str]:
        """The present states of these comments."""
        rows = await self._pool.fetch(QUERIES["comment_states"], list(comment_ids))
        return {row["comment_id"]: row["state"] for row in rows}

    async def version_at(self, stream_id: UUID, when: datetime) -> int:
        """The last version recorded at this time or before; 0 where there is none."""
        return await self._pool.fetchval(QUERIES["version_at"], stream_id, when) or 0

    # --- snapshots --------------------------------------------------------------------------------------

    async def at(self, stream_id: UUID, to: int = LAST) -> Base | None:
        """The last snapshot at version `to` or before, without its segments. Raises SnapshotBroken."""
        row = await self._pool.fetchrow(QUERIES["snapshot_at"], stream_id, FORMAT, to)
        if row is None:
            return None
        base = read_head(row["head"], row["hash"])
        if base.version != row["version"]:
            raise SnapshotBroken(f"the head of version {row['version']} tells of {base.version}")
        return base

    async def versions(self, stream_id: UUID) -> list[int]:
        """The versions that there are snapshots of, in order."""
        rows = await self._pool.fetch(QUERIES["snapshot_versions"], stream_id, FORMAT)
        return [row["version"] for row in rows]

    async def segments(self, stream_id: UUID, version: int, keys: Iterable[Key]) -> dict[Key, bytes]:
        """These segments of a snapshot, as far as they are there."""
        wanted = list(keys)
        kinds, numbers = [key[0] for key in wanted], [key[1] for key in wanted]
        rows = await self._pool.fetch(QUERIES["segments_at"], stream_id, version, kinds, numbers)
        return {(row["kind"], row["number"]): row["data"] for row in rows}

    async def all_segments(
        self, stream_id: UUID, version: int, kind: str
    ) -> AsyncIterator[list[tuple[Key, bytes]]]:
        """All segments of one kind, some at a time."""
        number = -1
        while True:
            rows = await self._pool.fetch(QUERIES["segments_of"], stream_id, version, kind, number, _TOGETHER)
            if not rows:
                return
            yield [((kind, row["number"]), row["data"]) for row in rows]
            number = rows[-1]["number"]

    async def write(
        self, stream_id: UUID, base: Base, head: bytes, segments: AsyncIterator[list[tuple[Key, bytes]]]
    ) -> bool:
        """Store a snapshot; False where there is one of this version already."""
        async with self._pool.acquire() as connection, connection.transaction():
            mine = await connection.fetchval(
                QUERIES["insert_snapshot"], stream_id, base.version, base.hash, FORMAT, head
            )
            if mine is None:
                return False
            async for some in segments:
                kinds, numbers = [key[0] for key, _ in some], [key[1] for key, _ in some]
                data = [one for _, one in some]
                await connection.execute(
                    QUERIES["insert_segments"], stream_id, base.version, kinds, numbers, data
                )
        return True

    async def remove(self, stream_id: UUID, versions: Iterable[int]) -> None:
        """Remove these snapshots of a stream."""
        await self._pool.execute(QUERIES["remove_snapshots"], stream_id, list(versions))

    async def remove_older(self, stream_id: UUID) -> None:
        """Remove what a release before this one wrote and this one does not read."""
        await self._pool.execute(QUERIES["remove_older_snapshots"], stream_id, FORMAT)

    async def due(self, after: UUID, least: int, limit: int) -> tuple[list[tuple[UUID, int, int]], UUID]:
        """Of the `limit` streams after `after`, the threads of `least` events or more, each with its version
        and that of its last snapshot (0: none), and where to go on (NIL: from the beginning)."""
        rows = await self._pool.fetch(QUERIES["long_threads"], after, least, limit, FORMAT)
        found = [(row["stream_id"], row["version"], row["snapshot"]) for row in rows if row["long"]]
        return found, rows[-1]["stream_id"] if rows else NIL

    @asynccontextmanager
    async def lease(self, stream_id: UUID) -> AsyncIterator[bool]:
        """Whether this process may write the stream's snapshots now. It saves work: two may do it at once."""
        half = int.from_bytes(stream_id.bytes[:4], "big", signed=True)
        async with self._pool.acquire() as connection:
            mine = await connection.fetchval(QUERIES["lease_snapshots"], LockClass.SNAPSHOTS, half)
            try:
                yield bool(mine)
            finally:
                if mine:
                    await connection.fetchval(QUERIES["give_back_lease"], LockClass.SNAPSHOTS, half)


def batched(segments: Iterator[tuple[Key, bytes]]) -> list[tuple[Key, bytes]]:
    """As many as are sent in one statement."""
    return list(islice(segments, _TOGETHER))
