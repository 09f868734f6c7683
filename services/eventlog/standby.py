"""The log as a standby of its Postgres has it: for what reads long, and must not keep the primary busy.

A standby is behind, by milliseconds or by more. What is asked for up to a version is waited for; what is
asked for up to the end ends where the standby does, and whoever goes on from there asks the primary.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import asyncpg

from schema.events.envelope import Recorded
from services.errors import Unavailable
from services.eventlog.log import EventLog
from services.eventlog.queries import QUERIES

PATIENCE_S: Final = 30.0
"""Seconds that a standby is waited for."""

_LOOK_S: Final = 0.05


async def catch_up(
    standby: asyncpg.Pool[Any], primary: asyncpg.Pool[Any], patience: float = PATIENCE_S
) -> None:
    """Wait until the standby has all that the primary has written by now: whoever reads it then sees at least
    what was there before.

    Raises Unavailable where it has not within `patience` seconds.
    """
    there = await primary.fetchval(QUERIES["wal_end"])
    deadline = time.monotonic() + patience
    while not await standby.fetchval(QUERIES["has_replayed"], there):
        if time.monotonic() > deadline:
            raise Unavailable(f"the standby is more than {patience:g} s behind")
        await asyncio.sleep(_LOOK_S)


class StandbyLog(EventLog):
    """The log on a pool of connections to a standby. `primary` are connections to what it follows."""

    def __init__(
        self, pool: asyncpg.Pool[Any], primary: asyncpg.Pool[Any], *, patience: float = PATIENCE_S
    ) -> None:
        """`patience`: seconds to wait for a version that the primary has."""
        super().__init__(pool)
        self._primary = primary
        self._patience = patience
        self.waits = 0
        """How often the standby was found behind."""

    async def pages(
        self, stream_id: UUID, after: int = 0, to: int | None = None, size: int = 1000
    ) -> AsyncIterator[list[Recorded]]:
        """As EventLog's. Raises Unavailable where the standby stays behind version `to`."""
        deadline = time.monotonic() + self._patience
        there: int | None = None
        while True:
            async for events in EventLog.pages(self, stream_id, after, to, size):
                yield events
                after = events[-1].version
            if to is None or after >= to:
                return
            if there is None:
                there = await self._primary.fetchval(QUERIES["stream_end"], stream_id) or 0
                self.waits += after < there
            if after >= min(to, there):
                return  # nobody has more
            if time.monotonic() > deadline:
                raise Unavailable(f"the standby is behind version {to} of {stream_id}")
            await asyncio.sleep(_LOOK_S)

    async def events_at(self, stream_id: UUID, versions: list[int]) -> list[Recorded]:
        """As EventLog's; what the standby does not have yet is the primary's."""
        events = await EventLog.events_at(self, stream_id, versions)
        if missing := set(versions) - {event.version for event in events}:
            events += await EventLog(self._primary).events_at(stream_id, sorted(missing))
        return events
