"""Several writers of one view at once: it ends as the fold of its stream, whoever was first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from schema.events.envelope import Recorded
from services.core.page import FoldIndex
from services.projection.advance import Projector
from services.projection.replay import Replayer
from services.readmodel import keys
from services.readmodel.views import Build
from services.wiring import Resources, resources
from tests.talk import Talk, settings_of, talking


@pytest.fixture
async def parts(database_url: str, redis_url: str) -> AsyncIterator[Resources]:
    async with resources(settings_of(database_url, redis_url)) as opened:
        yield opened


@pytest.fixture
async def other(database_url: str, redis_url: str) -> AsyncIterator[Resources]:
    """What another process has: connections of its own."""
    async with resources(settings_of(database_url, redis_url)) as opened:
        yield opened


@pytest.fixture
async def talk(parts: Resources) -> AsyncIterator[Talk]:
    async with talking(parts) as opened:
        yield opened


async def agrees(parts: Resources, talk: Talk) -> None:
    """Assert that the view stands at the log's end, and is the fold of it."""
    head, logged = await parts.views.head(talk.stream_id), await parts.log.head(talk.stream_id)
    assert head is not None
    assert logged == (head.version, head.hash)
    assert await parts.verifier.thread(talk.stream_id) == []


@pytest.mark.parametrize("seed", [1, 2])
async def test_two_projectors_and_a_replay_at_once_leave_the_fold(
    parts: Resources, other: Resources, talk: Talk, seed: int
) -> None:
    chance = Random(seed)
    writing = asyncio.create_task(talks(talk, chance, 300))
    runs = [0, 0]

    async def follow(number: int, projector: Projector) -> None:
        while not writing.done():
            await projector.advance(talk.stream_id)
            runs[number] += 1
            await asyncio.sleep(0)

    async def replay() -> None:
        while not writing.done():
            await other.replayer.replay(talk.stream_id)

    await asyncio.gather(writing, follow(0, parts.projector), follow(1, other.projector), replay())
    assert min(runs) > 1
    await asyncio.gather(parts.projector.advance(talk.stream_id), other.projector.advance(talk.stream_id))
    await agrees(parts, talk)


async def talks(talk: Talk, chance: Random, times: int) -> None:
    for _ in range(times):
        await talk.anything(chance)


async def test_views_lost_while_they_are_written_are_built_again(
    parts: Resources, other: Resources, talk: Talk
) -> None:
    chance = Random(3)
    writing = asyncio.create_task(talks(talk, chance, 200))

    async def follow(projector: Projector) -> None:
        while not writing.done():
            await projector.advance(talk.stream_id)
            await asyncio.sleep(0)

    async def lose() -> None:
        while not writing.done():
            await parts.redis.flushdb()
            await other.projector.advance(talk.stream_id)

    await asyncio.gather(writing, follow(parts.projector), follow(other.projector), lose())
    await parts.projector.advance(talk.stream_id)
    await agrees(parts, talk)


class Overtaken(Projector):
    """A projector that another one overtakes while it writes a build."""

    def __init__(self, parts: Resources, talk: Talk, other: Projector) -> None:
        super().__init__(parts.log, parts.keyring, parts.views)
        self._talk = talk
        self._other = other
        self._overtaken = False

    async def _write(self, build: Build, index: FoldIndex, events: dict[int, Recorded]) -> None:
        if not self._overtaken:
            self._overtaken = True
            await self._talk.post("bob", "meanwhile", to=self._talk.ids[0])
            await self._other.advance(self._talk.stream_id)
        await super()._write(build, index, events)


async def test_a_projector_that_was_overtaken_takes_no_view_back(
    parts: Resources, other: Resources, talk: Talk
) -> None:
    await talk.post()
    overtaken = Overtaken(parts, talk, other.projector)
    head = await overtaken.rebuild(talk.stream_id)
    assert head is not None
    assert head.version == 2
    await agrees(parts, talk)


async def test_a_replay_that_was_overtaken_repairs_the_view_all_the_same(
    parts: Resources, other: Resources, talk: Talk
) -> None:
    await talk.post()
    await parts.projector.advance(talk.stream_id)
    await parts.redis.hset(
        keys.head(talk.stream_id), "meta", b'["blog","talk","another title",null,null,false,7]'
    )
    assert await parts.verifier.thread(talk.stream_id) != []
    replayer = Replayer(parts.pool, Overtaken(parts, talk, other.projector), parts.lanes)
    await replayer.replay(talk.stream_id)
    await parts.projector.advance(talk.stream_id)
    await agrees(parts, talk)
