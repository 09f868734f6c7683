"""Views that were made of another log than the one there is.

After a recovery to a point in time, or where a standby took over that lacked something, a view may be ahead
of the log, or hold another event at the version where the log stands. Whoever advances such a thread finds
out by the hash, but a reader does not advance it. So Redis keeps beside the views which log they were made
of: server, database and timeline, and which Redis, since one that took over may have lost what the last one
held. Where it is another one now, every view's head is compared with the log, a page at a time: those that
the log does not tell of are dropped, those that are behind it are to be brought up. A view that is written
meanwhile is made of the log as it is now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.eventlog.queries import QUERIES
from services.readmodel.views import Views

PAGES: Final = 50
"""Pages of heads that one call compares, at most."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What one call found. `again` are the threads whose views are to be made or brought up."""

    dropped: int
    again: list[UUID]
    done: bool


class Restored:
    """Compares the views of one Redis with the log, where they were made of another one."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._walk: tuple[str, int] | None = None
        """Which log the views are being compared with, and how far that is."""

    async def of_another_log(self, connection: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> bool:
        """Whether the views are known to be of another log, and nobody has compared all of them yet."""
        told = await self._views.recency.told()
        return told is not None and told != await self._present(connection)

    async def compare(self, connection: asyncpg.Connection[Any]) -> Compared:
        """Compare some views where they are of another log; to be called again until it is done."""
        present = await self._present(connection)
        if self._walk is None or self._walk[0] != present:
            if await self._views.recency.told() == present:
                return Compared(0, [], done=True)
            self._walk = (present, 0)
        dropped, again, cursor = 0, list[UUID](), self._walk[1]
        for _ in range(PAGES):
            cursor, stream_ids = await self._views.recency.entered(cursor)
            gone, behind = await self._page(connection, stream_ids)
            dropped += len(gone)
            again += gone + behind
            if cursor == 0:
                await self._views.recency.tell(present)
                self._walk = None
                return Compared(dropped, again, done=True)
        self._walk = (present, cursor)
        return Compared(dropped, again, done=False)

    async def _page(
        self, connection: asyncpg.Connection[Any], stream_ids: list[UUID]
    ) -> tuple[list[UUID], list[UUID]]:
        """Drop those of these views that the log does not tell of; their threads, and those behind it."""
        # The heads first: what is made of this log is never ahead of what is read of it later.
        heads = await self._views.heads(stream_ids)
        rows = await connection.fetch(
            QUERIES["told_of"], list(heads), [head.version for head in heads.values()]
        )
        gone, behind = [], []
        for stream_id, hash_, version in rows:
            head = heads[stream_id]
            if hash_ != head.hash:
                await self._views.drop(stream_id, head.build)
                gone.append(stream_id)
            elif head.version < version:
                behind.append(stream_id)
        return gone, behind

    async def _present(self, connection: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> str:
        return f"{await connection.fetchval(QUERIES['log_identity'])} {await self._views.recency.server()}"
