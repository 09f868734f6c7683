"""Fan-outs: the followers of a large thread are told of a comment in chunks.

The notifier enters a fan-out's parts in the transaction that tells whom the comment concerns first; each
part is a slice of the followers, and its row says who was the last to be told. A chunk is one transaction
that holds that row: whoever is killed in the middle has told nobody, and another worker goes on from there.
A follower who was told of the event for a better reason is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from services.eventlog.queries import QUERIES

PARTS: Final = 16
"""Into how many parts followers are cut (`subscriptions.part`): so many workers tell of one comment."""
CHUNK: Final = 1_000
"""Followers read in one transaction, some 50 ms."""
_COUNTED: Final = 1_000
_IN_ONE_WEBHOOK: Final = 500
_FINAL: Final = ("removed", "deleted", "erased")
_REASON: Final = "follow"


class _Part(NamedTuple):
    event_id: UUID
    part: int
    site: str
    comment_id: UUID
    version: int
    actor_id: str | None
    created_at: datetime
    after: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one transaction did: who was told, on which site."""

    site: str
    recipients: Sequence[str]


def about(comment_id: UUID, recipients: Sequence[tuple[str, str]]) -> str:
    """What a webhook tells: who was told of a comment, and why."""
    return orjson.dumps({"comment_id": str(comment_id), "recipients": recipients}).decode()


class Fanouts:
    """The fan-outs that wait."""

    def __init__(self, pool: asyncpg.Pool[Any], *, mails: bool = False, chunk: int = CHUNK) -> None:
        """`mails`: whether there is a mail server, so that mails are entered."""
        self._pool = pool
        self._mails = mails
        self._chunk = chunk

    async def tell(self, stream_id: UUID) -> Chunk | None:
        """Tell one chunk of the thread's followers; None where nobody is left whom others do not tell."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(QUERIES["claim_fanout"], stream_id)
            if row is None:
                return None
            part = _Part(*row)
            if await self._is_out_of_sight(connection, stream_id, part):
                await connection.execute(QUERIES["end_fanout"], stream_id, part.event_id, part.part)
                return Chunk(part.site, ())
            return await self._tell(connection, stream_id, part)

    async def waiting(self) -> tuple[int, float]:
        """How many parts wait, counted up to a thousand, and for how many seconds the oldest has."""
        row = await self._pool.fetchrow(QUERIES["fanouts_waiting"], _COUNTED)
        assert row is not None, "an aggregate has one row"
        return row["parts"], row["seconds"]

    async def left(self) -> list[UUID]:
        """Threads whose followers wait for longer than they should: whoever was to tell them may be gone."""
        return [row["stream_id"] for row in await self._pool.fetch(QUERIES["fanouts_left"])]

    async def _tell(
        self, connection: asyncpg.pool.PoolConnectionProxy[Any], stream_id: UUID, part: _Part
    ) -> Chunk:
        told = await connection.fetchrow(
            QUERIES["tell_followers"],
            *(stream_id, part.part, part.after, self._chunk),
            *(part.event_id, part.comment_id, part.actor_id, part.created_at, part.site),
        )
        assert told is not None, "an aggregate has one row"
        recipients: list[str] = told["recipients"] or []
        if recipients:
            await self._deliver(connection, part, recipients, told["ids"])
        if told["seen"] < self._chunk:
            await connection.execute(QUERIES["end_fanout"], stream_id, part.event_id, part.part)
        else:
            await connection.execute(
                QUERIES["move_fanout"], stream_id, part.event_id, part.part, told["last"]
            )
        return Chunk(part.site, recipients)

    async def _deliver(
        self,
        connection: asyncpg.pool.PoolConnectionProxy[Any],
        part: _Part,
        recipients: list[str],
        ids: list[UUID],
    ) -> None:
        if self._mails:
            events = [part.event_id] * len(ids)
            await connection.execute(QUERIES["enter_mail"], part.site, events, recipients, ids)
        starts = range(0, len(recipients), _IN_ONE_WEBHOOK)
        whom = [[(one, _REASON) for one in recipients[n : n + _IN_ONE_WEBHOOK]] for n in starts]
        await connection.execute(
            QUERIES["enter_webhooks"],
            [part.site] * len(whom),
            [part.event_id] * len(whom),
            [about(part.comment_id, some) for some in whom],
            [str(ids[n]) for n in starts],  # of those that were entered just now
        )

    async def _is_out_of_sight(
        self, connection: asyncpg.pool.PoolConnectionProxy[Any], stream_id: UUID, part: _Part
    ) -> bool:
        """Whether not everyone may see the comment any more: then its followers wait for its approval.

        The notifier tells of an approval under its checkpoint's lock. Under that lock the comment is looked
        at again: it is visible by now, or its approval is still to come and finds what is entered here.
        """
        if await self._state(connection, stream_id, part) == "visible":
            return False
        await connection.fetchval(QUERIES["notifier_checkpoint"], stream_id)
        state = await self._state(connection, stream_id, part)
        if state == "visible":
            return False
        if state not in (None, *_FINAL):
            await connection.execute(
                QUERIES["enter_untold"], stream_id, part.comment_id, part.version, part.event_id
            )
        return True

    async def _state(
        self, connection: asyncpg.pool.PoolConnectionProxy[Any], stream_id: UUID, part: _Part
    ) -> str | None:
        state: str | None = await connection.fetchval(QUERIES["comment_state"], part.comment_id, stream_id)
        return state
