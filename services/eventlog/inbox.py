"""Inboxes: who was told of what, and what of it they have read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES

State = Literal["unread", "read", "all"]

UNREAD: Final = 10_000
"""More unread ones than this are told as this many: they are counted with every page and every event."""
_SLICE: Final = 5_000
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


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody was told of an inbox: all that the snapshot sees, and where `then` is a later one, of
    what only that one sees too the rows up to `last`.

    A snapshot is Postgres' own (`pg_snapshot`, PostgreSQL documentation, 9.28.10): transactions that were
    under way when it was taken are not in it, however early they began.
    """

    snapshot: str
    then: str | None = None
    last: UUID | None = None


@dataclass(frozen=True, slots=True)
class News:
    """What came to an inbox, in the order in which it is told; `seen` is what a reader has been told who was
    told of everything up to each of them, and in the end `now`."""

    items: Sequence[Notification]
    seen: Sequence[Seen]
    now: Seen
    ahead: bool
    """Whether what the reader was told is of a future that this database never had."""


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

    async def present(self) -> Seen:
        """What there is now has been seen."""
        return Seen(await self._pool.fetchval(QUERIES["inbox_present"]))

    async def since(self, site: str, recipient: str, seen: Seen, limit: int) -> News:
        """What they were told of and have not seen yet, read and unread, at most `limit`."""
        rows = await self._pool.fetch(
            QUERIES["inbox_since"], site, recipient, seen.snapshot, seen.then, seen.last or NIL, limit
        )
        now = Seen(rows[0]["now"])
        if rows[0]["notification_id"] is None:
            return News((), (), now, rows[0]["ahead"])
        items = [Notification(*row[3:]) for row in rows]
        told = [
            Seen(seen.then or seen.snapshot, now.snapshot, row["notification_id"])
            if row["later"]
            else Seen(seen.snapshot, seen.then, row["notification_id"])
            for row in rows
        ]
        if len(items) < limit:
            told[-1] = now
        return News(items, told, now, rows[0]["ahead"])

    async def news(self, asked: Sequence[tuple[str, str, str]]) -> tuple[set[int], Seen]:
        """Who of these (site, person, snapshot), by their place, has notifications that their snapshot does
        not see; the others have seen what is answered with them."""
        rows = await self._pool.fetch(QUERIES["inbox_news"], *map(list, zip(*asked, strict=True)))
        return {row["place"] for row in rows if row["place"] is not None}, Seen(rows[0]["now"])

    async def unread(self, site: str, recipient: str) -> int:
        """How many were not read yet, counted up to UNREAD."""
        return int(await self._pool.fetchval(QUERIES["unread"], site, recipient, UNREAD) or 0)

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
            marked = f"UPDATE {_SLICE}"
            while marked == f"UPDATE {_SLICE}":
                marked = await self._pool.execute(QUERIES["mark_read_through"], site, recipient, what, _SLICE)
        else:
            await self._pool.execute(QUERIES["mark_read"], site, recipient, list(what))
