"""Replays done by the workers: one range for each message, one at a time in each process.

A message only says that a replay has ranges to lease; whoever has done one sends the next. Lost messages,
and the ranges of workers that are gone, are found by the caretaker of any process, which sends new ones. The
queue is the replays' own, and its messages come after all others: views and notifications do not wait.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import dramatiq
from redis.exceptions import RedisError

from services.eventlog.checkpoints import DeadLetters
from services.eventlog.replays import Replays, State
from services.pokes import REPLAY_ACTOR, REPLAY_QUEUE, make_broker
from services.projection.replaying import ReplayWork
from services.wiring import Resources, reading
from services.workers.faults import told

_log = logging.getLogger(__name__)

PRIORITY: Final = 10
"""Dramatiq's: of the messages that a process has fetched, those with less go first. The others have 0."""

MESSAGES: Final = 8
"""Messages about one replay that are sent at once, at most. A process that is at a range passes over them."""


class Replaying:
    """What one worker process does for replays."""

    def __init__(self, made: Resources, letters: DeadLetters) -> None:
        self._made = made
        self._letters = letters
        self._replays = Replays(made.pool)
        self._work: ReplayWork | None = None
        self._busy = self._stopping = False

    def stop(self) -> None:
        """Give the range under way back to the others, soon."""
        self._stopping = True
        if self._work is not None:
            self._work.stop()

    async def handle(self, replay_id: int) -> None:
        """Work on one range of a replay, if this process is at none, and have somebody go on."""
        if self._busy or self._stopping:
            return
        self._busy = True
        try:
            done = await self._one(replay_id)
        finally:
            self._busy, self._work = False, None
        if done and not self._stopping:
            await hand_out(self._made.settings.broker, replay_id, 1)

    async def _one(self, replay_id: int) -> bool:
        replay = await self._replays.one(replay_id)
        if replay is None or not replay.workers or replay.state is not State.RUNNING:
            return False
        async with reading(self._made) as reads:
            self._work = ReplayWork(reads.replays, reads.replayer, reads.verifier, self._letters)
            if self._stopping:
                return False
            return await self._work.one(replay)

    async def look(self) -> None:
        """Send messages about the ranges that nobody works on."""
        for replay_id, free in await self._replays.to_do():
            if free:
                await hand_out(self._made.settings.broker, replay_id, free)
            else:
                await self._replays.finish(replay_id)


async def hand_out(broker_url: str, replay_id: int, ranges: int) -> None:
    """Tell the workers of so many ranges. Where the broker is away, the caretaker will do so again."""
    try:
        await asyncio.to_thread(_send, broker_url, replay_id, min(ranges, MESSAGES))
    except (RedisError, OSError) as error:
        _log.warning("nobody was told of replay %d yet: %s", replay_id, told(error))


def _send(broker_url: str, replay_id: int, count: int) -> None:
    broker = make_broker(broker_url)
    try:
        for _ in range(count):
            broker.enqueue(
                dramatiq.Message(
                    queue_name=REPLAY_QUEUE,
                    actor_name=REPLAY_ACTOR,
                    args=(),
                    kwargs={"replay_id": replay_id},
                    options={},
                )
            )
    finally:
        broker.client.close()
