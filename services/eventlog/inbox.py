"""Inboxes: who was told of what, and what of it they have read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from services.eventlog.queries import QUERIES

State = Literal["unread", "read", "all"]

_LAST: Final = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class Notification:
    """One row of an inbox. `event_id` is the event that brought the text, `actor_id` who caused it."""

    id: UUID
    event_id: UUID
    reason: str
    stream_id: UUID
    key: str
    title: str | None
    url: str | None
    comment_id: UUID
    actor_id: str | None
    created_at: datetime
    read: bool


class Inbox:
    """The notifications of the people of all sites."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def page(
        self, site: str, recipient: str, state: State, after: UUID | None, limit: int
    ) -> list[Notification]:
        """Notifications newest first, at most `limit`, from behind `after` on (None: from the newest).

        What is told while somebody pages comes before the first page, so nothing is lost or repeated.
        """
        rows = await self._pool.fetch(QUERIES[f"inbox_{state}"], site, recipient, after or _LAST, limit)
        return [Notification(*row) for row in rows]

    async def unread(self, site: str, recipient: str) -> int:
        """How many were not read yet."""
        return int(await self._pool.fetchval(QUERIES["unread"], site, recipient) or 0)

    async def empty(self, site: str, recipient: str) -> None:
        """Delete all that they were told of."""
        told_of = "DELETE 1"
        while told_of != "DELETE 0":
            told_of = await self._pool.execute(QUERIES["empty_inbox"], site, recipient)

    async def mark_read(self, site: str, recipient: str, what: Collection[UUID] | UUID) -> None:
        """Mark notifications as read: those with these ids, or `what` itself and all older ones.

        Ids that are not the recipient's are passed over.
        """
        if isinstance(what, UUID):
            await self._pool.execute(QUERIES["mark_read_through"], site, recipient, what)
        else:
            await self._pool.execute(QUERIES["mark_read"], site, recipient, list(what))
