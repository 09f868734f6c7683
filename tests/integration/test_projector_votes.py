"""Votes brought into a view: counted, and without the text that they are about."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from schema.events.envelope import Recorded
from services.core.node import decode
from services.eventlog.log import EventLog
from services.projection.advance import Projector
from services.wiring import Resources, resources
from tests.talk import Talk, settings_of, talking

VOTERS = [f"u-{number}" for number in range(120)]


class Counting(EventLog):
    """The log, and which single events it was asked for."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        super().__init__(pool)
        self.asked: list[int] = []

    async def events_at(self, stream_id: UUID, versions: list[int]) -> list[Recorded]:
        self.asked += versions
        return await super().events_at(stream_id, versions)


async def counted(parts: Resources, stream_id: UUID, comment: UUID) -> tuple[int, int, int]:
    """Up, down and version of a comment as the view has them."""
    one = await parts.views.comment(stream_id, comment)
    assert one is not None
    assert one.picked is not None
    node = decode(one.picked.raw)
    return node.up, node.down, node.version


@pytest.mark.parametrize("at_once", [True, False])
async def test_however_the_votes_come_the_view_is_what_a_replay_makes_of_them(
    database_url: str, redis_url: str, *, at_once: bool
) -> None:
    async with resources(settings_of(database_url, redis_url)) as parts, talking(parts) as talk:
        comment = await talk.post("ann", "as *written*")
        await parts.projector.advance(talk.stream_id)
        built = await parts.views.head(talk.stream_id)
        if at_once:
            await asyncio.gather(*(talk.vote(comment, author=voter) for voter in VOTERS))
            await talk.vote(comment, -1, author=VOTERS[0])
        else:
            await each_seen(parts, talk, comment)
        head = await parts.projector.advance(talk.stream_id)
        assert head is not None
        assert built is not None
        assert (head.version, head.build) == (122, built.build)
        assert await counted(parts, talk.stream_id, comment) == (119, 1, 122)
        assert await parts.verifier.thread(talk.stream_id) == []
        assert (await parts.replayer.replay(talk.stream_id)).rows == 0
        assert await counted(parts, talk.stream_id, comment) == (119, 1, 122)


async def each_seen(parts: Resources, talk: Talk, comment: UUID) -> None:
    """The same votes, some of them brought into the view as they come."""
    for number, voter in enumerate(VOTERS):
        await talk.vote(comment, author=voter)
        if number % 10 == 0:
            await parts.projector.advance(talk.stream_id)
    await talk.vote(comment, -1, author=VOTERS[0])


async def test_a_vote_neither_opens_nor_renders_the_text_again(database_url: str, redis_url: str) -> None:
    """The key is destroyed in its table alone, as no erasure does it. A projector that opened the event again
    would find no text; one that does not keeps what the view shows."""
    settings = settings_of(database_url, redis_url)
    async with resources(settings) as parts, talking(parts) as talk:
        comment = await talk.post("ann", "as *written*")
        await talk.edit(comment, "in *other* words")
        await parts.projector.advance(talk.stream_id)
        await parts.pool.execute("update author_keys set wrapped = null, destroyed_at = now()")
        await talk.vote(comment)
        async with resources(settings) as fresh:
            log = Counting(fresh.pool)
            head = await Projector(log, fresh.keyring, fresh.views).advance(talk.stream_id)
            assert head is not None
            assert (head.version, log.asked) == (3, [])
            one = await fresh.views.comment(talk.stream_id, comment)
            assert one is not None
            assert one.picked is not None
            assert b"in <em>other</em> words" in one.picked.raw
            assert await counted(fresh, talk.stream_id, comment) == (1, 0, 3)
