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
from services.readmodel.records import Changes, Head, One, Outcome, Touched, build_of, whole

__all__ = ["Build", "Changes", "Head", "One", "Outcome", "Touched", "Views", "whole"]

_HEAD: Final = ["version", "hash", "build", "meta", "stale", "size"]
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
        """The heads of those threads that have a view, in one round trip. A damaged head goes."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for stream_id in stream_ids:
                pipeline.hmget(keys.head(stream_id), _HEAD)
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
                    "" if request.after is None else request.after.posted,
                    MAX_PAGE,
                    PATH_LENGTH,
                ],
            ),
        )
        match answer:
            case [b"page", head, top, roots, more, path, *columns]:
                selection = Selection(
                    picked=tuple(map(Picked, *columns[:-1])),
                    roots=roots,
                    more=bool(more),
                    parent=top,
                    ancestors=_path(path),
                )
                read = await self._head(stream_id, head)
                return None if read is None else (read, selection)
            case [b"parent"]:
                raise ParentNotFound(str(parent))
            case [b"cursor"]:
                raise CursorInvalid(f"{request.after} posted no comment of this list")
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
                picked = Picked(posted, parent, raw, count, below, 0)
                read = await self._head(stream_id, head)
                return None if read is None else One(read, picked, _path(path))
            case [b"none", head]:
                read = await self._head(stream_id, head)
                return None if read is None else One(read)
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
            [
                keys.head(stream_id),
                keys.nodes(stream_id, head.build),
                keys.ids(stream_id, head.build),
                keys.descendants(stream_id, head.build),
                keys.children(stream_id, head.build, 0),
            ],
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
        """Take the view from `expected` to `new`, if it is at `expected`. It stays in its build.

        A view that lost a part, and one that a full server has no room to bring up, is dropped: ABSENT.
        """
        build = expected.build
        names = [
            keys.head(stream_id),
            keys.nodes(stream_id, build),
            keys.ids(stream_id, build),
            keys.descendants(stream_id, build),
            keys.children(stream_id, build),
        ]
        arguments = [*expectation(expected), new.version, new.hash, *described(new), *changed(changes)]
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
                self._redis.hmget(ids, [_id_in(raw) for raw in slice_.values()]),
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


def _id_in(raw: bytes) -> bytes:
    """The id in a node; nothing where the node is damaged, which then leads nowhere."""
    try:
        return decode(raw).id.bytes
    except ValueError:
        return b""


def _path(nearest_first: list[bytes]) -> tuple[UUID, ...]:
    return tuple(UUID(one.decode()) for one in reversed(nearest_first))


def _chain(posted: int, above: dict[int, int]) -> tuple[int, ...]:
    chain = []
    while posted := above[posted]:
        chain.append(posted)
    return tuple(chain)
