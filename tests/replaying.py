"""A log of many threads, and replays of it: for tests of the replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from uuid import UUID

from services.eventlog.appenders import Appenders
from services.eventlog.checkpoints import DeadLetters
from services.eventlog.replays import Replay, Replays, Selected
from services.eventlog.state import Difference
from services.projection.replaying import ReplayWork
from services.projection.wholecheck import WholeCheck
from services.wiring import Resources, reading
from tests.writer import Writer, stream_of

BUILD = "the release of this test"


def keys_of(count: int) -> list[str]:
    """The keys of the threads that `fill` writes."""
    return [f"thread-{number}" for number in range(count)]


async def fill(writer: Writer, threads: int, *, posts: int = 4) -> list[UUID]:
    """Write so many threads, each with a root, replies to it and a comment removed; their streams."""

    at_once = asyncio.Semaphore(16)  # more would wait for a connection longer than they may

    async def one(key: str) -> UUID:
        async with at_once:
            await write(key)
        return stream_of(key)

    async def write(key: str) -> None:
        root = await writer.post(key, "ann")
        for number in range(posts - 2):
            await writer.post(key, ("bob", "cem")[number % 2], root.event_id)
        last = await writer.post(key, "bob", root.event_id)
        await writer.remove(key, last.event_id)

    return list(await asyncio.gather(*map(one, keys_of(threads))))


@asynccontextmanager
async def writing(parts: Resources) -> AsyncIterator[Writer]:
    """A writer to the log of these resources, whose site there is."""
    await parts.sites.add("blog", bytes(32))
    appenders = Appenders(parts.settings.database_url, parts.lanes)
    await appenders.start()
    try:
        yield Writer(parts.pool, appenders, parts.lanes)
    finally:
        await appenders.stop()


def work_of(parts: Resources) -> ReplayWork:
    """What a process does for replays, reading from the primary."""
    letters = DeadLetters(parts.pool, BUILD)
    return ReplayWork(Replays(parts.pool), parts.replayer, parts.verifier, letters)


async def replayed(parts: Resources, selected: Selected | None = None, **how: Any) -> Replay:
    """Replay these threads, or all, in this process; what became of it."""
    async with reading(parts) as reads:
        number = await reads.replays.begin(selected or Selected(), **how)
        begun = await reads.replays.one(number)
        assert begun is not None
        letters = DeadLetters(parts.pool, BUILD)
        await ReplayWork(reads.replays, reads.replayer, reads.verifier, letters).all(begun, 2)
        done = await reads.replays.one(number)
        assert done is not None
        return done


async def differences(parts: Resources) -> list[Difference]:
    """Everything that is not as the log has it, of all threads, all sites, and what belongs to none."""
    rows = await parts.pool.fetch(
        "select stream_id, convert_from(data, 'UTF8')::jsonb -> 'opens' ->> 'key' as key "
        "from events where version = 1"
    )
    threads = [row["stream_id"] for row in rows if row["key"] is not None]
    found = [one for checked in await parts.verifier.threads(threads) for one in checked.differences]
    for row in rows:
        if row["key"] is None:
            found += await parts.verifier.site(row["stream_id"])
    return found + [one async for one in WholeCheck(parts.verifier, parts.views).differences()]


async def builds(parts: Resources, streams: list[UUID]) -> dict[UUID, str]:
    """Which build serves each of these threads."""
    return {one: head.build for one, head in (await parts.views.heads(streams)).items()}


TABLES = (
    "select oid::regclass::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
)


async def dump(parts: Resources) -> tuple[dict[str, str], dict[bytes, bytes | None]]:
    """All that both stores hold."""
    tables = {}
    for (table,) in await parts.pool.fetch(TABLES):
        tables[table] = await parts.pool.fetchval(f"select json_agg(t order by t::text) from {table} t")
    keys = [key async for key in parts.redis.scan_iter(count=1000)]
    return tables, {key: await parts.redis.dump(key) for key in sorted(keys)}


async def damage(parts: Resources, streams: list[UUID], chance: Random, count: int) -> set[UUID]:
    """Damage so many of these threads: their rows, or their views if they have one; which."""
    damaged = set(chance.sample(streams, count))
    for number, stream_id in enumerate(sorted(damaged)):
        statement = (
            "update comments set state = 'held' where stream_id = $1 and parent = 0",
            "delete from comments where stream_id = $1 and parent > 0",
            "update streams set visible = 77, title = 'No' where stream_id = $1",
            "delete from streams where stream_id = $1",
        )[number % 4]
        await parts.pool.execute(statement, stream_id)
    return damaged
