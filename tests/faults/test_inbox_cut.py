"""Live inboxes whose connections are cut, whose Redis goes, whose rows commit in another order than they were
made, over two API processes: every notification arrives once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import jwt
import pytest
from redis.asyncio import Redis

from services.dev.servers import EmbeddedRedis
from services.readmodel.told import CHANNEL, Told, digest
from tests.inboxes import Follower, enter, following, new_id
from tests.processes import SECRET, S, Threadlog, threadlog, until
from tests.writer import SITE

LIVE = f"{S}/me/notifications/live"
ROUNDS = 30


def token(sub: str = "ann") -> str:
    claims = {"iss": SITE, "sub": sub, "exp": int(time.time()) + 900}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


async def bases(running: Threadlog, count: int = 2) -> list[str]:
    """The addresses of that many API processes."""
    found = []
    for _ in range(count):
        await running.api()
        found.append(running.client.base)
    return found


async def write(url: str, redis: Redis, random: Random, place: tuple[UUID, UUID]) -> list[str]:
    """Enter notifications in transactions that overlap: some stay open while later ones commit, some come to
    nothing. The ids of all that were committed."""
    told = Told(redis)
    entered: list[str] = []
    pool = await asyncpg.create_pool(url, min_size=1, max_size=4)
    held: list[tuple[Any, Any, list[UUID]]] = []

    async def commit(which: int) -> None:
        connection, transaction, ids = held.pop(which)
        if random.random() < 0.15:
            await transaction.rollback()
        else:
            await transaction.commit()
            entered.extend(map(str, ids))
            if random.random() < 0.7:  # the other hints are lost
                told.tell([(SITE, "ann")])
        await pool.release(connection)

    for _ in range(ROUNDS):
        connection = await pool.acquire()
        transaction = connection.transaction()
        await transaction.start()
        ids = [new_id(random) for _ in range(random.randrange(1, 5))]
        for one in ids:
            await enter(connection, SITE, "ann", one, place)
        held.append((connection, transaction, ids))
        while len(held) > 3 or (held and random.random() < 0.4):
            await commit(random.randrange(len(held)))
        await asyncio.sleep(random.random() * 0.03)  # followers come in between
    while held:
        await commit(random.randrange(len(held)))
    await told.stop()
    await pool.close()
    return entered


@pytest.mark.parametrize("seed", [1, 2])
async def test_streams_cut_anywhere_tell_every_notification_once(
    running: Threadlog, redis_url: str, database_url: str, seed: int
) -> None:
    random = Random(seed)
    places = await bases(running)
    root = (await running.client.post("story", "by ann", sub="ann")).json
    place = (running.stream_of("story"), UUID(root["id"]))
    followers = [Follower(places, LIVE, token(), Random(random.random()), longest=4_000) for _ in range(2)]
    followers += [Follower([base], LIVE, token()) for base in places]
    entered: set[str] = set()

    def enough(follower: Follower) -> bool:
        return bool(entered) and len(follower.seen) >= len(entered)

    async with AsyncExitStack() as stack:
        for one in followers:
            await stack.enter_async_context(following(one, enough))
        async with Redis.from_url(redis_url) as redis:
            flushing = asyncio.create_task(_emptied(redis))
            written = await write(database_url, redis, random, place)
            flushing.cancel()
        assert len(written) == len(set(written)) > ROUNDS
        entered.update(written)
    for one in followers:
        assert sorted(one.seen) == sorted(entered)
    assert all(one.cuts > 3 for one in followers[:2])


async def _emptied(redis: Redis) -> None:
    while True:
        await redis.flushall()
        await asyncio.sleep(0.2)  # again and again


async def test_a_reply_is_told_while_redis_is_away_and_at_once_after_it(
    database_url: str, start_redis: Callable[..., EmbeddedRedis], tmp_path: Path
) -> None:
    redis = start_redis()
    async with threadlog(database_url, redis.url(0), redis.url(1), tmp_path) as running:
        await running.api()
        worker = running.worker()
        root = (await running.client.post("story", "by ann", sub="ann")).json["id"]
        done = asyncio.Event()

        async def reply(text: str) -> None:
            posted = await running.client.post("story", text, sub="bob", to=root)

            async def shown() -> list[str]:
                return [data["notification"]["comment"]["body"] for _, data in ann.events]

            await until(shown, f"ann is told of {text}", lambda found: found[-1:] == [text])
            assert ann.events[-1][1]["notification"]["event_id"] == posted.json["id"]

        async with following(Follower([running.client.base], LIVE, token()), lambda _: done.is_set()) as ann:
            async with Redis.from_url(redis.url(0)) as connection, connection.pubsub() as hints:
                await hints.subscribe(CHANNEL)
                await reply("before")
                await until(
                    lambda: hints.get_message(ignore_subscribe_messages=True, timeout=1.0),
                    "the worker says that ann was told",
                    lambda found: found is not None and found["data"] == digest(SITE, "ann"),
                )
            redis.stop()
            place = (running.stream_of("story"), UUID(root))
            # No worker is poked without the broker: so this stands for one that was at it already.
            pool = await asyncpg.create_pool(database_url, min_size=1, max_size=1)
            one = new_id(Random(5))
            await enter(pool, SITE, "ann", one, place)
            await pool.close()

            async def seen() -> list[str]:
                return list(ann.seen)

            await until(seen, "it is told without Redis", lambda found: str(one) in found)
            redis.start()
            async with Redis.from_url(redis.url(0)) as connection:
                await until(
                    lambda: connection.pubsub_numsub(CHANNEL),
                    "hints are heard again",
                    lambda found: found[0][1] == 1,
                )
            await reply("after it")
            done.set()
        assert len(ann.seen) == len(set(ann.seen)) == 3
        assert worker.alive


async def test_streams_end_in_order_when_the_process_is_told_to_stop(running: Threadlog) -> None:
    api = await running.api()
    async with following(Follower([running.client.base], LIVE, token()), lambda one: one.ended) as ann:
        assert await api.stop() == 0
    assert ann.ended
    assert ann.retries == 2
    assert token() not in api.said
