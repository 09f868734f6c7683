"""The projector's step: what becomes of a thread that cannot be advanced, and of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest

from services.errors import PoisonEvent, Unavailable
from services.eventlog.checkpoints import DeadLetters, Parked, Projection
from services.eventlog.log import EventLog
from services.projection.advance import Projector
from services.readmodel import keys
from services.readmodel.records import Head
from services.workers.hints import Looked
from services.workers.projector import REST_S, Following
from tests.following import World, world_of
from tests.processes import until
from tests.writer import new_id, stream_of


@pytest.fixture
async def world(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, broker_url) as opened:
        yield opened


async def test_a_poison_event_parks_one_thread_while_the_others_go_on(world: World) -> None:
    threads = ["a", "b", "c"]
    for key in threads:
        await world.log.post(key, "ann")
    streams = [stream_of(key) for key in threads]
    assert await world.following.project(streams, Looked.now()) == 0
    version = await world.log.poison("b")
    for key in threads:
        await world.log.post(key, "bob")

    assert await world.following.project(streams, Looked.now()) == 0

    assert [await world.version(key) for key in threads] == [2, 1, 2]
    heads = await world.views.heads(streams)
    assert [heads[stream].stale for stream in streams] == [False, True, False]
    (letter,) = await world.letters.page()
    assert (letter.projection, letter.stream_id, letter.version, letter.build) == (
        Projection.VIEW,
        stream_of("b"),
        version,
        "1.0",
    )
    assert "no comment" in letter.reason
    assert await world.letters.counts() == {Projection.VIEW: 1, Projection.NOTIFICATIONS: 0}


async def test_an_event_of_a_newer_release_marks_the_view_without_a_dead_letter(world: World) -> None:
    await world.log.post("t", "ann")
    await world.following.project([stream_of("t")], Looked.now())
    version = await world.log.put("t", "CommentApplauded", {})
    for _ in range(2):
        assert await world.following.project([stream_of("t")], Looked.now()) == 1
        head = await world.head("t")
        assert (head.version, head.stale) == (1, True)
    assert await world.letters.page() == []

    await world.heal("t", version)
    assert await world.following.project([stream_of("t")], Looked.now()) == 0
    head = await world.head("t")
    assert (head.version, head.stale) == (version, False)


async def test_a_dead_letter_keeps_its_own_release_away_and_no_other(world: World) -> None:
    await world.log.post("t", "ann")
    await world.following.project([stream_of("t")], Looked.now())
    version = await world.log.poison("t")
    await world.following.project([stream_of("t")], Looked.now())
    other = DeadLetters(world.log.pool, "1.1")
    assert [letter.version for letter in await other.of_other_builds()] == [version]
    assert await world.letters.of_other_builds() == []
    await world.heal("t", version)

    assert await world.following.project([stream_of("t")], Looked.now()) == 0
    head = await world.head("t")
    assert (head.version, head.stale) == (1, True)

    assert await world.release("1.1").project([stream_of("t")], Looked.now()) == 0
    head = await world.head("t")
    assert (head.version, head.stale) == (version, False)
    assert await world.letters.page() == []


async def test_a_release_that_fails_as_well_takes_the_dead_letter_over(world: World) -> None:
    await world.log.post("t", "ann")
    await world.following.project([stream_of("t")], Looked.now())
    await world.log.poison("t")
    await world.following.project([stream_of("t")], Looked.now())
    await world.release("1.1").project([stream_of("t")], Looked.now())
    assert [letter.build for letter in await world.letters.page()] == ["1.1"]
    assert (await world.head("t")).stale


async def test_a_mark_without_a_dead_letter_is_taken_away(world: World) -> None:
    await world.log.post("t", "ann")
    await world.following.project([stream_of("t")], Looked.now())
    assert await world.views.park(stream_of("t"), 1)
    await world.log.post("t", "bob")
    assert await world.following.project([stream_of("t")], Looked.now()) == 0
    head = await world.head("t")
    assert (head.version, head.stale) == (2, False)


async def test_a_dead_letter_that_the_view_is_past_goes(world: World) -> None:
    await world.log.post("t", "ann")
    await world.following.project([stream_of("t")], Looked.now())
    await world.letters.bury(Projection.VIEW, PoisonEvent(stream_of("t"), 1, new_id(), "left over"))
    assert await world.following.project([stream_of("t")], Looked.now()) == 0
    assert await world.letters.page() == []


async def test_a_dead_letter_before_a_later_event_stays(world: World) -> None:
    await world.letters.bury(Projection.VIEW, PoisonEvent(stream_of("t"), 5, new_id(), "poison"))
    reader = DeadLetters(world.log.pool)
    await reader.resurrect(Projection.VIEW, stream_of("t"), 4)
    assert await reader.among(Projection.VIEW, [stream_of("t")]) == {stream_of("t"): Parked(5, "1.0")}
    await reader.resurrect(Projection.VIEW, stream_of("t"), 5)
    assert await reader.among(Projection.VIEW, [stream_of("t")]) == {}


async def test_what_came_with_a_poison_event_but_before_it_is_shown(world: World) -> None:
    await world.log.post("t", "ann")
    await world.following.project([stream_of("t")], Looked.now())
    for _ in range(3):
        await world.log.post("t", "bob")
    assert await world.log.poison("t") == 5
    await world.log.post("t", "cleo")
    assert await world.following.project([stream_of("t")], Looked.now()) == 0
    head = await world.head("t")
    assert (head.version, head.stale) == (4, True)


@pytest.mark.parametrize(
    ("type_", "wrong"),
    [
        *(("ReplyPosted", {"parent": parent}) for parent in ([1], "1", 1.5, 2, 77, -1)),
        ("CommentDeleted", {"comment_id": 5, "posted": 1}),
        ("CommentDeleted", {"comment_id": [], "posted": "1"}),
    ],
)
@pytest.mark.parametrize("cold", [False, True])
async def test_what_no_fold_can_place_parks_its_thread(
    world: World, type_: str, wrong: dict[str, object], cold: bool
) -> None:
    root = await world.log.post("t", "ann")
    if not cold:
        await world.following.project([stream_of("t")], Looked.now())
    reply = {"parent_id": str(root.event_id), "depth": 1, "text_mac": "x"}
    version = await world.log.put("t", type_, reply | wrong)
    await world.log.post("t", "bob")

    assert await world.following.project([stream_of("t")], Looked.now()) == 0

    (letter,) = await world.letters.page()
    assert (letter.version, letter.projection) == (version, Projection.VIEW)
    head = await world.head("t")
    assert (head.version, head.stale) == (1, True)


class Interrupted(Projector):
    """The first advance waits until it is told, and then meets an outage."""

    def __init__(self, world: World) -> None:
        super().__init__(EventLog(world.log.pool), world.log.keyring, world.views)
        self.begun = asyncio.Event()
        self.fails = asyncio.Event()

    async def follow(self, stream_id: UUID) -> Head | None:
        if not self.fails.is_set():
            self.begun.set()
            await self.fails.wait()
            raise Unavailable("an outage")
        return await super().follow(stream_id)


async def test_a_poke_during_an_advance_that_fails_is_not_lost(world: World) -> None:
    projector = Interrupted(world)
    following = Following(projector, world.letters)
    await world.log.post("t", "ann")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(following.project([stream_of("t")], Looked.now()))
        await projector.begun.wait()
        await world.log.post("t", "bob")
        assert await following.project([stream_of("t")], Looked.now()) == 0
        projector.fails.set()
    assert await first == 0
    assert await world.version("t") == 2


class Counting(Projector):
    """Counts looks at a thread, and tries of one that is parked; `meanwhile` happens during each look."""

    def __init__(self, world: World) -> None:
        super().__init__(EventLog(world.log.pool), world.log.keyring, world.views)
        self.looks = 0
        self.tries = 0
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def follow(self, stream_id: UUID) -> Head | None:
        self.looks += 1
        if self.meanwhile is not None:
            await self.meanwhile()
        return await super().follow(stream_id)

    async def advance(self, stream_id: UUID, to: int | None = None) -> Head | None:
        self.tries += 1
        return await super().advance(stream_id, to)


async def test_many_pokes_of_a_busy_thread_are_few_looks_at_it(world: World) -> None:
    projector = Counting(world)
    following = Following(projector, world.letters)
    began = time.monotonic()
    for number in range(50):
        if number % 10 == 0:
            await world.log.post("t", "ann")
        await following.project([stream_of("t")], Looked.now())
    assert await world.version("t") == 5
    # The rest is counted in whole milliseconds, and a timer may be a little early.
    assert projector.looks <= 1 + (time.monotonic() - began) / (REST_S - 0.003)


async def test_a_message_does_not_wait_for_as_long_as_its_thread_is_busy(world: World) -> None:
    projector = Counting(world)
    following = Following(projector, world.letters)

    async def poked_again() -> None:
        if projector.looks < 5:
            assert await following.project([stream_of("t")], Looked.now()) == 0

    projector.meanwhile = poked_again
    await world.log.post("t", "ann")
    assert await following.project([stream_of("t")], Looked.now()) == 0
    assert projector.looks < 5

    async def looks() -> int:
        return projector.looks

    # And no poke is lost: the last look began after the last of them.
    await until(looks, "the last look", lambda found: found == 5)
    await following.stop()


async def test_a_poke_that_comes_while_its_thread_is_parked_does_not_try_it_again(world: World) -> None:
    projector = Counting(world)
    following = Following(projector, world.letters)
    await world.log.post("t", "ann")
    await following.project([stream_of("t")], Looked.now())
    await world.log.poison("t")

    async def poked_again() -> None:
        if projector.looks == 2:
            assert await following.project([stream_of("t")], Looked.now()) == 0

    projector.meanwhile = poked_again
    await following.project([stream_of("t")], Looked.now())

    async def looks() -> int:
        return projector.looks

    await until(looks, "another look", lambda found: found == 3)
    await following.project([stream_of("t")], Looked.now())
    await until(looks, "the look after it", lambda found: found == 4)
    assert projector.tries == 0
    assert len(await world.letters.page()) == 1
    await following.stop()


async def test_one_fault_is_not_another_threads(world: World) -> None:
    await world.log.post("t", "ann")
    await world.redis.set(keys.head(stream_of("broken")), "not a hash")
    await world.log.post("broken", "ann")
    assert await world.following.project([stream_of("broken"), stream_of("t")], Looked.now()) == 1
    assert await world.version("t") == 1
