"""A view built afresh beside the one that is read, and the unlinking of what is no longer a view.

A build's keys are nobody's until `switch` writes the head. A process that dies before leaves them behind, so
each build is first entered in the `builds` registry, and `sweep` retires what was not written for an hour.
Retiring deletes the nodes in the same script that sees that no head names the build: a builder who only slept
finds its build gone at the switch, and never makes a view of what is left of it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from services.core.page import FoldIndex
from services.errors import Unavailable
from services.readmodel import keys
from services.readmodel.frames import Frames
from services.readmodel.layout import Layout
from services.readmodel.line import Line, packed
from services.readmodel.lua import NOBODY, Scripts, changed, described, expectation
from services.readmodel.records import Changes, Head, Outcome
from services.readmodel.sending import CALL_BYTES, Sending

ABANDONED_SECONDS: Final = 3600
"""A build that nobody wrote for this long is abandoned. Longer than clocks differ."""

_REGISTER_SECONDS: Final = 60
_SLICE: Final = 500


class Build:
    """A view under construction: `write` all its comments, each once, or `fill` it, then `switch` to it or
    `discard` it.

    Where the server is full, both discard it and raise Unavailable.
    """

    def __init__(self, redis: Redis, line: Line, scripts: Scripts, stream_id: UUID) -> None:
        self.token = secrets.token_hex(4)
        self._redis = redis
        self._line = line
        self._scripts = scripts
        self.stream_id = stream_id
        self._unfinished = keys.unfinished(stream_id, self.token)
        self._prefix = keys.build(stream_id, self.token)
        self._frames = Frames()
        self._comments = 0
        self._first = "first"
        self._registered = float("-inf")
        self._sending: asyncio.Future[object] | None = None

    async def stand(self, head: Head) -> Head:
        """Say what was written: the thread as `head` has it. From here on `Views.touch` and `Views.apply`
        bring it on, `beside` the view that serves. Raises as `write` does.
        """
        await self._written()
        head = replace(head, build=self.token)
        fields: list[str | bytes | int] = ["version", head.version, "hash", head.hash, "build", head.build]
        async with self._room():
            await self._redis.hset(self._unfinished, items=[*fields, "meta", head.meta(), "stale", ""])
        return head

    async def grown(self, comments: int) -> None:
        """Count the comments that a step beside has added."""
        self._comments += comments
        async with self._room():
            await self._registered_lately()

    async def fill(self, index: FoldIndex, nodes: AsyncIterator[Mapping[int, bytes]]) -> None:
        """Write the whole of a thread that is folded in memory; its nodes, by posting version, come some at a
        time. Raises as `write` does.
        """
        layout, sending = Layout(index, self._prefix, self._frames), Sending(self._line)
        try:
            async for some in nodes:
                self._comments += len(some)
                async with self._room():
                    await self._registered_lately()
                    await sending.put(layout.nodes(some))
            rest = layout.rest()
            async with self._room():
                await self._registered_lately()
                await sending.put(rest.counts)
                await sending.done()  # they name the keys of the lists
                await sending.put(rest.lists)
                await sending.put([packed("HSET", self._unfinished, "size", rest.size)])
                await sending.done()
        finally:
            await sending.settle()

    async def write(self, changes: Changes) -> None:
        """Send `changes`, once those before them are written; the next may be prepared meanwhile.

        Raises Unavailable and redis.exceptions.RedisError, perhaps for the changes before.
        """
        for slice_ in changes.slices(CALL_BYTES):
            await self._send(slice_)

    async def _send(self, changes: Changes) -> None:
        arguments = [*NOBODY, self._first, "", "", "", *changed(changes, self._frames)]
        self._first = ""
        self._comments += sum(comment.id is not None for comment in changes.comments)
        await self._written()
        async with self._room():
            await self._registered_lately()
        self._sending = asyncio.ensure_future(
            self._scripts.write([self._unfinished, self._prefix], arguments)
        )
        await asyncio.sleep(0)  # lets it go out

    async def _registered_lately(self) -> None:
        now = time.monotonic()
        if now - self._registered > _REGISTER_SECONDS:
            await register(self._redis, self.stream_id, self.token)
            self._registered = now

    async def switch(self, expected: Head | None, new: Head) -> Outcome:
        """Make this the thread's view, in the place of `expected` (None: of none), and unlink that one.

        `new.build` is filled in. After MOVED the build stays, to be brought up to date or discarded.
        Raises as `write` does.
        """
        await self._written()
        new = replace(new, build=self.token)
        arguments = [
            *expectation(expected),
            *(new.version, new.hash, new.build),
            *described(new),
            self._comments,
        ]
        names = [keys.head(self.stream_id), self._unfinished, self._prefix]
        async with self._room():
            if expected is not None:
                await register(self._redis, self.stream_id, expected.build)
            answer = await self._scripts.switch(names, arguments)
        outcome = Outcome(cast(bytes, answer).decode())
        if outcome is Outcome.MOVED:
            return outcome
        if outcome is not Outcome.APPLIED:
            # Where the client sent the script twice, this build may be the view after all: it then stays.
            await retire(self._redis, self._scripts, self.stream_id, self.token)
            return outcome
        if expected is not None:
            await retire(self._redis, self._scripts, self.stream_id, expected.build)
        await forget(self._redis, self.stream_id, self.token)
        return outcome

    async def discard(self) -> None:
        """Unlink what was written."""
        if self._sending is not None:
            await asyncio.wait([self._sending])
            self._sending.exception()
            self._sending = None
        await retire(self._redis, self._scripts, self.stream_id, self.token)

    async def _written(self) -> None:
        sending, self._sending = self._sending, None
        if sending is None:
            return
        async with self._room():
            if await sending == b"broken":
                await self.discard()
                raise Unavailable("the views' Redis loses keys")

    @asynccontextmanager
    async def _room(self) -> AsyncIterator[None]:
        """Give back the room that this build takes where there is no more."""
        try:
            yield
        except OutOfMemoryError as error:
            await self.discard()
            raise Unavailable("the views' Redis is full") from error


async def register(redis: Redis, stream_id: UUID, build: str) -> None:
    """Enter a build that may soon be nobody's, before it is."""
    await redis.zadd(keys.BUILDS, {f"{stream_id.hex}:{build}": time.time()})


async def forget(redis: Redis, stream_id: UUID, build: str) -> None:
    """Take a build that is a view, or gone, out of the registry."""
    await redis.zrem(keys.BUILDS, f"{stream_id.hex}:{build}")


async def retire(redis: Redis, scripts: Scripts, stream_id: UUID, build: str, *, drop: bool = False) -> None:
    """Unlink a registered build in slices, unless it is the thread's view; with `drop`, even then."""
    names = [
        keys.head(stream_id),
        keys.nodes(stream_id, build),
        keys.ids(stream_id, build),
        keys.overlay(stream_id, build),
        keys.unfinished(stream_id, build),
    ]
    if await scripts.retire(names, [build, "drop" if drop else ""]):
        below = keys.descendants(stream_id, build)
        lists = keys.lists(stream_id, build)
        cursor = -1
        while cursor:
            answer = await cast(
                Awaitable[tuple[int, dict[bytes, bytes]]],
                redis.hscan(below, cursor=max(cursor, 0), count=_SLICE),
            )
            cursor, parents = answer
            if parents:
                await redis.unlink(*(list_ + parent for parent in parents for list_ in lists))
        # The counts go last: they name the keys above, should this be cut short and begun again.
        await redis.unlink(*(list_ + keys.posted(0) for list_ in lists), below)
    await forget(redis, stream_id, build)


async def sweep(redis: Redis, scripts: Scripts, limit: int = 100) -> int:
    """Retire up to `limit` abandoned builds, as a crash leaves them; how many there were."""
    until = time.time() - ABANDONED_SECONDS
    abandoned = cast(list[bytes], await redis.zrangebyscore(keys.BUILDS, "-inf", until, start=0, num=limit))
    for member in abandoned:
        stream, build = member.decode().split(":")
        await retire(redis, scripts, UUID(stream), build)
    return len(abandoned)
