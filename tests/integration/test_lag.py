"""`threadlog lag` and its metrics: how far the followers are behind, and that looking at it is bounded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from services.dev.servers import EmbeddedRedis
from services.eventlog.checkpoints import Projection
from services.ops.commands import lag
from services.ops.exits import Exit
from services.wiring import resources
from services.workers.notifier import Notifier
from tests.following import Swept, World, world_of
from tests.installations import Installation
from tests.writer import MASTER_KEY, stream_of, writer


@pytest.fixture
def here(database_url: str, redis_url: str, broker_url: str) -> Installation:
    return Installation(database_url, redis_url, broker_url, MASTER_KEY)


@pytest.fixture
async def world(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, broker_url) as opened:
        yield opened


async def measured(world: World) -> lag.Lagging:
    async with resources(world.settings) as found:
        return await lag.measure(found)


async def test_views_and_inboxes_are_told_apart_by_position_and_age(world: World, database_url: str) -> None:
    for key in ("a", "b", "a", "c"):
        await world.log.post(key, "ann")
    await world.catch_up("a", "b", "c")
    (lane,) = (await measured(world)).lanes
    assert (lane.head, lane.projected, lane.notified, lane.behind, lane.seconds) == (4, 4, 4, 0, 0.0)
    for key in ("b", "a", "new"):
        await world.log.post(key, "bob")
    await Notifier(world.log.pool, world.log.keyring).notify(stream_of("b"))
    (lane,) = (await measured(world)).lanes
    # What has no view lacks none: the next reader builds it.
    assert (lane.head, lane.projected, lane.notified, lane.behind) == (7, 4, 5, 3)
    assert lane.unprojected_seconds is not None
    assert lane.seconds == lane.unprojected_seconds > lane.unnotified_seconds > 0


async def test_the_metrics_of_the_workers_say_the_same(world: World, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        swept = Swept(world, connection).sweeper
        for key in ("a", "b"):
            await world.log.post(key, "ann")
        await world.catch_up("a", "b")
        await swept.round()
        await world.log.post("b", "bob")
        await Notifier(world.log.pool, world.log.keyring).notify(stream_of("b"))
        await world.log.post("a", "bob")
        found = await swept.round()
    finally:
        await connection.close()
    (lane,) = (await measured(world)).lanes
    reached = {projection: found.head - found.lag[projection].events for projection in Projection}
    assert found.head == lane.head == 4
    assert reached == {Projection.VIEW: lane.projected, Projection.NOTIFICATIONS: lane.notified}
    assert reached == {Projection.VIEW: 2, Projection.NOTIFICATIONS: 3}


async def test_each_lane_has_its_own(two_lane_database_url: str, redis_url: str, broker_url: str) -> None:
    async with world_of(two_lane_database_url, redis_url, broker_url, lanes=2) as world:
        for number in range(12):
            await world.log.post(f"{number}", "ann")
        seen = await measured(world)
    assert [lane.lane for lane in seen.lanes] == [0, 1]
    assert sum(lane.head for lane in seen.lanes) == 12
    assert all(0 < lane.head < 12 and lane.notified == 0 for lane in seen.lanes)


async def test_so_many_positions_are_looked_at_however_long_the_log_is(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lag, "WINDOW", 5)
    monkeypatch.setattr(lag, "_HEADS", 2)
    for number in range(12):
        await world.log.post(f"{number}", "ann")
        await world.catch_up(f"{number}")
    seen = await measured(world)
    (lane,) = seen.lanes
    assert (lane.head, lane.projected, lane.notified, lane.whole) == (12, 5, 5, False)
    lag._print(seen)
    assert "12 events are unswept; 5 were looked at" in capsys.readouterr().out


def lagging(here: Installation, *arguments: object, code: Exit = Exit.DONE) -> dict[str, Any]:
    return dict(json.loads(here.run("lag", "--json", *arguments, code=code).stdout))


def test_lag_ends_with_1_where_it_is_over_the_limit_or_something_is_parked(here: Installation) -> None:
    here.talk("t", 3)
    seen = lagging(here)
    assert seen["lanes"][0]["unnotified_seconds"] > 0
    lagging(here, "--max-seconds", 3600)
    lagging(here, "--max-seconds", 0, code=Exit.FOUND)
    here.rows("""
        insert into dead_letters (projection, stream_id, version, event_id, reason, build)
        select 'view', stream_id, 1, stream_id, 'is odd', '0' from streams where key is not null
        """)
    seen = lagging(here, "--max-seconds", 3600, code=Exit.FOUND)
    assert seen["dead_letter_counts"] == {"view": 1, "notifications": 0}
    told = here.run("lag", code=Exit.FOUND).stdout
    assert "dead letters: 1 view" in told
    assert "is odd" in told


async def test_of_views_nothing_is_said_while_redis_is_away(
    database_url: str, start_redis: Callable[..., EmbeddedRedis], capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_redis()
    async with writer(database_url) as log:
        await log.post("t", "ann")
    here = Installation(database_url, server.url(0), server.url(1), MASTER_KEY)
    async with resources(here.settings) as found:
        assert (await lag.measure(found)).lanes[0].projected == 1
        server.stop()
        seen = await lag.measure(found)
    assert (seen.lanes[0].projected, seen.lanes[0].unprojected_seconds, seen.queues) == (None, None, None)
    assert seen.lanes[0].notified == 0
    lag._print(seen)
    told = capsys.readouterr().out
    assert "views: Redis does not answer" in told
    assert "queues: the broker does not answer" in told
