"""Several small views built and switched to together: as builds.py does it for one, in a few round trips for
all. Where a replay of many short threads went one by one, it would wait for Redis most of its time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from services.core.page import FoldIndex
from services.errors import Unavailable
from services.readmodel import keys
from services.readmodel.frames import Frames
from services.readmodel.layout import Layout, Rest
from services.readmodel.line import Line, packed
from services.readmodel.lua import LineScript, described, expectation
from services.readmodel.records import Head, Outcome
from services.readmodel.sending import Sending


@dataclass(frozen=True, slots=True)
class Made:
    """A thread's whole view, to stand in the place of `expected` (None: of none): the fold and its nodes."""

    stream_id: UUID
    expected: Head | None
    head: Head
    index: FoldIndex
    nodes: Mapping[int, bytes]


class Batches:
    """Puts views in the place of others, over a line of its own."""

    def __init__(self, redis: Redis, line: Line, frames: Frames) -> None:
        self._redis = redis
        self._line = line
        self._frames = frames
        self._switch = LineScript("switch", line)
        self._clear = LineScript("clear", line)

    async def replace(self, views: Sequence[Made]) -> list[Outcome]:
        """Write each of these views beside the one that serves and switch to it; what became of each.

        Raises Unavailable where the server is full, and redis.exceptions.RedisError.
        """
        tokens = [secrets.token_hex(4) for _ in views]
        new = [(one.stream_id, token) for one, token in zip(views, tokens, strict=True)]
        old = [(one.stream_id, one.expected.build) for one in views if one.expected is not None]
        try:
            # Before any of them is nobody's: should this process die, the sweeper finds them.
            await self._redis.zadd(
                keys.BUILDS, {f"{stream_id.hex}:{build}": time.time() for stream_id, build in new + old}
            )
            await self._write(views, tokens)
            outcomes = await self._switched(views, tokens)
        except OutOfMemoryError as error:
            await self._remove(new)
            raise Unavailable("the views' Redis is full") from error
        gone: list[tuple[UUID, str]] = []
        there: list[tuple[UUID, str]] = []
        for one, mine, outcome in zip(views, new, outcomes, strict=True):
            if outcome is not Outcome.APPLIED:
                gone.append(mine)
                continue
            there.append(mine)
            if one.expected is not None:
                gone.append((one.stream_id, one.expected.build))
        await self._remove(gone)
        await self._forget(there)
        return outcomes

    async def _write(self, views: Sequence[Made], tokens: Sequence[str]) -> None:
        sending = Sending(self._line)
        left: list[tuple[str, Rest]] = []
        try:
            for one, token in zip(views, tokens, strict=True):
                layout = Layout(one.index, keys.build(one.stream_id, token), self._frames)
                await sending.put(layout.nodes(one.nodes))
                rest = layout.rest()
                await sending.put(rest.counts)
                left.append((keys.unfinished(one.stream_id, token), rest))
            await sending.done()  # the counts are there: they name the keys of the lists
            for unfinished, rest in left:
                await sending.put(rest.lists)
                await sending.put([packed("HSET", unfinished, "size", rest.size)])
            await sending.done()
        finally:
            await sending.settle()

    async def _switched(self, views: Sequence[Made], tokens: Sequence[str]) -> list[Outcome]:
        # What was lost since it was written shows here: the switch counts what is there.
        answers = await self._switch.together(
            [
                (
                    [
                        keys.head(one.stream_id),
                        keys.unfinished(one.stream_id, token),
                        keys.build(one.stream_id, token),
                    ],
                    [
                        *expectation(one.expected),
                        *(one.head.version, one.head.hash, token),
                        *described(replace(one.head, build=token)),
                        len(one.nodes),
                    ],
                )
                for one, token in zip(views, tokens, strict=True)
            ]
        )
        return [Outcome(cast(bytes, answer).decode()) for answer in answers]

    async def _remove(self, builds: Sequence[tuple[UUID, str]]) -> None:
        """Unlink these registered builds, except where one is the thread's view after all."""
        await self._clear.together(
            [([keys.head(stream_id), keys.build(stream_id, build)], [build]) for stream_id, build in builds]
        )
        await self._forget(builds)

    async def _forget(self, builds: Sequence[tuple[UUID, str]]) -> None:
        if builds:
            await self._redis.zrem(keys.BUILDS, *(f"{stream_id.hex}:{build}" for stream_id, build in builds))
