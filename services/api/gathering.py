"""The comments of a list that goes through many threads, as their threads' views have them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

import structlog

from services.api.deps import Api
from services.errors import Overloaded, PoisonEvent, StreamBroken, ThreadParked, Unavailable
from services.projection.reader import OneComment

_AT_ONCE: Final = 50
"""Comments between two looks at the clock."""
_THREADS: Final = 4
"""Threads of one answer that are read at the same time: fewer than there are connections for all requests."""

_log = structlog.get_logger("threadlog.api")


async def gathered(
    api: Api, places: Sequence[tuple[UUID, UUID]], *, whole: bool = False
) -> list[OneComment | None]:
    """The comments at these places (thread, comment), None where one cannot be shown.

    Each may need its thread's view built. So only a few threads are read at the same time, and reading ends
    after `api.inbox_seconds`: the list may be shorter than what is asked for, never empty.

    A thread that cannot be read just now is left out, or, for a `whole` list, from which a comment that is
    left out is lost, raises Overloaded or Unavailable.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + api.inbox_seconds
    found: dict[tuple[UUID, UUID], OneComment] = {}
    slots = asyncio.Semaphore(_THREADS)

    async def read(stream_id: UUID, ids: Collection[UUID]) -> None:
        async with slots:
            for comment_id, one in (await _of_thread(api, stream_id, list(ids), whole=whole)).items():
                found[stream_id, comment_id] = one

    comments: list[OneComment | None] = []
    for start in range(0, len(places), _AT_ONCE):
        if start and loop.time() >= until:
            break
        some = places[start : start + _AT_ONCE]
        threads: dict[UUID, dict[UUID, None]] = {}
        for stream_id, comment_id in some:
            if (stream_id, comment_id) not in found:
                threads.setdefault(stream_id, {})[comment_id] = None
        await asyncio.gather(*(read(stream_id, ids) for stream_id, ids in threads.items()))
        comments += map(found.get, some)
    return comments


async def _of_thread(api: Api, stream_id: UUID, ids: list[UUID], *, whole: bool) -> dict[UUID, OneComment]:
    try:
        return await api.reader.comments(stream_id, ids)
    except (Overloaded, PoisonEvent, StreamBroken, ThreadParked, Unavailable) as error:
        if whole and isinstance(error, Overloaded | Unavailable):
            raise
        # One thread that cannot be shown is no reason to withhold what happened in all the others.
        _log.warning("a list is answered without a thread", error=type(error).__name__)
        return {}
