"""The notifier: tells people of replies, once, from the log.

Rows and checkpoint move in one transaction, whose first step locks the checkpoint. So of two notifiers on one
thread the second waits and goes on where the first has ended: nothing is skipped, nothing told twice.
Who is told is decided on the comments as they stand after the events were read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from schema.events.registry import CONTRACTS, UPCASTERS, TypeUnknown
from services.core.addresses import new_event_id
from services.core.recipients import Notice, Reply, Standing, recipients
from services.errors import PoisonEvent, UnknownEventType
from services.eventlog.queries import QUERIES

PAGE: Final = 500
"""Events read in one transaction."""

_COUNTER_SHIFT: Final = 62
_RANDOM_BYTES: Final = 10


class Notifier:
    """Writes the notifications that a thread's events cause."""

    def __init__(self, pool: asyncpg.Pool[Any], *, page: int = PAGE) -> None:
        self._pool = pool
        self._page = page

    async def notify(self, stream_id: UUID) -> int:
        """Tell of all events after the thread's checkpoint; how many notifications were written.

        Raises PoisonEvent or UnknownEventType at an event that cannot be read, having told of all before it.
        """
        told = 0
        more = True
        while more:
            written, more = await self._step(stream_id)
            told += written
        return told

    async def reached(self, stream_id: UUID) -> int:
        """The version up to which people were told of the thread."""
        return int(await self._pool.fetchval(QUERIES["notifier_checkpoint"], stream_id) or 0)

    async def _step(self, stream_id: UUID) -> tuple[int, bool]:
        async with self._pool.acquire() as connection, connection.transaction():
            site = await connection.fetchval(QUERIES["thread_site"], stream_id)
            if site is None:
                return 0, False
            after = await connection.fetchval(QUERIES["notifier_checkpoint"], stream_id)
            if after is None:
                await connection.execute(QUERIES["open_notifier_checkpoint"], stream_id)
                after = await connection.fetchval(QUERIES["notifier_checkpoint"], stream_id)
            rows = await connection.fetch(QUERIES["notifiable"], stream_id, after, self._page)
            replies, reached, stopped_by = _read(stream_id, after, rows)
            written = await _tell(connection, site, stream_id, replies) if replies else 0
            if reached > after:
                moved = await connection.fetchval(
                    QUERIES["move_notifier_checkpoint"], stream_id, after, reached
                )
                assert moved == reached, "the checkpoint moved under its lock"
        if stopped_by is not None:
            raise stopped_by
        return written, len(rows) == self._page


def _read(
    stream_id: UUID, after: int, rows: Sequence[asyncpg.Record]
) -> tuple[list[Reply], int, PoisonEvent | None]:
    """The replies among these events, the version up to which they could be read, and what ended that."""
    replies: list[Reply] = []
    for row in rows:
        try:
            reply = _reply(row)
        except TypeUnknown as error:
            return replies, after, UnknownEventType(stream_id, row["version"], row["event_id"], str(error))
        except Exception as error:  # noqa: BLE001 - no I/O here: whatever it is, it is this event's
            reason = f"{type(error).__name__}: {error}"
            return replies, after, PoisonEvent(stream_id, row["version"], row["event_id"], reason)
        if reply is not None:
            replies.append(reply)
        after = row["version"]
    return replies, after, None


def _reply(row: asyncpg.Record) -> Reply | None:
    type_, schema_version = row["type"], row["schema_version"]
    if row["data"] is None:
        # Whom a newer release's event concerns is for that release to say: not to be passed over.
        if type_ not in CONTRACTS or schema_version > CONTRACTS[type_].schema_version:
            raise TypeUnknown(f"{type_} at schema version {schema_version}")
        return None
    payload = UPCASTERS.payload(type_, schema_version, row["data"])
    return Reply(
        id=row["event_id"],
        parent_id=UUID(payload["parent_id"]),
        author_id=row["actor_id"],
        imported="imported" in payload,
        created_at=row["recorded_at"],
    )


async def _tell(
    connection: asyncpg.pool.PoolConnectionProxy[Any], site: str, stream_id: UUID, replies: Sequence[Reply]
) -> int:
    asked = {one for reply in replies if not reply.imported for one in (reply.id, reply.parent_id)}
    rows = await connection.fetch(QUERIES["standings"], stream_id, list(asked)) if asked else []
    comments = {row["comment_id"]: Standing(row["author_id"], row["visible"]) for row in rows}
    notices = [notice for reply in replies for notice in recipients(reply, comments)]
    if not notices:
        return 0
    columns: tuple[list[str], list[UUID], list[UUID], list[UUID], list[str], list[str | None], list[datetime]]
    columns = (
        [notice.recipient_id for notice in notices],
        _ids(notices),
        [notice.event_id for notice in notices],
        [notice.comment_id for notice in notices],
        [notice.reason for notice in notices],
        [notice.actor_id for notice in notices],
        [notice.created_at for notice in notices],
    )
    return len(await connection.fetch(QUERIES["insert_notifications"], site, stream_id, *columns))


def _ids(notices: Sequence[Notice]) -> list[UUID]:
    """UUIDv7 of now, in the order of the notices: an inbox lists by id what was told last.

    Of the random bits the first twelve count (RFC 9562, section 6.2, method 1).
    """
    now = time.time_ns() // 1_000_000
    entropy = (1 << _COUNTER_SHIFT) - 1
    return [
        new_event_id(
            now,
            (number << _COUNTER_SHIFT | int.from_bytes(os.urandom(8), "big") & entropy).to_bytes(
                _RANDOM_BYTES, "big"
            ),
        )
        for number in range(len(notices))
    ]
