"""What Redis holds of threads beside their views: text that an erasure must find, though nobody is served it.

Builds that are not, or no longer, a view stand in the registry (`builds`): one under way, or one that a crash
left. Views in the formats of other releases stand in no list, and are looked for.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, cast
from uuid import UUID

from redis.asyncio import Redis

from services.readmodel import builds, keys
from services.readmodel.lua import Scripts

_SCAN: Final = 1000
_OF_THREAD: Final = re.compile(rb"tl:([^:]+):\{([0-9a-f]{32})\}:")


@dataclass(frozen=True, slots=True)
class Registered:
    """A build that is not a view; `written` is when it was entered last, in Unix seconds."""

    stream_id: UUID
    build: str
    written: float


class Remains:
    """What is left over in one Redis. `redis` must not decode answers."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)

    async def builds(self) -> list[Registered]:
        """The builds that the registry knows of: those under way, and those that a crash left."""
        found = cast(list[tuple[bytes, float]], await self._redis.zrange(keys.BUILDS, 0, -1, withscores=True))
        entries = []
        for member, written in found:
            stream, _, build = member.decode().partition(":")
            entries.append(Registered(UUID(stream), build, float(written)))
        return entries

    async def retire(self, one: Registered) -> None:
        """Unlink a build, unless it has become its thread's view. Who still writes it begins anew."""
        await builds.retire(self._redis, self._scripts, one.stream_id, one.build)

    async def other_formats(self) -> AsyncIterator[dict[UUID, list[bytes]]]:
        """The keys of views in other formats than this release's, by thread, some at a time.

        Goes through every key of the database.
        """
        present = keys.FORMAT.encode()
        cursor = -1
        while cursor:
            cursor, names = cast(
                tuple[int, list[bytes]], await self._redis.scan(max(cursor, 0), match="tl:*", count=_SCAN)
            )
            found: dict[UUID, list[bytes]] = {}
            for name in names:
                named = _OF_THREAD.match(name)
                if named is not None and named[1] != present:
                    found.setdefault(UUID(named[2].decode()), []).append(name)
            if found:
                yield found

    async def unlink(self, names: list[bytes]) -> None:
        """Remove these keys. A view that loses one is absent; whoever reads that format builds it again."""
        await self._redis.unlink(*names)
