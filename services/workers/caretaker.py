"""The periodic work, done by whichever worker process holds its lock: sweeping lanes, and maintenance.

Each process keeps one connection for it, whose session holds the advisory locks; with the connection the
locks are gone, and another process takes over within seconds. Locks only save work: all of this may be done
by two at once.

Whatever goes wrong, this goes on: what fails is told and left alone for a while, a lane also to other
processes, and nothing else waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import asyncpg
from redis.asyncio import Redis

from services.eventlog.checkpoints import FIRST, DeadLetters, LaneCheckpoints, Projection
from services.eventlog.locks import LockClass
from services.eventlog.pool import Hosts
from services.eventlog.queries import QUERIES
from services.pokes import NOTIFY_ACTOR, PROJECT_ACTOR, QUEUES, Poker, queue_key
from services.projection.restored import Restored
from services.readmodel.budget import Budget
from services.readmodel.views import Views
from services.workers.faults import told
from services.workers.metrics import WorkerMetrics
from services.workers.sweeper import Behind, Sweeper, Walk
from services.workers.undelivered import Undelivered

_log = logging.getLogger(__name__)

ACTOR_OF: Final = {Projection.VIEW: PROJECT_ACTOR, Projection.NOTIFICATIONS: NOTIFY_ACTOR}

_DISMISS_S: Final = 0.2
ROUND_S: Final = 1.0
_LEASE_S: Final = 2.0
_MAINTENANCE_S: Final = 5.0
_PARTITIONS_S: Final = 3600.0
_LETTERS_S: Final = 60.0
_LETTERS: Final = 100
_LONGEST_REST_S: Final = 8.0

_Connection: TypeAlias = "asyncpg.Connection[Any]"


@dataclass(slots=True)
class _Leases:
    """What this session holds, and when each thing is due again (monotonic seconds)."""

    sweepers: dict[int, Sweeper] = field(default_factory=dict)
    maintenance: bool = False
    lease_due: float = 0.0
    maintenance_due: float = 0.0


@dataclass(slots=True)
class _Rest:
    """Until when something that failed is left alone (monotonic seconds): twice as long each time."""

    until: float = 0.0
    wait: float = ROUND_S
    complaint: str = ""

    def failed(self, what: str, error: Exception) -> None:
        complaint = told(error)
        if complaint != self.complaint:
            _log.warning("%s waits: %s", what, complaint)
        self.complaint = complaint
        self.until = time.monotonic() + self.wait
        self.wait = min(2 * self.wait, _LONGEST_REST_S)

    def succeeded(self) -> None:
        self.until, self.wait, self.complaint = 0.0, ROUND_S, ""


async def dismiss(task: asyncio.Task[None]) -> None:
    """Cancel a task until it has ended.

    Once is not enough before Python 3.12: `asyncio.wait_for`, which asyncpg's pool uses, forgets a
    cancellation that arrives as what it waits for is done (python/cpython#86296).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_DISMISS_S)
    await asyncio.gather(task, return_exceptions=True)


class Caretaker:
    """Sweeps and maintains, from `run` until it is cancelled."""

    def __init__(
        self,
        database: str | Hosts,
        *,
        views: Views,
        broker: Redis,
        letters: DeadLetters,
        poker: Poker,
        metrics: WorkerMetrics,
        budget: Budget,
        hand_out: Collection[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """`broker` is a client of the broker's Redis, whose queues are measured; `hand_out` tells the workers
        of what replays and fan-outs have for them."""
        self._hosts = Hosts.of(database)
        self._views = views
        self._broker = broker
        self._letters = letters
        self._poker = poker
        self._metrics = metrics
        self._budget = budget
        self._restored = Restored(views)
        self._undelivered = Undelivered(metrics)
        self._rest = _Rest()
        self._lane_rests: defaultdict[int, _Rest] = defaultdict(_Rest)
        self._chores: dict[str, Callable[[_Connection], Awaitable[None]]] = {
            "making partitions": self._make_partitions,
            "sweeping abandoned builds": self._sweep_builds,
            "retrying dead letters": self._retry_letters,
            "counting dead letters": self._count_letters,
            "measuring queues": self._measure_queues,
            "keeping to the budget of memory": self._keep_to_budget,
            "comparing the views with the log": self._compare_views,
            "looking after deliveries": self._undelivered.look,
        }
        self._hand_out = hand_out
        if hand_out:
            self._chores["handing out work"] = self._hand_out_work
        self._chore_rests: defaultdict[str, _Rest] = defaultdict(_Rest)
        self._partitions_due = self._letters_due = 0.0
        self._letters_after = FIRST

    async def run(self) -> None:
        """Hold what locks there are to hold, and do their work; after a fault, again."""
        while True:
            leases = _Leases()
            try:
                connection = await self._hosts.connect(
                    timeout=5,
                    command_timeout=30,
                    server_settings={"application_name": "threadlog-caretaker", "jit": "off"},
                )
                try:
                    await self._tend(connection, leases)
                finally:
                    connection.terminate()
            except Exception as error:  # noqa: BLE001 - nobody else would begin again
                self._rest.failed("periodic work", error)
            finally:
                self._disown(leases)
            await asyncio.sleep(max(0.0, self._rest.until - time.monotonic()))

    async def _tend(self, connection: _Connection, leases: _Leases) -> None:
        while True:
            if time.monotonic() >= leases.lease_due:
                await self._lease(connection, leases)
                self._rest.succeeded()
            walks = [await self._sweep(connection, leases, lane) for lane in list(leases.sweepers)]
            if leases.maintenance and time.monotonic() >= leases.maintenance_due:
                await self._maintain(connection)
                leases.maintenance_due = time.monotonic() + _MAINTENANCE_S
            await asyncio.sleep(0 if Walk.MORE in walks else ROUND_S)

    async def _lease(self, connection: _Connection, leases: _Leases) -> None:
        now = time.monotonic()
        resting = {lane for lane, rest in self._lane_rests.items() if rest.until > now}
        others = list(resting | leases.sweepers.keys())
        for row in await connection.fetch(QUERIES["lease_lanes"], LockClass.SWEEPER, others):
            leases.sweepers[row["lane"]] = Sweeper(
                row["lane"], LaneCheckpoints(connection), self._views, self._poke
            )
        if not leases.maintenance:
            leases.maintenance = bool(
                await connection.fetchval(QUERIES["lease_maintenance"], LockClass.MAINTENANCE)
            )
        leases.lease_due = now + _LEASE_S

    async def _sweep(self, connection: _Connection, leases: _Leases, lane: int) -> Walk | None:
        """One round of a lane; None where it failed, and the lane is given back for others to try."""
        rest = self._lane_rests[lane]
        try:
            found = await leases.sweepers[lane].round()
        except Exception as error:  # noqa: BLE001 - whatever it was, the other lanes go on
            rest.failed(f"sweeping lane {lane}", error)
            del leases.sweepers[lane]
            self._disown_lane(lane)
            await connection.fetchval(QUERIES["give_back_lease"], LockClass.SWEEPER, lane)
            return None
        rest.succeeded()
        for projection, lag in found.lag.items():
            self._metrics.lag_events.labels(lane, projection).set(lag.events)
            self._metrics.lag_seconds.labels(lane, projection).set(lag.seconds)
            self._metrics.lane_reached.labels(lane, projection).set(found.head - lag.events)
        self._metrics.lane_head.labels(lane).set(found.head)
        return found.walk

    def _poke(self, behind: Behind) -> None:
        for projection, stream_ids in behind.items():
            if stream_ids:
                self._poker.poke(stream_ids, (ACTOR_OF[projection],))
                self._metrics.swept.labels(projection).inc(len(stream_ids))

    async def _maintain(self, connection: _Connection) -> None:
        for what, chore in self._chores.items():
            rest = self._chore_rests[what]
            if time.monotonic() < rest.until:
                continue
            try:
                await chore(connection)
            except Exception as error:  # noqa: BLE001 - whatever it was, the other chores are done
                rest.failed(what, error)
            else:
                rest.succeeded()

    async def _make_partitions(self, connection: _Connection) -> None:
        if time.monotonic() >= self._partitions_due:
            await connection.execute(QUERIES["ensure_partitions"])
            self._partitions_due = time.monotonic() + _PARTITIONS_S

    async def _sweep_builds(self, _: _Connection) -> None:
        await self._views.sweep()

    async def _retry_letters(self, _: _Connection) -> None:
        """Poke what another release has parked, once a minute, some at a time."""
        if time.monotonic() < self._letters_due:
            return
        letters = await self._letters.of_other_builds(self._letters_after, _LETTERS)
        for letter in letters:
            self._poker.poke([letter.stream_id], (ACTOR_OF[letter.projection],))
        if len(letters) == _LETTERS:
            self._letters_after = (letters[-1].projection, letters[-1].stream_id)
        else:
            self._letters_after = FIRST
            self._letters_due = time.monotonic() + _LETTERS_S

    async def _count_letters(self, _: _Connection) -> None:
        for projection, letters in (await self._letters.counts()).items():
            self._metrics.dead_letters.labels(projection).set(letters)

    async def _hand_out_work(self, _connection: _Connection) -> None:
        for look in self._hand_out:
            await look()

    async def _measure_queues(self, _: _Connection) -> None:
        for queue in QUEUES.values():
            length = await self._broker.llen(queue_key(queue))
            self._metrics.queue.labels(queue).set(length)

    async def _keep_to_budget(self, _: _Connection) -> None:
        spent = await self._budget.round()
        self._metrics.views.set(spent.views)
        self._metrics.views_memory.set(spent.used)
        self._metrics.views_budget.set(spent.budget)
        self._metrics.views_dropped.inc(spent.dropped)

    async def _compare_views(self, connection: _Connection) -> None:
        """Replace the views of a log that was set back."""
        compared = await self._restored.compare(connection)
        if compared.dropped:
            behind = len(compared.again) - compared.dropped
            _log.warning("of another log: %d views are dropped, %d are behind", compared.dropped, behind)
        if compared.again:
            self._poker.poke(compared.again, (PROJECT_ACTOR,))

    def _disown(self, leases: _Leases) -> None:
        """What this process no longer measures is not a number."""
        for lane in leases.sweepers:
            self._disown_lane(lane)
        if leases.maintenance:
            for projection in Projection:
                self._metrics.dead_letters.labels(projection).set(math.nan)
            for queue in QUEUES.values():
                self._metrics.queue.labels(queue).set(math.nan)
            for gauge in (self._metrics.views, self._metrics.views_memory, self._metrics.views_budget):
                gauge.set(math.nan)
            self._undelivered.disown()

    def _disown_lane(self, lane: int) -> None:
        for projection in Projection:
            self._metrics.lag_events.labels(lane, projection).set(math.nan)
            self._metrics.lag_seconds.labels(lane, projection).set(math.nan)
            self._metrics.lane_reached.labels(lane, projection).set(math.nan)
        self._metrics.lane_head.labels(lane).set(math.nan)
