"""Live streams whose connections are cut, whose Redis goes, whose process ends: nothing lost or repeated."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from redis.asyncio import Redis

from services.dev.servers import EmbeddedRedis
from services.readmodel import keys
from tests.listening import listening
from tests.processes import SECRET, S, Threadlog, threadlog, until
from tests.writer import SITE

LIVE = f"{S}/threads/story/live"
COMMENTS = f"{S}/threads/story/comments"
POSTS = 120
FOLLOWERS = 4
_ENDLESS = 1 << 40


@dataclass(slots=True)
class Follower:
    """Reads a stream over connections that it cuts after any number of bytes, and resumes after the last `id`
    that came whole. A `steady` one cuts none: it is told everything as it comes, and nothing of the log makes
    up for a gap. It speaks HTTP/1.0, so that there is nothing but the events."""

    base: str
    random: Random
    steady: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    last: int = 0
    cuts: int = 0
    seen: list[tuple[int, str]] = field(default_factory=list)
    tallies: dict[str, Any] = field(default_factory=dict)

    async def follow(self, ended: Callable[[Follower], bool]) -> None:
        """Until it has seen all there is."""
        place = urlsplit(self.base)
        while not ended(self):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            writer.write(f"GET {LIVE} HTTP/1.0\r\nHost: x\r\nLast-Event-ID: {self.last}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.split(b"\r\n")[0], head
            self.begun.set()
            left, rest = _ENDLESS if self.steady else self.random.randrange(1, 9_000), b""
            while left and not ended(self):
                try:
                    part = await asyncio.wait_for(reader.read(min(left, 9_000)), 0.5)
                except TimeoutError:
                    continue
                assert part, "the server ended the stream"
                left -= len(part)
                *blocks, rest = (rest + part).split(b"\n\n")
                for block in blocks:
                    self._take(
                        dict(line.split(": ", 1) for line in block.decode().split("\n") if line[0] != ":")
                    )
            self.cuts += 1
            writer.transport.abort()

    def _take(self, given: dict[str, str]) -> None:
        if "id" in given:
            assert int(given["id"]) >= self.last
            self.last = int(given["id"])
        if "data" not in given:
            return
        data = json.loads(given["data"])
        if given["event"] == "CommentVoted":
            self.tallies[data["comment"]["id"]] = data["comment"]["votes"]
        else:
            self.seen.append((self.last, given["event"]))


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


async def write(running: Threadlog, random: Random) -> dict[str, int]:
    """Posts, replies, edits, deletions, decisions and votes, some at once; the votes up of each comment."""
    client = running.client
    votes: dict[str, int] = {}
    made: list[str] = []
    for number in range(0, POSTS, 6):
        to = random.choice(made) if made else None
        answers = await asyncio.gather(
            *(client.post("story", f"text *{number + n}* " * 9, sub="ann", to=to) for n in range(6))
        )
        ids = [answer.json["id"] for answer in answers]
        made += ids[2:]
        edited = {"body": f"edited {number}"}
        path = f"{COMMENTS}/{ids[0]}"
        answer = await client.send("PATCH", path, edited, sub="ann", headers={"If-Match": '"1"'})
        assert answer.status == 200, answer
        assert (await client.send("DELETE", f"{COMMENTS}/{ids[1]}", sub="ann")).status == 204
        for action in ("hide", random.choice(("restore", "approve"))):
            decided = await client.send(
                "POST", f"{path}/decisions", {"action": action}, sub="mia", roles=("moderator",)
            )
            assert decided.status == 200, decided
        for _ in range(3):
            chosen = random.choice(made[:3])
            voter = f"u-{votes.get(chosen, 0)}"
            voted = await client.send("PUT", f"{COMMENTS}/{chosen}/vote", {"value": 1}, sub=voter)
            assert voted.status == 200, voted
            votes[chosen] = votes.get(chosen, 0) + 1
    return votes


@pytest.mark.parametrize("seed", [1, 2])
async def test_streams_cut_anywhere_tell_every_event_once_and_in_order(running: Threadlog, seed: int) -> None:
    random = Random(seed)
    await running.api()
    running.worker()
    followers = [
        Follower(running.client.base, Random(random.random()), steady=not number)
        for number in range(FOLLOWERS)
    ]
    written: list[tuple[int, dict[str, Any]]] = []

    def ended(follower: Follower) -> bool:
        """Whether it has seen everything, the last tallies included."""
        return bool(written) and follower.last >= written[0][0] and written[0][1] == follower.tallies

    following = [asyncio.create_task(follower.follow(ended)) for follower in followers]
    async with asyncio.timeout(60):
        await followers[0].begun.wait()
    votes = await write(running, random)
    head = await running.parts.log.head(running.stream_of("story"))
    assert head is not None
    written.append((head[0], {one: {"up": up, "down": 0} for one, up in votes.items()}))
    async with asyncio.timeout(60):
        await asyncio.gather(*following)
    events = await running.parts.log.events_after(running.stream_of("story"), 0, 1_000)
    expected = [(event.version, event.type) for event in events if event.type != "CommentVoted"]
    assert len(expected) == POSTS + 4 * (POSTS // 6)
    for follower in followers:
        assert follower.seen == expected
        assert follower.cuts == 1 if follower.steady else follower.cuts > 5


async def test_streams_go_on_while_redis_is_away_and_hear_hints_again_after_it(
    database_url: str, start_redis: Callable[..., EmbeddedRedis], tmp_path: Path
) -> None:
    redis = start_redis()
    async with threadlog(database_url, redis.url(0), redis.url(1), tmp_path) as running:
        client = running.client
        await running.api()
        running.worker()
        async with listening(client.base, LIVE) as stream:
            await client.post("story", "before", sub="ann")
            assert (await stream.event()).body == "before"
            redis.stop()
            for text in ("while it is away", "still"):  # the second one, when it is known to be away
                await client.post("story", text, sub="ann")
                assert (await stream.event()).body == text
            async with listening(client.base, LIVE, after=1) as late:
                assert [event.body for event in await late.events(2)] == ["while it is away", "still"]
            redis.start()
            await client.post("story", "after it", sub="ann")
            assert (await stream.event()).body == "after it"
            async with Redis.from_url(redis.url(0)) as connection:
                await until(
                    lambda: connection.pubsub_numsub(keys.channel(running.stream_of("story"))),
                    "the thread is subscribed to again",
                    lambda found: found[0][1] == 1,
                )
            last = await client.post("story", "the last one", sub="ann")
            event = await stream.event()
            assert (event.id, event.body) == (last.version, "the last one")


async def test_streams_end_in_order_when_the_process_is_told_to_stop(running: Threadlog) -> None:
    api = await running.api()
    claims = {"iss": SITE, "sub": "ann", "exp": int(time.time()) + 200}
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    async with (
        listening(running.client.base, f"{LIVE}?access_token={token}") as stream,
        listening(running.client.base, LIVE) as other,
    ):
        await running.client.post("story", "a text", sub="ann")
        assert (await stream.event()).body == (await other.event()).body == "a text"
        stopping = asyncio.create_task(api.stop())
        for one in (stream, other):
            assert await one.end() == []
            assert len(one.retries) == 2
        assert await stopping == 0
    assert token not in api.said
    assert "internal" not in api.said
