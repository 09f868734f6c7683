"""The servers of one run of `bench append`: Postgres, Redis, any number of APIs on databases of their own,
and what they are compared with. All are processes; the load generators too."""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import asyncpg
import jwt

from services.dev.servers import EmbeddedPostgres, EmbeddedRedis
from services.errors import Unavailable
from services.eventlog.keys import MasterKey
from services.eventlog.migrate import migrate
from services.eventlog.sites import Sites
from services.ops.bench.bare import Bare
from services.ops.bench.load import Target
from services.ops.bench.processes import Answering, Process, free_port
from services.ops.bench.visible import Answer, Client

SITE: Final = "bench"
CLI: Final = "services.ops.cli"
LIMITS: Final = {
    "author_writes_per_minute": 1_000_000,
    "address_writes_per_minute": 1_000_000,
    "site_writes_per_second": 100_000,
}
"""Rate limits that are asked, and never refuse."""

_REDIS_DATABASES: Final = 64
_KEPT_HEADERS: Final = (
    "location",
    "threadlog-version",
    "cache-control",
    "ratelimit",
    "ratelimit-policy",
    "x-request-id",
    "vary",
    "x-content-type-options",
    "content-type",
    "access-control-allow-origin",
    "access-control-expose-headers",
)


@dataclass(slots=True)
class Subject:
    """A server that is measured, and the processes that load it."""

    name: str
    process: Process
    port: int
    target: Target
    is_api: bool
    environment: dict[str, str] = field(default_factory=dict)
    loads: list[Answering] = field(default_factory=list)


class Servers:
    """Starts what a run needs, and ends all of it."""

    def __init__(self, *, threads: int, authors: int, seed: int) -> None:
        self.threads = [f"story-{number}" for number in range(threads)]
        self.authors = authors
        self.seed = seed
        self._stack = ExitStack()
        self._databases = 0
        self._secret = os.urandom(32).hex()
        self._master = base64.b64encode(os.urandom(32)).decode()
        self.tokens = [self.token(f"u-{number}", f"Author {number}") for number in range(authors)]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="threadlog-bench-"))
            self.folder = Path(folder)
            self.postgres = stack.enter_context(EmbeddedPostgres())
            self.redis = stack.enter_context(EmbeddedRedis(settings={"databases": str(_REDIS_DATABASES)}))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def part(self) -> ExitStack:
        """What is entered into it ends before the next part begins."""
        return ExitStack()

    def token(self, sub: str, name: str, *roles: str) -> str:
        """A token that the site has signed, good for a day."""
        claims = {"iss": SITE, "sub": sub, "name": name, "exp": int(time.time()) + 86_400, "roles": roles}
        if not roles:
            del claims["roles"]
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def database(self, lanes: int = 1) -> str:
        """The URL of a new database with the site in it."""
        self._databases += 1
        name = f"bench_{self._databases}"
        url = self.postgres.dsn(name)
        asyncio.run(self._prepare(name, url, lanes))
        return url

    def drop(self, url: str) -> None:
        """Remove a database that nobody uses any more."""
        asyncio.run(self.execute(f'drop database "{urlsplit(url).path[1:]}" with (force)'))

    async def execute(self, *statements: str) -> None:
        """Run statements in the server's own database."""
        connection = await asyncpg.connect(self.postgres.dsn())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def _prepare(self, name: str, url: str, lanes: int) -> None:
        await self.execute(f'create database "{name}"')
        await migrate(url, lanes)
        async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
            await Sites(pool, MasterKey(self._master)).add(SITE, self._secret.encode())

    def api(
        self,
        stack: ExitStack,
        url: str,
        *,
        name: str = "api",
        processes: int = 1,
        parents: list[list[str]] | None = None,
    ) -> Subject:
        """An API on a database, ready, with a load generator. It has views and messages of its own."""
        number, port = self._databases, free_port()
        environment = {
            "THREADLOG_DATABASE_URL": url,
            "THREADLOG_REDIS_URL": self.redis.url(2 * number % _REDIS_DATABASES),
            "THREADLOG_BROKER_URL": self.redis.url((2 * number + 1) % _REDIS_DATABASES),
            "THREADLOG_MASTER_KEY": self._master,
            "THREADLOG_HOST": "127.0.0.1",
            "THREADLOG_PORT": str(port),
            "THREADLOG_API_PROCESSES": str(processes),
            "THREADLOG_MAX_STREAMS_PER_ADDRESS": "60000",  # all readers are here
        }
        process = stack.enter_context(Process(CLI, ["api"], log=self.folder / "api.log", env=environment))
        process.wait_until_ready(port, "/readyz")
        asyncio.run(self._lift_limits(port))
        subject = Subject(
            name, process, port, self._target(port, parents), is_api=True, environment=environment
        )
        self.add_load(stack, subject)
        return subject

    def comparison(self, stack: ExitStack, name: str, like: Subject, url: str | None = None) -> Subject:
        """A server that answers as `like` does, and stores a row in the database `url`, or nothing."""
        sample = asyncio.run(self._sample(like.port))
        port = free_port()
        process = stack.enter_context(Process("services.ops.bench.bare", log=self.folder / f"{name}.log"))
        process.tell(
            Bare(
                port=port,
                site=SITE,
                secret=self._secret,
                headers=_headers(sample),
                body=sample.body.decode(),
                database_url=url,
            ),
            last=True,
        )
        process.wait_until_ready(port, "/")
        subject = Subject(name, process, port, self._target(port, None), is_api=False)
        self.add_load(stack, subject)
        return subject

    def add_load(self, stack: ExitStack, subject: Subject) -> None:
        """One load generator more."""
        load = stack.enter_context(Answering("services.ops.bench.load", log=self.folder / "load.log"))
        load.tell(subject.target)
        subject.loads.append(load)

    def _target(self, port: int, parents: list[list[str]] | None) -> Target:
        return Target(
            port=port,
            site=SITE,
            tokens=self.tokens,
            threads=self.threads,
            parents=parents or [],
            seed=self.seed,
        )

    async def _lift_limits(self, port: int) -> None:
        client = await Client.connect(port)
        try:
            token = self.token("admin", "Admin", "admin")
            answer = await client.ask("PATCH", f"/v1/sites/{SITE}/settings", token, LIMITS)
            if answer.status != "200":
                raise Unavailable(f"the site's limits were not set: {answer.status} {answer.body.decode()}")
        finally:
            await client.close()

    async def _sample(self, port: int) -> Answer:
        """A real answer, for the others to repeat."""
        client = await Client.connect(port)
        try:
            # As long as an average comment, so that all servers send as much.
            body = {"body": "A comment of an average length, as long as most of those are. " * 4}
            return await client.ask("POST", f"/v1/sites/{SITE}/threads/sample/comments", self.tokens[0], body)
        finally:
            await client.close()


def _headers(answer: Answer) -> dict[str, str]:
    lines = (line.partition(":") for line in answer.head.decode().split("\r\n")[1:])
    given = {name: value.strip() for name, _, value in lines}
    return {name: value for name, value in given.items() if name in _KEPT_HEADERS}
