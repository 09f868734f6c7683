"""What is stored of one person: what they wrote, reported and voted for, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES

PAGE: Final = 100
_PLACE: Final = ("stream_id", "comment_id")


@dataclass(frozen=True, slots=True)
class OwnThread:
    """The thread that something lies in, as its clients know it."""

    stream_id: UUID
    key: str
    title: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class OwnComment:
    """A comment: `posted` and `text_version` are the versions of its posting and of its newest text."""

    id: UUID
    thread: OwnThread
    state: str
    created_at: datetime
    posted: int
    text_version: int


@dataclass(frozen=True, slots=True)
class OwnReport:
    """A report of somebody's comment, made by the event at `version`."""

    comment_id: UUID
    thread: OwnThread
    version: int


@dataclass(frozen=True, slots=True)
class OwnVote:
    """A vote on somebody's comment."""

    comment_id: UUID
    thread: OwnThread
    value: int


@dataclass(frozen=True, slots=True)
class OwnDelivery:
    """What went out to them, is to go, or could not."""

    id: UUID
    channel: str
    kind: str
    state: str
    event_id: UUID | None
    created_at: datetime
    ended_at: datetime | None
    reason: str | None


class Person:
    """One person of one site."""

    def __init__(self, pool: asyncpg.Pool[Any], site: str, author_id: str) -> None:
        self._pool = pool
        self._site = site
        self._author_id = author_id

    async def comments(self) -> AsyncIterator[list[OwnComment]]:
        """What is sealed under their living key, oldest first."""
        key = await self._pool.fetchrow(QUERIES["author_key"], self._site, self._author_id)
        if key is None:
            return
        async for rows in self._pages("own_comments", ("comment_id",), key["key_id"]):
            yield [OwnComment(row[0], OwnThread(*row[1:5]), *row[5:]) for row in rows]

    async def reports(self) -> AsyncIterator[list[OwnReport]]:
        """What they reported."""
        async for rows in self._pages("own_reports", _PLACE, self._site, self._author_id):
            yield [OwnReport(row[0], OwnThread(*row[1:5]), row[5]) for row in rows]

    async def votes(self) -> AsyncIterator[list[OwnVote]]:
        """How they voted; withdrawn votes are left out."""
        async for rows in self._pages("own_votes", _PLACE, self._site, self._author_id):
            yield [OwnVote(row[0], OwnThread(*row[1:5]), row[5]) for row in rows]

    async def deliveries(self) -> AsyncIterator[list[OwnDelivery]]:
        """What was to be sent to them; what ended a month ago is forgotten."""
        async for rows in self._pages("own_deliveries", ("delivery_id",), self._site, self._author_id):
            yield [OwnDelivery(*row) for row in rows]

    async def _pages(
        self, query: str, order: tuple[str, ...], *whose: object
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        """All rows of a query that goes on behind the values of its columns `order`."""
        after = [NIL for _ in order]
        while rows := await self._pool.fetch(QUERIES[query], *whose, *after, PAGE):
            yield [tuple(row) for row in rows]
            if len(rows) < PAGE:
                return
            after = [rows[-1][column] for column in order]
