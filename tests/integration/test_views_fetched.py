"""Large pages: picked by a script, their comments fetched right behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from services.core.page import FoldIndex, PageRequest
from services.readmodel import keys
from services.readmodel.line import Line
from services.readmodel.views import Head, Views
from tests.threads import STREAM, Said, index_of, thread_of
from tests.viewing import follow, written

ROOTS = 30
PAGE = PageRequest(limit=ROOTS, replies=2)
Meanwhile = Callable[[], Awaitable[object]]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def views(redis: Redis) -> Views:
    return Views(redis)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Meanwhile]:
    """What is done before each question, in turn: what is left has not been asked for."""
    meanwhile: list[Meanwhile] = []
    tell = Line.tell

    async def interrupted(self: Line, *commands: bytes) -> list[object]:
        if meanwhile:
            await meanwhile.pop(0)()
        return await tell(self, *commands)

    monkeypatch.setattr(Line, "tell", interrupted)
    return meanwhile


async def nothing() -> None:
    """Nobody writes."""


def talk() -> list[Said]:
    """Roots, and a reply to each second one."""
    return [Said() for _ in range(ROOTS)] + [Said(root, second=1) for root in range(1, ROOTS, 2)]


async def shown(views: Views, said: list[Said]) -> tuple[FoldIndex, Head]:
    """A view of it, of which a page was read: the server knows the script."""
    index = index_of(thread_of(said))
    head = await written(views, index)
    assert await views.page(STREAM, PAGE) is not None
    return index, head


async def test_a_page_is_fetched_in_two_round_trips(views: Views, asked: list[Meanwhile]) -> None:
    index, _ = await shown(views, talk())
    asked += [nothing, nothing, nothing]
    answer = await views.page(STREAM, PAGE)
    assert answer is not None
    assert answer[1] == index.page(PAGE)
    assert len(asked) == 1


async def test_a_page_that_a_write_comes_into_is_of_one_version(views: Views, asked: list[Meanwhile]) -> None:
    index, head = await shown(views, talk())
    thread, before = index.thread, index.page(PAGE)

    async def write() -> None:
        voted = thread.comments[next(iter(thread.comments))]
        voted.up, voted.version = 5, thread.version + 1
        thread.version += 1
        thread.last_hash = b"v" * 32
        await follow(views, head, thread, [voted.posted])

    asked += [nothing, write, nothing, nothing]
    answer = await views.page(STREAM, PAGE)
    assert answer is not None
    assert answer[0].version == thread.version
    assert answer[1] == index_of(thread).page(PAGE) != before
    assert len(asked) == 1  # the second time, one script gives all of it


async def test_a_page_whose_view_is_built_anew_meanwhile_is_of_the_new_one(
    views: Views, asked: list[Meanwhile]
) -> None:
    index, head = await shown(views, talk())

    async def rebuild() -> None:
        await written(views, index, expected=head)

    asked += [nothing, rebuild]
    answer = await views.page(STREAM, PAGE)
    assert answer is not None
    assert answer[0].build != head.build
    assert answer[1] == index.page(PAGE)


async def test_a_page_whose_view_is_dropped_meanwhile_is_absent(views: Views, asked: list[Meanwhile]) -> None:
    await shown(views, talk())
    asked += [nothing, lambda: views.drop(STREAM)]
    assert await views.page(STREAM, PAGE) is None


@pytest.mark.parametrize("part", ["a node is gone", "a node is damaged", "a count is damaged"])
async def test_a_page_that_a_part_is_missing_of_drops_its_view(views: Views, redis: Redis, part: str) -> None:
    below = Said(ROOTS + 2, second=2)  # without it, nobody would look for what is below the replies
    _, head = await shown(views, [*talk(), below])
    leaf = keys.posted(ROOTS + 2)
    if part == "a count is damaged":
        await redis.hset(keys.descendants(STREAM, head.build), leaf, b"short")
    else:
        await redis.hdel(keys.nodes(STREAM, head.build), leaf)
        name = leaf if part == "a node is damaged" else b"another"
        await redis.hset(keys.nodes(STREAM, head.build), name, bytes(12) + b"no frame")
    assert await views.page(STREAM, PageRequest(limit=ROOTS, replies=2, depth=1)) is None
    assert await views.head(STREAM) is None
