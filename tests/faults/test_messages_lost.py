"""A message is a hint: what is lost of them, the sweeper finds in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from redis.asyncio import Redis

from tests.processes import S, Threadlog, threadlog, until

THREADS = [f"thread-{number}" for number in range(5)]


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


async def test_what_lost_messages_told_of_is_found_in_the_log(running: Threadlog, broker_url: str) -> None:
    chance, client = Random(1), running.client
    await running.api()
    worker = running.worker()
    roots = {thread: await client.post(thread, "the root", sub="ann") for thread in THREADS}
    for thread in THREADS:
        await running.shows(thread, 1)  # built by the read; from here on, the worker keeps it up
    versions = {thread: (await client.post(thread, "a second one", sub="cem")).version for thread in THREADS}
    for thread, version in versions.items():
        await running.shows(thread, version)
    assert await worker.stop() == 0

    projected = dict(versions)
    async with Redis.from_url(broker_url) as broker:
        for number in range(60):
            thread = chance.choice(THREADS)
            answer = await client.post(thread, f"reply {number}", sub="bob", to=roots[thread].json["id"])
            versions[thread] = answer.version
            if chance.random() < 0.5:
                await broker.flushdb()
        stale = {thread: (await running.page(thread)).version for thread in THREADS}
        assert stale == projected, "nobody projects"
        # The poker sends from a thread of its own: what it still holds is lost as well.
        await until(
            lambda: _emptied(broker), "the API has no more messages to send", lambda waiting: waiting == 0
        )

    running.worker()
    await asyncio.gather(*(running.shows(thread, version) for thread, version in versions.items()))
    inbox = await until(
        lambda: client.get(f"{S}/me/notifications?limit=1000", sub="ann"),
        "ann is told of all replies",
        lambda answer: len(answer.json["items"]) >= 60,
    )
    assert len({item["event_id"] for item in inbox.json["items"]}) == len(inbox.json["items"]) == 60
    for thread in THREADS:
        assert await running.parts.verifier.thread(running.stream_of(thread)) == []


async def _emptied(broker: Redis) -> int:
    waiting = await broker.dbsize()
    await broker.flushdb()
    return waiting
