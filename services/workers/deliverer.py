"""The deliverer: sends what is to leave for somewhere else, in every worker process.

Each channel has a loop that claims what is due, and sends it in tasks of its own, so many at once. A claim is
committed before anything is sent: whoever is killed then has sent it perhaps, and another sends it again once
the claim has run out, under the same id. docs/notifications.md
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from services.eventlog.deliveries import Again, Channel, Deliveries, Delivery, Outcome
from services.workers.faults import told
from services.workers.metrics import WorkerMetrics

_log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often an idle channel looks for what is due."""
LEASE_S: Final = 60.0
SEND_S: Final = 45.0
"""What was sent must be recorded before its lease ends."""
GRACE_S: Final = 2.0
"""How long what is under way may take once this process is to end."""


class Deliverer:
    """Sends deliveries, from `run` until it is cancelled."""

    def __init__(
        self,
        deliveries: Deliveries,
        channels: Sequence[Channel],
        metrics: WorkerMetrics,
        *,
        lease: float = LEASE_S,
    ) -> None:
        """`lease`: seconds after which what was claimed is taken to be lost."""
        self._deliveries = deliveries
        self._metrics = metrics
        self._lease = lease
        self._lines = [_Line(self, channel) for channel in channels]
        self._closing = False

    async def run(self) -> None:
        """Send what is due, until `stop`; then wait for what is under way."""
        await asyncio.gather(*(line.run() for line in self._lines))

    def wake(self) -> None:
        """Look at once: something was entered."""
        for line in self._lines:
            line.woken.set()

    def stop(self) -> None:
        """Claim nothing any more."""
        self._closing = True
        self.wake()

    @property
    def closing(self) -> bool:
        """Whether nothing is claimed any more."""
        return self._closing

    async def claim(self, channel: Channel, room: int, under_way: Counter[UUID]) -> list[Delivery]:
        """What is due; nothing where the log is away."""
        try:
            return await self._deliveries.claim(channel.name, room, self._lease, under_way)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next look tries again
            _log.warning("deliveries by %s wait: %s", channel.name, told(error))
            return []

    async def deliver(self, channel: Channel, delivery: Delivery) -> None:
        """Send one, and record what came of it."""
        claimed = time.monotonic()
        outcome = await _sent(channel, delivery, min(SEND_S, 0.75 * self._lease))
        drawn = random.random()  # noqa: S311 - it spreads, and keeps nothing secret
        while True:
            try:
                became = await self._deliveries.record(delivery, outcome, drawn)
            except Exception as error:  # noqa: BLE001 - while it is ours, it is worth another try
                _log.warning("%s is not recorded as %s: %s", delivery.id, type(outcome).__name__, told(error))
                if time.monotonic() - claimed > self._lease:
                    return
                await asyncio.sleep(LOOK_S)
            else:
                self._metrics.deliveries.labels(channel.name, became).inc()
                return


class _Line:
    """One channel of a Deliverer: its tasks, and the loop that gives them work."""

    def __init__(self, deliverer: Deliverer, channel: Channel) -> None:
        self.woken = asyncio.Event()
        self._deliverer = deliverer
        self._channel = channel
        self._tasks: dict[asyncio.Task[None], UUID | None] = {}

    async def run(self) -> None:
        """Claim and send, until the deliverer is closing."""
        try:
            while not self._deliverer.closing:
                self.woken.clear()
                room = self._channel.at_once - len(self._tasks)
                if room > 0:
                    self._begin(await self._claimed(room))
                await self._something()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=GRACE_S)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _claimed(self, room: int) -> list[Delivery]:
        under_way = Counter(one for one in self._tasks.values() if one is not None)
        return await self._deliverer.claim(self._channel, room, under_way)

    def _begin(self, claimed: Sequence[Delivery]) -> None:
        for delivery in claimed:
            task = asyncio.create_task(self._deliverer.deliver(self._channel, delivery))
            self._tasks[task] = delivery.endpoint_id
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self.woken.set()

    async def _something(self) -> None:
        """Wait until there is room for more, or LOOK_S have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self.woken.wait()


async def _sent(channel: Channel, delivery: Delivery, within: float) -> Outcome:
    try:
        async with asyncio.timeout(within):
            return await channel.send(delivery)
    except TimeoutError:
        return Again(f"not sent within {within:g} s")
    except Exception as error:  # noqa: BLE001 - whatever it was, it may pass
        _log.warning("%s %s is not sent: %s", delivery.channel, delivery.id, told(error))
        return Again(told(error))
