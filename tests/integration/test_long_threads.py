"""Threads too long to be held as objects: their views are built from columns, and are the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest

from services.errors import PoisonEvent
from services.eventlog.log import EventLog
from services.projection import advance, replay
from services.projection.advance import Projector
from services.projection.fold import Texts
from services.projection.longthread import LongThread
from services.projection.whole import Whole
from services.readmodel.builds import Build
from services.readmodel.records import Changes, Head, Outcome
from services.wiring import Resources, resources
from tests.following import World, world_of
from tests.talk import Talk, settings_of, talking
from tests.writer import stream_of


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two events are many, and no thread is folded into objects to be built."""

    async def refused(self: Projector, *_: object, **__: object) -> Whole:
        pytest.fail("a long thread was folded into objects")

    monkeypatch.setattr(advance, "LONG", 2)
    monkeypatch.setattr(advance, "WRITE", 7)
    monkeypatch.setattr(Projector, "_whole", refused)


@pytest.fixture
async def parts(database_url: str, redis_url: str) -> AsyncIterator[Resources]:
    async with resources(settings_of(database_url, redis_url)) as found:
        yield found


@pytest.fixture
async def world(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, broker_url) as opened:
        yield opened


def projector(world: World) -> Projector:
    return Projector(EventLog(world.log.pool), world.log.keyring, world.views)


async def is_as_folded(parts: Resources, talk: Talk) -> None:
    head = await parts.views.head(talk.stream_id)
    assert head is not None
    last = await parts.log.head(talk.stream_id)
    assert last == (head.version, head.hash)
    stored = {row.key: row async for row in parts.views.dump(talk.stream_id, head.build)}
    index = await parts.projector.index(talk.stream_id)
    assert stored == {row.key: row for row in index.rows()}
    assert (head.visible, head.title, head.closed) == (
        index.thread.visible,
        index.thread.title,
        index.thread.closed,
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_view_built_from_columns_is_the_one_that_a_fold_of_objects_gives(
    parts: Resources, seed: int
) -> None:
    chance = Random(seed)
    async with talking(parts) as talk:
        for _ in range(120):
            await talk.anything(chance)

        await parts.projector.rebuild(talk.stream_id)

        await is_as_folded(parts, talk)


async def test_what_comes_while_it_is_built_is_brought_in_before_it_serves(
    parts: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(4)
    async with talking(parts) as talk:
        for _ in range(40):
            await talk.anything(chance)

        class Slow(LongThread):
            async def changes(self, texts: Texts, size: int) -> AsyncIterator[Changes]:
                async for changes in super().changes(texts, size):
                    yield changes
                    for _ in range(10):
                        await talk.anything(chance)

        monkeypatch.setattr(advance, "LongThread", Slow)
        before = len(talk.ids)
        await parts.projector.rebuild(talk.stream_id)

        assert len(talk.ids) > before
        await is_as_folded(parts, talk)
        await talk.anything(chance)
        await parts.projector.bring_up(talk.stream_id)
        await is_as_folded(parts, talk)


async def test_a_poisoned_long_thread_serves_what_comes_before(world: World) -> None:
    for name in ("ann", "bob", "cem"):
        await world.log.post("t", name)
    version = await world.log.poison("t")
    await world.log.post("t", "dee")

    with pytest.raises(PoisonEvent) as refused:
        await projector(world).rebuild(stream_of("t"))

    assert refused.value.version == version
    head = await world.head("t")
    assert (head.version, head.stale, head.visible) == (version - 1, True, 3)


async def test_a_text_that_does_not_open_ends_the_view_of_a_long_thread_before_it(world: World) -> None:
    for name in ("ann", "bob"):
        await world.log.post("t", name)
    version = (await world.log.post("t", "cem")).version
    await world.log.post("t", "dee")
    async with world.log.pool.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = replica")  # the log is immutable
        await connection.execute(
            "update events set sealed = sealed || 'x' where stream_id = $1 and version = $2",
            stream_of("t"),
            version,
        )

    with pytest.raises(PoisonEvent) as refused:
        await projector(world).rebuild(stream_of("t"))

    assert refused.value.version == version
    head = await world.head("t")
    assert (head.version, head.stale, head.visible) == (version - 1, True, 2)


async def test_a_switch_that_others_beat_is_tried_again_with_what_came_since(
    parts: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(5)
    async with talking(parts) as talk:
        for _ in range(30):
            await talk.anything(chance)
        await parts.projector.rebuild(talk.stream_id)
        switch, beaten = Build.switch, 0

        async def beaten_twice(build: Build, expected: Head | None, new: Head) -> Outcome:
            nonlocal beaten
            if beaten < 2:
                beaten += 1
                await talk.post("ann")
                await parts.projector.bring_up(talk.stream_id)
            return await switch(build, expected, new)

        monkeypatch.setattr(Build, "switch", beaten_twice)
        await parts.projector.rebuild(talk.stream_id)

        assert beaten == 2
        await is_as_folded(parts, talk)


@pytest.mark.parametrize("part", [7, 1000])
async def test_the_rows_of_a_long_thread_are_repaired_a_part_after_the_other(
    parts: Resources, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(replay, "LONG", 2)
    monkeypatch.setattr(replay, "PART", part)
    chance = Random(6)
    async with talking(parts) as talk:
        for _ in range(150):
            await talk.anything(chance)
        before = await rows_of(parts)
        for damage in (
            "update comments set path = ''::bytea, revision = 9 where posted % 3 = 0",
            "update comments set text_mac = 'x', report_weight = 7 where posted % 5 = 0",
            "delete from comments where posted % 7 = 0",
            "delete from votes where version % 2 = 0",
            "update reports set version = 1",
            "update streams set visible = 77, title = 'no such', recorded_at = now() where key is not null",
        ):
            await parts.pool.execute(damage)
        assert await rows_of(parts) != before

        done = await parts.replayer.replay(talk.stream_id)

        assert await rows_of(parts) == before
        assert done.rows > 20
        assert await parts.verifier.thread(talk.stream_id) == []
        assert (await parts.replayer.replay(talk.stream_id)).rows == 0
        await talk.anything(chance)


async def rows_of(parts: Resources) -> list[list[tuple[object, ...]]]:
    """The decision state, whole."""
    tables = ("streams", "comments", "reports", "votes")
    return [sorted(map(tuple, await parts.pool.fetch(f"select * from {one}")), key=str) for one in tables]
