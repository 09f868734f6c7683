"""The threads' views in Redis: read a page, apply a batch of changes, build one afresh, drop one.

The key map is in keys.py; how a view may be written by several at once, in scripts/write.lua and switch.lua.
Redis is disposable: a view is complete or absent, and whoever finds a part of one missing drops it.
Errors of the connection are let through as redis.exceptions.RedisError; the caller decides.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Collection, Iterable
from contextlib import suppress
from typing import Any, Final, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from services.core.node import decode
from services.core.page import MAX_PAGE, PageRequest, Picked, Placed, Selection
from services.core.thread import PATH_LENGTH
from services.errors import CursorInvalid, ParentNotFound
from services.readmodel import builds, keys
from services.readmodel.builds import Build
from services.readmodel.lua import Scripts, changed, described, expectation
from services.readmodel.records import Changes, Head, One, Outcome, Touched, whole

__all__ = ["Build", "Changes", "Head", "One", "Outcome", "Touched", "Views", "whole"]

_HEAD: Final = ["version", "hash", "build", "meta", "stale"]
_SCAN: Final = 500
_RANGE: Final = 5_000


class Views:
    """The views that one Redis (or Valkey) holds. `redis` must not decode answers."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)

    # --- heads ----------------------------------------------------------------------------------------

    async def head(self, stream_id: UUID) -> Head | None:
        """What the thread's view stands for; None where there is none."""
        return (await self.heads([stream_id])).get(stream_id)

    async def heads(self, stream_ids: Collection[UUID]) -> dict[UUID, Head]:
        """The heads of those threads that have a view, in one round trip."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for stream_id in stream_ids:
                pipeline.hmget(keys.head(stream_id), _HEAD)
            rows = cast(list[list[bytes | None]], await pipeline.execute())
        return {
            stream_id: Head.read(cast(list[bytes], fields))
            for stream_id, fields in zip(stream_ids, rows, strict=True)
            if None not in fields
        }

    async def park(self, stream_id: UUID, version: int) -> bool:
        """Mark the view stale if it stands at `version`; whether it did. Applying changes clears it."""
        return bool(await self._scripts.mark([keys.head(stream_id)], [version, "1"]))

    async def unpark(self, stream_id: UUID, version: int) -> bool:
        """Mark the view fresh if it stands at `version`; whether it did."""
        return bool(await self._scripts.mark([keys.head(stream_id)], [version, ""]))

    # --- reading --------------------------------------------------------------------------------------

    async def page(self, stream_id: UUID, request: PageRequest) -> tuple[Head, Selection] | None:
        """A page, in one round trip; None where the view is absent or, found incomplete, dropped.

        Raises ParentNotFound and CursorInvalid.
        """
        parent = request.parent_id
        answer = await self._read(
            stream_id,
            self._scripts.page(
                [keys.head(stream_id), keys.prefix(stream_id)],
                [
                    request.sort,
                    request.limit,
                    request.replies,
                    request.depth,
                    b"" if parent is None else parent.bytes,
                    "" if request.after is None else request.after,
                    MAX_PAGE,
                    PATH_LENGTH,
                ],
            ),
        )
        match answer:
            case [b"page", head, top, roots, more, path, *columns]:
                selection = Selection(
                    picked=tuple(map(Picked, *columns)),
                    roots=roots,
                    more=bool(more),
                    parent=top,
                    ancestors=_path(path),
                )
                return Head.read(head), selection
            case [b"parent"]:
                raise ParentNotFound(str(parent))
            case [b"cursor"]:
                raise CursorInvalid(f"version {request.after} posted no comment of this list")
        return None

    async def comment(self, stream_id: UUID, comment_id: UUID) -> One | None:
        """One comment; None where the view is absent or, found incomplete, dropped."""
        answer = await self._read(
            stream_id,
            self._scripts.comment(
                [keys.head(stream_id), keys.prefix(stream_id)], [comment_id.bytes, PATH_LENGTH]
            ),
        )
        match answer:
            case [b"comment", head, posted, parent, raw, count, below, path]:
                return One(Head.read(head), Picked(posted, parent, raw, count, below, 0, 0), _path(path))
            case [b"none", head]:
                return One(Head.read(head))
        return None

    # --- writing --------------------------------------------------------------------------------------

    async def touch(
        self, stream_id: UUID, head: Head, ids: Collection[UUID], parents: Iterable[int]
    ) -> Touched | None:
        """What a batch of events needs to go on from `head`: the nodes of the comments `ids`, and the
        ancestors of those posted at `parents`. None where the head is another by now, or the view incomplete,
        and then dropped."""
        asked = list(ids)
        answer: Any = await self._scripts.touch(
            [keys.head(stream_id), keys.nodes(stream_id, head.build), keys.ids(stream_id, head.build)],
            [*expectation(head), len(asked), *(one.bytes for one in asked), *parents],
        )
        match answer:
            case [b"touched", posted, raw, edges]:
                above = dict(zip(edges[::2], edges[1::2], strict=True))
                known = zip(asked, posted, raw, strict=True)
                return Touched(
                    nodes={one: (version, node) for one, version, node in known if version},
                    chains={parent: _chain(parent, above) for parent in parents if parent in above},
                )
            case [b"broken"]:
                await self.drop(stream_id, head.build)
        return None

    async def apply(self, stream_id: UUID, expected: Head, new: Head, changes: Changes) -> Outcome:
        """Take the view from `expected` to `new`, if it is at `expected`. It stays in its build."""
        build = expected.build
        answer = await self._scripts.write(
            [
                keys.head(stream_id),
                keys.nodes(stream_id, build),
                keys.ids(stream_id, build),
                keys.descendants(stream_id, build),
                keys.children(stream_id, build),
            ],
            [*expectation(expected), new.version, new.hash, *described(new), *changed(changes)],
        )
        return Outcome(cast(bytes, answer).decode())

    def build(self, stream_id: UUID) -> Build:
        """A new view of the thread, to be written beside the present one."""
        return Build(self._redis, self._scripts, stream_id)

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

    # --- looking at all of it -------------------------------------------------------------------------

    async def dump(self, stream_id: UUID, build: str) -> AsyncIterator[Placed]:
        """Every row of the view, to be compared with `FoldIndex.placed`; in no order, and some perhaps twice.

        It is read in slices: compare only if the head is the same before and after. Row 0 comes first.
        """
        ids = keys.ids(stream_id, build)
        count = await self._redis.hlen(ids)
        yield Placed(0, b"", count, 0, await self._children(stream_id, build, b"0"))
        cursor = -1
        while cursor:
            cursor, slice_ = await cast(
                Awaitable[tuple[int, dict[bytes, bytes]]],
                self._redis.hscan(keys.nodes(stream_id, build), cursor=max(cursor, 0), count=_SCAN),
            )
            if not slice_:
                continue
            known_as = await cast(
                Awaitable[list[bytes | None]],
                self._redis.hmget(ids, [decode(raw).id.bytes for raw in slice_.values()]),
            )
            below = await cast(
                Awaitable[list[bytes | None]],
                self._redis.hmget(keys.descendants(stream_id, build), list(slice_)),
            )
            for (posted, raw), known, count_below in zip(slice_.items(), known_as, below, strict=True):
                children = await self._children(stream_id, build, posted) if count_below else ()
                yield Placed(int(posted), raw, int(known or 0), int(count_below or 0), children)

    async def _children(self, stream_id: UUID, build: str, parent: bytes) -> tuple[tuple[int, float], ...]:
        key = keys.children(stream_id, build, parent.decode())
        children: list[tuple[int, float]] = []
        while True:
            start = len(children)
            slice_ = cast(
                list[tuple[bytes, float]],
                await self._redis.zrange(key, start, start + _RANGE - 1, withscores=True),
            )
            children += [(int.from_bytes(member, "big"), float(score)) for member, score in slice_]
            if len(slice_) < _RANGE:
                return tuple(children)

    async def _read(self, stream_id: UUID, answer: Awaitable[object]) -> Any:
        """The answer of a reading script, having dropped the view if it is incomplete."""
        match await answer:
            case [b"broken", bytes(build)]:
                await self.drop(stream_id, build.decode())
                return None
            case other:
                return other


def _path(nearest_first: list[bytes]) -> tuple[UUID, ...]:
    return tuple(UUID(one.decode()) for one in reversed(nearest_first))


def _chain(posted: int, above: dict[int, int]) -> tuple[int, ...]:
    chain = []
    while posted := above[posted]:
        chain.append(posted)
    return tuple(chain)
