"""What `verify` looks at: all threads, those since a time, a sample; beside writers, and in long views."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import asyncpg
import pytest

from services.core.addresses import thread_stream_id
from services.eventlog.log import EventLog
from services.ops.choosing import Choice, sample_of, time_of
from services.ops.commands.verify import compare
from services.ops.exits import UsageRefused
from services.projection import verify
from services.projection.verify import Verifier
from services.readmodel import dump, keys
from services.wiring import Resources, reading, resources
from tests.integration.test_verify_everything import Found
from tests.replaying import replayed
from tests.talk import Talk, settings_of, talking
from tests.writer import SITE

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
async def parts(database_url: str, redis_url: str) -> AsyncIterator[Resources]:
    async with resources(settings_of(database_url, redis_url)) as opened:
        yield opened


@pytest.fixture
async def talk(parts: Resources) -> AsyncIterator[Talk]:
    async with talking(parts) as opened:
        yield opened


async def found_by(parts: Resources, choice: Choice, *, chain: bool = False) -> Found:
    """What `threadlog verify` tells of these threads."""
    told = Found()
    async with reading(parts) as reads:
        await compare(parts, reads, choice, told, chain=chain)
    return told


async def many(parts: Resources, talk: Talk, count: int) -> None:
    """Some threads of one comment, with views."""
    for number in range(count):
        talk.key = f"t-{number}"
        await talk.post()
        await parts.projector.advance(talk.stream_id)


@pytest.mark.parametrize(
    ("given", "when"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("90 s", NOW - timedelta(seconds=90)),
        ("2026-11-20T05:00:00Z", datetime(2026, 11, 20, 5, tzinfo=UTC)),
        ("2026-11-20T05:00:00+02:00", datetime(2026, 11, 20, 3, tzinfo=UTC)),
    ],
)
def test_a_time_is_said_by_the_clock_or_how_long_ago(given: str, when: datetime) -> None:
    assert time_of(given, NOW) == when


@pytest.mark.parametrize("given", ["yesterday", "2026-11-20T05:00:00", "", "3 fortnights", "9" * 30 + "d"])
def test_what_is_no_time_is_refused(given: str) -> None:
    with pytest.raises(UsageRefused, match=r"takes a time with its zone|before all time"):
        time_of(given, NOW)


def test_a_sample_is_a_number_or_a_part() -> None:
    assert (sample_of("100"), sample_of("2.5%")) == ((100, 0.0), (None, 0.025))
    for given in ("0", "0%", "101%", "-3", "some", "5.5"):
        with pytest.raises(UsageRefused, match="--sample"):
            sample_of(given)


async def test_a_sample_is_drawn_again_with_its_seed_and_without_reading_all(
    parts: Resources, talk: Talk
) -> None:
    await many(parts, talk, 40)
    drawn = [
        [one.key async for one in Choice(sample=(5, 0.0), seed=seed).threads(parts)] for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 5
    part = Choice(sample=(None, 0.1), seed=7)
    assert (await part.count(parts), len([one async for one in part.threads(parts)])) == (4, 4)
    everything = [one.key async for one in Choice(sample=(100, 0.0), seed=3).threads(parts)]
    assert len(set(everything)) == len(everything) == 40
    told = await found_by(parts, Choice(SITE, sample=(6, 0.0), seed=9))
    assert (told.threads, told.found) == (6, [])


async def test_threads_with_events_since_a_time_are_looked_at_alone(parts: Resources, talk: Talk) -> None:
    await many(parts, talk, 6)
    last = await parts.log.events_after(talk.stream_id, 0, 1)
    talk.key = "t-2"
    await talk.post()
    since = last[0].recorded_at
    keys_ = {one.key async for one in Choice(since=since).threads(parts)}
    assert keys_ == {"t-5", "t-2"}
    assert [one async for one in Choice(since=since + timedelta(days=1)).threads(parts)] == []


async def test_a_hole_in_a_lanes_positions_is_found(parts: Resources, talk: Talk) -> None:
    await many(parts, talk, 3)
    assert (await found_by(parts, Choice(), chain=True)).found == []
    async with parts.pool.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute("update events set position = 900 where position = 3")
    found = (await found_by(parts, Choice(), chain=True)).found
    assert [(one.kind, one.path.partition(":")[0]) for one in found if one.kind == "chain"] == [
        ("chain", "lane 0")
    ]


async def test_nothing_differs_while_people_write_and_workers_follow(parts: Resources, talk: Talk) -> None:
    chance = Random(5)
    threads = [Talk(talk.appenders, talk.keyring, f"busy-{number}") for number in range(3)]
    for one in threads:
        await one.post()
        await parts.projector.advance(one.stream_id)
    ended = False

    async def write() -> None:
        for _ in range(150):
            await chance.choice(threads).anything(chance)
        nonlocal ended
        ended = True

    async def follow() -> None:
        while not ended:
            for one in threads:
                await parts.projector.advance(one.stream_id)

    async def look() -> None:
        looks = 0
        while not ended or not looks:
            assert (await found_by(parts, Choice(), chain=True)).found == []
            looks += 1

    async with asyncio.TaskGroup() as group:
        for work in (write, follow, look):
            group.create_task(work())


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_long_view_that_moves_while_it_is_read_tells_only_of_what_did_not(
    parts: Resources, talk: Talk, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    # Given a view that is read in slices, and a reply that is projected in the middle of it.
    monkeypatch.setattr(dump, "SMALL", 3)
    monkeypatch.setattr(dump, "_SCAN", 1)
    roots = [await talk.post() for _ in range(6)]
    await talk.post(to=roots[0])
    head = await parts.projector.advance(talk.stream_id)
    assert head is not None
    if damaged:
        descendants = keys.descendants(talk.stream_id, head.build)
        record = await parts.redis.hget(descendants, keys.posted(1))
        assert isinstance(record, bytes)
        await parts.redis.hset(descendants, keys.posted(1), record[:7] + b"\x09" + record[8:])
    large = parts.views.dumps.large

    async def moved(*arguments: object) -> object:
        await talk.post(to=roots[4])
        await talk.edit(roots[1], "another text")
        answer = await large(*arguments)  # type: ignore[arg-type]
        await parts.projector.advance(talk.stream_id)
        return answer and await parts.views.head(talk.stream_id)

    monkeypatch.setattr(parts.views.dumps, "large", moved)
    found = await parts.verifier.thread(talk.stream_id)
    assert [one.kind for one in found] == (["view descendants"] if damaged else [])
    if damaged:
        assert (found[0].path, found[0].stored) == (f"{roots[0]} (version 1): descendants", 9)


async def test_a_long_thread_is_compared_as_a_short_one_is(
    parts: Resources, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "SHORT", 5)
    monkeypatch.setattr(dump, "SMALL", 3)
    for _ in range(10):
        await talk.post(to=talk.ids[-1] if talk.ids else None)
    await parts.projector.advance(talk.stream_id)
    assert await parts.verifier.thread(talk.stream_id) == []
    await parts.pool.execute("update comments set depth = 9 where posted = 3")
    await parts.redis.hset(keys.head(talk.stream_id), "size", b"1 1 1 0 1 0 0 1")
    kinds = {one.kind for one in await parts.verifier.thread(talk.stream_id)}
    assert kinds == {"comments", "view size"}


async def test_what_nobody_would_come_back_for_is_behind(parts: Resources, talk: Talk) -> None:
    root = await talk.post("ann")
    await parts.projector.advance(talk.stream_id)
    await talk.post("bob", to=root)
    assert await parts.verifier.thread(talk.stream_id) == [], "the workers are on their way"
    await parts.pool.execute("insert into sweeper_checkpoints (lane, position) select lane, head from lanes")
    found = [
        (one.kind, one.path, one.stored, one.replayed) for one in await parts.verifier.thread(talk.stream_id)
    ]
    assert found == [("notifier_checkpoints", "version", None, 2), ("view head", "version", 1, 2)]


async def test_a_thread_that_only_the_log_has_is_found(parts: Resources, talk: Talk) -> None:
    await talk.post()
    await parts.pool.execute("delete from streams where key = 'talk'")
    told = await found_by(parts, Choice())
    assert [(one.kind, one.stored) for one in told.found] == [("streams", "no row")]
    assert (told.differing, told.next_step) == (1, "threadlog replay --site blog --thread talk")


async def test_a_thread_that_the_sweeper_passed_over_since_its_row_is_lost_is_found_and_repaired(
    parts: Resources, talk: Talk
) -> None:
    root = await talk.post("ann")
    await parts.projector.advance(talk.stream_id)
    await talk.post("bob", to=root)
    await parts.pool.execute("delete from streams where key = 'talk'")
    await parts.pool.execute("insert into sweeper_checkpoints (lane, position) select lane, head from lanes")
    told = await found_by(parts, Choice())
    assert {one.kind for one in told.found} == {"streams", "view head", "notifier_checkpoints"}
    await replayed(parts, differing=True)
    # A replay tells nobody: of the reply that went untold only `verify` knows.
    assert {one.kind for one in (await found_by(parts, Choice())).found} == {"notifications"}


async def test_short_threads_are_compared_many_at_a_time(parts: Resources, talk: Talk) -> None:
    await many(parts, talk, 50)
    ids = [thread_stream_id(SITE, f"t-{number}") for number in range(50)]
    asked: list[str] = []

    async def listen(connection: Any) -> None:
        connection.add_query_logger(lambda record: asked.append(record.query))

    async with asyncpg.create_pool(parts.settings.database_url, min_size=1, max_size=2, setup=listen) as pool:
        verifier = Verifier(pool, EventLog(pool), parts.projector)
        assert [one.differences for one in await verifier.threads(ids)] == [[]] * 50
    assert 0 < len(asked) < len(ids), asked
