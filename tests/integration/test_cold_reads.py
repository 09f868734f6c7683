"""Reads of threads that have no view, in one process: what is folded, read from the log, and built."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from services.core.page import PageRequest, Picked
from services.errors import CommentNotFound, ParentNotFound, VersionNotReached
from services.eventlog.log import EventLog
from services.projection import advance, cold, warming
from services.projection.advance import Projector
from services.readmodel.leases import Leases, lease_key, wanted_key
from services.readmodel.recency import Recency
from services.readmodel.views import Views
from services.wiring import Resources, resources
from services.workers.hints import Looked
from tests.following import World, world_of
from tests.processes import until
from tests.talk import Talk, settings_of, talking
from tests.writer import new_id, stream_of

SHORT = 10
PAGE = PageRequest(limit=100, replies=20, depth=10)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of more than SHORT events are long ones."""
    monkeypatch.setattr(advance, "SHORT", SHORT)
    monkeypatch.setattr(cold, "SHORT", SHORT)


@pytest.fixture
async def parts(database_url: str, redis_url: str) -> AsyncIterator[Resources]:
    async with resources(settings_of(database_url, redis_url)) as opened:
        yield opened


@pytest.fixture
async def talk(parts: Resources) -> AsyncIterator[Talk]:
    async with talking(parts) as opened:
        yield opened


@pytest.fixture
async def world(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, broker_url) as opened:
        yield opened


async def posted(talk: Talk, comments: int) -> None:
    for number in range(comments):
        await talk.post("ann", f"number *{number}*", to=talk.ids[number // 2] if number % 3 else None)


async def test_readers_of_different_pages_share_one_fold(parts: Resources, talk: Talk) -> None:
    await posted(talk, 20)
    reader, stream_id = parts.reader, talk.stream_id
    requests = [PageRequest(limit=1 + n % 7, sort="newest") for n in range(20)]
    pages, ones = await asyncio.gather(
        asyncio.gather(*(reader.page(stream_id, one) for one in requests)),
        asyncio.gather(*(reader.comment(stream_id, one) for one in talk.ids)),
    )
    assert (reader.cold_reads.warming.folds, parts.projector.rebuilds) == (1, 0)
    await until(lambda: parts.views.head(stream_id), "the view is written behind the answers")
    assert [await reader.page(stream_id, one) for one in requests] == [
        # Only the build tells a view's page from a fold's.
        type(page)(await parts.views.head(stream_id), page.selection, page.stale)
        for page in pages
    ]
    assert [(await reader.comment(stream_id, one)).picked for one in talk.ids] == [o.picked for o in ones]
    assert reader.cold_reads.warming.folds == 1
    assert await parts.verifier.thread(stream_id) == []


async def test_what_is_not_there_is_not_there_on_a_cold_read_either(parts: Resources, talk: Talk) -> None:
    empty = await parts.reader.page(talk.stream_id, PAGE)
    assert (empty.head, empty.selection.picked) == (None, ())
    assert await parts.reader.thread(talk.stream_id) == (None, False)
    with pytest.raises(VersionNotReached):
        await parts.reader.page(talk.stream_id, PAGE, 1)
    await talk.post()
    for _ in range(2):
        with pytest.raises(CommentNotFound):
            await parts.reader.comment(talk.stream_id, new_id())
        with pytest.raises(ParentNotFound):
            await parts.reader.page(talk.stream_id, PageRequest(parent_id=new_id()))
        with pytest.raises(VersionNotReached):
            await parts.reader.page(talk.stream_id, PAGE, 2)
        await parts.redis.flushdb()


async def test_a_comment_that_came_after_the_fold_that_is_kept_is_found(
    parts: Resources, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posted(talk, 3)
    folds = parts.reader.cold_reads.warming
    kept = await folds.fold(talk.stream_id, 0)
    assert kept is not None
    monkeypatch.setattr(folds, "kept", lambda _, least: kept if least <= 3 else None)
    newer = await talk.post("bob", "newer")
    await parts.redis.flushdb()
    assert (await parts.reader.comment(talk.stream_id, newer)).head.version == 4


async def test_what_comes_while_the_view_is_written_is_in_it(parts: Resources, talk: Talk) -> None:
    """The fold that readers read is the one that the view is written from, and brought up to the log."""
    await posted(talk, 5)
    for _ in range(10):
        await parts.redis.flushdb()
        pages, _ = await asyncio.gather(
            asyncio.gather(*(parts.reader.page(talk.stream_id, PageRequest(limit=1 + n)) for n in range(9))),
            talk.post("bob", "meanwhile", to=talk.ids[0]),
        )
        for page in pages:
            assert page.head is not None
            assert page.head.version in (len(talk.ids) - 1, len(talk.ids))
            assert page.head.visible == page.head.version
        await until(lambda: parts.views.head(talk.stream_id), "the view is written")
        await parts.projector.advance(talk.stream_id)
        assert await parts.verifier.thread(talk.stream_id) == []


async def test_a_long_thread_is_read_from_the_log_until_a_worker_has_built_its_view(
    parts: Resources, talk: Talk, few: None
) -> None:
    await posted(talk, SHORT + 1)
    reader, stream_id = parts.reader, talk.stream_id
    poked: list[UUID] = []
    reader.cold_reads.poke = poked.append
    pages = await asyncio.gather(*(reader.page(stream_id, PAGE) for _ in range(20)))
    assert {(page.stale, page.head and page.head.version) for page in pages} == {(False, SHORT + 1)}
    assert (await reader.comment(stream_id, talk.ids[-1])).picked.posted == SHORT + 1
    head, stale = await reader.thread(stream_id)
    assert (head and head.visible, stale) == (SHORT + 1, False)
    assert poked == [stream_id]  # once, not by each reader
    assert (reader.cold_reads.warming.folds, parts.projector.rebuilds) == (0, 0)
    # Each sees what was written before it asked.
    await talk.post("bob", "one more")
    assert (await reader.page(stream_id, PAGE, SHORT + 2)).selection.roots > 0

    assert await parts.projector.follow(stream_id) is not None
    before = reader.cold
    page = await reader.page(stream_id, PAGE)
    assert page.head is not None
    assert page.head.build
    assert (reader.cold, parts.projector.rebuilds) == (before, 1)


async def test_a_long_thread_that_is_only_written_to_gets_no_view(world: World, few: None) -> None:
    for _ in range(SHORT + 1):
        await world.log.post("long", "ann")
    await world.log.post("short", "ann")
    streams = [stream_of("long"), stream_of("short")]
    assert await world.following.project(streams, Looked.now()) == 0
    assert (await world.version("long"), await world.version("short")) == (0, 1)

    await world.views.leases.want(stream_of("long"))  # a reader missed it
    assert await world.redis.ttl(wanted_key(stream_of("long"))) > 0
    assert await world.following.project(streams, None) == 0
    assert await world.version("long") == SHORT + 1
    # It is kept up from here on.
    await world.log.post("long", "bob")
    await world.redis.delete(wanted_key(stream_of("long")))
    assert await world.following.project(streams, None) == 0
    assert await world.version("long") == SHORT + 2


async def test_of_two_workers_one_builds_a_view(world: World) -> None:
    for _ in range(5):
        await world.log.post("story", "ann")
    projectors = [Projector(EventLog(world.log.pool), world.log.keyring, world.views) for _ in range(4)]
    await asyncio.gather(*(one.follow(stream_of("story")) for one in projectors))
    assert sum(one.rebuilds for one in projectors) == 1
    assert await world.version("story") == 5


async def test_a_lease_is_held_by_one_renewed_and_given_up(world: World) -> None:
    leases = Leases(world.redis, seconds=0.3)
    name = lease_key(stream_of("story"))
    async with leases.held(stream_of("story")) as mine:
        assert mine
        first = await world.redis.get(name)
        async with leases.held(stream_of("story")) as others:
            assert not others
        assert await leases.taken(stream_of("story"))
        renewed = []

        async def rises() -> bool:
            renewed.append(await world.redis.pttl(name))
            return len(renewed) > 1 and renewed[-1] > renewed[-2]

        await until(rises, "the lease is renewed")
        assert await world.redis.get(name) == first
    assert not await leases.taken(stream_of("story"))


async def test_who_lost_a_lease_does_not_give_up_anothers(world: World) -> None:
    leases = Leases(world.redis)
    name = lease_key(stream_of("story"))
    async with leases.held(stream_of("story")):
        await world.redis.set(name, "another's")
    assert await world.redis.get(name) == b"another's"


async def test_an_event_that_another_worker_left_to_the_builder_is_in_the_view(world: World) -> None:
    """It comes after the builder's last look at the log; the worker that takes its hint sees the lease."""
    await world.log.post("story", "ann")
    other = Projector(EventLog(world.log.pool), world.log.keyring, Views(world.redis))

    class Late(Recency):
        async def built(self, stream_id: UUID) -> None:
            await super().built(stream_id)
            await world.log.post("story", "bob")
            assert await other.follow(stream_id) is None

    views = Views(world.redis)
    views.recency = Late(world.redis)
    builder = Projector(EventLog(world.log.pool), world.log.keyring, views)
    await builder.follow(stream_of("story"))
    assert await world.version("story") == 2


async def test_a_fold_is_read_as_it_was_while_the_view_made_of_it_goes_on(
    parts: Resources, talk: Talk
) -> None:
    await posted(talk, 3)
    projector = parts.projector
    whole = await projector.whole(talk.stream_id)
    page = await projector.page(whole, PAGE)
    assert await projector.page(whole, PAGE) is page
    await talk.post("bob", "meanwhile", to=talk.ids[0])
    await projector.rebuild(talk.stream_id, whole)
    assert await projector.page(whole, PAGE) is page
    assert (await projector.page(whole, PageRequest(replies=0))).picked[0].children == 1
    one = await projector.comment(whole, talk.ids[0])
    assert one is not None
    assert (one[0].children, one[0].descendants) == (1, 2)
    head = await parts.views.head(talk.stream_id)
    assert head is not None
    assert head.version == whole.thread.version + 1
    assert await parts.verifier.thread(talk.stream_id) == []


async def test_who_asks_for_what_he_wrote_is_not_given_what_another_had_asked_for_before(
    parts: Resources, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the log, those who ask for the same at the same moment share one answer."""
    await talk.post()
    cold_reads, rendered = parts.reader.cold_reads, parts.log_pages._rendered
    folded, go = asyncio.Event(), asyncio.Event()

    async def held_up(*arguments: Any) -> list[Picked]:
        folded.set()
        await go.wait()
        return await rendered(*arguments)

    monkeypatch.setattr(parts.log_pages, "_rendered", held_up)
    first = asyncio.create_task(cold_reads.page(talk.stream_id, PAGE, away=True))
    await folded.wait()
    await talk.post("bob")
    second = asyncio.create_task(cold_reads.page(talk.stream_id, PAGE, 2, away=True))
    readers = cold_reads.warming._readers

    async def both_wait() -> bool:
        return readers[talk.stream_id] == 2

    await until(both_wait, "the second has joined the first")
    go.set()
    pages = await asyncio.gather(first, second)
    assert [page and page.head and page.head.version for page in pages] == [1, 2]


async def test_folds_do_not_pile_up_before_views_that_are_written_more_slowly(
    parts: Resources, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warming, "KEPT_COMMENTS", 30)
    monkeypatch.setattr(warming, "PATIENCE_S", 60.0)
    await talk.post()
    others = [replace(talk, key=f"other {number}", ids=[]) for number in range(4)]
    for other in others:
        await other.post()
    streams = [one.stream_id for one in (talk, *others)]
    cold_reads = parts.reader.cold_reads

    async def waiting() -> int:
        return len(cold_reads.warming._writing)

    # Each of them is still read by somebody, so none of the views is written yet.
    async with AsyncExitStack() as reading:
        for stream_id in streams:
            await reading.enter_async_context(cold_reads.warming.reading(stream_id))
        for stream_id in streams:
            page = await cold_reads.page(stream_id, PAGE)
            assert page is not None
            assert len(page.selection.picked) == 1
        await until(waiting, "some wait for their readers, and the others for nothing", lambda n: n == 2)

    async def all_written() -> bool:
        heads = [(await parts.reader.page(stream_id, PAGE)).head for stream_id in streams]
        found = await parts.views.heads(streams)
        return all(heads) and len(found) == len(streams)

    await until(all_written, "all are written, one after the other")


async def test_a_view_that_is_read_for_a_list_of_many_threads_is_in_use(parts: Resources, talk: Talk) -> None:
    comment = await talk.post()
    await parts.projector.advance(talk.stream_id)
    parts.reader.reads.take()
    assert list(await parts.reader.comments(talk.stream_id, [comment])) == [comment]
    assert parts.reader.reads.take() == {talk.stream_id}


async def test_an_advance_that_has_ended_without_a_version_is_not_waited_for_again(
    parts: Resources, talk: Talk
) -> None:
    """For a turn of the loop it still stands among those that run."""
    await talk.post()
    await parts.projector.rebuild(talk.stream_id)
    ended = asyncio.create_task(parts.projector.bring_up(talk.stream_id))
    await ended
    await talk.post("bob")
    parts.reader._advancing[talk.stream_id] = ended

    head, stale = await parts.reader.thread(talk.stream_id, min_version=2)

    assert head is not None
    assert (head.version, stale) == (2, False)
    assert parts.reader._advancing == {}
