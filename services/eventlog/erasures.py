"""Erasing a person: their key is destroyed, and what is erased by it is entered for the workers.

The key goes in one statement, under the locks of all lanes (`erase_author` in schema/migrations): whatever
was sealed under it is in the log by then, and nothing will be any more. All that follows can be done again
and again, by anybody: the table says what is left.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.core.addresses import new_event_id, site_stream_id
from services.core.commands import Actor, EraseAuthor, Idempotency
from services.errors import IdempotencyKeyReused, Unavailable
from services.eventlog.appenders import Appenders
from services.eventlog.batch import Appended
from services.eventlog.erased_keys import ErasedKeysFile
from services.eventlog.keys import CONFIRM_S
from services.eventlog.locks import LockClass
from services.eventlog.queries import QUERIES

_SLACK_S: Final = 0.1
_TRIES: Final = 3
"""How often the lanes' locks are asked for: each time, for three seconds a lane."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """One person's erasure. `comments` counts what was erased, once it is done."""

    id: UUID
    site: str
    author_id: str
    key_id: UUID
    requested_by: str | None
    requested_at: datetime
    filed_at: datetime | None
    done_at: datetime | None
    comments: int | None


class Erasures:
    """The erasures of all sites."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        file: ErasedKeysFile | None = None,
        *,
        settle: float = CONFIRM_S + _SLACK_S,
    ) -> None:
        """`settle`: seconds from a key's destruction for which processes may still use it."""
        self._pool = pool
        self._file = file
        self._settle = settle

    @property
    def file(self) -> ErasedKeysFile | None:
        """Where destroyed keys are written, if anywhere."""
        return self._file

    async def request(
        self,
        site: str,
        author_id: str,
        *,
        requested_by: str | None,
        idempotency: Idempotency | None = None,
    ) -> Erasure | None:
        """Destroy the author's key; None where there is none, and so nothing to erase.

        When this returns, the key's id is in the file, and no process opens anything with it any more. Again
        with the same `idempotency`, it is the first one's erasure, and a key made since is left alone.
        Raises IdempotencyKeyReused; Unavailable where a lane is held for long; OSError where the file takes
        nothing: the key is destroyed by then, and a worker goes on.
        """
        return await self._destroy(site, author_id, None, requested_by, idempotency)

    async def reapply(self, key_id: UUID) -> Erasure | None:
        """Destroy a key that a restored backup has brought back; None where it is not alive.

        Raises as `request` does.
        """
        return await self._destroy(None, None, key_id, None, None)

    async def alive(self, key_ids: Collection[UUID]) -> list[UUID]:
        """Those of these destroyed keys that live nevertheless."""
        return [row["key_id"] for row in await self._pool.fetch(QUERIES["living_keys_among"], list(key_ids))]

    async def _destroy(
        self,
        site: str | None,
        author_id: str | None,
        key_id: UUID | None,
        requested_by: str | None,
        idempotency: Idempotency | None,
    ) -> Erasure | None:
        if idempotency is None and author_id is not None and not await self._is_left(site, author_id):
            return None  # and no lane is held for it
        new_id = new_event_id(time.time_ns() // 1_000_000, os.urandom(10))
        arguments = (
            *(site, author_id, key_id, new_id, requested_by),
            None if site is None else site_stream_id(site),
            None if idempotency is None else idempotency.key_mac,
            None if idempotency is None else idempotency.request_mac,
            int(LockClass.LANE),
        )
        for _ in range(_TRIES):
            try:
                row = await self._pool.fetchrow(QUERIES["erase_author"], *arguments)
                break
            except asyncpg.LockNotAvailableError:
                continue
        else:
            raise Unavailable("a lane of the log is held", retry_after=5)
        destroyed = asyncio.get_running_loop().time()
        assert row is not None
        if row["outcome"] == "reused":
            raise IdempotencyKeyReused("this Idempotency-Key was used for another request")
        # None also where the first request with this Idempotency-Key had nothing to erase.
        erasure = None if row["erasure"] is None else await self.one(row["erasure"])
        # An earlier request may have died before it came to this.
        behind = [] if site is None or author_id is None else await self.of(site, author_id)
        if erasure is not None and erasure not in behind:
            behind.append(erasure)
        for one in behind:
            await self.file_key(one)
        if any(one.done_at is None for one in behind):
            passed = asyncio.get_running_loop().time() - destroyed
            await asyncio.sleep(max(0.0, self._settle - passed))
        return erasure

    async def _is_left(self, site: str | None, author_id: str) -> bool:
        """Whether the author has a key, or an erasure that some step of `request` may still be missing of."""
        if await self._pool.fetchrow(QUERIES["author_key"], site, author_id) is not None:
            return True
        return site is not None and any(one.done_at is None for one in await self.of(site, author_id))

    async def file_key(self, erasure: Erasure) -> None:
        """Write the key's id to the file, if there is one and it is not there yet. Raises OSError."""
        if erasure.filed_at is None and self._file is not None:
            await asyncio.to_thread(self._file.append, erasure.key_id, erasure.requested_at)
            await self._pool.execute(QUERIES["file_erasure"], erasure.id)

    async def one(self, erasure_id: UUID) -> Erasure | None:
        """An erasure by its id."""
        row = await self._pool.fetchrow(QUERIES["erasure"], erasure_id)
        return None if row is None else Erasure(*row)

    async def of(self, site: str, author_id: str, limit: int = 100) -> list[Erasure]:
        """An author's erasures, newest first."""
        rows = await self._pool.fetch(QUERIES["erasures_of"], site, author_id, limit)
        return [Erasure(*row) for row in rows]

    async def newest(self, site: str | None, limit: int) -> list[Erasure]:
        """The erasures of a site, or of all, newest first."""
        return [Erasure(*row) for row in await self._pool.fetch(QUERIES["newest_erasures"], site, limit)]

    async def unfinished(self) -> tuple[int, datetime | None]:
        """How many erasures are not done, and since when the oldest is."""
        row = await self._pool.fetchrow(QUERIES["unfinished_erasures"])
        assert row is not None
        return int(row["erasures"]), row["since"]


async def announce(appenders: Appenders, erasure: Erasure) -> Appended:
    """Append AuthorErased to the site's stream, once, however often this is called within 30 days.

    Raises what `Appenders.submit` raises.
    """
    once = hashlib.sha256(b"erasure" + erasure.id.bytes).digest()
    return await appenders.submit(
        EraseAuthor(
            site=erasure.site,
            stream_id=site_stream_id(erasure.site),
            event_id=erasure.id,
            actor=Actor(erasure.requested_by),
            idempotency=Idempotency(once, once),
            author_id=erasure.author_id,
            key_id=erasure.key_id,
        )
    )
