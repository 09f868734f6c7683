"""An erasure races posts by the same author, and the workers that carry it out are killed in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from services.core.addresses import lane_of, site_stream_id, thread_stream_id
from services.core.page import PageRequest
from services.eventlog.locks import LockClass
from tests.logcheck import chain
from tests.processes import Process, S, Threadlog, threadlog, until
from tests.writer import SITE, writer

THREADS = [f"thread-{number}" for number in range(5)]
POSTERS = 8
MANY_THREADS = 1_000
IN_EACH = 3


@pytest.fixture
async def running(
    two_lane_database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(two_lane_database_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


async def two_apis(running: Threadlog) -> tuple[str, str]:
    """The addresses of two API processes on one log."""
    addresses = []
    for _ in range(2):
        await running.api()
        addresses.append(running.client.base)
    return addresses[0], addresses[1]


def workers_of(master: Process) -> list[psutil.Process]:
    """All processes of `threadlog worker`."""
    root = psutil.Process(master.popen.pid)
    return [root, *root.children(recursive=True)]


def signal_all(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def unfinished(running: Threadlog) -> int:
    return int(await running.parts.pool.fetchval("select count(*) from erasures where done_at is null") or 0)


async def test_a_comment_of_an_author_who_is_being_erased_is_erased_or_lives_never_half(
    running: Threadlog,
) -> None:
    addresses = await two_apis(running)
    running.worker()
    client = running.client
    taken: dict[str, tuple[str, str]] = {}
    """Thread and text of each comment that was answered with 201, by its id."""
    over = asyncio.Event()

    async def pester(number: int) -> None:
        count = 0
        while not over.is_set():
            thread, text = THREADS[count % len(THREADS)], f"by ann, {number}/{count}"
            body = {"body": text}
            url = f"{S}/threads/{thread}/comments"
            client.base = addresses[(number + count) % 2]
            answer = await client.send("POST", url, body, sub="ann")
            assert answer.status in (201, 503), answer
            if answer.status == 201:
                taken[str(answer.json["id"])] = (thread, text)
            count += 1

    posters = [asyncio.create_task(pester(number)) for number in range(POSTERS)]
    before: set[str] = set()
    for turn in range(3):
        await until(lambda: _count(taken), "more comments", lambda found: found > 40 * (turn + 1))  # noqa: B023
        before = set(taken)
        client.base = addresses[turn % 2]
        answer = await client.send("DELETE", f"{S}/me", sub="ann")
        assert answer.status == 202, answer
    over.set()
    await asyncio.gather(*posters)
    last = await client.post(THREADS[0], "after all", sub="ann")
    taken[str(last.json["id"])] = (THREADS[0], "after all")
    await until(lambda: unfinished(running), "all erasures are done", lambda found: found == 0)

    rows = await running.parts.pool.fetch(
        "select c.comment_id::text, c.state, k.wrapped is not null from comments c"
        " join author_keys k on k.key_id = c.key_id"
    )
    states = {comment_id: (state, lives) for comment_id, state, lives in rows}
    assert set(states) >= set(taken)
    assert set(states.values()) == {("erased", False), ("visible", True)}
    assert {states[comment_id] for comment_id in before} == {("erased", False)}
    assert states[str(last.json["id"])] == ("visible", True)
    for comment_id, (thread, text) in taken.items():
        for base in addresses:
            client.base = base
            shown = (await client.get(f"{S}/threads/{thread}/comments/{comment_id}")).json
            if states[comment_id][0] == "erased":
                assert (shown["state"], shown["body"], shown["author"]) == ("erased", None, None)
            else:
                assert (shown["state"], shown["body"], shown["author"]["id"]) == ("visible", text, "ann")
    for thread in THREADS:
        stream_id = thread_stream_id(SITE, thread)
        await chain(running.parts.log, stream_id)
        assert await running.parts.verifier.thread(stream_id) == []


async def _count(taken: dict[str, Any]) -> int:
    return len(taken)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_erasure_in_a_thousand_threads_outlives_its_worker(
    running: Threadlog, two_lane_database_url: str, blow: signal.Signals
) -> None:
    parts = running.parts
    async with writer(two_lane_database_url, 2) as log:
        keys = [f"thread-{number}" for number in range(MANY_THREADS)]
        for at in range(0, MANY_THREADS, 200):
            posts = [log.post(key, "ann") for key in keys[at : at + 200] for _ in range(IN_EACH)]
            posts += [log.post(key, "bob") for key in keys[at : at + 200]]
            await asyncio.gather(*posts)
    for key in keys[:20]:
        await parts.reader.page(running.stream_of(key), PageRequest())
    erasure = await parts.erasures.request(SITE, "ann", requested_by="ann")
    assert erasure is not None
    # So that it cannot come to its end. The site's own stream lies in the other lane.
    async with held(two_lane_database_url, lane=1 - lane_of(site_stream_id(SITE), 2)):
        first = running.worker()
        await until(lambda: erased(running), "the worker is at work", lambda found: found > 0)
        processes = workers_of(first)
        signal_all(processes, blow)
    try:
        await _settled(running)
        done = await erased(running)
        assert 0 < done < MANY_THREADS * IN_EACH, "it was struck in the middle"
        assert await unfinished(running) == 1
        running.worker()
        await until(lambda: unfinished(running), "another worker ends it", lambda found: found == 0, 60.0)
    finally:
        signal_all(processes, signal.SIGKILL)
    marks = await parts.pool.fetch(
        "select convert_from(data, 'UTF8')::jsonb ->> 'comment_id' as comment_id, count(*) as times"
        " from events where type = 'CommentErased' group by 1"
    )
    assert len(marks) == MANY_THREADS * IN_EACH
    assert {row["times"] for row in marks} == {1}
    assert await parts.pool.fetchval("select count(*) from events where type = 'AuthorErased'") == 1
    states = await parts.pool.fetch(
        "select state, author_id, count(*) from comments group by 1, 2 order by 1"
    )
    assert [tuple(row) for row in states] == [
        ("erased", None, MANY_THREADS * IN_EACH),
        ("visible", "bob", MANY_THREADS),
    ]
    again = await parts.erasures.one(erasure.id)
    assert again is not None
    assert again.comments == MANY_THREADS * IN_EACH
    for key in keys[:20]:
        stream_id = running.stream_of(key)
        head = await parts.views.head(stream_id)
        assert head is not None
        assert head.visible == 1
        assert await parts.verifier.thread(stream_id) == []


@asynccontextmanager
async def held(database_url: str, lane: int) -> AsyncIterator[None]:
    """Nobody appends to this lane meanwhile."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1, $2)", int(LockClass.LANE), lane)
            yield
    finally:
        await connection.close()


async def erased(running: Threadlog) -> int:
    return int(await running.parts.pool.fetchval("select count(*) from comments where state = 'erased'") or 0)


async def _settled(running: Threadlog) -> None:
    """Wait until no batch of the struck worker is under way any more."""
    sql = "select count(*) from pg_locks where locktype = 'advisory' and classid = $1"
    await until(
        lambda: running.parts.pool.fetchval(sql, int(LockClass.LANE)),
        "no lane is held",
        lambda held: held == 0,
    )
