"""A client of an inbox's live stream, over connections cut anywhere, and writers of notifications."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from services.core.addresses import new_event_id

Session: TypeAlias = "asyncpg.Pool[Any] | asyncpg.Connection[Any] | PoolConnectionProxy[Any]"
_ENDLESS = 1 << 40

_INSERT = """
insert into notifications (
    site, recipient_id, notification_id, event_id, stream_id, comment_id, reason, actor_id, created_at
) values ($1, $2, $3, $3, $4, $5, 'reply', 'bob', now())
"""


def new_id(random: Random) -> UUID:
    """A notification's id, as the notifier makes it."""
    return new_event_id(time.time_ns() // 1_000_000, random.randbytes(10))


async def enter(connection: Session, site: str, person: str, one: UUID, comment: tuple[UUID, UUID]) -> None:
    """Enter a notification about a comment (thread, id), as the notifier does."""
    await connection.execute(_INSERT, site, person, one, *comment)


@dataclass(slots=True)
class Follower:
    """Follows an inbox. Where it has a `random`, it cuts its connection after any number of bytes, and
    resumes behind the last `id` that came whole. It speaks HTTP/1.0, so that there is nothing but events."""

    bases: Sequence[str]
    path: str
    token: str
    random: Random | None = None
    longest: int = 9_000
    """Bytes after which it cuts, at most."""
    last: str | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    cuts: int = 0
    heartbeats: int = 0
    retries: int = 0
    ended: bool = False
    seen: list[str] = field(default_factory=list)
    """Ids of notifications, as they came."""
    events: list[tuple[str, Any]] = field(default_factory=list)

    async def follow(self, enough: Callable[[Follower], bool]) -> None:
        """Until it has enough. A server that goes or refuses is asked again."""
        while not enough(self):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._once(enough)
            await asyncio.sleep(0.01)  # between two connections

    async def _once(self, enough: Callable[[Follower], bool]) -> None:
        base = self.random.choice(self.bases) if self.random else self.bases[0]
        place = urlsplit(base)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            resumed = "" if self.last is None else f"Last-Event-ID: {self.last}\r\n"
            signed = f"Authorization: Bearer {self.token}\r\n"
            writer.write(f"GET {self.path} HTTP/1.0\r\nHost: x\r\n{signed}{resumed}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 503 " in head.split(b"\r\n")[0]:
                return
            assert b" 200 " in head.split(b"\r\n")[0], head
            left, rest = self.random.randrange(1, self.longest) if self.random else _ENDLESS, b""
            while left and not enough(self):
                try:
                    part = await asyncio.wait_for(reader.read(min(left, 9_000)), 0.5)
                except TimeoutError:
                    continue
                if not part:
                    self.ended = True
                    return
                left -= len(part)
                *blocks, rest = (rest + part).split(b"\n\n")
                for block in blocks:
                    self._take(block.decode())
            self.cuts += 1
        finally:
            writer.transport.abort()

    def _take(self, block: str) -> None:
        given = dict(line.split(":", 1) for line in block.split("\n"))
        self.heartbeats += "" in given
        self.retries += "retry" in given
        if "id" in given:
            self.last = given["id"].strip()
            self.begun.set()
        if "data" in given:
            data, name = json.loads(given["data"]), given["event"].strip()
            self.events.append((name, data))
            if name == "notification":
                self.seen.append(data["notification"]["id"])


@asynccontextmanager
async def following(follower: Follower, enough: Callable[[Follower], bool]) -> AsyncIterator[Follower]:
    """A follower that has begun, and is waited for in the end."""
    task = asyncio.create_task(follower.follow(enough))
    try:
        async with asyncio.timeout(30):
            await follower.begun.wait()
        yield follower
        async with asyncio.timeout(60):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
