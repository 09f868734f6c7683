"""Snapshots in Postgres: written as threads grow, read in parts, and never missed when they are gone."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from redis.asyncio import Redis

from schema.events.envelope import canonical
from services.core import steps
from services.core.page import PageRequest, Selection
from services.core.segments import MARKS, Key
from services.core.snapshot import decode, encode
from services.core.structure import Step
from services.errors import CommentNotFound, Overloaded, ThreadParked, VersionNotReached
from services.eventlog.checkpoints import DeadLetters
from services.eventlog.keys import Keyring, MasterKey
from services.eventlog.log import EventLog
from services.eventlog.snapshots import LAST, Snapshots
from services.eventlog.state import Difference
from services.projection import advance, logpages, snapshotting
from services.projection.advance import Projector
from services.projection.logpages import LogPages
from services.projection.replay import Replayer
from services.projection.snapshotting import SnapshotWriter
from services.projection.verify import Verifier
from services.readmodel.dump import Dumps, Stored
from services.readmodel.views import Views
from services.workers import snapshotter
from services.workers.snapshotter import Snapshotter
from tests.integration.api_client import T
from tests.integration.erasing import NEEDLES, eraser, erasing_client, lived, send_as_ann
from tests.integration.erasing import stream_of as thread_of
from tests.processes import until
from tests.traces import in_postgres
from tests.writer import MASTER_KEY, Writer, stream_of, writer

STREAM = stream_of("t")
PAGE = PageRequest(sort="best", limit=5, replies=2, depth=3)


class Watched(Snapshots):
    """Counts what is read."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        super().__init__(pool)
        self.folded = 0
        self.reads = 0
        self.loaded: list[Key] = []

    async def steps(self, stream_id: UUID, after: int, to: int, limit: int) -> list[Step]:
        steps = await super().steps(stream_id, after, to, limit)
        self.reads += 1
        self.folded += len(steps)
        return steps

    async def segments(self, stream_id: UUID, version: int, keys: Iterable[Key]) -> dict[Key, bytes]:
        found = await super().segments(stream_id, version, keys)
        self.loaded += found
        return found


@dataclass(frozen=True, slots=True)
class World:
    """A log, and what reads it."""

    log: Writer
    pool: asyncpg.Pool[Any]
    events: EventLog
    snapshots: Watched
    snapshotting: SnapshotWriter

    def pages(self) -> LogPages:
        """A reader that knows nothing yet."""
        return LogPages(self.events, self.log.keyring, self.snapshots)

    async def page(self, pages: LogPages | None = None, to: int | None = None) -> Selection:
        """A page as read by somebody who knows nothing yet, unless he is given."""
        return (await (pages or self.pages()).page(STREAM, PAGE, to))[1]

    async def grow(self, count: int) -> list[UUID]:
        """Post roots, each with a reply and a vote; their ids."""
        roots = []
        for number in range(count):
            root = (await self.log.post("t", f"u{number}")).event_id
            await self.log.post("t", "bob", root)
            roots.append(root)
        return roots


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are long from 20 events on."""
    monkeypatch.setattr(snapshotting, "LEAST", 20)
    monkeypatch.setattr(snapshotting, "_NEAREST", 16)
    monkeypatch.setattr(snapshotter, "LEAST", 20)


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with writer(database_url) as log:
        events, snapshots = EventLog(log.pool), Watched(log.pool)
        yield World(log, log.pool, events, snapshots, SnapshotWriter(events, snapshots))


# --- writing ---------------------------------------------------------------------------------------------


async def test_a_snapshot_is_written_when_a_thread_is_long_and_again_when_it_has_grown(world: World) -> None:
    await world.grow(9)
    assert await world.snapshotting.bring_up(STREAM) == 0
    await world.grow(1)
    assert await world.snapshotting.bring_up(STREAM) == 20
    await world.grow(9)
    assert await world.snapshotting.bring_up(STREAM) == 20
    await world.grow(1)
    world.snapshots.folded = 0
    assert await world.snapshotting.bring_up(STREAM) == 40
    assert world.snapshots.folded == 21, "what came since, and the event that it follows on"
    assert await world.snapshots.versions(STREAM) == [20, 40]


async def test_a_thread_that_never_had_one_gets_some_of_its_past(world: World) -> None:
    await world.grow(60)
    assert await world.snapshotting.bring_up(STREAM) == 120
    assert await world.snapshots.versions(STREAM) == [16, 32, 48, 64, 80, 96, 120]


async def test_one_process_writes_a_threads_snapshots_at_a_time(world: World) -> None:
    await world.grow(10)
    async with world.snapshots.lease(STREAM) as mine:
        assert mine
        assert await world.snapshotting.bring_up(STREAM) is None
    assert await world.snapshotting.bring_up(STREAM) == 20


async def test_what_two_write_all_the_same_is_there_once(world: World) -> None:
    await world.grow(10)
    writers = [SnapshotWriter(world.events, world.snapshots) for _ in range(3)]
    await asyncio.gather(*(one._bring_up(STREAM) for one in writers))
    assert await world.snapshots.versions(STREAM) == [20]
    assert await Verifier.thread(verifier(world), STREAM) == []


async def test_an_event_that_cannot_be_folded_ends_what_is_written(world: World) -> None:
    await world.grow(15)
    version = await world.log.poison("t", STREAM)
    await world.grow(15)
    assert await world.snapshotting.bring_up(STREAM) == version - 1


async def test_a_worker_writes_what_is_due(world: World) -> None:
    await world.grow(10)
    worker = Snapshotter(world.snapshotting)
    task = asyncio.create_task(worker.run())
    try:
        worker.moved(STREAM, 20)
        await until(lambda: world.snapshots.versions(STREAM), "a snapshot", lambda found: found == [20])
        reads = world.snapshots.reads
        for version in range(20, 40):
            worker.moved(STREAM, version)
        await asyncio.sleep(0)
        assert world.snapshots.reads == reads, "it is not due, and nothing is asked"
        await world.grow(10)
        worker.moved(STREAM, 40)
        await until(lambda: world.snapshots.versions(STREAM), "another", lambda found: found == [20, 40])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_worker_finds_threads_that_nobody_reads(world: World) -> None:
    await world.grow(10)
    await world.log.post("other", "ann")
    task = asyncio.create_task(Snapshotter(world.snapshotting, look=0.05).run())
    try:
        await until(lambda: world.snapshots.versions(STREAM), "a snapshot", lambda found: found == [20])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_worker_writes_at_once_what_a_replay_has_removed(world: World) -> None:
    await world.grow(10)
    worker = Snapshotter(world.snapshotting)
    task = asyncio.create_task(worker.run())
    try:
        worker.moved(STREAM, 20)
        await until(lambda: world.snapshots.versions(STREAM), "a snapshot", lambda found: found == [20])
        await world.snapshots.remove(STREAM, [20])
        worker.lost(STREAM, 20)
        await until(lambda: world.snapshots.versions(STREAM), "it again", lambda found: found == [20])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_worker_finds_that_what_it_wrote_is_gone(world: World) -> None:
    await world.grow(10)
    task = asyncio.create_task(Snapshotter(world.snapshotting, look=0.05).run())
    try:
        await until(lambda: world.snapshots.versions(STREAM), "a snapshot", lambda found: found == [20])
        await world.snapshots.remove(STREAM, [20])
        await until(lambda: world.snapshots.versions(STREAM), "it again", lambda found: found == [20])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_long_thread_that_only_grows_is_told_of_for_its_snapshots(
    world: World, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "SHORT", 10)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
        views = Views(redis)
        projector = Projector(world.events, world.log.keyring, views)
        told: list[tuple[UUID, int]] = []
        projector.grown = lambda stream_id, version: told.append((stream_id, version))
        await world.grow(4)
        await projector.follow(STREAM)
        assert told == [], "it is short, and its view was built"
        await views.drop(STREAM)
        await world.grow(10)
        assert await projector.follow(STREAM) is None
        assert told == [(STREAM, 28)]


async def test_what_is_written_is_counted(world: World) -> None:
    await world.grow(60)
    await world.snapshotting.bring_up(STREAM)
    kept = await world.pool.fetchval("select sum(length(data)) from snapshot_segments")
    assert world.snapshotting.written == 7
    assert world.snapshotting.bytes >= kept, "some of them are removed again"


async def test_a_worker_finds_threads_that_nobody_reads_however_much_it_writes(world: World) -> None:
    await world.grow(10)
    worker = Snapshotter(world.snapshotting, look=0.05)

    async def grow_another() -> None:
        for version in itertools.count(1000, 1000):
            worker.moved(stream_of("another"), version)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(worker.run()), asyncio.create_task(grow_another())]
    try:
        await until(lambda: world.snapshots.versions(STREAM), "a snapshot", lambda found: found == [20])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_an_older_release_wrote_is_not_in_the_way(world: World) -> None:
    await world.grow(60)
    await world.snapshotting.bring_up(STREAM)
    versions = await world.snapshots.versions(STREAM)
    await world.pool.execute("update snapshots set format = format - 1")
    assert await world.snapshotting.bring_up(STREAM) == 120
    assert await world.snapshots.versions(STREAM) == versions


async def test_threads_are_looked_through_some_at_a_time(world: World) -> None:
    await world.grow(10)
    for number in range(5):
        await world.log.post(f"short {number}", "ann")
    after, found, rounds = UUID(int=0), [], 0
    while rounds == 0 or after.int:
        some, after = await world.snapshots.due(after, 20, 2)
        found += some
        rounds += 1
    assert (found, rounds) == ([(STREAM, 20, 0)], 4)


# --- reading ---------------------------------------------------------------------------------------------


async def test_a_page_loads_what_it_touches_and_folds_what_came_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first, *_] = await world.grow(40)
    expected = await world.page()
    await world.snapshotting.bring_up(STREAM)
    await world.grow(2)
    world.snapshots.folded = 0
    pages = world.pages()
    head, selection = await pages.page(STREAM, PageRequest(limit=2, replies=1))
    assert head is not None
    assert (head.version, world.snapshots.folded) == (84, 5)
    assert [one.posted for one in selection.picked] == [1, 3, 2, 4]
    assert len(world.snapshots.loaded) == len(set(world.snapshots.loaded)) < 10
    assert [one.posted for one in expected.picked[:5]] == [1, 3, 5, 7, 9]
    world.snapshots.folded = world.snapshots.reads = 0
    await pages.comment(STREAM, first)
    assert (world.snapshots.folded, world.snapshots.reads) == (1, 1), "only whether there is more"


async def test_snapshots_may_go_at_any_time(world: World) -> None:
    await world.grow(60)
    expected = {to: await world.page(to=to) for to in (None, *range(0, 121, 7))}
    await world.snapshotting.bring_up(STREAM)
    pages = world.pages()
    for to, page in expected.items():
        assert await world.page(pages, to) == page
    await world.pool.execute("delete from snapshots")
    for to, page in expected.items():
        assert await world.page(pages, to) == page
        assert await world.page(to=to) == page


async def test_a_reader_goes_on_when_a_later_snapshot_takes_the_place_of_its_own(world: World) -> None:
    roots = await world.grow(20)
    await world.snapshotting.bring_up(STREAM)
    pages = world.pages()
    assert await pages.head(STREAM) is not None
    await world.grow(20)
    await world.pool.execute("delete from snapshots")
    await world.snapshotting.bring_up(STREAM)
    versions = await world.snapshots.versions(STREAM)
    assert await world.page(pages) == await world.page()
    assert await world.snapshots.versions(STREAM) == versions
    assert (await pages.comment(STREAM, roots[3]))[1].children == 1


DAMAGES = {
    "a segment is gone": "delete from snapshot_segments where kind = 'mark'",
    "a segment is cut": "update snapshot_segments set data = substr(data, 1, 20) where kind = 'order'",
    "a segment is another's": (
        "update snapshot_segments s set data = o.data from snapshot_segments o"
        " where o.kind = 'tag' and s.kind = 'place'"
    ),
    "the head is damaged": "update snapshots set head = substr(head, 2)",
    "the head tells of another version": "update snapshots set head = replace(head::text, '0', '1')::bytea",
    "the log tells another story": "update snapshots set hash = sha256('another')",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_snapshot_that_is_broken_is_removed_and_not_missed(world: World, damage: str) -> None:
    roots = await world.grow(10)
    expected = await world.page()
    await world.snapshotting.bring_up(STREAM)
    await world.pool.execute(DAMAGES[damage])
    assert await world.page() == expected
    assert await world.snapshots.versions(STREAM) == []
    assert (await world.pages().comment(STREAM, roots[0]))[1].children == 1
    await world.snapshotting.bring_up(STREAM)
    assert await world.page() == expected
    assert await world.snapshots.versions(STREAM) == [20]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_writer_begins_anew_where_the_last_snapshot_is_broken(world: World, damage: str) -> None:
    await world.grow(10)
    await world.snapshotting.bring_up(STREAM)
    await world.grow(10)
    await world.pool.execute(DAMAGES[damage])
    assert await world.snapshotting.bring_up(STREAM) == 40
    found = await verifier(world).thread(STREAM)
    assert [one for one in found if ".order." not in one.path] == [], "it never reads an order"


async def test_readers_who_ask_at_once_share_one_fold(world: World) -> None:
    await world.grow(10)
    pages = world.pages()
    found = await asyncio.gather(*(world.page(pages) for _ in range(50)))
    assert all(page is found[0] for page in found)
    assert (world.snapshots.reads, world.snapshots.folded) == (1, 20)
    world.snapshots.folded = 0
    requests = [PageRequest(limit=limit) for limit in range(1, 30)]
    await asyncio.gather(*(pages.page(STREAM, request) for request in requests))
    assert world.snapshots.folded == len(requests), "each looks for more, and folds nothing again"


async def test_a_reader_sees_what_was_written_before_he_asked(world: World) -> None:
    pages = world.pages()
    assert await pages.head(STREAM) is None
    assert await world.page(pages) == Selection((), 0, more=False)
    for version in range(1, 30):
        comment = (await world.log.post("t", "ann")).event_id
        head, picked, _ = await pages.comment(STREAM, comment)
        assert (head.version, picked.posted) == (version, version)
        if version == 25:
            await world.snapshotting.bring_up(STREAM)


async def test_who_leaves_in_the_middle_of_a_fold_leaves_the_thread_to_nobody_before_it_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = await world.grow(10)
    expected, pages = await world.page(), world.pages()
    begun, go = threading.Event(), threading.Event()

    def held_up(*arguments: Any) -> None:
        begun.set()
        go.wait(30)
        steps.fold(*arguments)

    monkeypatch.setattr(logpages, "OFF_LOOP", 1)
    monkeypatch.setattr(logpages, "fold", held_up)
    leaving = asyncio.create_task(pages.comment(STREAM, roots[0]))
    await asyncio.to_thread(begun.wait, 30)
    leaving.cancel()
    coming = asyncio.create_task(pages.page(STREAM, PAGE))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not leaving.done(), "a thread of the machine still folds"
    go.set()
    head, selection = await coming
    assert head is not None
    assert (head.version, head.stale, selection) == (20, False, expected)
    assert leaving.cancelled()


async def test_a_short_thread_does_not_wait_for_long_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = await world.grow(10)
    await world.log.post("short", "ann")
    monkeypatch.setattr(logpages, "CHUNK", 5)
    monkeypatch.setattr(logpages, "_FOLDS", 1)
    folding, go = asyncio.Event(), asyncio.Event()
    read = world.snapshots.steps

    async def held_up(stream_id: UUID, after: int, to: int, limit: int) -> list[Step]:
        if stream_id == STREAM and after > 5:
            folding.set()
            await go.wait()
        return await read(stream_id, after, to, limit)

    monkeypatch.setattr(world.snapshots, "steps", held_up)
    pages = world.pages()
    long = asyncio.create_task(pages.comment(STREAM, roots[-1]))
    await folding.wait()
    async with asyncio.timeout(30):
        head = await pages.head(stream_of("short"))
    assert head is not None
    assert (head.version, long.done()) == (1, False)
    go.set()
    assert (await long)[0].version == 20


async def test_those_who_read_the_past_are_bounded_and_hold_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.grow(10)
    monkeypatch.setattr(logpages, "_PAST", 1)
    monkeypatch.setattr(logpages, "_PAST_WAITING", 2)
    folding, go = asyncio.Event(), asyncio.Event()
    read = world.snapshots.steps

    async def held_up(stream_id: UUID, after: int, to: int, limit: int) -> list[Step]:
        if to < LAST:
            folding.set()
            await go.wait()
        return await read(stream_id, after, to, limit)

    monkeypatch.setattr(world.snapshots, "steps", held_up)
    pages = world.pages()
    asked = [asyncio.create_task(pages.page(STREAM, PAGE, version)) for version in range(1, 13)]
    await folding.wait()

    async def refused() -> int:
        return sum(task.done() and isinstance(task.exception(), Overloaded) for task in asked)

    await until(refused, "all but three are refused", lambda count: count == 9)
    async with asyncio.timeout(30):
        head, _ = await pages.page(STREAM, PAGE)
    assert head is not None
    assert head.version == 20
    go.set()
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in done) == 3
    assert (await pages.page(STREAM, PAGE, 12))[0] is not None, "there is room again"


async def test_what_is_kept_of_a_version_is_read_no_more_when_the_log_has_another_story(world: World) -> None:
    await world.grow(2)
    pages = world.pages()
    before = await world.page(pages, 3)
    data = canonical({"title": "another", "url": None, "by": "site"})
    async with world.pool.acquire() as connection:
        await connection.execute("drop trigger events_are_immutable on events")
        await connection.execute(
            "update events set type = 'ThreadDescribed', schema_version = 1, data = $1, hash = sha256(hash) "
            "where version = 3",
            data,
        )
    after = await world.page(pages, 3)
    assert after == await world.page(to=3)
    assert (len(before.picked), len(after.picked)) == (3, 2)


async def test_a_thread_with_an_event_that_cannot_be_folded_is_read_as_it_was_before(world: World) -> None:
    await world.grow(3)
    pages, expected = world.pages(), await world.page()
    version = await world.log.put("t", "CommentApplauded", {})
    last = (await world.log.post("t", "zoe")).event_id
    for reader in (pages, world.pages()):
        head, selection = await reader.page(STREAM, PAGE)
        assert head is not None
        assert (head.version, head.stale, selection) == (version - 1, True, expected)
        assert await reader.page(STREAM, PAGE, 4) == await world.pages().page(STREAM, PAGE, 4)
        with pytest.raises(ThreadParked):
            await reader.page(STREAM, PAGE, version)
        with pytest.raises(CommentNotFound):
            await reader.comment(STREAM, last)
    await heal(world, version)
    head, _, _ = await pages.comment(STREAM, last)
    assert (head.version, head.stale) == (version + 1, False)


async def test_the_head_is_an_end(world: World) -> None:
    await world.grow(1)
    with pytest.raises(VersionNotReached):
        await world.page(to=3)


async def heal(world: World, version: int) -> None:
    """Make an event one that this release knows, as the next one would."""
    data = canonical({"title": "healed", "url": None, "by": "site"})
    async with world.pool.acquire() as connection:
        await connection.execute("drop trigger events_are_immutable on events")
        await connection.execute(
            "update events set type = 'ThreadDescribed', data = $1 where version = $2", data, version
        )


# --- verify and replay -------------------------------------------------------------------------------------


def verifier(world: World) -> Verifier:
    return Verifier(world.pool, world.events, projector(world))


def projector(world: World) -> Projector:
    """One whose views are nowhere."""
    keyring = Keyring(world.pool, MasterKey(MASTER_KEY))
    return Projector(world.events, keyring, Nowhere(Redis()))


class Nowhere(Views):
    """No views."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.dumps = NoDumps(redis)

    async def head(self, stream_id: UUID) -> None:
        return None


class NoDumps(Dumps):
    """Nothing stored."""

    async def small(self, stream_ids: Collection[UUID]) -> dict[UUID, Stored]:
        return {stream_id: Stored() for stream_id in stream_ids}


async def snapshot_differences(world: World) -> list[Difference]:
    return [one for one in await verifier(world).thread(STREAM) if one.kind == "snapshot"]


async def test_a_changed_element_is_found_and_named(world: World) -> None:
    await world.grow(30)
    await world.snapshotting.bring_up(STREAM)
    assert await world.snapshots.versions(STREAM) == [16, 32, 60]
    assert await snapshot_differences(world) == []
    where = "where version = 32 and kind = 'mark'"
    marks = decode(MARKS, await world.pool.fetchval(f"select data from snapshot_segments {where}"))
    marks[6][11] += 7
    await world.pool.execute(f"update snapshot_segments set data = $1 {where}", encode(MARKS, marks))
    assert await snapshot_differences(world) == [Difference("snapshot", "32.mark.11.6", 7, 0)]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_every_damage_is_found_and_a_replay_repairs_it(
    world: World, redis_url: str, damage: str
) -> None:
    await world.grow(10)
    await world.snapshotting.bring_up(STREAM)
    await world.pool.execute(DAMAGES[damage])
    assert await snapshot_differences(world) != []
    async with Redis.from_url(redis_url) as redis:
        keyring = Keyring(world.pool, MasterKey(MASTER_KEY))
        projecting = Projector(world.events, keyring, Views(redis))
        await Replayer(world.pool, projecting, DeadLetters(world.pool, ""), 1).replay(STREAM)
    assert await snapshot_differences(world) == []
    await world.snapshotting.bring_up(STREAM)
    assert await snapshot_differences(world) == []


async def test_a_snapshot_past_the_logs_end_is_found(world: World) -> None:
    await world.grow(10)
    await world.snapshotting.bring_up(STREAM)
    await world.pool.execute("delete from snapshot_segments")
    await world.pool.execute("update snapshots set version = 21")
    assert await snapshot_differences(world) == [Difference("snapshot", "21", 21, 20)]


# --- erasing -----------------------------------------------------------------------------------------------


async def test_nothing_of_a_person_is_in_a_snapshot(
    database_url: str, redis_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotting, "LEAST", 1)
    async with erasing_client(database_url, redis_url, broker_url) as client:
        pool = client.running.resources.pool
        await lived(client)
        snapshots = Snapshots(pool)
        last = await SnapshotWriter(EventLog(pool), snapshots).bring_up(thread_of(T))
        assert last
        base = await snapshots.at(thread_of(T))
        assert base is not None
        kinds = itertools.product(("number", "tag", "place", "parent", "mark", "count", "order"), [0])
        segments = await snapshots.segments(thread_of(T), last, kinds)
        assert len(segments) == 7
        assert (await send_as_ann(client, "DELETE", "/v1/sites/news/me")).status == 202
        await eraser(client).round()
        assert await in_postgres(pool, NEEDLES) == []
        page = await client.running.resources.log_pages.page(thread_of(T), PageRequest(), last)
        assert b"zyzzogeton" not in b"".join(one.raw for one in page[1].picked)
        assert b"u-ann" not in b"".join(one.raw for one in page[1].picked)
