"""What the first readers of a new process would wait for, done before it listens.

A process that has asked nothing yet has no connections, no statement is prepared on them, and Postgres has
not looked up what the tables are: a third of the time in which a cold page of a hundred comments is answered.
So everything that such a page asks for is asked for once on several connections, of a thread that nobody has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Final
from uuid import UUID

import asyncpg
import structlog
from redis.exceptions import RedisError

from services.api.deps import Api
from services.core.page import PageRequest
from services.core.segments import TREE
from services.errors import ThreadlogError
from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES
from services.eventlog.snapshots import LAST, Snapshots
from services.projection.fold import CHUNK
from services.readmodel.views import Views

CONNECTIONS: Final = 4
"""How many connections to each server are made ready, where the pool has as many."""
_PATIENCE_S: Final = 5.0
"""Seconds after which the process listens all the same."""
_NOBODY: Final = UUID(int=1)
"""No comment, and no key."""
_END: Final = 2**62
"""A position that no lane reaches."""

_log = structlog.get_logger("threadlog.api")


async def rehearse(api: Api, views: Views) -> None:
    """Ask what a cold read asks. Where a server does not answer, its first readers will find out."""
    at_once = min(CONNECTIONS, api.settings.pool_size)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            with suppress(RedisError, ThreadlogError):
                await _together(lambda: views.page(NIL, PageRequest()), at_once)
                await _together(lambda: _lease(views), at_once)
            for ask in _of_the_log(api):
                await _together(ask, at_once)
    except (OSError, TimeoutError, ThreadlogError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        _log.warning("not everything is ready for the first readers", error=type(error).__name__)


async def _together(ask: Callable[[], Awaitable[object]], count: int) -> None:
    """Ask on so many connections: what is asked at the same moment is asked on different ones."""
    await asyncio.gather(*(ask() for _ in range(count)))


async def _lease(views: Views) -> None:
    async with views.leases.held(NIL):
        await views.leases.taken(NIL)


def _of_the_log(api: Api) -> Iterator[Callable[[], Awaitable[object]]]:
    snapshots, names = Snapshots(api.pool), iter(range(CONNECTIONS))
    yield lambda: api.log.by_position(0, _END, 1)  # looks at every partition of the events
    yield lambda: api.sites.get(f"rehearsal-{next(names)}")  # who asks for the same site shares one query
    yield lambda: api.log.head(NIL)
    yield lambda: api.log.events_after(NIL, 0, CHUNK)
    yield lambda: api.log.events_at(NIL, [1])
    yield lambda: api.keyring.by_id([_NOBODY])
    yield lambda: api.pool.fetch(QUERIES["erasures_since"], _END, 1)  # as the keyring looks, from then on
    yield lambda: snapshots.at(NIL)
    yield lambda: snapshots.steps(NIL, 0, LAST, 1)
    yield lambda: snapshots.segments(NIL, 1, [(TREE, 0)])
    yield lambda: snapshots.ids(NIL, [1])
