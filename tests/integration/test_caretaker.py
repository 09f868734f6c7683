"""The periodic work: it outlives what goes wrong in it, and the process that does it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from math import isnan
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.core.addresses import lane_of
from services.errors import PoisonEvent
from services.eventlog.checkpoints import Projection
from services.eventlog.locks import LockClass
from services.pokes import NOTIFY_QUEUE, PROJECT_QUEUE, Poker, queue_key
from services.readmodel import keys
from services.readmodel.budget import Budget
from services.workers.caretaker import Caretaker, dismiss
from services.workers.hints import Looked
from services.workers.metrics import WorkerMetrics
from tests.following import World, world_of
from tests.processes import Threadlog, threadlog, until
from tests.writer import new_id, stream_of


@pytest.fixture
async def world(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, broker_url) as opened:
        yield opened


@pytest.fixture
async def two_lanes(two_lane_database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    async with world_of(two_lane_database_url, redis_url, broker_url, lanes=2) as opened:
        yield opened


@pytest.fixture
def poker(broker_url: str) -> Iterator[Poker]:
    poker = Poker(broker_url)
    poker.start()
    yield poker
    poker.stop()


def in_lane(lane: int) -> str:
    """A thread of this one of two lanes."""
    return next(key for key in map(str, range(100)) if lane_of(stream_of(key), 2) == lane)


@asynccontextmanager
async def tending(world: World, poker: Poker) -> AsyncIterator[CollectorRegistry]:
    """A caretaker at work, which must still be at it in the end; what it measures."""
    registry = CollectorRegistry()
    async with Redis.from_url(world.settings.broker) as broker:
        caretaker = Caretaker(
            world.settings.database_url,
            views=world.views,
            broker=broker,
            letters=world.letters,
            poker=poker,
            metrics=WorkerMetrics(registry),
            budget=Budget(world.redis, world.views),
        )
        task = asyncio.create_task(caretaker.run())
        try:
            yield registry
            assert not task.done()
        finally:
            await dismiss(task)


async def behind(world: World, *threads: str) -> None:
    """Views that lack an event, of which nobody was told."""
    for key in threads:
        await world.log.post(key, "ann")
    await world.catch_up(*threads)
    for key in threads:
        await world.log.post(key, "bob")


async def poked(world: World, key: str, queue: str = PROJECT_QUEUE) -> None:
    """Wait for a message that names the thread."""

    async def named() -> bool:
        async with Redis.from_url(world.settings.broker) as broker:
            messages = await broker.hvals(f"{queue_key(queue)}.msgs")
        return any(str(stream_of(key)).encode() in message for message in messages)

    await until(named, f"a poke of {key}")


async def measured(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """Wait until something is measured; what it is."""

    async def found() -> float | None:
        return registry.get_sample_value(name, labels)

    value = await until(found, name, lambda one: one is not None and not isnan(one))
    assert value is not None
    return value


async def compared(world: World) -> None:
    """Wait until the views are said to be of this log."""
    await until(world.views.recency.told, "the views were compared with the log")


async def test_no_alarm_is_raised_of_views_that_are_of_this_log(
    world: World, poker: Poker, caplog: pytest.LogCaptureFixture
) -> None:
    await behind(world, "behind")  # in a Redis of which nobody has said yet what log its views are of
    async with tending(world, poker):
        await compared(world)
        await poked(world, "behind")
    assert [one.message for one in caplog.records if "another log" in one.message] == []


async def test_views_of_another_log_are_told_of(
    world: World, poker: Poker, caplog: pytest.LogCaptureFixture
) -> None:
    await behind(world, "behind", "other")
    await world.redis.hset(keys.head(stream_of("other")), "hash", b"another event's".ljust(32))
    async with tending(world, poker):
        await compared(world)
    told = [one.message for one in caplog.records if "another log" in one.message]
    assert told == ["of another log: 1 views are dropped, 1 are behind"]


@pytest.mark.parametrize("damage", ["no head", "no JSON"])
async def test_a_damaged_view_does_not_end_the_sweep(world: World, poker: Poker, damage: str) -> None:
    await behind(world, "damaged", "whole")
    head = keys.head(stream_of("damaged"))
    if damage == "no head":
        await world.redis.delete(head)
        await world.redis.set(head, "not a hash")
    else:
        await world.redis.hset(head, "meta", "not json")
    async with tending(world, poker):
        await poked(world, "whole")


async def test_a_lane_that_cannot_be_swept_keeps_nobody_from_the_others(
    two_lanes: World, poker: Poker
) -> None:
    first, second = in_lane(0), in_lane(1)
    await behind(two_lanes, first, second)
    await two_lanes.log.pool.execute(
        "insert into sweeper_checkpoints (lane, position, swept_at) values (0, 9223372036854775807, now())"
    )
    async with tending(two_lanes, poker) as registry:
        await poked(two_lanes, second)
        assert await measured(registry, "threadlog_dead_letters", projection="view") == 0
        await two_lanes.log.pool.execute("delete from sweeper_checkpoints where lane = 0")
        await poked(two_lanes, first)


async def test_a_chore_that_fails_keeps_nobody_from_the_others(world: World, poker: Poker) -> None:
    await world.log.post("t", "ann")
    await world.release("0.9").project([stream_of("t")], Looked.now())
    await world.log.poison("t")
    await world.release("0.9").project([stream_of("t")], Looked.now())
    async with Redis.from_url(world.settings.broker) as broker:
        await broker.set(queue_key(NOTIFY_QUEUE), "not a list")
        async with tending(world, poker) as registry:
            assert await measured(registry, "threadlog_dead_letters", projection="view") == 1
            await poked(world, "t")
            await broker.delete(queue_key(NOTIFY_QUEUE))
            assert await measured(registry, "threadlog_queue_messages", queue=NOTIFY_QUEUE) >= 0


async def test_every_letter_of_another_release_is_tried_again(world: World, poker: Poker) -> None:
    """More of them than are looked at in one go."""
    for number in range(150):
        await world.letters.bury(Projection.VIEW, PoisonEvent(stream_of(str(number)), 1, new_id(), "poison"))
    world.letters.build = "1.1"
    async with tending(world, poker):
        for number in range(150):
            await poked(world, str(number))


async def test_lost_locks_are_taken_again(world: World, poker: Poker) -> None:
    await behind(world, "before")
    async with tending(world, poker):
        await poked(world, "before")
        await world.log.pool.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'threadlog-caretaker' and datname = current_database()"
        )
        await behind(world, "after")
        await poked(world, "after")


# --- two processes --------------------------------------------------------------------------------------


@pytest.fixture
async def running(
    two_lane_database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(two_lane_database_url, redis_url, broker_url, tmp_path) as opened:
        yield opened


async def holders(world: World) -> dict[tuple[int, int], int]:
    """Which session of Postgres holds the lock of a lane's sweep, or of maintenance."""
    rows = await world.log.pool.fetch(
        "select classid::int, objid::int, l.pid from pg_locks l join pg_stat_activity a using (pid) "
        "where locktype = 'advisory' and classid::int = any($1::int[]) and granted "
        "and a.datname = current_database()",
        [int(LockClass.SWEEPER), int(LockClass.MAINTENANCE)],
    )
    return {(row["classid"], row["objid"]): row["pid"] for row in rows}


async def caretakers(world: World) -> int:
    return await world.count(
        "select count(*) from pg_stat_activity "
        "where application_name = 'threadlog-caretaker' and datname = current_database()"
    )


async def test_another_process_takes_both_lanes_over_from_one_that_was_killed(
    two_lanes: World, running: Threadlog
) -> None:
    world, (first, second) = two_lanes, (in_lane(0), in_lane(1))
    one = running.worker()
    before = await until(lambda: holders(world), "three locks", lambda held: len(held) == 3)
    assert len(set(before.values())) == 1
    running.worker()
    await until(lambda: caretakers(world), "a second caretaker", lambda count: count == 2)
    await behind(world, first)
    await world.shows(first, 2)
    assert await holders(world) == before

    one.kill()
    after = await until(
        lambda: holders(world),
        "the other one's locks",
        lambda held: len(held) == 3 and not set(held.values()) & set(before.values()),
    )
    assert len(set(after.values())) == 1
    await behind(world, second)
    await world.log.post(first, "cleo")
    await world.shows(first, 3)
    await world.shows(second, 2)


async def test_a_task_that_forgets_a_cancellation_is_dismissed_all_the_same() -> None:
    forgotten = 0

    async def forgets_twice() -> None:
        nonlocal forgotten
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                forgotten += 1
                if forgotten > 2:
                    raise

    task = asyncio.create_task(forgets_twice())
    await asyncio.sleep(0)  # lets it begin
    await dismiss(task)
    assert task.cancelled()
    assert forgotten == 3
