"""A replay rebuilds whatever is derived, range by range, while the log is read and written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from services.core.addresses import lane_of, site_stream_id
from services.eventlog import kept
from services.eventlog.checkpoints import DeadLetters, Projection
from services.eventlog.locks import LockClass
from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES
from services.eventlog.replays import Replays, Selected, State, Step, spans_of
from services.projection import replay, replaying
from services.projection.replay import Replayer
from services.readmodel import keys
from services.wiring import Resources, resources
from services.workers.notifier import Notifier
from services.workers.replayer import Replaying
from tests.processes import until
from tests.replaying import builds, damage, differences, fill, keys_of, replayed, work_of, writing
from tests.talk import settings_of, talking
from tests.writer import SITE, Writer, stream_of

THREADS = 70


@pytest.fixture
async def parts(two_lane_database_url: str, redis_url: str) -> AsyncIterator[Resources]:
    async with resources(settings_of(two_lane_database_url, redis_url)) as made:
        yield made


@pytest.fixture
async def writer(parts: Resources) -> AsyncIterator[Writer]:
    async with writing(parts) as made:
        yield made


# --- what is rebuilt ---------------------------------------------------------------------------------------


async def test_a_replay_of_everything_leaves_all_that_is_derived_as_the_log_has_it(
    parts: Resources, writer: Writer
) -> None:
    streams = await fill(writer, THREADS)
    async with talking(parts) as talk:
        root = await talk.post("ann", "the root", title="A talk")
        await talk.vote(root, 1, author="bob")
        await talk.report(root, author="cem")
    streams.append(stream_of("talk"))
    await parts.projector.rebuild(streams[0])
    await damage(parts, streams[:-1], Random(1), 40)
    for statement in (
        "update streams set settings = '{}' where key is null",
        "update votes set value = -1",
        "delete from reports",
        """insert into comments select gen_random_uuid(), stream_id, 900, 0, 0, 'eve', null, '', 'visible', 1,
            now(), null, null, 900, 900, 0, '' from streams where key = 'talk'""",
        """insert into streams (stream_id, lane, site, key, version, hash, recorded_at)
            values (gen_random_uuid(), 0, 'blog', 'nothing', 3, '', now())""",
        "insert into notifier_checkpoints values (gen_random_uuid(), 7)",
        "update lanes set head = head + 5 where lane = 1",
    ):
        await parts.pool.execute(statement)
    stray = uuid4()
    await parts.redis.hset(keys.head(stray), mapping={"version": 1, "hash": bytes(32), "build": "0" * 8})
    await parts.views.recency.built(stray)
    await parts.redis.hset(keys.nodes(stray, "1" * 8), b"\0\0\0\1", b"a node of no view")

    done = await replayed(parts)

    assert (done.state, done.threads, done.rebuilt, done.failed) == (State.DONE, 71, 71, 0)
    assert done.repaired >= 40
    assert {one.kind for one in await differences(parts)} == {"view keys"}
    assert set(await builds(parts, streams)) == set(streams)
    assert not await parts.redis.exists(keys.head(stray))

    done = await replayed(parts, differing=True)
    assert (done.threads, done.rebuilt, done.repaired) == (71, 0, 0)
    assert await differences(parts) == []


async def test_a_thread_whose_row_is_lost_is_found_by_its_events(parts: Resources, writer: Writer) -> None:
    streams = await fill(writer, 3)
    await parts.pool.execute("delete from streams where stream_id = $1", streams[1])
    done = await replayed(parts, Selected(SITE))
    assert (done.threads, done.repaired) == (3, 1)
    assert await differences(parts) == []


async def test_a_sites_settings_that_are_lost_are_those_of_its_events(parts: Resources) -> None:
    async with talking(parts, threshold=7):
        pass
    site = site_stream_id(SITE)
    before = await parts.pool.fetchrow("select * from streams where stream_id = $1", site)
    await parts.pool.execute("delete from streams where stream_id = $1", site)
    done = await replayed(parts, Selected(SITE))
    assert (done.threads, done.repaired) == (0, 1)
    after = await parts.pool.fetchrow("select * from streams where stream_id = $1", site)
    assert before is not None
    assert after is not None
    assert orjson.loads(after["settings"]) == {"report_threshold": 7}
    assert tuple(after) == tuple(before)


async def test_a_notifiers_checkpoint_that_is_lost_is_where_the_sweeper_saw_it(
    parts: Resources, writer: Writer
) -> None:
    [stream_id] = await fill(writer, 1)
    await Notifier(parts.pool, parts.keyring).notify(stream_id)
    lane = lane_of(stream_id, parts.lanes)
    told = await parts.pool.fetch("select * from notifications order by notification_id")
    await parts.pool.execute(
        "insert into sweeper_checkpoints (lane, position) select lane, head from lanes where lane = $1", lane
    )
    await parts.pool.execute("delete from notifier_checkpoints")
    await replayed(parts)
    version = await parts.pool.fetchval("select version from notifier_checkpoints")
    assert version == (await parts.log.head(stream_id) or (0,))[0]
    await writer.post("thread-0", "dee")
    await parts.pool.execute("delete from notifier_checkpoints")
    await replayed(parts)
    assert await parts.pool.fetchval("select version from notifier_checkpoints") == version
    await parts.pool.execute("update notifier_checkpoints set version = 99")
    await replayed(parts)
    assert await parts.pool.fetchval("select version from notifier_checkpoints") == version + 1
    assert await parts.pool.fetch("select * from notifications order by notification_id") == told


async def test_only_those_that_differ_are_rebuilt_where_that_is_asked(
    parts: Resources, writer: Writer
) -> None:
    streams = await fill(writer, THREADS)
    await replayed(parts)
    before = await builds(parts, streams)
    damaged = await damage(parts, streams, Random(2), 9)
    done = await replayed(parts, differing=True)
    after = await builds(parts, streams)
    assert (done.threads, done.rebuilt) == (THREADS, 9)
    assert {one for one in streams if after[one] != before[one]} == damaged
    assert await differences(parts) == []


async def test_only_the_threads_asked_for_are_rebuilt(parts: Resources, writer: Writer) -> None:
    streams = await fill(writer, 5)
    done = await replayed(parts, Selected(SITE, streams[3]))
    assert (done.threads, done.ranges, set(await builds(parts, streams))) == (1, 1, {streams[3]})
    now: datetime = await parts.pool.fetchval("select clock_timestamp()")
    await writer.post("thread-1", "dee")
    assert (await replayed(parts, Selected(SITE, since=now))).threads == 1
    assert set(await builds(parts, streams)) == {streams[1], streams[3]}
    assert (await replayed(parts, Selected("another"))).threads == 0
    assert (await replayed(parts, Selected(since=now - timedelta(days=1)))).threads == 5


async def test_a_thread_that_cannot_be_folded_is_parked_and_the_others_are_rebuilt(
    parts: Resources, writer: Writer
) -> None:
    streams = await fill(writer, 6)
    version = await writer.poison("thread-2")
    await damage(parts, [one for one in streams if one != stream_of("thread-2")], Random(3), 5)
    done = await replayed(parts)
    assert (done.state, done.threads, done.rebuilt, done.failed) == (State.DONE, 6, 5, 1)
    [(stream_id, site, key, reason)] = await Replays(parts.pool).failures(done.id)
    assert (stream_id, site, key) == (stream_of("thread-2"), SITE, "thread-2")
    assert reason.startswith(f"version {version}: ")
    parked = await DeadLetters(parts.pool).among(Projection.VIEW, streams)
    assert {one: letter.version for one, letter in parked.items()} == {stream_id: version}
    heads = await parts.views.heads(streams)
    assert [(one, head.version) for one, head in heads.items() if head.stale] == [(stream_id, version - 1)]
    assert {one.kind for one in await differences(parts)} == {"event"}


# --- beside readers and writers ----------------------------------------------------------------------------


@asynccontextmanager
async def listened(parts: Resources, asked: list[str]) -> AsyncIterator[asyncpg.Pool[Any]]:
    """Connections to the same database, whose statements are noted."""

    async def listen(connection: Any) -> None:
        connection.add_query_logger(lambda record: asked.append(record.query))

    async with asyncpg.create_pool(parts.settings.database_url, min_size=1, max_size=2, init=listen) as pool:
        yield pool


async def test_a_lane_is_held_for_few_rows_at_a_time(parts: Resources, writer: Writer) -> None:
    root = await writer.post("long", "ann")
    await asyncio.gather(*(writer.post("long", "bob", root.event_id) for _ in range(3 * replay.SLICE + 10)))
    await parts.pool.execute("update comments set up = 5")
    asked: list[str] = []
    async with listened(parts, asked) as pool:
        replayer = Replayer(pool, parts.projector, DeadLetters(parts.pool, "a build"), parts.lanes)
        done = await replayer.replay(stream_of("long"))
    assert done.rows == 3 * replay.SLICE + 11
    assert asked.count(QUERIES["lock_lane"]) == 4
    assert await differences(parts) == []


async def test_no_snapshot_stays_open_for_all_the_rows_of_a_thread(
    parts: Resources, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "COMPARED", 5)
    for _ in range(30):
        await writer.post("long", "ann")
    await parts.pool.execute("update comments set depth = 3")
    asked: list[str] = []
    async with listened(parts, asked) as reads:
        letters = DeadLetters(parts.pool, "a build")
        replayer = Replayer(parts.pool, parts.projector, letters, parts.lanes, reads=reads)
        done = await replayer.replay(stream_of("long"))
    assert done.rows == 30
    snapshots = "\n".join(asked).lower().split("begin isolation level repeatable read")[1:]
    assert [one.count(QUERIES["comments_kept"].lower()) for one in snapshots] == [1] * 6
    assert await differences(parts) == []


async def test_a_repair_waits_for_who_writes_to_the_lane(parts: Resources, writer: Writer) -> None:
    [stream_id] = await fill(writer, 1)
    await parts.pool.execute("update streams set visible = 50 where stream_id = $1", stream_id)
    lock = int(LockClass.LANE), lane_of(stream_id, parts.lanes)
    async with parts.pool.acquire() as appender:
        await appender.execute("select pg_advisory_lock($1, $2)", *lock)
        repairing = asyncio.create_task(parts.replayer.replay(stream_id))
        await until(
            lambda: parts.pool.fetchval(
                "select count(*) from pg_locks where locktype = 'advisory' and not granted and objid = $1 "
                "and database = (select oid from pg_database where datname = current_database())",
                lock[1],
            ),
            "it waits",
        )
        assert await parts.pool.fetchval("select visible from streams where key is not null") == 50
        await appender.execute("select pg_advisory_unlock($1, $2)", *lock)
    assert (await repairing).rows == 1
    assert await parts.pool.fetchval("select visible from streams where key is not null") == 3


async def test_what_is_appended_meanwhile_is_neither_lost_nor_undone(
    parts: Resources, writer: Writer
) -> None:
    streams = await fill(writer, THREADS)
    enough = asyncio.Event()

    async def post(number: int) -> int:
        count = 0
        while not enough.is_set():
            await writer.post(keys_of(THREADS)[(7 * count + number) % THREADS], "dee")
            count += 1
        return count

    posting = [asyncio.create_task(post(number)) for number in range(4)]
    for _ in range(3):
        # What is posted now counts from there, until the row is repaired.
        await parts.pool.execute("update streams set visible = visible + 100 where key is not null")
        await parts.pool.execute("update comments set up = 9 where parent = 0")
        done = await replayed(parts)
        assert (done.state, done.failed, done.threads) == (State.DONE, 0, THREADS)
    enough.set()
    assert sum(await asyncio.gather(*posting)) > 0
    for stream_id in streams:
        await parts.projector.advance(stream_id)
    assert await differences(parts) == []


async def test_two_replays_of_the_same_threads_at_once_leave_them_as_one_would(
    parts: Resources, writer: Writer, two_lane_database_url: str, redis_url: str
) -> None:
    streams = await fill(writer, THREADS)
    await damage(parts, streams, Random(4), 30)
    async with resources(settings_of(two_lane_database_url, redis_url)) as other:
        first, second = await asyncio.gather(replayed(parts), replayed(other))
    assert first.id != second.id
    for done in (first, second):
        assert (done.state, done.threads, done.failed) == (State.DONE, THREADS, 0)
    assert await differences(parts) == []


# --- ranges ------------------------------------------------------------------------------------------------


async def test_ranges_are_even_and_leave_nothing_out() -> None:
    spans = spans_of(Selected(SITE), 10_000)
    assert len(spans) == 40
    assert [behind for behind, _ in spans] == [NIL, *(last for _, last in spans[:-1])]
    assert spans[-1][1] is not None
    assert spans[-1][1].int == 2**128 - 1
    assert len(spans_of(Selected(SITE), 10**9)) == 1024
    assert spans_of(Selected(), 1)[-1] == (NIL, None)
    assert spans_of(Selected(since=datetime.now(UTC)), 1) == [(NIL, spans[-1][1])]


async def test_who_lost_a_range_records_nothing_of_it(parts: Resources) -> None:
    replays = Replays(parts.pool)
    number = await replays.begin(Selected(SITE))
    mine = await replays.claim(number, uuid4())
    assert mine is not None
    assert await replays.claim(number, uuid4()) is None, "it is held"
    await replays.take_over(number)
    theirs = await replays.claim(number, uuid4())
    assert theirs is not None
    assert theirs.last is not None
    step = Step(theirs.last, 3, 3, 30, 0, ((uuid4(), "why"),))
    assert await replays.renew(mine) is None
    assert await replays.checkpoint(mine, step, ends=True) is None
    assert await replays.checkpoint(theirs, step, ends=True) is State.RUNNING
    assert await replays.checkpoint(theirs, step, ends=True) is None, "it is done"
    await replays.finish(number)
    done = await replays.one(number)
    assert done is not None
    assert (done.state, done.threads, done.failed, done.done) == (State.DONE, 3, 1, 1)


async def test_a_replay_whose_last_worker_died_before_it_said_so_is_said_done(parts: Resources) -> None:
    replays = Replays(parts.pool)
    number = await replays.begin(Selected(SITE), workers=True)
    mine = await replays.claim(number, uuid4())
    assert mine is not None
    assert mine.last is not None
    assert await replays.to_do() == [], "somebody is at it"
    await replays.checkpoint(mine, Step(mine.last, 0, 0, 0, 0, ()), ends=True)

    await Replaying(parts, DeadLetters(parts.pool, "a release")).look()

    found = await replays.one(number)
    assert found is not None
    assert found.state is State.DONE
    assert await replays.to_do() == []


async def test_a_lease_that_is_not_renewed_is_anothers(parts: Resources) -> None:
    replays = Replays(parts.pool)
    number = await replays.begin(Selected(SITE))
    mine = await replays.claim(number, uuid4())
    assert mine is not None
    await parts.pool.execute("update replay_ranges set leased_until = clock_timestamp() - interval '1 s'")
    theirs = await replays.claim(number, uuid4())
    assert theirs is not None
    assert (theirs.number, theirs.holder != mine.holder) == (mine.number, True)


async def test_a_paused_replay_goes_on_from_there_and_a_cancelled_one_does_not(
    parts: Resources, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "PAGE", 5)
    streams = await fill(writer, THREADS)
    replays = Replays(parts.pool)
    number = await replays.begin(Selected(), max_rate=60)
    begun = await replays.one(number)
    assert begun is not None
    running = asyncio.create_task(work_of(parts).all(begun, 1))

    async def threads() -> int:
        now = await replays.one(number)
        assert now is not None
        return now.threads

    await until(threads, "some threads are done")
    assert await replays.move(number, State.PAUSED, (State.RUNNING,))
    await running
    paused = await replays.one(number)
    assert paused is not None
    assert (paused.state, paused.leased, paused.threads < THREADS) == (State.PAUSED, 0, True)
    assert await replays.claim(number, uuid4()) is None
    before = await builds(parts, streams)

    assert await replays.move(number, State.RUNNING, (State.PAUSED,))
    await work_of(parts).all(replace(begun, max_rate=None), 2)
    done = await replays.one(number)
    assert done is not None
    assert (done.state, done.threads) == (State.DONE, THREADS)
    after = await builds(parts, streams)
    assert len(after) == THREADS
    assert {one: after[one] for one in before} == before, "what was done is not done again"

    assert not await replays.move(number, State.CANCELLED, (State.RUNNING, State.PAUSED))
    other = await replays.begin(Selected())
    assert await replays.move(other, State.CANCELLED, (State.RUNNING, State.PAUSED))
    cancelled = await replays.one(other)
    assert cancelled is not None
    await work_of(parts).all(cancelled, 1)
    cancelled = await replays.one(other)
    assert cancelled is not None
    assert (cancelled.state, cancelled.threads) == (State.CANCELLED, 0)


async def test_a_rate_is_that_of_all_processes_together(parts: Resources) -> None:
    replays = Replays(parts.pool)
    number = await replays.begin(Selected(), max_rate=100)
    waits = await asyncio.gather(*(replays.pay(number, 1000) for _ in range(5)))
    assert [round(wait / 10) for wait in sorted(waits)] == [0, 1, 2, 3, 4]


async def test_an_ended_replay_is_forgotten_after_a_month(parts: Resources) -> None:
    replays = Replays(parts.pool)
    old, other = await replays.begin(Selected()), await replays.begin(Selected())
    await replays.move(old, State.CANCELLED, (State.RUNNING,))
    await parts.pool.execute("update replays set began_at = '2020-01-01'")
    await parts.pool.execute("update replays set ended_at = '2020-01-01' where ended_at is not null")
    newest = await replays.begin(Selected())
    assert [one.id for one in await replays.newest()] == [newest, other]
    assert await parts.pool.fetchval("select count(distinct replay_id) from replay_ranges") == 2
