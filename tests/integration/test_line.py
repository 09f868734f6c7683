"""One connection to Redis that all readers share."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.dev.servers import EmbeddedRedis
from services.readmodel import line as lines
from services.readmodel.line import Line, packed
from services.readmodel.resting import RestingPool
from services.wiring import connect_redis

PATIENT_S = 30.0
IMPATIENT_S = 2.0
"""Longer than a server takes that only has much to do beside."""


@asynccontextmanager
async def client_of(url: str, patience: float = PATIENT_S) -> AsyncIterator[Redis]:
    """As the API's."""
    redis = connect_redis(url, patience, rests=True)
    try:
        yield redis
    finally:
        await redis.aclose()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with client_of(redis_url) as client:
        yield client


@pytest.fixture
def line(redis: Redis) -> Line:
    return Line(redis.connection_pool)


@contextmanager
def hanging(server: EmbeddedRedis) -> Iterator[None]:
    """The server neither answers nor refuses."""
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def echoed(line: Line, word: str) -> bytes:
    [answer] = await line.ask(packed("ECHO", word))
    return bytes(answer)


async def test_each_is_given_its_own_answer_over_one_connection(line: Line, redis: Redis) -> None:
    words = [f"word {number} " * (1 + 2_000 * (number % 3)) for number in range(200)]
    answers = await asyncio.gather(*(echoed(line, word) for word in words))
    assert answers == [word.encode() for word in words]
    ours = {(await line.ask(packed("CLIENT", "ID")))[0] for _ in range(5)}
    assert len(ours) == 1


async def test_several_commands_are_answered_together(line: Line) -> None:
    assert await line.ask(packed("ECHO", "a"), packed("HMGET", "none", "x"), packed("ECHO", b"b")) == [
        b"a",
        [None],
        b"b",
    ]


async def test_what_is_refused_is_refused_to_whoever_asked_alone(line: Line, redis: Redis) -> None:
    await redis.set("text", "no hash")
    asked = [
        line.ask(packed("ECHO", "before")),
        line.ask(packed("HGET", "text", "field"), packed("ECHO", "with it")),
        line.ask(packed("ECHO", "after")),
    ]
    before, refused, after = await asyncio.gather(*asked, return_exceptions=True)
    assert (before, after) == ([b"before"], [b"after"])
    assert isinstance(refused, ResponseError)
    assert str(refused).startswith("WRONGTYPE")


async def test_an_answer_that_nobody_waits_for_any_more_is_nobody_elses(line: Line) -> None:
    await echoed(line, "the connection is there")
    left = asyncio.ensure_future(line.ask(packed("ECHO", "left")))
    await asyncio.sleep(0)  # it is sent
    left.cancel()
    assert await echoed(line, "mine") == b"mine"
    assert left.cancelled()


async def test_a_connection_that_is_lost_is_made_again(line: Line, redis: Redis) -> None:
    [number] = await line.ask(packed("CLIENT", "ID"))
    async with asyncio.timeout(PATIENT_S):
        await redis.client_kill_filter(_id=str(number))
        again = number
        while again == number:
            try:
                [again] = await line.ask(packed("CLIENT", "ID"))
            except RedisConnectionError:  # the end of the old one was not heard of yet, and Redis rests
                await asyncio.sleep(0.01)


async def test_whoever_waits_when_the_connection_is_lost_is_told_so(line: Line, redis: Redis) -> None:
    [number] = await line.ask(packed("CLIENT", "ID"))
    waiting = [
        asyncio.ensure_future(line.ask(packed("BLPOP", "never", "0"))),
        asyncio.ensure_future(line.ask(packed("PING"))),
    ]
    await asyncio.sleep(0)  # they are sent
    assert await redis.client_kill_filter(_id=str(number)) == 1
    told = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENT_S)
    assert [type(one) for one in told] == [RedisConnectionError] * 2


async def test_a_server_that_hangs_is_waited_for_once_for_all(
    start_redis: Callable[..., EmbeddedRedis],
) -> None:
    server = start_redis()
    async with client_of(server.url(), IMPATIENT_S) as redis:
        pool = redis.connection_pool
        assert isinstance(pool, RestingPool)
        line = Line(pool)
        await echoed(line, "the connection is there")
        with hanging(server):
            told = await asyncio.gather(*(line.ask(packed("PING")) for _ in range(9)), return_exceptions=True)
            assert [type(one) for one in told] == [RedisTimeoutError] * 9
            assert (pool.faults, pool.resting) == (1, True)
            with pytest.raises(RedisConnectionError, match="left alone"):
                await line.ask(packed("PING"))
        async with asyncio.timeout(PATIENT_S):
            while pool.resting:
                await asyncio.sleep(0.01)
        assert await echoed(line, "again") == b"again"


async def test_no_more_than_so_many_wait(
    start_redis: Callable[..., EmbeddedRedis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MOST", 3)
    server = start_redis()
    async with client_of(server.url()) as redis:
        line = Line(redis.connection_pool)
        await echoed(line, "the connection is there")
        with hanging(server):
            waiting = [asyncio.ensure_future(line.ask(packed("ECHO", f"{n}"))) for n in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(RedisConnectionError, match="wait"):
                await line.ask(packed("PING"))
        assert await asyncio.gather(*waiting) == [[b"0"], [b"1"], [b"2"]]


async def test_it_takes_one_connection_of_its_pool_which_closes_it(redis_url: str) -> None:
    pool = BlockingConnectionPool.from_url(redis_url, max_connections=2)
    redis = Redis.from_pool(pool)
    line = Line(pool)
    await asyncio.gather(*(echoed(line, f"{n}") for n in range(20)))
    assert await redis.echo("there is another") == b"there is another"
    [ours] = await line.ask(packed("CLIENT", "ID"))
    await redis.aclose()
    async with Redis.from_url(redis_url) as other, asyncio.timeout(PATIENT_S):
        while str(ours) in {client["id"] for client in await other.client_list()}:
            await asyncio.sleep(0.01)
