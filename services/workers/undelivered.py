"""Looks after the deliveries that nobody sends: counts them, buries and removes. The caretaker's work."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from services.eventlog.deliveries import CHANNELS, Deliveries
from services.eventlog.queries import QUERIES
from services.workers.metrics import WorkerMetrics

_SLICE: Final = 1_000
_SLICES: Final = 20
"""So many rows of one kind are written in one look."""
_STATES: Final = ("closed", "open", "off")


class Undelivered:
    """What is due, late, dead, and of whose endpoints nothing is wanted."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    async def look(self, connection: asyncpg.Connection[Any]) -> None:
        """End what nobody will send, forget what ended long ago, and count the rest."""
        deliveries = Deliveries(connection)
        await _in_slices(deliveries.bury)
        await _in_slices(deliveries.remove_old)
        await connection.execute(QUERIES["forget_old_endpoint_secrets"])
        for one in await deliveries.standing():
            self._metrics.deliveries_due.labels(one.channel).set(one.due)
            self._metrics.deliveries_dead.labels(one.channel).set(one.dead)
            self._metrics.deliveries_late.labels(one.channel).set(one.late)
        waiting = await connection.fetchrow(QUERIES["fanouts_waiting"], 1)
        self._metrics.fan_outs_late.set(0 if waiting is None else waiting["seconds"])
        row = await connection.fetchrow(QUERIES["endpoints_standing"])
        for state in _STATES:
            self._metrics.endpoints.labels(state).set(0 if row is None else row[state])

    def disown(self) -> None:
        """What this process no longer measures is not a number."""
        for channel in CHANNELS:
            for gauge in (self._metrics.deliveries_due, self._metrics.deliveries_dead):
                gauge.labels(channel).set(math.nan)
            self._metrics.deliveries_late.labels(channel).set(math.nan)
        self._metrics.fan_outs_late.set(math.nan)
        for state in _STATES:
            self._metrics.endpoints.labels(state).set(math.nan)


async def _in_slices(work: Callable[[int], Awaitable[int]]) -> None:
    for _ in range(_SLICES):
        if await work(_SLICE) < _SLICE:
            return
