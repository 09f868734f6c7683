"""A Redis that hangs costs a few readers their patience, and the others nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis as redis_client

from services.dev.servers import EmbeddedRedis
from tests.processes import S, Threadlog, threadlog, until

T = f"{S}/threads/story"
COMMENTS = 12


@pytest.fixture
def redis(start_redis: Callable[..., EmbeddedRedis]) -> EmbeddedRedis:
    """A server of the test's own."""
    return start_redis()


@pytest.fixture
async def running(database_url: str, redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis.url(0), redis.url(1), tmp_path) as opened:
        yield opened


async def counted(running: Threadlog, metric: str) -> int:
    """What the API has counted."""
    text = (await running.client.get("/metrics")).raw.decode()
    [value] = [line.split()[1] for line in text.splitlines() if line.startswith(metric + " ")]
    return int(float(value))


@contextmanager
def hanging(server: EmbeddedRedis) -> Iterator[None]:
    """The server neither answers nor refuses."""
    with redis_client.Redis.from_url(server.url()) as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_redis_that_hangs_is_waited_for_once_and_then_left_alone(
    running: Threadlog, redis: EmbeddedRedis
) -> None:
    await running.api()
    client = running.client
    ids = [(await client.post("story", f"{n}", sub="ann")).json["id"] for n in range(COMMENTS)]
    await running.shows("story", COMMENTS)
    before = await client.get(f"{T}/comments/{ids[0]}")
    assert not before.stale

    with hanging(redis):
        faults = await counted(running, "threadlog_views_faults_total")
        for _ in range(3):
            for one in ids:
                assert (await client.get(f"{T}/comments/{one}")).version == COMMENTS
        # The first reader, and what else had asked before that one gave up: the report of what was read, a
        # look at the heads.
        assert 1 <= await counted(running, "threadlog_views_faults_total") - faults <= 3
        page = await running.page("story", "limit=100&replies=7")
        assert page.stale
        assert len(page.json["comments"]) == COMMENTS
        assert (await client.get(f"{T}/comments/{ids[1]}")).stale
        assert (await client.get("/readyz")).json["status"] == "degraded"
        assert await counted(running, "threadlog_views_away") == 1

    answer = await until(
        lambda: client.get(f"{T}/comments/{ids[0]}"), "Redis is used again", lambda one: not one.stale
    )
    assert answer.raw == before.raw
    assert await counted(running, "threadlog_views_away") == 0
    assert (await client.get("/readyz")).json["status"] == "ok"


async def test_a_server_that_comes_back_is_used_at_once(running: Threadlog, redis: EmbeddedRedis) -> None:
    await running.api()
    client = running.client
    one = (await client.post("story", "the root", sub="ann")).json["id"]
    await running.shows("story", 1)
    for _ in range(2):
        redis.stop()
        await until(lambda: client.get(f"{T}/comments/{one}"), "a stale answer", lambda answer: answer.stale)
        redis.start()
        await until(lambda: client.get(f"{T}/comments/{one}"), "a fresh one", lambda answer: not answer.stale)
