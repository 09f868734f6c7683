"""Writes to a real log, for tests of what follows it."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from schema.events.envelope import Recorded, canonical, chain_of
from services.core.addresses import lane_of, new_event_id, thread_stream_id
from services.core.commands import Actor, DeleteComment, Import, PostComment
from services.eventlog.appenders import Appenders
from services.eventlog.batch import Appended
from services.eventlog.keys import Keyring, MasterKey

MASTER_KEY = b64encode(bytes(range(32))).decode()
SITE = "blog"


def new_id() -> UUID:
    """A fresh event id."""
    return new_event_id(time.time_ns() // 1_000_000, os.urandom(10))


def stream_of(key: str) -> UUID:
    """The stream of a thread of SITE."""
    return thread_stream_id(SITE, key)


class Writer:
    """Posts to threads of SITE through the appenders of a database."""

    def __init__(self, pool: asyncpg.Pool[Any], appenders: Appenders, lanes: int, url: str = "") -> None:
        self.pool = pool
        self.url = url
        self.submit = appenders.submit
        self.keyring = Keyring(pool, MasterKey(MASTER_KEY))
        self._appenders = appenders
        self._lanes = lanes

    async def post(
        self, key: str, author: str, parent: UUID | None = None, *, imported: bool = False
    ) -> Appended:
        """Post a comment, below `parent` where it is given."""
        author_key = await self.keyring.for_author(SITE, author)
        event_id, stream_id = new_id(), stream_of(key)
        text = author_key.sealed(event_id, stream_id, {"body": f"by *{author}*", "name": author})
        return await self._appenders.submit(
            PostComment(
                site=SITE,
                stream_id=stream_id,
                key=key,
                event_id=event_id,
                actor=Actor(author),
                text=text,
                parent_id=parent,
                imported=Import(datetime(2015, 9, 1, tzinfo=UTC), str(event_id)) if imported else None,
            )
        )

    async def remove(self, key: str, comment_id: UUID) -> Appended:
        """Remove a comment, as a moderator."""
        return await self._appenders.submit(
            DeleteComment(
                site=SITE,
                stream_id=stream_of(key),
                key=key,
                event_id=new_id(),
                actor=Actor("moderator", moderator=True),
                comment_id=comment_id,
            )
        )

    async def put(
        self,
        key: str,
        type_: str,
        data: dict[str, object],
        stream_id: UUID | None = None,
        *,
        schema_version: int = 1,
    ) -> int:
        """Put any event at the end of a stream (of SITE, unless it is given), past all rules; its version."""
        stream_id, event_id = stream_id or stream_of(key), new_id()
        lane = lane_of(stream_id, self._lanes)
        async with self.pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                "select version, hash, recorded_at from streams where stream_id = $1", stream_id
            )
            assert row is not None
            version, recorded_at, payload = row["version"] + 1, row["recorded_at"], canonical(data)
            position = await connection.fetchval(
                "update lanes set head = head + 1 where lane = $1 returning head", lane
            )
            event = Recorded(
                stream_id=stream_id,
                version=version,
                event_id=event_id,
                type=type_,
                schema_version=schema_version,
                actor_id=None,
                correlation_id=None,
                causation_id=None,
                recorded_at=recorded_at,
                data=payload,
                sealed=None,
                key_id=None,
                hash=b"",
                lane=lane,
                position=position,
            )
            hash_ = chain_of(row["hash"], event)
            await connection.execute(
                "insert into events (position, lane, stream_id, version, event_id, type, schema_version, "
                "recorded_at, data, hash) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                *(position, lane, stream_id, version, event_id, type_, schema_version),
                *(recorded_at, payload, hash_),
            )
            await connection.execute(
                "update streams set version = $2, hash = $3 where stream_id = $1", stream_id, version, hash_
            )
        return int(version)

    async def poison(self, key: str, stream_id: UUID | None = None) -> int:
        """Put an event that no view can apply; its version."""
        data: dict[str, object] = {"comment_id": str(new_id()), "posted": 1}
        return await self.put(key, "CommentDeleted", data, stream_id)


@asynccontextmanager
async def writer(database_url: str, lanes: int = 1) -> AsyncIterator[Writer]:
    """A writer to this database."""
    appenders = Appenders(database_url, lanes)
    async with asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        await appenders.start()
        try:
            yield Writer(pool, appenders, lanes, database_url)
        finally:
            await appenders.stop()
