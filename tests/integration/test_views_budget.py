"""The views keep to their budget of memory: what was read lately stays, and what went comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.core.page import PageRequest
from services.dev.servers import EmbeddedRedis
from services.pokes import Poker
from services.projection import advance, cold
from services.readmodel import keys
from services.readmodel.budget import Budget
from services.readmodel.leases import NO_ROOM_S, wanted_key
from services.readmodel.recency import READS, Reads, Recency, member
from services.wiring import resources
from services.workers.caretaker import Caretaker, dismiss
from services.workers.hints import Looked
from services.workers.metrics import WorkerMetrics
from tests.following import World, world_of
from tests.processes import until
from tests.writer import stream_of

THREADS = 24
COMMENTS = 100

LARGE = 2_000_000
"""Bytes that are more than all but views may come and go by."""


@pytest.fixture
def redis(start_redis: Callable[..., EmbeddedRedis]) -> EmbeddedRedis:
    """A server of the test's own: its memory is what the views take."""
    return start_redis()


@pytest.fixture
async def world(database_url: str, redis: EmbeddedRedis) -> AsyncIterator[World]:
    async with world_of(database_url, redis.url(0), redis.url(1)) as opened:
        yield opened


async def used(world: World) -> int:
    return int((await world.redis.info("memory"))["used_memory"])


async def viewed(world: World, threads: int = THREADS) -> list[str]:
    """Threads with views, in the order of their building."""
    names = [f"story-{number}" for number in range(threads)]
    for name in names:
        await asyncio.gather(*(world.log.post(name, f"author-{n}") for n in range(COMMENTS)))
        await world.following.project([stream_of(name)], Looked.now())
    return names


async def there(world: World, names: list[str]) -> list[str]:
    """Those that have a view."""
    heads = await world.views.heads([stream_of(name) for name in names])
    return [name for name in names if stream_of(name) in heads]


async def test_the_least_recently_read_views_go_until_the_memory_is_within_the_budget(world: World) -> None:
    await viewed(world, 1)
    await Budget(world.redis, world.views, 1).round()  # the scripts are loaded, and no view is there
    before = await used(world)
    names = await viewed(world)
    full = await used(world)
    budget = Budget(world.redis, world.views, before + (full - before) // 2)
    favourites = names[:4]  # the first built, and the last read
    await world.views.recency.read([stream_of(name) for name in favourites])

    spent = await budget.round()
    assert 0 < spent.dropped < THREADS - len(favourites)
    assert spent.used <= spent.budget < full
    assert spent.views == THREADS - spent.dropped
    left = await there(world, names)
    assert left == favourites + names[len(favourites) + spent.dropped :]
    # Whole: nothing but the views that stay, and what is no view's.
    stays = {stream_of(name).hex.encode() for name in left}
    async for key in world.redis.scan_iter(match="tl:*{*"):
        assert key.partition(b"{")[2].partition(b"}")[0] in stays

    again = await budget.round()
    assert again.dropped == 0
    assert await there(world, names) == left


async def test_a_dropped_view_comes_back_when_it_is_read(world: World) -> None:
    names = await viewed(world, 3)
    spent = await Budget(world.redis, world.views, 1).round()
    assert (spent.dropped, spent.views) == (3, 0)
    assert await there(world, names) == []
    async with resources(world.settings) as parts:
        page = await parts.reader.page(stream_of(names[1]), PageRequest(limit=100))
        assert len(page.selection.picked) == COMMENTS
        await until(lambda: there(world, names), "the view is written again")
        assert await there(world, names) == [names[1]]
        assert await world.views.recency.count() == 1
        assert await parts.verifier.thread(stream_of(names[1])) == []


async def test_a_view_that_there_is_no_room_for_is_not_built_again_and_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (advance, cold):
        monkeypatch.setattr(module, "SHORT", COMMENTS // 2)
    stream_id = stream_of("long")
    await asyncio.gather(*(world.log.post("long", f"author-{n}") for n in range(COMMENTS)))
    async with resources(world.settings) as parts:
        reads, asks = parts.reader.cold_reads, PageRequest(limit=100)
        page = await parts.reader.page(stream_id, asks)
        await world.following.project([stream_id], Looked.now())
        assert await there(world, ["long"]) == ["long"]
        assert (await Budget(world.redis, world.views, 1).round()).dropped == 1
        asked = reads.asked
        monkeypatch.setattr(cold, "ASK_S", 0.0)
        assert await parts.reader.page(stream_id, asks) == page, "the log answers"
        await world.following.project([stream_id], Looked.now())
        assert (await there(world, ["long"]), reads.asked) == ([], asked)
        # Once a while has passed it is tried again.
        assert 0 < await world.redis.ttl(wanted_key(stream_id)) <= NO_ROOM_S
        await world.redis.delete(wanted_key(stream_id))
        await parts.reader.page(stream_id, asks)
        await world.following.project([stream_id], Looked.now())
        assert (await there(world, ["long"]), reads.asked) == (["long"], asked + 1)


async def test_views_of_other_formats_count_and_go_in_their_turn(world: World) -> None:
    [name] = await viewed(world, 1)
    unknown, older, newer = (uuid4() for _ in range(3))
    for stream_id in (unknown, older, newer):
        await world.redis.hset(f"tl:0.0:{{{stream_id.hex}}}:head", "version", "1")
        await world.redis.set(f"tl:0.0:{{{stream_id.hex}}}:abc:n", "x" * LARGE)
    await world.redis.zadd(READS, {member(older, "0.0"): 1.0, member(newer, "0.0"): 4e9})

    async def formats() -> set[bytes]:
        return {key async for key in world.redis.scan_iter(match="tl:0.0:*")}

    def keys_of(*streams: UUID) -> set[bytes]:
        return {f"tl:0.0:{{{s.hex}}}:{end}".encode() for s in streams for end in ("head", "abc:n")}

    # One that no register has goes first, and here that is enough.
    assert (await Budget(world.redis, world.views, await used(world) - LARGE // 2).round()).dropped == 1
    assert await formats() == keys_of(older, newer)
    # Then the least recently read, whatever its format.
    assert (await Budget(world.redis, world.views, await used(world) - LARGE // 2).round()).dropped == 1
    assert await formats() == keys_of(newer)
    assert await there(world, [name]) == [name]
    assert (await Budget(world.redis, world.views, 1).round()).dropped == 2
    assert await formats() == set()
    assert await there(world, [name]) == []


async def test_without_a_budget_a_part_of_maxmemory_is_one(
    world: World, start_redis: Callable[..., EmbeddedRedis], database_url: str
) -> None:
    await viewed(world, 2)
    assert (await Budget(world.redis, world.views).round()).budget == 0
    bounded = start_redis(settings={"maxmemory": "64mb"})
    async with world_of(database_url, bounded.url(0), bounded.url(1)) as other:
        spent = await Budget(other.redis, other.views).round()
        assert (spent.budget, spent.dropped) == (48 << 20, 0)


async def test_what_a_process_reads_is_reported(world: World) -> None:
    [name] = await viewed(world, 1)
    async with resources(world.settings) as parts:
        reporting = asyncio.create_task(parts.views.recency.report(parts.reader.reads))
        try:
            for read in (
                lambda: parts.reader.page(stream_of(name), PageRequest()),
                lambda: parts.reader.thread(stream_of(name)),
                lambda: parts.reader.heads([stream_of(name)]),
            ):
                await world.redis.delete(READS)
                await read()
                await until(parts.views.recency.count, "the read is reported")
        finally:
            reporting.cancel()


def test_reads_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.readmodel.recency.MOST", 3)
    reads = Reads()
    for number in range(5):
        reads.add(UUID(int=number))
    assert len(reads.take()) == 3
    assert reads.take() == set()


async def test_the_caretaker_keeps_the_views_to_the_budget(world: World, redis: EmbeddedRedis) -> None:
    names = await viewed(world, 3)
    registry = CollectorRegistry()
    poker = Poker(world.settings.broker)
    caretaker = Caretaker(
        world.settings.database_url,
        views=world.views,
        broker=world.redis,
        letters=world.letters,
        poker=poker,
        metrics=WorkerMetrics(registry),
        budget=Budget(world.redis, world.views, 1),
    )
    task = asyncio.create_task(caretaker.run())
    try:

        async def dropped() -> float:
            return registry.get_sample_value("threadlog_views_dropped_total") or 0

        await until(dropped, "views are dropped", lambda count: count == len(names))
        assert await there(world, names) == []
        assert registry.get_sample_value("threadlog_views") == 0
        assert registry.get_sample_value("threadlog_views_memory_budget_bytes") == 1
        assert (registry.get_sample_value("threadlog_views_memory_bytes") or 0) > 1
    finally:
        await dismiss(task)


async def test_a_view_is_registered_before_it_is_there(world: World) -> None:
    """Else one that is built as its builder dies would be in no register, and never dropped."""
    await world.log.post("story", "ann")
    seen: list[int] = []

    class Watching(Recency):
        async def built(self, stream_id: UUID) -> None:
            seen.append(await world.redis.exists(keys.head(stream_id)))
            await super().built(stream_id)

    world.views.recency = Watching(world.redis)
    await world.following.project([stream_of("story")], Looked.now())
    assert seen == [0]
    assert await world.views.recency.count() == 1
