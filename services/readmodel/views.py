"""The threads' views in Redis: read a page, apply a batch of changes, build one afresh, drop one.

The key map is in keys.py; how a view may be written by several at once, in scripts/write.lua and switch.lua.
Redis is disposable: a view is complete or absent, and whoever finds a part of one missing drops it.
Errors of the connection are let through as redis.exceptions.RedisError; the caller decides.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import OutOfMemoryError

from services.core.node import ID
from services.core.page import PageRequest, Picked, Row, Selection
from services.core.thread import PATH_LENGTH
from services.errors import Unavailable
from services.readmodel import builds, keys
from services.readmodel.batches import Batches, Made
from services.readmodel.builds import Build
from services.readmodel.dump import Dump, Dumps
from services.readmodel.frames import FrameDamaged, Frames
from services.readmodel.leases import Leases
from services.readmodel.line import Line
from services.readmodel.lua import Scripts, changed, described, expectation
from services.readmodel.pages import HEAD, Pages, ViewBroken
from services.readmodel.recency import Recency
from services.readmodel.records import Changes, Head, One, Outcome, Touched, build_of, whole
from services.readmodel.resting import RestingPool
from services.readmodel.straykeys import Slice, slices

__all__ = ["Build", "Changes", "Head", "One", "Outcome", "Touched", "Views", "whole"]


class Views:
    """The views that one Redis (or Valkey) holds. `redis` must not decode answers."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)
        self._frames = Frames()
        self._pages = Pages(redis, self._frames)
        # Not that of the pages: what is written would keep their readers waiting.
        self._line = Line(redis.connection_pool)
        self._batches = Batches(redis, self._line, self._frames)
        self.leases = Leases(redis)
        self.recency = Recency(redis)
        self.dumps = Dumps(redis)

    @property
    def resting(self) -> bool:
        """Whether Redis is left alone, since it did not answer (resting.py)."""
        pool = self._redis.connection_pool
        return isinstance(pool, RestingPool) and pool.resting

    @property
    def faults(self) -> int:
        """How often Redis did not answer somebody."""
        pool = self._redis.connection_pool
        return pool.faults if isinstance(pool, RestingPool) else 0

    # --- heads ----------------------------------------------------------------------------------------

    async def head(self, stream_id: UUID) -> Head | None:
        """What the thread's view stands for; None where there is none."""
        return (await self.heads([stream_id])).get(stream_id)

    async def heads(self, stream_ids: Collection[UUID]) -> dict[UUID, Head]:
        """The heads of those threads that have a view, in one round trip. A damaged head goes."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for stream_id in stream_ids:
                pipeline.hmget(keys.head(stream_id), list(HEAD))
            rows = cast(list[list[bytes | None]], await pipeline.execute())
        heads: dict[UUID, Head] = {}
        for stream_id, fields in zip(stream_ids, rows, strict=True):
            if any(field is not None for field in fields):
                head = await self._head(stream_id, fields)
                if head is not None:
                    heads[stream_id] = head
        return heads

    async def park(self, stream_id: UUID, version: int) -> bool:
        """Mark the view stale if it stands at `version`; whether it did. Applying changes clears it."""
        return bool(await self._scripts.mark([keys.head(stream_id)], [version, "1"]))

    async def unpark(self, stream_id: UUID, version: int) -> bool:
        """Mark the view fresh if it stands at `version`; whether it did."""
        return bool(await self._scripts.mark([keys.head(stream_id)], [version, ""]))

    # --- reading --------------------------------------------------------------------------------------

    async def page(self, stream_id: UUID, request: PageRequest) -> tuple[Head, Selection] | None:
        """A page, in two round trips; None where the view is absent or, found incomplete, dropped.

        Raises ParentNotFound, CommentNotFound and CursorInvalid.
        """
        try:
            return await self._pages.page(stream_id, request)
        except ViewBroken as broken:
            await self._drop(stream_id, broken.build)
            return None

    async def comment(self, stream_id: UUID, comment_id: UUID) -> One | None:
        """One comment; None where the view is absent or, found incomplete, dropped."""
        answer = await self._read(
            stream_id,
            self._scripts.comment(
                [keys.head(stream_id), keys.prefix(stream_id)], [comment_id.bytes, PATH_LENGTH]
            ),
        )
        return await self._one(stream_id, answer)

    async def comments(self, stream_id: UUID, ids: Sequence[UUID]) -> list[One] | None:
        """Several comments, in one round trip, each as of a moment of its own; None where the view is absent
        or, found incomplete, dropped."""
        script = cast(AsyncScript, self._scripts.comment)
        names = [keys.head(stream_id), keys.prefix(stream_id)]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for comment_id in ids:
                await script(names, [comment_id.bytes, PATH_LENGTH], client=pipeline)
            answers = await pipeline.execute()
        found: list[One] = []
        for answer in answers:
            if isinstance(answer, list) and answer[0] == b"broken":
                await self._drop(stream_id, answer[1])
            one = await self._one(stream_id, answer)
            if one is None:
                return None
            found.append(one)
        return found

    async def _one(self, stream_id: UUID, answer: Any) -> One | None:
        """What comment.lua answered."""
        match answer:
            case [b"comment", fields, posted, parent, counts, nodes]:
                head = await self._head(stream_id, fields)
                if head is None:
                    return None
                try:
                    raw = self._frames.unpack(nodes[0])
                    path = self._path(nodes[1:])
                except FrameDamaged:
                    await self.drop(stream_id, head.build)
                    return None
                children, below = struct.unpack_from(">II", counts) if counts else (0, 0)
                picked = Picked(
                    int.from_bytes(posted, "big"), int.from_bytes(parent, "big"), raw, children, below, 0
                )
                return One(head, picked, path)
            case [b"none", fields]:
                head = await self._head(stream_id, fields)
                return None if head is None else One(head)
        return None

    def _path(self, nearest_first: list[bytes]) -> tuple[UUID, ...]:
        """The ids of these stored nodes. Raises FrameDamaged."""
        nodes = self._frames.unpack_all(nearest_first[::-1])
        return tuple(UUID(node[ID].decode()) for node in nodes)

    # --- writing --------------------------------------------------------------------------------------

    async def touch(
        self,
        stream_id: UUID,
        head: Head,
        ids: Collection[UUID],
        parents: Iterable[int],
        *,
        beside: bool = False,
    ) -> Touched | None:
        """What a batch of events needs to go on from `head`: the nodes of the comments `ids`, and the
        ancestors of those posted at `parents`. None where the head is another by now, or the view incomplete,
        and then dropped. With `beside` it is that of a build which stands beside the view."""
        asked = list(ids)
        answer: Any = await self._scripts.touch(
            _names(stream_id, head.build, beside=beside),
            [
                *expectation(head),
                len(asked),
                *(one.bytes for one in asked),
                *(keys.posted(parent) for parent in parents),
            ],
        )
        match answer:
            case [b"touched", posted, stored, edges]:
                numbers = struct.unpack(f">{len(edges) // 4}I", edges)
                above = dict(zip(numbers[::2], numbers[1::2], strict=True))
                try:
                    return Touched(
                        nodes={
                            one: (int.from_bytes(version, "big"), self._frames.unpack(node))
                            for one, version, node in zip(asked, posted, stored, strict=True)
                            if version
                        },
                        chains={parent: _chain(parent, above) for parent in parents if parent in above},
                    )
                except FrameDamaged:
                    await self.drop(stream_id, head.build)
            case [b"broken"]:
                await self.drop(stream_id, head.build)
        return None

    async def apply(
        self, stream_id: UUID, expected: Head, new: Head, changes: Changes, *, beside: bool = False
    ) -> Outcome:
        """Take the view, or the build `beside` it, from `expected` to `new`, if it is at `expected`. It stays
        in its build.

        A view that lost a part, and one that a full server has no room to bring up, is dropped: ABSENT.
        """
        build = expected.build
        names = _names(stream_id, build, beside=beside)
        arguments = [
            *expectation(expected),
            *(new.version, new.hash),
            *described(new),
            *changed(changes, self._frames),
        ]
        try:
            answer = await self._scripts.write(names, arguments)
        except OutOfMemoryError:
            answer = b"broken"  # else it would be served as it is for ever, and nothing would tell its age
        if answer == b"broken":
            await self.drop(stream_id, build)
            return Outcome.ABSENT
        return Outcome(cast(bytes, answer).decode())

    def build(self, stream_id: UUID) -> Build:
        """A new view of the thread, to be written beside the present one."""
        return Build(self._redis, self._line, self._scripts, stream_id)

    async def replace(self, made: Sequence[Made]) -> list[Outcome]:
        """Put these small views in the place of what serves, together; what became of each.

        Raises Unavailable where the server is full.
        """
        try:
            await self.recency.read([one.stream_id for one in made])
        except OutOfMemoryError as error:
            raise Unavailable("the views' Redis is full") from error
        return await self._batches.replace(made)

    async def drop(self, stream_id: UUID, build: str | None = None) -> None:
        """Delete the thread's view, if it is `build` where that is given: first the head, then the rest in
        slices."""
        if build is None:
            head = await self.head(stream_id)
            if head is None:
                return
            build = head.build
        with suppress(OutOfMemoryError):  # dropping frees memory: a full server is no reason not to
            await builds.register(self._redis, stream_id, build)
        await builds.retire(self._redis, self._scripts, stream_id, build, drop=True)

    async def sweep(self, limit: int = 100) -> int:
        """Unlink up to `limit` builds that a crash left behind; how many there were."""
        return await builds.sweep(self._redis, self._scripts, limit)

    def all_keys(self) -> AsyncIterator[Slice]:
        """All keys of this release's format: see `straykeys`."""
        return slices(self._redis)

    async def unlink(self, names: Collection[bytes]) -> None:
        """Remove keys that no view has, as `all_keys` tells of them."""
        if names:
            await self._redis.unlink(*names)

    def dump(self, stream_id: UUID, build: str) -> AsyncIterator[Row]:
        """Everything in the view: see `Dump`."""
        return Dump(self._redis, stream_id, build).rows()

    async def _head(self, stream_id: UUID, fields: list[bytes | None]) -> Head | None:
        """The head as stored. A damaged one goes, with the view that it names: no other could take its
        place else."""
        head = Head.read(fields)
        if head is None:
            await self._drop(stream_id, fields[2])
        return head

    async def _drop(self, stream_id: UUID, build: bytes | None) -> None:
        """Drop a view by what its head says of the build, damaged as that may be."""
        named = build_of(build)
        if named is None:
            await self._redis.unlink(keys.head(stream_id))
        else:
            await self.drop(stream_id, named)

    async def _read(self, stream_id: UUID, answer: Awaitable[object]) -> Any:
        """The answer of a reading script, having dropped the view if it is incomplete."""
        match await answer:
            case [b"broken", bytes(build)]:
                await self._drop(stream_id, build)
                return None
            case other:
                return other


def _names(stream_id: UUID, build: str, *, beside: bool) -> list[str]:
    own = keys.unfinished(stream_id, build) if beside else keys.head(stream_id)
    return [own, keys.build(stream_id, build)]


def _chain(posted: int, above: dict[int, int]) -> tuple[int, ...]:
    chain = []
    while posted := above[posted]:
        chain.append(posted)
    return tuple(chain)
