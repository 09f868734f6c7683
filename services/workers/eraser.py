"""The eraser: carries out erasures, from the key that is destroyed to the last trace in Redis.

Each worker process looks once a second for an erasure that nobody works on, and leases it for some seconds;
while it works, it renews the lease. A worker that is killed, or frozen, loses it, and another goes on. Two at
once do no harm: what is left to do stands in the tables, and no comment is erased twice.

Nothing here opens a text, and no text can come back: the key is gone, every view that is brought up to
CommentErased has its node overwritten, and a projector that is still behind cannot write into such a view.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg

from services.core.addresses import new_event_id
from services.core.commands import Actor, EraseComments
from services.errors import PoisonEvent
from services.eventlog.appenders import Appenders
from services.eventlog.erasures import Erasure, Erasures, announce
from services.eventlog.log import NIL
from services.eventlog.preferences import forget
from services.eventlog.queries import QUERIES
from services.projection.advance import Projector
from services.readmodel.remains import Registered, Remains
from services.workers.faults import told

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

LOOK_S: Final = 1.0
LEASE_S: Final = 10.0
PAGE: Final = 1_000
"""Comments read at once."""
COMMENTS: Final = 16
"""Comments in one command, at most: it is one of many in its batch."""
AT_ONCE: Final = 16
"""Commands of one erasure under way: those of a batch write some hundred events, and hold up a lane no longer
than a batch of posts does."""
ERASURES_AT_ONCE: Final = 4
VIEWS_AT_ONCE: Final = 4
ABANDONED_S: Final = 120.0
"""A build that was not written for so long is taken to be a crash's. Builders enter theirs every minute."""


class Eraser:
    """Carries out erasures, from `run` until it is cancelled."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        erasures: Erasures,
        projector: Projector,
        remains: Remains,
        appending: Callable[[], AbstractAsyncContextManager[Appenders]],
        *,
        abandoned: float = ABANDONED_S,
    ) -> None:
        """`appending` gives appenders for as long as there is work."""
        self._pool = pool
        self._erasures = erasures
        self._projector = projector
        self._remains = remains
        self._appending = appending
        self._abandoned = abandoned

    async def run(self) -> None:
        """Look for erasures, and carry them out."""
        while True:
            try:
                await self.round()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next round tries again
                _log.warning("erasures wait: %s", told(error))
            await asyncio.sleep(LOOK_S)

    async def round(self) -> None:
        """Carry out all erasures that nobody works on, some at a time."""
        first = await self._claim()
        if first is not None:
            async with self._appending() as appenders:
                others = (self._work(None, appenders) for _ in range(ERASURES_AT_ONCE - 1))
                await asyncio.gather(self._work(first, appenders), *others)

    async def _work(self, erasure: Erasure | None, appenders: Appenders) -> None:
        """Carry out erasures while there are any. One that fails is told of, and left until its lease has
        ended."""
        while (erasure := erasure or await self._claim()) is not None:
            try:
                await self._carry_out(erasure, appenders)
            except Exception as error:  # noqa: BLE001 - whatever it was, the other erasures go on
                _log.warning("erasure %s waits: %s", erasure.id, told(error))
            erasure = None

    async def _claim(self) -> Erasure | None:
        row = await self._pool.fetchrow(QUERIES["claim_erasure"], LEASE_S)
        return None if row is None else Erasure(*row)

    async def _carry_out(self, erasure: Erasure, appenders: Appenders) -> None:
        await self._erasures.file_key(erasure)
        await announce(appenders, erasure)
        await self._erase(erasure, appenders)
        erased = time.monotonic()
        await self._follow(erasure)
        await self._clear(erasure)
        # Whoever was being told of something as the last comment was erased is told by now.
        await asyncio.sleep(max(0.0, erased + LOOK_S - time.monotonic()))
        await forget(self._pool, erasure.site, erasure.author_id)
        with suppress(asyncpg.PostgresError):  # a database that is ours to use need not be ours to clean
            await self._pool.execute(QUERIES["vacuum_author_keys"])
        await self._pool.execute(QUERIES["finish_erasure"], erasure.id)
        _log.info("erasure %s is done", erasure.id)

    async def _erase(self, erasure: Erasure, appenders: Appenders) -> None:
        """Append CommentErased wherever it is still missing. Raises what `Appenders.submit` raises."""
        async for rows in self._pages("comments_to_erase", erasure):
            threads: dict[tuple[UUID, str], list[UUID]] = {}
            for comment_id, stream_id, key in rows:
                threads.setdefault((stream_id, key), []).append(comment_id)
            commands = [
                _command(erasure, stream_id, key, part)
                for (stream_id, key), comments in threads.items()
                for part in (comments[at : at + COMMENTS] for at in range(0, len(comments), COMMENTS))
            ]
            await _all(AT_ONCE, appenders.submit, commands)

    async def _follow(self, erasure: Erasure) -> None:
        """Bring every view that there is up to the events, and build anew what is parked before them: without
        the key, its texts are gone too."""
        async for rows in self._pages("erased_comments", erasure):
            versions: dict[UUID, int] = {}
            for _, stream_id, version in rows:
                versions[stream_id] = max(version, versions.get(stream_id, 0))
            heads = await self._projector.views.heads(list(versions))
            behind = [(one, versions[one]) for one, head in heads.items() if head.version < versions[one]]
            await _all(VIEWS_AT_ONCE, self._bring, behind)

    async def _bring(self, wanted: tuple[UUID, int]) -> None:
        stream_id, version = wanted
        with suppress(PoisonEvent):
            head = await self._projector.advance(stream_id, version)
            if head is None or head.version >= version:
                return
        with suppress(PoisonEvent):
            await self._projector.rebuild(stream_id)

    async def _clear(self, erasure: Erasure) -> None:
        """Remove what Redis holds beside the views: other formats, and builds that were begun before."""
        async for names in self._remains.other_formats():
            for stream_id in await self._concerned(erasure, names):
                await self._remains.unlink(names[stream_id])
        before = await self._builds(erasure)
        while before:
            for one in before:
                if time.time() - one.written > self._abandoned:
                    await self._remains.retire(one)
            await self._pool.execute(QUERIES["renew_erasure"], erasure.id, LEASE_S)
            left = {(one.stream_id, one.build) for one in await self._builds(erasure)}
            before = [one for one in before if (one.stream_id, one.build) in left]
            if before:
                await asyncio.sleep(LOOK_S)  # somebody builds a view of these threads, or died of it lately

    async def _builds(self, erasure: Erasure) -> list[Registered]:
        builds = await self._remains.builds()
        concerned = await self._concerned(erasure, {one.stream_id for one in builds}) if builds else set()
        return [one for one in builds if one.stream_id in concerned]

    async def _concerned(self, erasure: Erasure, stream_ids: Iterable[UUID]) -> set[UUID]:
        rows = await self._pool.fetch(QUERIES["streams_under_key"], erasure.key_id, list(stream_ids))
        return {row["stream_id"] for row in rows}

    async def _pages(self, query: str, erasure: Erasure) -> AsyncIterator[list[asyncpg.Record]]:
        """The rows of what was sealed under the key, by comment; the lease is renewed with each page."""
        after = NIL
        while rows := await self._pool.fetch(QUERIES[query], erasure.key_id, after, PAGE):
            await self._pool.execute(QUERIES["renew_erasure"], erasure.id, LEASE_S)
            yield rows
            after = rows[-1]["comment_id"]


def _command(erasure: Erasure, stream_id: UUID, key: str, comments: Iterable[UUID]) -> EraseComments:
    return EraseComments(
        site=erasure.site,
        stream_id=stream_id,
        key=key,
        event_id=new_event_id(time.time_ns() // 1_000_000, os.urandom(10)),
        actor=Actor(None),
        key_id=erasure.key_id,
        comment_ids=tuple(comments),
        cause=erasure.id,
    )


async def _all(at_once: int, call: Callable[[_T], Awaitable[object]], things: Iterable[_T]) -> None:
    """Call with each of these things, so many at a time. Raises the first error, once what is under way has
    ended."""
    todo = iter(things)
    errors: list[BaseException] = []

    async def work() -> None:
        for thing in todo:
            if errors:
                return
            try:
                await call(thing)
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)

    await asyncio.gather(*(work() for _ in range(at_once)))
    if errors:
        raise errors[0]
