"""An API killed in the middle of load has lost no acknowledged comment, and doubled none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import asyncpg
import orjson
import pytest
from aiohttp import ClientError

from services.core.node import decode
from services.dev.servers import EmbeddedPostgres
from services.eventlog.migrate import migrate
from tests.logcheck import chain
from tests.processes import Process, S, Threadlog, threadlog, until

CLIENTS = 20
THREADS = [f"thread-{number}" for number in range(4)]
POSTS = 40
"""How many comments each client posts."""


@pytest.fixture
async def log_url(start_postgres: Callable[..., EmbeddedPostgres]) -> str:
    """A database on a server of the test's own, whose settings it changes."""
    url = start_postgres().dsn()
    await migrate(url)
    return url


@pytest.fixture
async def running(log_url: str, redis_url: str, broker_url: str, tmp_path: Path) -> AsyncIterator[Threadlog]:
    async with threadlog(log_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


@dataclass(slots=True)
class Load:
    """Clients that post as fast as they are answered, each with a key for each comment, and repeat with the
    same key what was not answered with 201, until it is."""

    running: Threadlog
    prefix: str
    crashes: dict[int, Callable[[Load], Awaitable[None]]]
    """How the API is killed when so many comments are acknowledged."""
    api: Process
    before: int
    """How many comments the log held."""
    acknowledged: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """Thread, id and version of the answer by the comment's text, which is also its key."""
    serving: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, seed: int) -> None:
        self.serving.set()
        chances = [Random(f"{seed} {number}") for number in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for number, chance in enumerate(chances):
                group.create_task(self.client(f"client-{number}", chance))

    async def client(self, author: str, chance: Random) -> None:
        mine: dict[str, list[str]] = {thread: [] for thread in THREADS}
        for number in range(POSTS):
            thread, text = chance.choice(THREADS), f"{self.prefix} {author} {number}"
            to = chance.choice(mine[thread]) if mine[thread] and chance.random() < 0.5 else None
            mine[thread].append(await self.posted(thread, text, author, to))

    async def posted(self, thread: str, text: str, author: str, to: str | None) -> str:
        """Post until it is acknowledged; the comment's id."""
        body = {"body": text} if to is None else {"body": text, "parent_id": to}
        headers = {"Idempotency-Key": text.replace(" ", "/")}
        while True:
            await self.serving.wait()
            try:
                answer = await self.running.client.send(
                    "POST", f"{S}/threads/{thread}/comments", body, sub=author, headers=headers
                )
            except (ClientError, TimeoutError):
                await asyncio.sleep(0)  # whoever killed the API may say so
                continue
            assert answer.status == 201, answer
            comment_id = str(answer.json["id"])
            assert text not in self.acknowledged
            self.acknowledged[text] = (thread, comment_id, answer.version)
            if (crash := self.crashes.get(len(self.acknowledged))) is not None:
                await crash(self)
            return comment_id

    async def killed_anywhere(self) -> None:
        self.serving.clear()
        self.api.kill()
        self.api = await self.running.api()
        self.serving.set()

    async def killed_before_its_answers(self) -> None:
        """Kill the API between its commit and the answers to it.

        Postgres is told to wait for a standby that there is not: what it has written is durable, and it does
        not say so. Once the API is dead, it no longer waits.
        """
        admin = await asyncpg.connect(self.running.settings.database_url)
        try:
            await admin.execute("alter system set synchronous_standby_names = 'nobody'")
            await admin.execute("select pg_reload_conf()")
            await until(
                lambda: admin.fetchval(
                    "select count(*) from pg_stat_activity "
                    "where application_name = 'threadlog-appender' and wait_event = 'SyncRep'"
                ),
                "a commit that waits",
            )
            self.serving.clear()
            self.api.kill()
            await admin.execute("alter system reset synchronous_standby_names")
            await admin.execute("select pg_reload_conf()")
        finally:
            await admin.close()
        await until(self.lost_answers, "the commit that nobody was told of")
        self.api = await self.running.api()
        self.serving.set()

    async def lost_answers(self) -> int:
        """How many comments are in the log and were never acknowledged."""
        comments = await self.running.parts.pool.fetchval("select count(*) from comments")
        return int(comments) - self.before - len(self.acknowledged)


async def logged(running: Threadlog, thread: str) -> dict[str, list[tuple[str, str]]]:
    """What the log holds: the ids and authors of the comments with a text."""
    index = await running.parts.projector.index(running.stream_of(thread))
    found: dict[str, list[tuple[str, str]]] = {}
    for posted, comment in index.comments.items():
        text = orjson.loads(b"{%b}" % decode(index.node(posted)).text)["body"]
        found.setdefault(text, []).append((str(comment.id), str(comment.author_id)))
    return found


async def one_round(running: Threadlog, api: Process, seed: int) -> Load:
    """One load with a crash in it, and what must hold afterwards."""
    total = CLIENTS * POSTS
    first, second = sorted(Random(seed).sample(range(total // 8, total * 3 // 4), 2))
    load = Load(
        running,
        f"round-{seed}",
        {first: Load.killed_anywhere, second: Load.killed_before_its_answers},
        api,
        await running.parts.pool.fetchval("select count(*) from comments"),
    )
    await load.run(seed)
    assert len(load.acknowledged) == total
    for thread in THREADS:
        inside = await logged(running, thread)
        ours = {
            text: [(comment_id, text.split(" ")[1])]
            for text, (where, comment_id, _) in load.acknowledged.items()
            if where == thread
        }
        assert {text: found for text, found in inside.items() if text.startswith(load.prefix)} == ours
        stream_id = running.stream_of(thread)
        head = await running.parts.log.head(stream_id)
        assert head is not None
        assert await chain(running.parts.log, stream_id) == head[0] == sum(map(len, inside.values()))
        shown = await running.page(thread, f"min_version={head[0]}&limit=1")
        assert shown.json["thread"]["comments"] == head[0]
        assert await running.parts.verifier.thread(stream_id) == []
    versions = Counter((where, version) for where, _, version in load.acknowledged.values())
    assert set(versions.values()) == {1}
    return load


async def test_a_killed_api_has_lost_no_acknowledged_comment_and_doubled_none(running: Threadlog) -> None:
    await one_round(running, await running.api(), seed=1)


@pytest.mark.slow
async def test_it_does_so_again_and_again(running: Threadlog) -> None:
    api = await running.api()
    for seed in range(2, 12):
        api = (await one_round(running, api, seed)).api
