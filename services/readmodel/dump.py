"""All that views hold, to be compared with what the log makes of it. Nothing is changed, however damaged.

Small views come many at a time, each as it is at one moment (scripts/dump.lua); large ones are read in
slices.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final, Literal, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.core.page import Row
from services.core.ranking import RANKED, RankedSort
from services.readmodel import keys
from services.readmodel.frames import FrameDamaged, Frames, place
from services.readmodel.records import Head

SMALL: Final = 1_000
"""Comments of a view that is read in one call, at most: a call holds up the server."""

FIELDS: Final = ("version", "hash", "build", "meta", "stale", "size")

_SCAN: Final = 500
_RANGE: Final = 5_000
_ID_BYTES: Final = 16
_MEMBER_BYTES: Final = 12
_SORTS: Final = {letter.encode(): of for of, letter in keys.LISTS.items()}

Rows = dict[tuple[str, int | UUID | bytes], Row]
ListName = RankedSort | Literal["order"]


@dataclass(slots=True)
class Stored:
    """What is stored of one thread: the fields of its head (all None: there is no view), the head that they
    make (None: none), and everything else, unless the view is large. `damage` is what Redis says of keys that
    are of another type than they should be, by kind."""

    fields: list[bytes | None] = field(default_factory=lambda: [None] * len(FIELDS))
    head: Head | None = None
    rows: Rows | None = None
    damage: dict[str, str] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether there is anything where the head should be."""
        return bool(self.damage) or any(one is not None for one in self.fields)


class Dumps:
    """Reads the views in one Redis whole. Its methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._frames = Frames()
        path = files("services.readmodel").joinpath("scripts", "dump.lua")
        self._script = redis.register_script(path.read_text(encoding="utf-8"))

    async def small(self, stream_ids: Collection[UUID]) -> dict[UUID, Stored]:
        """The views of these threads, in one round trip; those that are not small come without their rows."""
        arguments: list[int | bytes] = [SMALL, *_SORTS]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for stream_id in stream_ids:
                names = [keys.head(stream_id), keys.prefix(stream_id)]
                await self._script(names, arguments, client=pipeline)
            answers = await pipeline.execute()
        return {one: self._stored(answer) for one, answer in zip(stream_ids, answers, strict=True)}

    async def large(self, stream_id: UUID, stored: Stored) -> Head | None:
        """Read the rows of a view whose head is known; its head afterwards.

        They are read in slices: where the version has moved, each may be of any version between the two;
        where the build is another, they are of no use.
        """
        assert stored.head is not None
        dump = Dump(self._redis, stream_id, stored.head.build)
        stored.rows = {row.key: row async for row in dump.rows()}
        stored.damage |= dump.damage
        return (await self.small([stream_id]))[stream_id].head

    def _stored(self, answer: Any) -> Stored:
        match answer:
            case [bytes(error)]:
                return Stored(damage={"head": error.decode(errors="replace")})
            case [fields]:
                return Stored(fields, Head.read(fields))
            case [fields, b"large"]:
                return Stored(fields, Head.read(fields))
            case [fields, nodes, ids, below, overlay, lists]:
                stored = Stored(fields, Head.read(fields), {})
                for kind, found in (
                    ("nodes", nodes),
                    ("ids", ids),
                    ("descendants", below),
                    ("overlay", overlay),
                ):
                    if isinstance(found, bytes):
                        stored.damage[kind] = found.decode(errors="replace")
                        continue
                    for name, value in zip(found[::2], found[1::2], strict=True):
                        self._put(stored, _row(kind, name, value, self._frames))
                for parent, letter, found in zip(lists[::3], lists[1::3], lists[2::3], strict=True):
                    of = _SORTS[letter]
                    if isinstance(found, bytes):
                        stored.damage[of] = found.decode(errors="replace")
                        continue
                    scored = zip(found[::2], map(float, found[1::2]), strict=True)
                    self._put(stored, _list(of, int.from_bytes(parent, "big"), scored))
                self._put(stored, Row("size", 0, (fields[5] or b"").decode(errors="replace")))
                return stored
        raise AssertionError(f"dump.lua gave {answer!r}")

    def _put(self, stored: Stored, row: Row) -> None:
        assert stored.rows is not None
        stored.rows[row.key] = row


class Dump:
    """One build of a thread's view, in slices. What is damaged comes out as it is stored."""

    def __init__(self, redis: Redis, stream_id: UUID, build: str) -> None:
        self._redis = redis
        self._stream_id = stream_id
        self._build = build
        self._frames = Frames()
        self.damage: dict[str, str] = {}
        """The kinds of keys that hold something else than they should, and what Redis says of it."""

    async def rows(self) -> AsyncIterator[Row]:
        """Everything in the view, to be compared with `FoldIndex.rows`; in no order, and some perhaps twice.

        It is read in slices: compare only if the head is the same before and after.
        """
        [size] = await cast(
            Awaitable[list[bytes | None]], self._redis.hmget(keys.head(self._stream_id), ["size"])
        )
        yield Row("size", 0, (size or b"").decode(errors="replace"))
        for kind, key in (
            ("nodes", keys.nodes(self._stream_id, self._build)),
            ("ids", keys.ids(self._stream_id, self._build)),
            ("overlay", keys.overlay(self._stream_id, self._build)),
        ):
            async for name, value in self._elements(kind, key):
                yield _row(kind, name, value, self._frames)
        async for row in self._lists(0):
            yield row
        below = keys.descendants(self._stream_id, self._build)
        async for name, value in self._elements("descendants", below):
            row = _row("descendants", name, value, self._frames)
            yield row
            if isinstance(row.at, int):
                async for listed in self._lists(row.at):
                    yield listed

    async def _elements(self, kind: str, key: str) -> AsyncIterator[tuple[bytes, bytes]]:
        cursor = -1
        while cursor:
            try:
                cursor, slice_ = await cast(
                    Awaitable[tuple[int, dict[bytes, bytes]]],
                    self._redis.hscan(key, cursor=max(cursor, 0), count=_SCAN),
                )
            except ResponseError as error:
                self.damage[kind] = str(error)
                return
            for element in slice_.items():
                yield element

    async def _lists(self, parent: int) -> AsyncIterator[Row]:
        """The lists of the replies to `parent`, those that there are."""
        for of in keys.LISTS:
            key = keys.children(self._stream_id, self._build, parent, of)
            scored: list[tuple[bytes, float]] = []
            try:
                while True:
                    slice_ = cast(
                        list[tuple[bytes, float]],
                        await self._redis.zrange(key, len(scored), len(scored) + _RANGE - 1, withscores=True),
                    )
                    scored += slice_
                    if len(slice_) < _RANGE:
                        break
            except ResponseError as error:
                self.damage[of] = str(error)
            if scored:
                yield _list(of, parent, scored)


def _row(kind: str, name: bytes, value: bytes, frames: Frames) -> Row:
    """An element of a hash."""
    if kind == "ids":
        return Row(kind, UUID(bytes=name) if len(name) == _ID_BYTES else name, _version(value))
    if kind == "nodes":
        return Row(kind, _version(name), _unpacked(value, frames))
    if kind == "overlay":
        return Row(kind, _version(name), value.decode(errors="replace"))
    return Row(kind, _version(name), _record(value))


def _list(of: ListName, parent: int, scored: Iterable[tuple[bytes, float]]) -> Row:
    """A sorted set."""
    return Row(of, parent, tuple(_places(of, scored)))


def _places(of: ListName, scored: Iterable[tuple[bytes, float]]) -> Iterator[tuple[int | float | bytes, ...]]:
    for member, score in scored:
        if of == "order":
            yield _version(member), float(score)
        elif len(member) == _MEMBER_BYTES:
            created, posted = member[:-4], member[-4:]
            yield _version(posted), -float(score), float(int.from_bytes(created, "big"))
        else:
            yield member, -float(score), 0.0


def _unpacked(stored: bytes, frames: Frames) -> object:
    """What is stored of a node: (parent, created_at in microseconds, node); or as it is."""
    try:
        return *place(stored), frames.unpack(stored)
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
