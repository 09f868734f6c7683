"""What a new API process has done before it listens: no connection and no script is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import asyncpg
import pytest
from redis.asyncio import Redis

from services.api.rehearsal import CONNECTIONS
from services.dev.servers import EmbeddedRedis
from services.projection.advance import Projector
from services.projection.whole import Whole
from tests.integration.api_client import Client, S, client_of


@pytest.fixture
def redis(start_redis: Callable[..., EmbeddedRedis]) -> EmbeddedRedis:
    """A server of the test's own, which nobody else connects to."""
    return start_redis()


@pytest.fixture
async def counting(redis: EmbeddedRedis) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis.url(), decode_responses=True) as client:
        await client.config_resetstat()
        yield client


async def unknown_scripts(client: Redis) -> int:
    """How often somebody called a script that Redis did not know."""
    return int((await client.info("errorstats")).get("errorstat_NOSCRIPT", {}).get("count", 0))


async def pids(database_url: str) -> set[int]:
    """The connections to the database, this one left out."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
        return {row["pid"] for row in rows}
    finally:
        await connection.close()


async def test_the_first_readers_wait_for_no_connection_and_no_script(
    database_url: str, redis: EmbeddedRedis, counting: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def written_later(_: Projector, stream_id: UUID, whole: Whole) -> None:
        """The view is written behind the answers: nobody waits for that."""

    monkeypatch.setattr(Projector, "rebuild", written_later)
    async with client_of(database_url, redis.url(0), redis.url(1), unlimited=True) as writer:
        for thread in range(CONNECTIONS):
            await writer.post("a text", at=f"{S}/threads/t-{thread}")
    await counting.flushall()
    await counting.script_flush()
    async with client_of(database_url, redis.url(0), redis.url(1)) as client:
        before, unknown = await pids(database_url), await unknown_scripts(counting)
        assert len(before) >= CONNECTIONS
        await read_all(client)
        assert await pids(database_url) <= before
        assert await unknown_scripts(counting) == unknown


async def read_all(client: Client) -> None:
    """Have the cold threads read at the same moment."""
    paths = [f"{S}/threads/t-{thread}/comments" for thread in range(CONNECTIONS)]
    for answer in await asyncio.gather(*map(client.get, paths)):
        assert answer.status == 200, answer.raw
        assert len(answer.json["comments"]) == 1


async def test_an_api_listens_though_redis_is_away(
    database_url: str, redis: EmbeddedRedis, broker_url: str
) -> None:
    url = redis.url(0)
    redis.stop()
    async with client_of(database_url, url, broker_url) as client:
        answer = await client.get(f"{S}/threads/none/comments")
        assert (answer.status, answer.json["comments"]) == (200, [])
