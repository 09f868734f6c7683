"""The sweeper: what it finds in the log, and what it never passes over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import asyncpg
import pytest

from services.errors import PoisonEvent
from services.eventlog.checkpoints import LaneCheckpoints, Projection
from services.readmodel import keys
from services.workers.hints import Looked
from services.workers.notifier import Notifier
from services.workers.sweeper import Walk
from tests.following import Swept, World, world_of
from tests.writer import new_id, stream_of


@pytest.fixture
async def world(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, broker_url) as opened:
        yield opened


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def stored(world: World) -> int:
    return await world.count("select position from sweeper_checkpoints where lane = 0")


async def test_the_checkpoint_moves_past_what_is_caught_up(
    world: World, connection: asyncpg.Connection
) -> None:
    for key in "abc":
        await world.log.post(key, "ann")
    await world.catch_up(*"abc")
    assert await Swept(world, connection, window=2).rounds() == []
    assert await stored(world) == 3


async def test_a_thread_without_a_view_lacks_only_its_notifications(
    world: World, connection: asyncpg.Connection
) -> None:
    await world.log.post("t", "ann")
    swept = Swept(world, connection)
    assert await swept.rounds() == [(Projection.NOTIFICATIONS, stream_of("t"))]
    await Notifier(world.log.pool, world.log.keyring).notify(stream_of("t"))
    assert await swept.rounds(2) == []
    assert await stored(world) == 1


async def test_a_stuck_thread_holds_up_the_checkpoint_and_nobody_else(
    world: World, connection: asyncpg.Connection
) -> None:
    await world.log.post("before", "ann")
    await world.log.post("stuck", "ann")
    await world.catch_up("before", "stuck")
    await world.log.put("stuck", "CommentApplauded", {})
    await world.log.post("after", "ann")
    await world.catch_up("after")
    await world.log.post("after", "bob")
    swept = Swept(world, connection, window=1)

    found = await swept.rounds()
    assert (Projection.VIEW, stream_of("stuck")) in found
    assert (Projection.VIEW, stream_of("after")) in found
    await world.catch_up("after")
    assert (Projection.VIEW, stream_of("stuck")) in await swept.rounds(2)
    assert await stored(world) == 2

    again = Swept(world, connection)
    assert (Projection.VIEW, stream_of("stuck")) in await again.rounds()


async def test_a_parked_thread_holds_up_nothing(world: World, connection: asyncpg.Connection) -> None:
    await world.log.post("t", "ann")
    await world.catch_up("t")
    await world.log.poison("t")
    await world.catch_up("t")
    swept = Swept(world, connection)
    assert await swept.rounds() == []
    assert await stored(world) == 2


async def test_stragglers_past_the_limit_are_waited_for_and_in_the_end_passed_by(
    world: World, connection: asyncpg.Connection
) -> None:
    for key in "abc":
        await world.log.post(key, "ann")
    swept = Swept(world, connection, window=1, limit=1)
    poked = {stream for _, stream in await swept.rounds(10)}
    assert poked == {stream_of("a")}
    assert (await swept.sweeper.round()).walk is Walk.WAITS

    poked = {stream for _, stream in await swept.rounds(3, seconds=60)}
    assert poked >= {stream_of("b"), stream_of("c")}
    assert await stored(world) == 0

    for key in "abc":
        await world.catch_up(key)
    await swept.rounds(5, seconds=60)
    assert await stored(world) == 3


async def test_young_events_are_left_to_their_messages(world: World, connection: asyncpg.Connection) -> None:
    await world.log.post("t", "ann")
    checkpoints = LaneCheckpoints(connection)
    assert await checkpoints.window(0, 0, 100, settled=3600.0) == []
    assert len(await checkpoints.window(0, 0, 100, settled=0.0)) == 1


async def test_a_checkpoint_is_never_taken_back(connection: asyncpg.Connection) -> None:
    checkpoints = LaneCheckpoints(connection)
    await checkpoints.move(0, 7)
    await checkpoints.move(0, 5)
    assert await checkpoints.position(0) == 7


async def test_a_mark_without_a_dead_letter_is_found_until_it_is_gone(
    world: World, connection: asyncpg.Connection
) -> None:
    await world.log.post("t", "ann")
    await world.catch_up("t")
    assert await world.views.park(stream_of("t"), 1)
    swept = Swept(world, connection)
    assert await swept.rounds() == [(Projection.VIEW, stream_of("t"))]
    assert await stored(world) == 0
    await world.catch_up("t")
    assert await swept.rounds(2) == []
    assert await stored(world) == 1


async def test_a_view_that_waits_for_a_newer_release_is_tried_less_and_less_often(
    world: World, connection: asyncpg.Connection
) -> None:
    await world.log.post("t", "ann")
    await world.catch_up("t")
    version = await world.log.put("t", "CommentApplauded", {})
    swept = Swept(world, connection)
    tries = []
    for _ in range(130):
        tries += [swept.now for projection, _ in await swept.rounds() if projection is Projection.VIEW]
        await world.following.project([stream_of("t")], Looked.now())
    assert (await world.head("t")).stale
    assert [after - before for before, after in pairwise(tries)] == [1, 1, 2, 4, 8, 16, 32, 60]
    assert await stored(world) < version


async def test_a_dead_letter_whose_view_is_not_marked_holds_nobody_back(
    world: World, connection: asyncpg.Connection
) -> None:
    await world.log.post("t", "ann")
    await world.catch_up("t")
    await world.log.post("t", "bob")
    await Notifier(world.log.pool, world.log.keyring).notify(stream_of("t"))
    await world.letters.bury(Projection.VIEW, PoisonEvent(stream_of("t"), 2, new_id(), "left over"))
    swept = Swept(world, connection)
    assert await swept.rounds() == [(Projection.VIEW, stream_of("t"))]
    await world.catch_up("t")
    assert await world.letters.page() == []


async def test_heads_that_cannot_be_read_stop_nobody_elses_sweep(
    world: World, connection: asyncpg.Connection
) -> None:
    threads = "abcdefg"
    for key in threads:
        await world.log.post(key, "ann")
    await world.catch_up(*threads)
    for key in threads:
        await world.log.post(key, "bob")
        await Notifier(world.log.pool, world.log.keyring).notify(stream_of(key))
    for key in "bc":
        await world.redis.delete(keys.head(stream_of(key)))
        await world.redis.set(keys.head(stream_of(key)), "not a hash")
    swept = Swept(world, connection)
    found = await swept.rounds()
    assert {stream for _, stream in found} == {stream_of(key) for key in threads}
    await world.catch_up(*threads)
    await swept.rounds(2)
    assert [await world.version(key) for key in "adefg"] == [2] * 5
    assert await stored(world) == 1


async def test_a_damaged_head_stops_nobody_elses_sweep(world: World, connection: asyncpg.Connection) -> None:
    for key in "ab":
        await world.log.post(key, "ann")
    await world.catch_up("a", "b")
    for key in "ab":
        await world.log.post(key, "bob")
    await world.redis.hset(keys.head(stream_of("a")), "meta", "not json")
    assert (Projection.VIEW, stream_of("b")) in await Swept(world, connection).rounds()


async def test_a_clock_that_was_set_back_holds_up_nothing(
    world: World, connection: asyncpg.Connection
) -> None:
    """The stream's time never goes back: its next events are an hour ahead, as its last one was."""
    await world.log.post("ahead", "ann")
    await world.log.pool.execute("update streams set recorded_at = now() + interval '1 hour'")
    await world.log.post("ahead", "bob")
    for key in "abc":
        await world.log.post(key, "ann")
    swept = Swept(world, connection)
    assert {stream for _, stream in await swept.rounds()} == {stream_of(key) for key in ("ahead", *"abc")}
    assert (await swept.sweeper.round()).walk is Walk.END
    await world.catch_up("ahead", *"abc")
    await swept.rounds(2)
    assert await stored(world) == 5


async def test_events_that_do_not_get_older_are_lag(world: World, connection: asyncpg.Connection) -> None:
    for key in "abc":
        await world.log.post(key, "ann")
    swept = Swept(world, connection)
    swept.sweeper.settled = 60.0
    found = await swept.sweeper.round()
    assert found.walk is Walk.YOUNG
    assert [lag.events for lag in found.lag.values()] == [0, 0]
    swept.now += 100.0
    found = await swept.sweeper.round()
    assert found.walk is Walk.YOUNG
    assert [(lag.events, lag.seconds) for lag in found.lag.values()] == [(3, 100.0), (3, 100.0)]
