"""Several small views built and switched to together: as builds.py does it for one, in a few round trips for
all. Where a replay of many short threads went one by one, it would wait for Redis most of its time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import OutOfMemoryError, RedisError

from services.errors import Unavailable
from services.readmodel import keys
from services.readmodel.builds import CALL_BYTES
from services.readmodel.frames import Frames
from services.readmodel.lua import NOBODY, Scripts, changed, described, expectation
from services.readmodel.records import Changes, Head, Outcome


@dataclass(frozen=True, slots=True)
class Made:
    """A thread's whole view, to stand in the place of `expected` (None: of none)."""

    stream_id: UUID
    expected: Head | None
    head: Head
    changes: Changes


async def replace_all(redis: Redis, scripts: Scripts, frames: Frames, views: Sequence[Made]) -> list[Outcome]:
    """Write each of these views beside the one that serves and switch to it; what became of each.

    Raises Unavailable where the server is full, and redis.exceptions.RedisError.
    """
    tokens = [secrets.token_hex(4) for _ in views]
    new = [(one.stream_id, token) for one, token in zip(views, tokens, strict=True)]
    old = [(one.stream_id, one.expected.build) for one in views if one.expected is not None]
    try:
        # Before any of them is nobody's: should this process die, the sweeper finds them.
        await redis.zadd(
            keys.BUILDS, {f"{stream_id.hex}:{build}": time.time() for stream_id, build in new + old}
        )
        outcomes = await _switched(redis, scripts, frames, views, tokens)
    except OutOfMemoryError as error:
        await _clear(redis, scripts, new)
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
    await _clear(redis, scripts, gone)
    await _forget(redis, there)
    return outcomes


async def _switched(
    redis: Redis, scripts: Scripts, frames: Frames, views: Sequence[Made], tokens: Sequence[str]
) -> list[Outcome]:
    write, switch = cast(AsyncScript, scripts.write), cast(AsyncScript, scripts.switch)
    last: list[int] = []
    async with redis.pipeline(transaction=False) as pipeline:
        count = 0
        for one, token in zip(views, tokens, strict=True):
            unfinished, prefix = keys.unfinished(one.stream_id, token), keys.build(one.stream_id, token)
            first = "first"
            for part in one.changes.slices(CALL_BYTES):
                await write(
                    [unfinished, prefix],
                    [*NOBODY, first, "", "", "", *changed(part, frames)],
                    client=pipeline,
                )
                first = ""
                count += 1
            head = replace(one.head, build=token)
            await switch(
                [keys.head(one.stream_id), unfinished, prefix],
                [
                    *expectation(one.expected),
                    *(head.version, head.hash, head.build),
                    *described(head),
                    len(one.changes.comments),
                ],
                client=pipeline,
            )
            last.append(count)
            count += 1
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, RedisError):
            raise answer
    # A part that was refused, or lost since, shows in the switch: it counts what is there.
    return [Outcome(cast(bytes, answers[place]).decode()) for place in last]


async def _clear(redis: Redis, scripts: Scripts, builds: Sequence[tuple[UUID, str]]) -> None:
    """Unlink these registered builds, except where one is the thread's view after all."""
    if not builds:
        return
    clear = cast(AsyncScript, scripts.clear)
    async with redis.pipeline(transaction=False) as pipeline:
        for stream_id, build in builds:
            await clear([keys.head(stream_id), keys.build(stream_id, build)], [build], client=pipeline)
        await pipeline.execute()
    await _forget(redis, builds)


async def _forget(redis: Redis, builds: Sequence[tuple[UUID, str]]) -> None:
    if builds:
        await redis.zrem(keys.BUILDS, *(f"{stream_id.hex}:{build}" for stream_id, build in builds))
