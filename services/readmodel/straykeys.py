"""The keys in Redis that no view has: what a crash or a hand left behind, or a bug wrote.

Goes through every key of the database, a slice at a time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.readmodel import keys

_SCAN: Final = 1000
_AGAIN_S: Final = 0.2
"""Seconds after which a key that seemed to be nobody's is looked at again: it may have been on its way."""

_PREFIX: Final = f"tl:{keys.FORMAT}:"
_KEY: Final = re.compile(
    re.escape(_PREFIX).encode()
    + rb"\{(?P<stream>[0-9a-f]{32})\}:(?:head|lease|wanted|(?P<build>[0-9a-f]{8}):"
    + rb"(?:(?P<part>[nidoh])|(?P<list>[%b]):(?P<parent>.{4})))" % "".join(keys.LISTS.values()).encode(),
    re.DOTALL,
)


@dataclass(slots=True)
class Slice:
    """Some keys: the threads that have a head among them, and the keys that no view has."""

    threads: list[UUID] = field(default_factory=list)
    strays: list[bytes] = field(default_factory=list)


async def slices(redis: Redis) -> AsyncIterator[Slice]:
    """All keys of this release's format, some at a time. Raises redis.exceptions.RedisError."""
    cursor = -1
    while cursor:
        cursor, names = cast(
            tuple[int, list[bytes]], await redis.scan(max(cursor, 0), match=f"{_PREFIX}*", count=_SCAN)
        )
        ours = [name for name in names if name != keys.BUILDS.encode()]
        heads = [one for name in ours if name.endswith(b"}:head") and (one := _KEY.fullmatch(name))]
        found = Slice([UUID(one["stream"].decode()) for one in heads])
        if suspects := await _nobodys(redis, ours):
            await asyncio.sleep(_AGAIN_S)
            found.strays = await _nobodys(redis, suspects)
        if found.threads or found.strays:
            yield found


async def _nobodys(redis: Redis, names: list[bytes]) -> list[bytes]:
    """Those of these keys that are there, and belong to no view and to no build that is registered."""
    parsed = [(name, _KEY.fullmatch(name)) for name in names]
    of_builds = [(name, one) for name, one in parsed if one is not None and one["build"] is not None]
    strange = [name for name, one in parsed if one is None]
    async with redis.pipeline(transaction=False) as pipeline:
        for _, one in of_builds:
            stream_id, build = UUID(one["stream"].decode()), one["build"].decode()
            pipeline.hget(keys.head(stream_id), "build")
            pipeline.zscore(keys.BUILDS, f"{stream_id.hex}:{build}")
            pipeline.hexists(keys.descendants(stream_id, build), cast(str, one["parent"] or b""))
        for name in [*strange, *(name for name, _ in of_builds)]:
            pipeline.exists(name)
        answers = await pipeline.execute(raise_on_error=False)
    there = answers[3 * len(of_builds) :]
    found = [name for name, exists in zip(strange, there, strict=False) if exists]
    for number, (name, one) in enumerate(of_builds):
        head, registered, listed = answers[3 * number : 3 * number + 3]
        if not there[len(strange) + number] or registered is not None:
            continue
        if isinstance(head, ResponseError) or isinstance(listed, ResponseError):
            continue  # another key of this view is no hash, which is found where the view is compared
        is_view = head == one["build"]
        is_root = one["parent"] == keys.posted(0)
        if not is_view or one["part"] == b"h" or (one["list"] is not None and not is_root and not listed):
            found.append(name)
    return found
