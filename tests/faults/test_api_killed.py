"""An API killed in the middle of load has lost no acknowledged comment, and doubled none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import orjson
import pytest
from aiohttp import ClientError

from services.core.node import decode
from tests.processes import S, Process, Threadlog, threadlog

CLIENTS = 20
THREADS = [f"thread-{number}" for number in range(4)]
POSTS = 40
"""How many comments each client posts."""


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


@dataclass(slots=True)
class Load:
    """Clients that post as fast as they are answered, each with a key for each comment, and repeat with the
    same key what was not answered with 201, until it is."""

    running: Threadlog
    prefix: str
    kill_after: int
    """The API is killed when so many comments are acknowledged."""
    api: Process
    acknowledged: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """Thread, id and version of the answer by the comment's text, which is also its key."""
    unanswered: set[str] = field(default_factory=set)
    """Texts whose first request had no answer: what became of them is for the log to say."""
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
                self.unanswered.add(text)
                await asyncio.sleep(0)  # whoever killed the API may say so
                continue
            assert answer.status == 201, answer
            comment_id = str(answer.json["id"])
            assert text not in self.acknowledged
            self.acknowledged[text] = (thread, comment_id, answer.version)
            if len(self.acknowledged) == self.kill_after:
                await self.crash()
            return comment_id

    async def crash(self) -> None:
        self.serving.clear()
        self.api.kill()
        self.api = await self.running.api()
        self.serving.set()


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
    load = Load(running, f"round-{seed}", Random(seed).randrange(total // 8, total // 2), api)
    await load.run(seed)
    assert len(load.acknowledged) == total
    # At the moment of the crash, other clients' requests were under way.
    assert load.unanswered
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
        assert await running.parts.verifier.chain(stream_id) == head[0] == sum(map(len, inside.values()))
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
