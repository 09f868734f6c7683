"""Lists that are read from the decision state: counts, the newest comments, and what one person did.

Nothing here folds anything, or opens a text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.eventlog.queries import QUERIES

OWN: Final = 500
"""Votes, reports and held comments that `in_thread` gives, at most, of each."""

WINDOW: Final = 20_000
"""Events of a thread that one query looks for comments in."""

_LAST: Final = UUID(int=(1 << 128) - 1)
_NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Listed:
    """Where a comment is, and its place in a list."""

    id: UUID
    stream_id: UUID
    created_at: datetime
    posted: int


@dataclass(frozen=True, slots=True)
class Own:
    """What one person did in one thread, which is at `version` (0: it has no events)."""

    version: int
    hash: bytes
    closed: bool
    described_by: str | None
    votes: Mapping[UUID, int]
    reports: Sequence[UUID]
    held: Sequence[UUID]
    subscription: str | None


class Lists:
    """Reads them, on a pool of connections to the primary."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def counts(self, site: str, keys: Collection[str]) -> dict[str, int]:
        """How many visible comments each thread of the site has; 0 for one that nobody has written to."""
        found = await self._pool.fetch(QUERIES["visible_counts"], site, list(keys))
        return dict.fromkeys(keys, 0) | {row["key"]: row["visible"] for row in found}

    async def of_site(self, site: str, after: tuple[datetime, UUID] | None, limit: int) -> list[Listed]:
        """The site's visible comments, newest first, from behind (created_at, id) `after` on."""
        when, last = after or (_NEVER, _LAST)
        rows = await self._pool.fetch(QUERIES["newest_of_site"], site, when, last, limit)
        return [Listed(*row) for row in rows]

    async def of_thread(self, stream_id: UUID, version: int, limit: int) -> list[Listed]:
        """The visible comments of the thread's first `version` events, newest first.

        A comment is found among the thread's events, some at a time, so that whatever else happened there
        since, no query reads without bound.
        """
        found: list[Listed] = []
        while version > 0 and len(found) < limit:
            begin = max(0, version - WINDOW)
            rows = await self._pool.fetch(
                QUERIES["newest_of_thread"], stream_id, begin, version, limit - len(found)
            )
            found += (Listed(*row) for row in rows)
            version = begin
        return found

    async def of_person(self, site: str, author_id: str, after: UUID | None, limit: int) -> list[Listed]:
        """What somebody wrote on the site, in any state, newest first, from behind comment `after` on: what
        is sealed under their living key. Ids are in the order of time."""
        key = await self._pool.fetchrow(QUERIES["author_key"], site, author_id)
        if key is None:
            return []
        rows = await self._pool.fetch(QUERIES["newest_of_person"], key["key_id"], after or _LAST, limit)
        return [Listed(*row) for row in rows]

    async def in_thread(self, stream_id: UUID, person: str, ids: Collection[UUID] | None = None) -> Own:
        """What `person` did in the thread: of the comments `ids` where they are given, else the newest."""
        asked = None if ids is None else list(ids)
        row = await self._pool.fetchrow(QUERIES["own_in_thread"], stream_id, person, asked, OWN)
        assert row is not None
        version, last_hash, closed, described_by = row["thread"] or (0, b"", False, None)
        return Own(
            version=version,
            hash=last_hash,
            closed=closed,
            described_by=described_by,
            votes=dict(row["votes"]),
            reports=row["reports"],
            held=row["held"],
            subscription=row["subscription"],
        )
