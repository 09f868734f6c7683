"""The periodic work, done by whichever worker process holds its lock: sweeping lanes, and maintenance.

Each process keeps one connection for it, whose session holds the advisory locks; with the connection the
locks are gone, and another process takes over within seconds. Locks only save work: all of this may be done
by two at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis

from services.eventlog.checkpoints import DeadLetters, LaneCheckpoints, Projection
from services.eventlog.locks import LockClass
from services.eventlog.queries import QUERIES
from services.pokes import NOTIFY_ACTOR, PROJECT_ACTOR, QUEUES, Poker, queue_key
from services.readmodel.views import Views
from services.workers.metrics import WorkerMetrics
from services.workers.projector import FAULTS, Following
from services.workers.sweeper import Behind, Sweeper, Walk

_log = logging.getLogger(__name__)

ACTOR_OF: Final = {Projection.VIEW: PROJECT_ACTOR, Projection.NOTIFICATIONS: NOTIFY_ACTOR}

ROUND_S: Final = 1.0
_LEASE_S: Final = 2.0
_MAINTENANCE_S: Final = 5.0
_PARTITIONS_S: Final = 3600.0


@dataclass(slots=True)
class _Leases:
    """What this session holds, and when each thing is due again (monotonic seconds)."""

    sweepers: dict[int, Sweeper] = field(default_factory=dict)
    maintenance: bool = False
    lease_due: float = 0.0
    maintenance_due: float = 0.0
    partitions_due: float = 0.0


class Caretaker:
    """Sweeps and maintains, from `run` until it is cancelled."""

    def __init__(
        self,
        database_url: str,
        *,
        views: Views,
        broker: Redis,
        letters: DeadLetters,
        following: Following,
        poker: Poker,
        metrics: WorkerMetrics,
    ) -> None:
        """`broker` is a client of the broker's Redis, whose queues are measured."""
        self._url = database_url
        self._views = views
        self._broker = broker
        self._letters = letters
        self._following = following
        self._poker = poker
        self._metrics = metrics
        self._complaint = ""

    async def run(self) -> None:
        """Hold what locks there are to hold, and do their work; after a fault, again."""
        while True:
            leases = _Leases()
            try:
                connection = await asyncpg.connect(
                    self._url,
                    timeout=5,
                    command_timeout=30,
                    server_settings={"application_name": "threadlog-caretaker", "jit": "off"},
                )
                try:
                    await self._tend(connection, leases)
                finally:
                    connection.terminate()
            except FAULTS as error:
                complaint = f"{type(error).__name__}: {error}"
                if complaint != self._complaint:
                    _log.warning("sweeping and maintenance wait: %s", complaint)
                self._complaint = complaint
            finally:
                self._disown(leases)
            await asyncio.sleep(ROUND_S)

    async def _tend(self, connection: asyncpg.Connection[Any], leases: _Leases) -> None:
        while True:
            if time.monotonic() >= leases.lease_due:
                await self._lease(connection, leases)
            walks = [await self._sweep(sweeper) for sweeper in leases.sweepers.values()]
            if leases.maintenance and time.monotonic() >= leases.maintenance_due:
                await self._maintain(connection, leases)
            self._complaint = ""
            await asyncio.sleep(0 if Walk.MORE in walks else ROUND_S)

    async def _lease(self, connection: asyncpg.Connection[Any], leases: _Leases) -> None:
        rows = await connection.fetch(QUERIES["lease_lanes"], LockClass.SWEEPER, list(leases.sweepers))
        for row in rows:
            leases.sweepers[row["lane"]] = Sweeper(
                row["lane"], LaneCheckpoints(connection), self._views, self._poke
            )
        if not leases.maintenance:
            leases.maintenance = bool(
                await connection.fetchval(QUERIES["lease_maintenance"], LockClass.MAINTENANCE)
            )
        leases.lease_due = time.monotonic() + _LEASE_S

    async def _sweep(self, sweeper: Sweeper) -> Walk:
        found = await sweeper.round()
        for projection, lag in found.lag.items():
            self._metrics.lag_events.labels(sweeper.lane, projection).set(lag.events)
            self._metrics.lag_seconds.labels(sweeper.lane, projection).set(lag.seconds)
        return found.walk

    def _poke(self, behind: Behind) -> None:
        for projection, stream_ids in behind.items():
            if stream_ids:
                self._poker.poke(stream_ids, (ACTOR_OF[projection],))
                self._metrics.swept.labels(projection).inc(len(stream_ids))

    async def _maintain(self, connection: asyncpg.Connection[Any], leases: _Leases) -> None:
        if time.monotonic() >= leases.partitions_due:
            await connection.execute(QUERIES["ensure_partitions"])
            leases.partitions_due = time.monotonic() + _PARTITIONS_S
        await self._views.sweep()
        for letter in await self._letters.of_other_builds():
            if letter.projection is Projection.VIEW:
                await self._following.unpark(letter.stream_id)
            self._poker.poke([letter.stream_id], (ACTOR_OF[letter.projection],))
        for projection, letters in (await self._letters.counts()).items():
            self._metrics.dead_letters.labels(projection).set(letters)
        for queue in QUEUES.values():
            length = await self._broker.llen(queue_key(queue))
            self._metrics.queue.labels(queue).set(length)
        leases.maintenance_due = time.monotonic() + _MAINTENANCE_S

    def _disown(self, leases: _Leases) -> None:
        """What this process no longer measures is not a number."""
        for lane in leases.sweepers:
            for projection in Projection:
                self._metrics.lag_events.labels(lane, projection).set(math.nan)
                self._metrics.lag_seconds.labels(lane, projection).set(math.nan)
        if leases.maintenance:
            for projection in Projection:
                self._metrics.dead_letters.labels(projection).set(math.nan)
            for queue in QUEUES.values():
                self._metrics.queue.labels(queue).set(math.nan)
