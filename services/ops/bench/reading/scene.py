"""The threads that `bench read` reads, and the API that serves them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
from redis import Redis

from services.api.cursors import Cursors
from services.core.addresses import thread_stream_id
from services.core.page import Place
from services.errors import Unavailable
from services.eventlog.keys import MasterKey
from services.ops.bench.reading.rounds import Server, asked
from services.ops.bench.reading.threads import Filling, Shape
from services.ops.bench.servers import SITE, Servers, Subject
from services.settings import Settings
from services.wiring import Resources, resources

WIDE: Final = "wide"
"""All comments of this thread but the first answer that one."""


@dataclass(slots=True)
class Scene:
    """A database filled with threads, and an API on it."""

    servers: Servers
    database_url: str
    subject: Subject
    api: Server

    @property
    def redis(self) -> Redis:
        """The views' Redis, to be closed by whoever asks."""
        return Redis.from_url(self.subject.environment["THREADLOG_REDIS_URL"])

    @property
    def environment(self) -> dict[str, str]:
        """What every process of threadlog here is started with."""
        return self.subject.environment

    def settings(self) -> Settings:
        """The same as settings of this process."""
        return Settings.load(
            database_url=self.database_url,
            redis_url=self.environment["THREADLOG_REDIS_URL"],
            broker_url=self.environment["THREADLOG_BROKER_URL"],
            master_key=self.environment["THREADLOG_MASTER_KEY"],
        )

    def start(self, stack: ExitStack) -> None:
        """Have another API in the place of this one, which is to be ended by its own stack."""
        self.subject = self.servers.api(stack, self.database_url)
        self.api = asked(self.servers, stack, "api", self.subject.port, self.subject.process.pid)

    def cursors(self, key: str, *, after: Sequence[int]) -> list[str]:
        """Cursors of the thread's roots, oldest first, that go on behind these posting versions."""
        made = Cursors(MasterKey(self.environment["THREADLOG_MASTER_KEY"]).derived("cursor"))
        stream_id = thread_stream_id(SITE, key)
        return [made.comments(stream_id, "oldest", 0, Place(posted)) for posted in after]

    def fill(self, threads: Sequence[Shape]) -> None:
        """Add threads. Raises Unavailable."""
        filling = Filling(
            database_url=self.database_url,
            redis_url=self.environment["THREADLOG_REDIS_URL"],
            master_key=self.environment["THREADLOG_MASTER_KEY"],
            threads=list(threads),
            seed=self.servers.seed,
        )
        done = subprocess.run(
            [sys.executable, "-m", "services.ops.bench.reading.threads"],
            input=orjson.dumps(filling),
            stdout=subprocess.PIPE,
            check=False,
        )
        if done.returncode != 0:
            raise Unavailable(f"the log was not filled: exit code {done.returncode}")

    def build(self, keys: Sequence[str]) -> None:
        """Build the views of these threads, as a replay does."""
        asyncio.run(_build(self.settings(), [thread_stream_id(SITE, key) for key in keys]))

    def roots(self, key: str) -> list[int]:
        """The posting versions of a thread's roots, oldest first."""
        found: list[int] = asyncio.run(self._rows(_ROOTS, key))
        return found

    async def _rows(self, query: str, key: str) -> list[Any]:
        async with resources(self.settings()) as here:
            return [row[0] for row in await here.pool.fetch(query, thread_stream_id(SITE, key))]


_ROOTS: Final = """
    select e.version from events e join comments c on c.comment_id = e.event_id
    where e.stream_id = $1 and c.parent = 0 and c.posted = e.version order by e.version
"""


async def _build(settings: Settings, stream_ids: Sequence[UUID]) -> None:
    async with resources(settings) as here:
        for stream_id in stream_ids:
            await rebuilt(here, stream_id)


async def rebuilt(here: Resources, stream_id: UUID) -> None:
    """Build a thread's view, whatever there is of one."""
    await here.projector.rebuild(stream_id)


def prepare(servers: Servers, stack: ExitStack) -> Scene:
    """A new database with an API on it."""
    url = servers.database()
    subject = servers.api(stack, url)
    return Scene(servers, url, subject, asked(servers, stack, "api", subject.port, subject.process.pid))


def page(key: str, query: str = "") -> str:
    """The address of a thread's page."""
    return f"/v1/sites/{SITE}/threads/{key}/comments{query}"
