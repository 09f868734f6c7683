"""One appender for each lane of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.core.addresses import lane_of
from services.core.commands import Command
from services.eventlog.appender import Appender, Committed
from services.eventlog.batch import Appended
from services.eventlog.pool import Hosts


class Appenders:
    """Sends each command to the appender of its stream's lane."""

    def __init__(
        self,
        database: str | Hosts,
        lanes: int,
        *,
        on_committed: Callable[[Committed], None] = lambda _: None,
        max_batch: int = 200,
        max_queue: int = 4000,
    ) -> None:
        hosts = Hosts.of(database)
        self._lanes = [
            Appender(hosts, lane, on_committed=on_committed, max_batch=max_batch, max_queue=max_queue)
            for lane in range(lanes)
        ]

    @property
    def queued(self) -> int:
        """Commands that wait for their batch, in all lanes."""
        return sum(appender.queued for appender in self._lanes)

    @property
    def lanes(self) -> int:
        """How many lanes the log has."""
        return len(self._lanes)

    async def start(self) -> None:
        """Connect every lane."""
        await asyncio.gather(*(appender.start() for appender in self._lanes))

    async def stop(self) -> None:
        """Finish what was taken and disconnect."""
        await asyncio.gather(*(appender.stop() for appender in self._lanes))

    async def submit(self, command: Command) -> Appended:
        """As `Appender.submit`, in the lane of the command's stream."""
        return await self._lanes[lane_of(command.stream_id, len(self._lanes))].submit(command)
