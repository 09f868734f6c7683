"""Reads of threads that have no view: folded once for all who ask, whatever becomes of who folds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import pytest

from services.dev.servers import EmbeddedRedis
from services.readmodel.leases import lease_key
from tests.processes import Answer, Client, Process, S, Threadlog, threadlog, until

READERS = 25


@pytest.fixture
def redis(start_redis: Callable[..., EmbeddedRedis]) -> EmbeddedRedis:
    """A server of the test's own, to be emptied."""
    return start_redis()


@pytest.fixture
async def running(database_url: str, redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis.url(0), redis.url(1), tmp_path) as opened:
        yield opened


@dataclass(frozen=True, slots=True)
class Api:
    """One of several API processes, and a client of it."""

    process: Process
    client: Client

    async def page(self, query: str = "", thread: str = "story") -> Answer:
        return await self.client.get(f"{S}/threads/{thread}/comments?{query}")

    async def count(self, metric: str) -> int:
        """What the process has counted."""
        text = (await self.client.get("/metrics")).raw.decode()
        [value] = [line.split()[1] for line in text.splitlines() if line.startswith(metric + " ")]
        return int(float(value))


async def two_apis(running: Threadlog) -> tuple[Api, Api]:
    """Two API processes. The workers stay away: whatever is built, these build it."""
    first, second = [Api(await running.api(), replace(running.client)) for _ in range(2)]
    return first, second


async def written(running: Threadlog, comments: int = 40) -> int:
    """A thread of so many comments; its version."""
    root = await running.client.post("story", "the root", sub="ann")
    last = root
    for number in range(comments - 1):
        last = await running.client.post("story", f"reply {number}", sub="bob", to=root.json["id"])
    return last.version


async def folds(*apis: Api) -> int:
    return sum([await api.count("threadlog_cold_folds_total") for api in apis])


async def rebuilt(running: Threadlog, api: Api) -> None:
    """Read until the view is there. Who lost one in the middle of its writing leaves it to a later reader."""

    async def head() -> object:
        await api.page("limit=9&min_version=1")
        return await running.parts.views.head(running.stream_of("story"))

    await until(head, "the view is written")


async def test_a_thread_is_folded_once_however_many_ask_in_all_processes(running: Threadlog) -> None:
    apis = await two_apis(running)
    version = await written(running)
    for round_ in range(1, 4):
        await running.parts.redis.flushdb()
        # Different pages, none of which any process remembers.
        answers = await asyncio.gather(
            *(api.page(f"limit={10 * round_ + n}&replies=20") for n in range(10) for api in apis),
            *(api.page(f"limit=10&replies={round_}") for _ in range(READERS) for api in apis),
        )
        assert {(answer.version, answer.stale) for answer in answers} == {(version, False)}
        assert await folds(*apis) == round_
        # The view was written behind the answers, and is what answers from here on.
        await until(lambda: running.parts.views.head(running.stream_of("story")), "the view is written")
        cold = [await api.count("threadlog_cold_reads_total") for api in apis]
        warm = [await api.page(f"limit=50&replies={10 + round_}") for api in apis]
        assert [one.version for one in warm] == [version, version]
        assert [await api.count("threadlog_cold_reads_total") for api in apis] == cold
    assert await running.parts.verifier.thread(running.stream_of("story")) == []


async def test_pages_from_the_fold_are_those_of_the_view(running: Threadlog) -> None:
    api, _ = await two_apis(running)
    await written(running, 12)
    queries = [
        "limit=3",
        "sort=newest&limit=5&replies=2",
        "sort=best",
        "sort=replies&depth=1",
        "limit=100&replies=20&depth=10",
    ]
    from_fold = []
    for query in queries:
        await running.parts.redis.flushdb()
        from_fold.append((await api.page(query + "&min_version=1")).raw)
    await rebuilt(running, api)
    assert [(await api.page(query + "&min_version=2")).raw for query in queries] == from_fold


async def test_readers_are_answered_though_the_holder_died_in_the_middle_of_its_fold(
    running: Threadlog, database_url: str
) -> None:
    holder, other = await two_apis(running)
    version = await written(running)
    await running.parts.redis.flushdb()
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("lock table events in access exclusive mode")
            stuck = asyncio.create_task(holder.page("limit=7"))
            lease = lease_key(running.stream_of("story"))
            await until(lambda: running.parts.redis.exists(lease), "somebody holds the lease")
            holder.process.kill()
            await asyncio.wait([stuck])
            assert stuck.exception() is not None
    finally:
        await connection.close()
    # The lease of the dead is waited for no longer than a fold takes.
    answer = await other.page("limit=8")
    assert (answer.version, answer.stale) == (version, False)
    await rebuilt(running, other)  # once the lease has run out
    assert await running.parts.verifier.thread(running.stream_of("story")) == []


async def test_views_that_vanish_under_load_cost_no_reader_an_answer(running: Threadlog) -> None:
    apis = await two_apis(running)
    root = (await running.client.post("story", "the root", sub="ann")).json["id"]
    done = asyncio.Event()

    async def read(api: Api, number: int) -> int:
        """Page after page, each at least as new as the last."""
        version = 1
        while not done.is_set():
            answer = await api.page(f"limit={number + 1}&replies=20&min_version={version}")
            assert answer.version >= version
            assert not answer.stale
            version = answer.version
        return version

    readers = [asyncio.create_task(read(api, number)) for api in apis for number in range(5)]
    last = 1
    for number in range(30):
        last = (await running.client.post("story", f"{number}", sub="bob", to=root)).version
        if number % 3 == 0:
            await running.parts.redis.flushdb()
    done.set()
    assert max(await asyncio.gather(*readers)) <= last
    assert (await apis[0].page(f"min_version={last}")).version == last
    await rebuilt(running, apis[0])
    await running.parts.projector.advance(running.stream_of("story"))
    assert await running.parts.verifier.thread(running.stream_of("story")) == []


async def test_everyone_reads_their_own_writes_whatever_the_workers_do(running: Threadlog) -> None:
    """No worker runs: the view is as far as the readers themselves bring it."""
    apis = await two_apis(running)
    root = (await running.client.post("story", "the root", sub="ann")).json["id"]

    async def write_and_read(author: str) -> None:
        for number in range(8):
            posted = await running.client.post("story", f"{author} {number}", sub=author, to=root)
            for api in apis:
                await reads_back(api, posted, author)

    async def reads_back(api: Api, posted: Answer, author: str) -> None:
        comment, least = posted.json["id"], f"min_version={posted.version}"
        thread = f"{S}/threads/story"
        answers = await asyncio.gather(
            api.client.get(f"{thread}/comments?sort=newest&{least}"),
            api.client.get(f"{thread}/comments?parent={root}&sort=newest&limit=100&{least}"),
            api.client.get(f"{thread}?{least}"),
            api.client.get(f"{thread}/comments/{comment}?{least}"),
            api.client.get(f"{thread}/comments/{comment}/revisions?{least}", sub=author),
        )
        assert all(answer.version >= posted.version for answer in answers)
        assert comment in {one["id"] for one in answers[1].json["comments"]}
        assert answers[3].json["id"] == comment
        assert [one["body"] for one in answers[4].json["items"]] == [posted.json["body"]]

    await asyncio.gather(*(write_and_read(author) for author in ("bob", "cem", "dee", "eve")))
    assert not (await apis[0].page()).stale
