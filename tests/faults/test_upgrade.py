"""An upgrade: the schema is brought up to this release while the one before it serves.

What a worker of that release does with an event that it does not know: tests/integration/test_upcasters.py.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pogo_core.migration import read_sql_migration
from redis.asyncio import Redis
from typer.testing import CliRunner, Result

from services.core.page import PageRequest
from services.eventlog import migrate
from services.eventlog.locks import LockClass
from services.eventlog.log import EventLog
from services.ops.cli import app
from services.ops.exits import Exit
from services.projection.advance import Projector
from services.readmodel.views import Views
from tests.databases import Databases
from tests.logcheck import violations
from tests.processes import until
from tests.writer import MASTER_KEY, Writer, stream_of, writer

FIRST = "0008"
"""The first migration that the last release does not have."""
NEW = [name for name in migrate.known() if name >= FIRST]
NAMED = "alter table comments add column approved boolean not null default false"
"""What this release's appender names and the last one's does not: clients here write with this one's."""
HARMLESS = {
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "AccessExclusiveLock",
}
"""What lets reading and writing go on (PostgreSQL manual, explicit locking); and the last, which is not
waited for long, and given back at once where no row is looked at."""


def in_transaction(name: str) -> bool:
    """Whether the migration is applied in one."""
    return bool(read_sql_migration(migrate.MIGRATIONS / f"{name}.sql")[4])


@pytest.fixture
def old_url(databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database as the release before has left it."""
    url = databases.create_empty()
    for path in migrate.MIGRATIONS.glob("*.sql"):
        if path.stem < FIRST:
            shutil.copy(path, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "MIGRATIONS", tmp_path)
        asyncio.run(migrate.migrate(url))
    yield url
    databases.drop(url)


@dataclass(slots=True)
class Load:
    """Clients who write to threads and read them, by what the API stands on."""

    writing: Writer
    projector: Projector
    tables: list[str]
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    rounds: int = 0

    async def client(self, number: int) -> None:
        thread, parent = f"talk-{number % 2}", None
        while not self.enough.is_set():
            posted = await self.writing.post(thread, f"author-{number}-{self.rounds}", parent)
            parent = posted.event_id
            await self.projector.advance(stream_of(thread), posted.version)
            page = await self.projector.views.page(stream_of(thread), PageRequest(sort="newest", limit=1))
            assert page is not None
            for table in self.tables:
                await self.writing.pool.execute(f"select from {table} limit 1")
            self.rounds += 1

    async def more(self, count: int = 20) -> None:
        before = self.rounds

        async def came() -> int:
            return self.rounds - before

        await until(came, f"{count} more rounds", lambda found: found >= count, 60.0)

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(self.client(number))
            await self.more()
            yield
            self.enough.set()


@asynccontextmanager
async def slow_reader(url: str) -> AsyncIterator[None]:
    """Somebody who reads every table for as long as this lasts: a dump, say. Whoever wants a table for
    itself waits for them, and all who want the table later wait for that one."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            for table in await tables(connection):
                await connection.execute(f"select from {table} limit 1")
            yield
    finally:
        await connection.close()


async def threadlog(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))


async def test_the_schema_is_brought_up_while_clients_write_and_read(
    old_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLOG_DATABASE_URL", old_url)
    monkeypatch.setenv("THREADLOG_REDIS_URL", redis_url)
    monkeypatch.setenv("THREADLOG_MASTER_KEY", MASTER_KEY)
    behind = await threadlog("migrate", "--check", "--json")
    assert (behind.exit_code, json.loads(behind.stdout)["missing"]) == (Exit.FOUND, NEW)
    refused = await threadlog("lag")
    assert (refused.exit_code, "run `threadlog migrate`" in refused.stderr) == (Exit.FAILED, True)

    connection = await asyncpg.connect(old_url)
    await connection.execute(NAMED)
    await connection.close()
    async with writer(old_url) as writing, Redis.from_url(redis_url) as redis:
        projector = Projector(EventLog(writing.pool), writing.keyring, Views(redis))
        load = Load(writing, projector, await tables(writing.pool))
        async with load.under_way():
            async with slow_reader(old_url):
                migrating = asyncio.create_task(threadlog("migrate", "--json"))
                await until(lambda: begun(writing.pool, migrating), "it has begun")
                await load.more()
            done = await migrating
            assert (done.exit_code, json.loads(done.stdout)["applied"]) == (Exit.DONE, NEW), done.output
            await load.more()
    assert (await threadlog("migrate", "--check")).exit_code == Exit.DONE
    assert await violations(old_url) == []


@pytest.mark.parametrize("name", [name for name in NEW if in_transaction(name)])
async def test_a_migration_takes_no_table_from_those_who_read_and_write(old_url: str, name: str) -> None:
    connection = await asyncpg.connect(old_url)
    try:
        for earlier in NEW[: NEW.index(name)]:
            await applying(earlier)(connection)
        there = await files(connection)
        async with connection.transaction():
            await applying(name)(connection)
            taken = await connection.fetch(
                "select relation::regclass::text as name, mode from pg_locks"
                " where pid = pg_backend_pid() and relation = any($1::oid[])",
                list(there),
            )
            now = await files(connection)
        assert {oid: file for oid, file in now.items() if oid in there} == there, "a table is written anew"
        assert [tuple(row) for row in taken if row["mode"] not in HARMLESS] == []
    finally:
        await connection.close()


@pytest.mark.parametrize("name", [name for name in NEW if not in_transaction(name)])
async def test_what_a_migration_does_beside_a_transaction_is_done_concurrently(
    old_url: str, name: str
) -> None:
    connection = await asyncpg.connect(old_url)
    try:
        for earlier in NEW[: NEW.index(name)]:
            await applying(earlier)(connection)
        before = set(await files(connection))
        await applying(name)(connection)
        made = set(await files(connection)) - before
        await applying(name)(connection)  # again, as after one that was cut off
        assert len(set(await files(connection)) - before) == len(made)
    finally:
        await connection.close()
    source = (migrate.MIGRATIONS / f"{name}.sql").read_text()
    statements = [line for line in source.splitlines() if line and not line.startswith("--")]
    assert all(re.match(r"(create|drop) index concurrently ", statement) for statement in statements)


async def begun(pool: asyncpg.Pool[Any], migrating: asyncio.Task[Result]) -> bool:
    """Whether the migration is under way, or done already."""
    return migrating.done() or await pool.fetchval(
        "select count(*) > 0 from pg_locks where locktype = 'advisory' and classid = $1"
        " and database = (select oid from pg_database where datname = current_database())",
        int(LockClass.MIGRATION),
    )


def applying(name: str) -> Callable[[asyncpg.Connection[Any]], Awaitable[None]]:
    """What applies a migration."""
    return read_sql_migration(migrate.MIGRATIONS / f"{name}.sql")[2]


async def files(connection: asyncpg.Connection[Any]) -> dict[int, int]:
    """In which file each table and index lies: another one, once it is written anew."""
    rows = await connection.fetch(
        "select oid, relfilenode from pg_class where relnamespace = 'public'::regnamespace"
    )
    return {row["oid"]: row["relfilenode"] for row in rows}


async def tables(connection: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> list[str]:
    """The tables that there are."""
    rows = await connection.fetch(
        "select oid::regclass::text from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
    )
    return [name for (name,) in rows]
