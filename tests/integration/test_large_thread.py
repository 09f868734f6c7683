"""A thread as long as they get: what is written and read of its view is what changed and what is shown."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import pytest

from services.core.page import FIRST, MAX_PAGE, PageRequest
from services.core.thread import ThreadState
from services.projection import advance, fold, longthread
from services.wiring import Resources, resources
from tests.talk import Talk, settings_of, talking

DEPTH = 40
"""How deep the chain goes that every tenth comment lengthens, before it begins anew."""

_RAN = re.compile(rb'^\+[\d.]+ \[\d+ (?:lua\] |[^\]]*\] (?="HMGET" ))(.*)')
"""A command of a script's, or one that fetches what a script picked."""
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')

WRITES: dict[bytes, Callable[[int], int]] = {
    b"HSET": lambda words: (words - 2) // 2,
    b"HDEL": lambda words: words - 2,
    b"HINCRBY": lambda _: 1,
    b"ZADD": lambda words: (words - 2) // 2,
    b"ZREM": lambda words: words - 2,
    b"DEL": lambda words: words - 1,
    b"UNLINK": lambda words: words - 1,
}
READS: dict[bytes, Callable[[int], int]] = {
    b"HGET": lambda _: 1,
    b"HMGET": lambda words: words - 2,
    b"HEXISTS": lambda _: 1,
    b"HLEN": lambda _: 1,
    b"HVALS": lambda _: 0,  # who alone sees a text: nobody here, 1,000 at most
    b"ZCARD": lambda _: 1,
    b"ZSCORE": lambda _: 1,
    b"ZRANK": lambda _: 1,
    b"ZREVRANK": lambda _: 1,
    b"EXISTS": lambda words: words - 1,
}


@dataclass(slots=True)
class Touched:
    """How many elements scripts wrote, and asked for; `ranges` are how many each range may have held."""

    written: int = 0
    asked: int = 0
    ranges: list[int] = field(default_factory=list)

    def add(self, words: list[bytes]) -> None:
        name = words[0].upper()
        if name in WRITES:
            self.written += WRITES[name](len(words))
        elif name in READS:
            self.asked += READS[name](len(words))
        else:
            assert name in (b"ZRANGE", b"ZREVRANGE"), f"{name!r}: how many elements does it touch?"
            self.ranges.append(int(words[3]) - int(words[2]) + 1)


@asynccontextmanager
async def monitored(redis_url: str) -> AsyncIterator[Callable[[Resources], Awaitable[Touched]]]:
    """Watch the commands of scripts, and beside them; the callable tells what they touched since it was
    called last."""
    reader, writer = await asyncio.open_unix_connection(unquote(urlsplit(redis_url).path), limit=1 << 24)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"

    async def touched(parts: Resources) -> Touched:
        await parts.redis.echo("until here")
        found = Touched()
        while b'"until here"' not in (line := await reader.readline()):
            if (ran := _RAN.match(line)) is not None:
                found.add(_WORD.findall(ran[1]))
        return found

    try:
        yield touched
    finally:
        writer.close()
        await writer.wait_closed()


async def filled(talk: Talk, comments: int, in_flight: int = 200) -> list[UUID]:
    """Post roots, replies to recent ones, and chains that go DEPTH deep; the ids of the last chain."""
    chain: list[UUID] = []
    slots = asyncio.Semaphore(in_flight)
    async with asyncio.TaskGroup() as group:

        async def one(author: str, body: str, to: UUID | None) -> None:
            try:
                await talk.post(author, body, to=to)
            finally:
                slots.release()

        for number in range(comments - DEPTH):
            await slots.acquire()
            known = len(talk.ids)
            to = talk.ids[known - 1 - number % min(known, 50)] if known and number % 3 else None
            group.create_task(one(f"author-{number % 100}", f"number *{number}*", to))
    for number in range(DEPTH):
        chain.append(await talk.post("ann", f"deep, {number}", to=chain[-1] if chain else None))
    return chain


@dataclass(slots=True)
class Spy:
    """Which of the large pieces of work ran on the event loop's thread."""

    loop_thread: int
    calls: Counter[str] = field(default_factory=Counter)
    on_loop: list[tuple[str, int]] = field(default_factory=list)

    def watch(self, patch: pytest.MonkeyPatch, module: Any, name: str, size_of: Callable[..., int]) -> None:
        """Look at every call of a function on its way."""
        original = getattr(module, name)

        def looked_at(*arguments: Any, **named: Any) -> Any:
            size = size_of(*arguments)
            self.calls[name] += 1
            if size > fold.OFF_LOOP and threading.get_ident() == self.loop_thread:
                self.on_loop.append((name, size))
            return original(*arguments, **named)

        patch.setattr(module, name, looked_at)


def _comments_of(thread: ThreadState, *_: object) -> int:
    return len(thread.comments)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    found = Spy(threading.get_ident())
    found.watch(monkeypatch, advance, "evolve_all", lambda _, events: len(events))
    found.watch(monkeypatch, longthread, "_fold", lambda _, events: len(events))
    found.watch(monkeypatch, advance, "fold", lambda _thread, _parents, events: len(events))
    found.watch(monkeypatch, advance, "FoldIndex", _comments_of)
    found.watch(monkeypatch, fold, "_nodes", lambda comments, *_: len(comments))
    return found


@pytest.mark.parametrize(
    "comments", [pytest.param(10_000, id="10k"), pytest.param(100_000, id="100k", marks=pytest.mark.slow)]
)
async def test_a_large_thread_is_appended_to_and_read_by_the_page(
    database_url: str, redis_url: str, spy: Spy, comments: int
) -> None:
    async with resources(settings_of(database_url, redis_url)) as parts, talking(parts) as talk:
        chain = await filled(talk, comments)
        stream_id, reader = talk.stream_id, parts.reader

        # A cold read is answered from the log; the view that it asks for is built by a worker, away from the
        # event loop.
        first = await reader.page(stream_id, PageRequest(limit=100, replies=20, depth=10))
        assert first.head is not None
        assert first.head.visible == comments
        assert (reader.cold, reader.cold_reads.asked, parts.projector.rebuilds) == (1, 1, 0)
        assert await parts.projector.follow(stream_id) is not None
        assert parts.projector.rebuilds == 1
        folds = "_fold" if comments > longthread.LONG else "evolve_all"
        assert spy.calls[folds] >= comments // fold.CHUNK
        assert spy.calls["_nodes"] >= comments // advance.WRITE
        assert spy.on_loop == []

        async with monitored(redis_url) as touched:
            # One reply, at the bottom of the deepest chain.
            reply = await talk.post("bob", "at the bottom", to=chain[-1])
            head = await parts.projector.advance(stream_id)
            assert head is not None
            assert head.version == comments + 1
            change = await touched(parts)
            # For each of those above: how many lie below it, and its place among its siblings by that.
            assert 0 < change.written <= 2 * DEPTH + 10
            assert change.asked <= 6 * DEPTH + 30
            assert change.ranges in ([], [FIRST])  # the first replies of its parent

            # Pages, first and last, from either end, and one comment.
            for request in (
                PageRequest(limit=100, replies=20, depth=10),
                PageRequest(sort="newest", limit=20),
                PageRequest(parent_id=chain[DEPTH // 2], replies=3, depth=3),
            ):
                page = await reader.page(stream_id, request)
                shown = len(page.selection.picked)
                read = await touched(parts)
                assert read.written == 0
                assert 0 < shown <= MAX_PAGE
                assert read.asked <= 4 * shown + 100
                assert len(read.ranges) <= shown + 1
                assert max(read.ranges) <= 100
            one = await reader.comment(stream_id, reply)
            assert one.picked.parent == head.version - 1
            read = await touched(parts)
            assert read.asked <= 2 * DEPTH + 20
        assert (reader.cold, parts.projector.rebuilds) == (1, 1)

        # What is folded in memory, where Redis is away, is the same, and is as much off the loop.
        request = PageRequest(limit=100, replies=20, depth=10)
        whole = await parts.projector.whole(stream_id)
        selection = await parts.projector.page(whole, request)
        assert selection == (await reader.page(stream_id, request)).selection
        assert spy.on_loop == []
