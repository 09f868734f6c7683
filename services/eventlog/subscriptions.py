"""What people follow: a level for each person and thread. Rows, not events: theirs to change at any time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID

import asyncpg

from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES

Level = Literal["all", "mentions", "muted"]
"""Told of everything in the thread; of replies and mentions, as whoever does not follow it; of nothing."""

LEVELS: Final[tuple[Level, ...]] = get_args(Level)
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Subscription:
    """What somebody follows. A thread that nobody has written to is known by its id alone."""

    stream_id: UUID
    key: str | None
    title: str | None
    url: str | None
    level: Level
    created_at: datetime


class Subscriptions:
    """The subscriptions of all threads, with or without events."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def put(self, site: str, stream_id: UUID, author_id: str, level: Level) -> None:
        """Follow the thread at this level from now on."""
        await self._pool.execute(QUERIES["subscribe"], stream_id, site, author_id, level)

    async def remove(self, stream_id: UUID, author_id: str) -> None:
        """Follow the thread no more."""
        await self._pool.execute(QUERIES["unsubscribe"], stream_id, author_id)

    async def of(self, site: str, author_id: str) -> AsyncIterator[list[Subscription]]:
        """All that somebody follows, some at a time."""
        after = NIL
        while rows := await self._pool.fetch(QUERIES["subscriptions_of"], site, author_id, after, _PAGE):
            yield [Subscription(*row) for row in rows]
            after = rows[-1]["stream_id"]
