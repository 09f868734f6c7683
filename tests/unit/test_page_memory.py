"""The memory of answers by itself: what makes an answer read again."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from redis.exceptions import RedisError

from services.api.pages.encodings import Coding
from services.api.pages.freshness import FRESH_S, GRACE_S
from services.api.pages.memory import IDLE_S, REST_S, Entry, PageMemory, Read
from services.errors import ParentNotFound
from tests.processes import until

THREAD = UUID(int=1)
AGAIN = FRESH_S * 2


@dataclass(frozen=True, slots=True)
class Head:
    """Of a view."""

    version: int
    hash: bytes = b"h"
    build: str = "b"
    stale: bool = False


@dataclass(slots=True)
class Thread:
    """A thread, what its view says of it, and a memory whose clock the test sets."""

    head: Head | None = field(default_factory=lambda: Head(1))
    away: bool = False
    stale: bool = False
    body: bytes = b"{}"
    now: float = 0.0
    reads: int = 0
    memory: PageMemory = field(init=False)

    def __post_init__(self) -> None:
        self.memory = PageMemory(100_000, self.heads, lambda: self.now)

    async def heads(self, streams: Collection[UUID]) -> dict[UUID, Head]:
        if self.away:
            raise RedisError
        return {} if self.head is None else dict.fromkeys(streams, self.head)

    async def read(self, min_version: int | None) -> Read:
        self.reads += 1
        await asyncio.sleep(0)
        head = self.head or Head(1)
        return Read(head, self.body, "tag", self.stale or head.stale)

    async def get(self, min_version: int | None = None) -> Entry:
        return await self.memory.get("page", THREAD, self.read, min_version)

    async def reads_again(self) -> bool:
        """Whether the answer is read again, a while after the last time."""
        self.now += AGAIN
        before = self.reads
        await self.get()
        return self.reads > before


@pytest.mark.parametrize(
    "head",
    [Head(2), Head(1, b"another"), Head(1, build="new"), Head(1, stale=True), None],
    ids=["a version", "another history", "built anew", "parked", "gone"],
)
async def test_another_head_is_another_answer(head: Head | None) -> None:
    thread = Thread()
    await thread.get()
    assert not await thread.reads_again()
    thread.head = head
    assert await thread.reads_again()
    assert await thread.reads_again() is (head is None)


async def test_what_was_marked_while_redis_was_away_is_read_again_once_it_is_back() -> None:
    thread = Thread(away=True, stale=True)
    assert (await thread.get()).stale
    assert not await thread.reads_again()
    thread.now += GRACE_S
    assert await thread.reads_again()
    thread.away = thread.stale = False
    thread.now += GRACE_S / 2
    assert await thread.reads_again()
    assert not (await thread.get()).stale
    assert not await thread.reads_again()


async def test_a_parked_thread_is_marked_and_remembered() -> None:
    thread = Thread(head=Head(1, stale=True))
    assert (await thread.get()).stale
    assert not await thread.reads_again()


async def test_who_gives_up_takes_nobody_along() -> None:
    thread = Thread()
    first, second = (asyncio.create_task(thread.get()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).version == 1
    assert thread.reads == 1


async def test_a_refusal_is_for_all_who_wait_and_for_nobody_later() -> None:
    thread = Thread()

    async def refuse(min_version: int | None) -> Read:
        raise ParentNotFound("x")

    asked = [thread.memory.get("page", THREAD, refuse) for _ in range(3)]
    assert all(
        isinstance(one, ParentNotFound) for one in await asyncio.gather(*asked, return_exceptions=True)
    )
    assert (await thread.get()).version == 1


async def test_an_answer_too_large_for_the_memory_is_given_and_not_kept() -> None:
    thread = Thread(body=b"x" * 50_000)
    for times in (1, 2):
        assert (await thread.get()).body == thread.body
        assert (thread.reads, thread.memory.held) == (times, 0)


async def test_what_is_compressed_is_counted_and_makes_room() -> None:
    thread = Thread(body=bytes(range(256)) * 20)
    entry = await thread.get()
    before = thread.memory.held
    packed = await asyncio.gather(*(thread.memory.body(entry, "gzip") for _ in range(5)))
    assert len(set(packed)) == thread.memory.compressions == 1
    assert thread.memory.held == before + len(packed[0])


async def test_what_was_used_least_is_forgotten_first() -> None:
    thread = Thread(body=b"x" * 8_000)
    keys = [str(number) for number in range(8)]
    for key in keys:
        await thread.memory.get(key, THREAD, thread.read)
    await thread.memory.get("0", THREAD, thread.read)
    assert thread.reads == len(keys)
    await thread.memory.get("one more", THREAD, thread.read)
    assert thread.memory.held <= 100_000
    assert [slot.key for slot in thread.memory] == ["2", "3", "4", "5", "6", "7", "0", "one more"]


async def test_what_nobody_asks_for_is_forgotten_and_what_is_known_to_hold_is_not() -> None:
    thread = Thread()
    await thread.get()
    thread.now += IDLE_S * 0.9
    await thread.memory.get("another page", THREAD, thread.read)  # says that the thread is what it was
    thread.now += IDLE_S * 0.9
    thread.memory.sweep()
    assert len(thread.memory) == 2
    thread.now += IDLE_S * 0.2
    thread.memory.sweep()
    assert len(thread.memory) == thread.memory.held == 0
    await thread.get()
    assert thread.memory.held > 0


def resting() -> Thread:
    """A thread whose page is so large that it rests for 200 ms."""
    thread = Thread(body=bytes(range(250)) * 1_600)
    thread.memory = PageMemory(8_000_000, thread.heads, lambda: thread.now)
    return thread


async def shown(thread: Thread) -> float:
    """Ask every 10 ms for two seconds, while the thread moves each time: the age of the oldest answer."""
    oldest = 0.0
    for step in range(1, 201):
        thread.now, thread.head = step / 100, Head(step)
        oldest = max(oldest, thread.now - (await thread.get()).version / 100)
    return oldest


async def test_a_large_answer_is_made_now_and_then_however_often_its_thread_moves() -> None:
    thread = resting()
    oldest = await shown(thread)
    assert thread.reads <= 11
    assert oldest <= REST_S


async def test_a_small_answer_does_not_rest() -> None:
    thread = Thread()
    assert await shown(thread) <= FRESH_S
    assert thread.reads > 50


async def test_who_names_a_version_does_not_wait_until_an_answer_has_rested() -> None:
    thread = resting()
    await thread.get()
    thread.head = Head(2)
    assert (await thread.get()).version == 1
    assert (await thread.get(2)).version == 2


async def test_what_is_marked_does_not_rest() -> None:
    thread = resting()
    thread.head = Head(1, stale=True)
    await thread.get()
    thread.head = Head(2)
    assert await thread.reads_again()


async def test_the_next_answer_is_read_ahead_and_nobody_waits_for_it() -> None:
    thread = resting()
    old = await thread.get()
    slot = thread.memory.slot("page")
    assert slot is not None

    async def ready(now: float, coding: Coding = "identity") -> Entry | None:
        thread.now = now
        entry = thread.memory.ready(slot, now, coding)
        for _ in range(20):
            await asyncio.sleep(0)
        return entry

    thread.head = Head(2)
    assert await ready(0.09) is old
    assert (thread.memory.looks.looks, thread.reads) == (0, 1)
    assert await ready(0.11) is old
    assert (thread.memory.looks.looks, thread.reads) == (1, 1)
    assert await ready(0.12, "gzip") is old
    assert thread.reads == 2

    async def replaced() -> bool:
        return slot.entry is not old

    await until(replaced, "the next answer")
    new = await ready(0.13, "gzip")
    assert new is not None
    assert (new.version, thread.reads, thread.memory.compressions) == (2, 2, 1)
    assert new.made("gzip") is not None
    assert new.made("br") is None
    thread.head = Head(3)
    assert await ready(0.33) is None
