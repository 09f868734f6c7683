"""Views that were made of another log: found and dropped, page by page (services/projection/restored.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.eventlog.queries import QUERIES
from services.projection import restored
from services.projection.restored import Restored
from tests.following import World, world_of
from tests.writer import stream_of

THREADS = ("same", "ahead", "differs", "gone", "behind")


@pytest.fixture
async def world(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, broker_url) as opened:
        yield opened


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def set_back(world: World, key: str, version: int) -> None:
    """Take the events of a thread behind `version` out of the log, as a recovery does."""
    async with world.log.pool.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute(
            "delete from events where stream_id = $1 and version > $2", stream_of(key), version
        )
        if version == 0:
            await connection.execute("delete from streams where stream_id = $1", stream_of(key))
        await connection.execute(
            "update streams s set version = e.version, hash = e.hash from events e"
            " where s.stream_id = $1 and e.stream_id = $1 and e.version = $2",
            stream_of(key),
            version,
        )


async def another_log(world: World) -> None:
    """Views of two comments each, and a log that tells something else of all but one of them."""
    for key in THREADS:
        for _ in range(2):
            await world.log.post(key, "ann")
    await world.catch_up(*THREADS)
    await set_back(world, "gone", 0)
    for key in ("ahead", "differs"):
        await set_back(world, key, 1)
    for key in ("differs", "behind"):
        await world.log.post(key, "bob")


async def compared(connection: asyncpg.Connection[Any], one: Restored) -> tuple[int, set[UUID]]:
    """Everything that is found until it is done."""
    dropped, again = 0, set[UUID]()
    while True:
        found = await one.compare(connection)
        dropped += found.dropped
        again |= set(found.again)
        if found.done:
            return dropped, again


def streams(*keys: str) -> set[UUID]:
    return {stream_of(key) for key in keys}


async def test_views_that_the_log_does_not_tell_of_are_dropped_and_those_behind_it_named(
    world: World, connection: asyncpg.Connection[Any]
) -> None:
    await another_log(world)
    found = await compared(connection, Restored(world.views))
    assert found == (3, streams("ahead", "differs", "gone", "behind"))
    assert (await world.views.heads(list(streams(*THREADS)))).keys() == streams("same", "behind")


async def test_they_are_compared_once_for_a_log(world: World, connection: asyncpg.Connection[Any]) -> None:
    await compared(connection, Restored(world.views))
    await another_log(world)
    assert await compared(connection, Restored(world.views)) == (0, set())
    assert not await Restored(world.views).of_another_log(connection)


@pytest.mark.parametrize("another", ["timeline", "database", "redis"])
async def test_another_timeline_another_database_and_another_redis_are_another_log(
    world: World, connection: asyncpg.Connection[Any], another: str
) -> None:
    await compared(connection, Restored(world.views))
    log, _, redis = str(await world.views.recency.told()).partition(" ")
    server, database, timeline = log.split(".")
    told = {
        "timeline": f"{server}.{database}.0000FFFF {redis}",
        "database": f"{server}.1.{timeline} {redis}",
        "redis": f"{log} {'0' * 40}",
    }
    await another_log(world)
    await world.views.recency.tell(told[another])
    assert await Restored(world.views).of_another_log(connection)
    assert (await compared(connection, Restored(world.views)))[0] == 3


async def test_what_is_cut_off_is_gone_through_again(
    world: World, connection: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await another_log(world)
    await world.views.recency.read([UUID(int=number) for number in range(3000)])
    monkeypatch.setattr(restored, "PAGES", 1)
    cut_off = Restored(world.views)
    assert not (await cut_off.compare(connection)).done
    assert await world.views.recency.told() is None
    await compared(connection, Restored(world.views))
    assert (await world.views.heads(list(streams(*THREADS)))).keys() == streams("same", "behind")
    assert await world.views.recency.told() is not None


async def test_which_log_it_is_may_be_asked_by_anybody(connection: asyncpg.Connection[Any]) -> None:
    before = await connection.fetchval(QUERIES["log_identity"])
    async with connection.transaction():
        await connection.execute("create role plain; set local role plain")
        assert await connection.fetchval(QUERIES["log_identity"]) == before
        await connection.execute("reset role; drop role plain")
