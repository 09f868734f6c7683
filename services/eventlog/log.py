"""Reading the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from schema.events.envelope import Recorded
from services.eventlog.queries import QUERIES

NIL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class ThreadName:
    """A thread as the log names it."""

    stream_id: UUID
    site: str
    key: str
    version: int


class EventLog:
    """The log's reading side, on a pool of connections (a standby will do)."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def events_after(self, stream_id: UUID, version: int, limit: int) -> list[Recorded]:
        """The events of a stream after `version`, oldest first, at most `limit`."""
        rows = await self._pool.fetch(QUERIES["events_after"], stream_id, version, limit)
        return list(map(Recorded._make, rows))

    async def pages(
        self, stream_id: UUID, after: int = 0, to: int | None = None, size: int = 1000
    ) -> AsyncIterator[list[Recorded]]:
        """The events of a stream after version `after` up to `to` (None: the end), `size` at a time."""
        while to is None or after < to:
            limit = size if to is None else min(size, to - after)
            events = await self.events_after(stream_id, after, limit)
            if events:
                yield events
                after = events[-1].version
            if len(events) < limit:
                return

    async def events_at(self, stream_id: UUID, versions: list[int]) -> list[Recorded]:
        """The events of a stream at these versions."""
        rows = await self._pool.fetch(QUERIES["events_at"], stream_id, versions)
        return [Recorded(*row) for row in rows]

    async def votes_lately(
        self, stream_id: UUID, version: int, *, events: int, seconds: float
    ) -> list[tuple[UUID, datetime]]:
        """The votes among the last `events` events up to `version`, at most `seconds` older than it, oldest
        first: the comment that each is about, and when it was recorded."""
        rows = await self._pool.fetch(QUERIES["votes_lately"], stream_id, version, events, seconds)
        return [(UUID(orjson.loads(row["data"])["comment_id"]), row["recorded_at"]) for row in rows]

    async def text_versions(self, stream_id: UUID, comment_id: UUID, after: int, limit: int) -> list[int]:
        """The versions of the events that gave a comment its texts after revision `after`, oldest first, at
        most `limit`."""
        rows = await self._pool.fetch(QUERIES["text_versions"], stream_id, comment_id, after, limit)
        return [row["version"] for row in rows]

    async def by_position(self, lane: int, after: int, limit: int) -> list[Recorded]:
        """The events of a lane after position `after`, in order, at most `limit`."""
        rows = await self._pool.fetch(QUERIES["events_by_position"], lane, after, limit)
        return [Recorded(*row) for row in rows]

    async def of_site(
        self, site: str, lane: int, after: int, to: int, limit: int
    ) -> tuple[list[Recorded], int]:
        """At most `limit` events of a site at the positions of a lane after `after` up to `to`, in order; and
        up to where they were looked for: `to`, or the lane's head where that lies before it."""
        rows = await self._pool.fetch(QUERIES["site_events_by_position"], lane, after, to, site, limit)
        reached = rows[0]["reached"] if rows else after
        return [Recorded(*row[1:]) for row in rows if row["position"] is not None], max(after, reached)

    async def head(self, stream_id: UUID) -> tuple[int, bytes] | None:
        """Version and hash of a stream's last event; None for a stream without events."""
        row = await self._pool.fetchrow(QUERIES["head"], stream_id)
        return None if row is None else (row["version"], row["hash"])

    async def heads(self, stream_ids: Iterable[UUID]) -> dict[UUID, int]:
        """The versions of these streams; those without events are left out."""
        rows = await self._pool.fetch(QUERIES["heads"], list(stream_ids))
        return {row["stream_id"]: row["version"] for row in rows}

    async def threads(self, site: str | None, after: UUID = NIL, limit: int = 1000) -> list[ThreadName]:
        """Threads in the order of their stream ids, of one site or of all."""
        rows = await self._pool.fetch(QUERIES["threads"], after, site, limit)
        return [ThreadName(*row) for row in rows]

    async def names(self, stream_ids: Iterable[UUID]) -> dict[UUID, tuple[str, str | None]]:
        """Site and key of these streams; a site's own stream has no key."""
        rows = await self._pool.fetch(QUERIES["names_of"], list(stream_ids))
        return {row["stream_id"]: (row["site"], row["key"]) for row in rows}

    async def size(self, site: str) -> int:
        """How many events a site has, its threads' and its own."""
        return int(await self._pool.fetchval(QUERIES["site_size"], site))

    async def version_at(self, stream_id: UUID, when: datetime) -> int:
        """The last version of a stream that was recorded at this time or before; 0 where there is none."""
        return int(await self._pool.fetchval(QUERIES["version_at"], stream_id, when) or 0)

    async def lanes(self) -> dict[int, int]:
        """Each lane's head: the position of its last event."""
        return {row["lane"]: row["head"] for row in await self._pool.fetch(QUERIES["lanes"])}

    async def comment_key(self, stream_id: UUID, comment_id: UUID) -> tuple[str | None, UUID | None] | None:
        """Who wrote a comment, and the key that its text is sealed under; None where there is no such
        comment in this thread."""
        row = await self._pool.fetchrow(QUERIES["comment_key"], comment_id, stream_id)
        return None if row is None else (row["author_id"], row["key_id"])
