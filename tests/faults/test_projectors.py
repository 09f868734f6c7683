"""Several writers of one view at once: it ends as the fold of its stream, whoever was first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from random import Random
from uuid import UUID

import pytest

from schema.events.envelope import Recorded
from services.core.page import FoldIndex
from services.errors import Unavailable
from services.projection.advance import Projector
from services.readmodel import keys
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


class Crowd:
    """People who talk in a thread, and what goes on with its view until they have ended."""

    def __init__(self, talk: Talk, chance: Random, times: int) -> None:
        self._talk = talk
        self._chance = chance
        self._times = times
        self._ended = False

    async def speaks(self) -> None:
        for _ in range(self._times):
            await self._talk.anything(self._chance)
        self._ended = True

    async def sees(self, work: Callable[[UUID], Awaitable[object]]) -> None:
        """Do this to the view over and over. It may give way to the others as often as they are first."""
        done = 0
        while not self._ended:
            with suppress(Unavailable):
                await work(self._talk.stream_id)
                done += 1
            await asyncio.sleep(0)
        assert done > 1


@pytest.mark.parametrize("seed", [1, 2])
async def test_two_projectors_and_a_replay_at_once_leave_the_fold(
    parts: Resources, other: Resources, talk: Talk, seed: int
) -> None:
    crowd = Crowd(talk, Random(seed), 300)
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.speaks())
        group.create_task(crowd.sees(parts.projector.advance))
        group.create_task(crowd.sees(other.projector.advance))
        group.create_task(crowd.sees(other.replayer.replay))
    await asyncio.gather(parts.projector.advance(talk.stream_id), other.projector.advance(talk.stream_id))
    await agrees(parts, talk)


async def test_views_lost_while_they_are_written_are_built_again(
    parts: Resources, other: Resources, talk: Talk
) -> None:
    async def lose(stream_id: UUID) -> None:
        await parts.redis.flushdb()
        await other.projector.advance(stream_id)

    crowd = Crowd(talk, Random(3), 200)
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.speaks())
        group.create_task(crowd.sees(parts.projector.advance))
        group.create_task(crowd.sees(other.projector.advance))
        group.create_task(crowd.sees(lose))
    await parts.projector.advance(talk.stream_id)
    await agrees(parts, talk)


class Overtaken(Projector):
    """A projector that another one overtakes while it writes a build."""

    def __init__(self, parts: Resources, talk: Talk, other: Projector) -> None:
        super().__init__(parts.log, parts.keyring, parts.views)
        self._talk = talk
        self._other = other
        self._overtaken = False

    async def _nodes(
        self, index: FoldIndex, events: Mapping[int, Recorded]
    ) -> AsyncIterator[dict[int, bytes]]:
        if not self._overtaken:
            self._overtaken = True
            await self._talk.post("bob", "meanwhile", to=self._talk.ids[0])
            await self._other.advance(self._talk.stream_id)
        async for some in super()._nodes(index, events):
            yield some


async def test_a_projector_that_was_overtaken_takes_no_view_back(
    parts: Resources, other: Resources, talk: Talk
) -> None:
    await talk.post()
    overtaken = Overtaken(parts, talk, other.projector)
    head = await overtaken.rebuild(talk.stream_id)
    assert head is not None
    assert head.version == 2
    await agrees(parts, talk)


async def test_a_rebuild_that_was_overtaken_repairs_the_view_all_the_same(
    parts: Resources, other: Resources, talk: Talk
) -> None:
    await talk.post()
    await parts.projector.advance(talk.stream_id)
    await parts.redis.hset(
        keys.head(talk.stream_id), "meta", b'["blog","talk","another title",null,null,false,7]'
    )
    assert await parts.verifier.thread(talk.stream_id) != []
    await Overtaken(parts, talk, other.projector).rebuild(talk.stream_id)
    await parts.projector.advance(talk.stream_id)
    await agrees(parts, talk)
