"""A log, views of it and a broker, with the parts of a worker on them: for tests of what follows the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
from redis.asyncio import Redis

from services.eventlog.checkpoints import DeadLetters, LaneCheckpoints, Projection
from services.eventlog.log import EventLog
from services.projection.advance import Projector
from services.readmodel.records import Head
from services.readmodel.views import Views
from services.settings import Settings
from services.workers.hints import Looked
from services.workers.notifier import Notifier
from services.workers.projector import Following
from services.workers.sweeper import Behind, Sweeper
from tests.processes import until
from tests.writer import MASTER_KEY, Writer, stream_of, writer


@dataclass
class World:
    """A log, the views of it, and a broker."""

    log: Writer
    redis: Redis
    views: Views
    settings: Settings
    following: Following = field(init=False)
    letters: DeadLetters = field(init=False)

    def __post_init__(self) -> None:
        self.letters = DeadLetters(self.log.pool, "1.0")
        self.following = self.release("1.0")

    def release(self, build: str) -> Following:
        """The projector's step as another process has it, of the release `build`."""
        projector = Projector(EventLog(self.log.pool), self.log.keyring, self.views)
        return Following(projector, DeadLetters(self.log.pool, build))

    async def head(self, key: str) -> Head:
        """The head of the thread's view, which must be there."""
        head = await self.views.head(stream_of(key))
        assert head is not None
        return head

    async def version(self, key: str) -> int:
        """The version of the thread's view; 0 without one."""
        head = await self.views.head(stream_of(key))
        return 0 if head is None else head.version

    async def shows(self, key: str, version: int) -> None:
        """Wait until the view has reached a version."""

        await until(
            lambda: self.version(key),
            f"the view of {key} at version {version}",
            lambda found: found >= version,
        )

    async def count(self, statement: str) -> int:
        """The number that a statement selects."""
        return int(await self.log.pool.fetchval(statement) or 0)

    async def told(self, count: int) -> None:
        """Wait until there are so many notifications."""

        await until(
            lambda: self.count("select count(*) from notifications"),
            f"{count} notifications",
            lambda found: found >= count,
        )

    async def catch_up(self, *threads: str) -> None:
        """Do what the actors would do for these threads."""
        await self.following.project([stream_of(key) for key in threads], Looked.now())
        for key in threads:
            await Notifier(self.log.pool, self.log.keyring).notify(stream_of(key))

    async def heal(self, key: str, version: int) -> None:
        """Stands for a release that can apply the event: the log itself never changes."""
        async with self.log.pool.acquire() as connection, connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            await connection.execute(
                "update events set type = 'ThreadClosed', data = '{}' where stream_id = $1 and version = $2",
                stream_of(key),
                version,
            )


@asynccontextmanager
async def world_of(
    database_url: str, redis_url: str, broker_url: str, lanes: int = 1
) -> AsyncIterator[World]:
    """Everything of it, on these servers."""
    settings = Settings.load(
        database_url=database_url,
        redis_url=redis_url,
        broker_url=broker_url,
        master_key=MASTER_KEY,
        worker_processes=2,
        worker_threads=2,
        pool_size=4,
    )
    async with writer(database_url, lanes) as log, Redis.from_url(redis_url) as client:
        yield World(log, client, Views(client), settings)


class Swept:
    """A sweeper of lane 0 whose pokes are kept, on a clock of the test's own."""

    def __init__(self, world: World, connection: asyncpg.Connection[Any], **given: int) -> None:
        self.now = 0.0
        self.poked: list[tuple[Projection, UUID]] = []
        self.sweeper = Sweeper(
            0,
            LaneCheckpoints(connection),
            world.views,
            self._poke,
            settled=0.0,
            clock=lambda: self.now,
            **given,
        )

    def _poke(self, behind: Behind) -> None:
        self.poked += [(projection, one) for projection, streams in behind.items() for one in streams]

    async def rounds(self, count: int = 1, seconds: float = 1.0) -> list[tuple[Projection, UUID]]:
        """What rounds find, the clock going on after each."""
        self.poked.clear()
        for _ in range(count):
            await self.sweeper.round()
            self.now += seconds
        return list(self.poked)
