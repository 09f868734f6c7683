"""All that a view holds, read in slices, to be compared with what the log makes of it."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable
from typing import Final, cast
from uuid import UUID

from redis.asyncio import Redis

from services.core.page import Row
from services.core.ranking import RANKED
from services.readmodel import keys
from services.readmodel.frames import FrameDamaged, Frames, place

_SCAN: Final = 500
_RANGE: Final = 5_000
_ID_BYTES: Final = 16


class Dump:
    """One build of a thread's view. What is damaged comes out as it is stored."""

    def __init__(self, redis: Redis, stream_id: UUID, build: str) -> None:
        self._redis = redis
        self._stream_id = stream_id
        self._build = build
        self._frames = Frames()

    async def rows(self) -> AsyncIterator[Row]:
        """Everything in the view, to be compared with `FoldIndex.rows`; in no order, and some perhaps twice.

        It is read in slices: compare only if the head is the same before and after.
        """
        [size] = await cast(
            Awaitable[list[bytes | None]], self._redis.hmget(keys.head(self._stream_id), ["size"])
        )
        yield Row("size", 0, (size or b"").decode(errors="replace"))
        async for field, stored in self._elements(keys.nodes(self._stream_id, self._build)):
            yield Row("nodes", _version(field), self._unpacked(stored))
        async for field, posted in self._elements(keys.ids(self._stream_id, self._build)):
            yield Row("ids", UUID(bytes=field) if len(field) == _ID_BYTES else field, _version(posted))
        async for field, author in self._elements(keys.overlay(self._stream_id, self._build)):
            yield Row("overlay", _version(field), author.decode(errors="replace"))
        async for row in self._lists(0):
            yield row
        async for field, record in self._elements(keys.descendants(self._stream_id, self._build)):
            parent = _version(field)
            yield Row("descendants", parent, _record(record))
            if isinstance(parent, int):
                async for row in self._lists(parent):
                    yield row

    async def _elements(self, key: str) -> AsyncIterator[tuple[bytes, bytes]]:
        cursor = -1
        while cursor:
            cursor, slice_ = await cast(
                Awaitable[tuple[int, dict[bytes, bytes]]],
                self._redis.hscan(key, cursor=max(cursor, 0), count=_SCAN),
            )
            for element in slice_.items():
                yield element

    async def _lists(self, parent: int) -> AsyncIterator[Row]:
        """The lists of the replies to `parent`, those that there are."""
        for of in keys.LISTS:
            key = keys.children(self._stream_id, self._build, parent, of)
            places: list[tuple[int | float | bytes, ...]] = []
            while True:
                slice_ = cast(
                    list[tuple[bytes, float]],
                    await self._redis.zrange(key, len(places), len(places) + _RANGE - 1, withscores=True),
                )
                for member, score in slice_:
                    if of == "order":
                        places.append((_version(member), float(score)))
                    else:
                        created, posted = member[:-4], member[-4:]
                        places.append(
                            (_version(posted), -float(score), float(int.from_bytes(created, "big")))
                        )
                if len(slice_) < _RANGE:
                    break
            if places:
                yield Row(of, parent, tuple(places))

    def _unpacked(self, stored: bytes) -> object:
        """What is stored of a node: (parent, created_at in microseconds, node); or as it is."""
        try:
            return *place(stored), self._frames.unpack(stored)
        except FrameDamaged:
            return stored


def _version(stored: bytes) -> int | bytes:
    """A posting version; what stands in its place where it is damaged."""
    return int.from_bytes(stored, "big") if len(stored) == keys.POSTED_BYTES else stored


def _record(stored: bytes) -> object:
    """What :d holds of a comment, as `Row` tells it; as it is where it is damaged."""
    try:
        children, below, flags, *first = struct.unpack(f">IIB{(len(stored) - 9) // 4}I", stored)
    except struct.error:
        return stored
    sorts = tuple(sort for bit, sort in enumerate(RANKED) if flags >> bit & 1)
    return (children, below, sorts, tuple(first)) if flags < 1 << len(RANKED) else stored
