"""Hints that a thread's view moved on, for the processes that show it live: Redis' publish and subscribe.

Each thread has a channel (`keys.channel`), a hint is the version that its view has reached (0: that the log
moved, and there is no view), and nothing else. Lost, late and repeated hints change nothing but latency:
whoever listens reads the log, and looks at its heads every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from services.readmodel import keys

_log = logging.getLogger(__name__)

AWAY: Final = (RedisError, OSError, TimeoutError)
"""What is raised where Redis cannot be asked."""
_AT_ONCE: Final = 500
"""Channels named in one command."""
_AGAIN_S: Final = 1.0
_QUIET_S: Final = 5.0
"""Seconds without a word after which the server is asked whether it is there."""
_DEAD_S: Final = 15.0
"""Seconds without a word after which the connection is given up."""


class Announcer:
    """Publishes hints: what gathers while one pipeline is under way goes with the next one."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: dict[UUID, int] = {}
        self._sending: asyncio.Task[None] | None = None

    def moved(self, stream_id: UUID, version: int) -> None:
        """The thread's view has reached `version`. Never waits, and never fails."""
        # Two who bring it up may say so in any order.
        self._waiting[stream_id] = version and max(version, self._waiting.get(stream_id, 0))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="announcer")

    async def stop(self) -> None:
        """Wait until what was said is published, or Redis did not take it."""
        if self._sending is not None:
            await self._sending

    async def _send(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                with contextlib.suppress(*AWAY):
                    async with self._redis.pipeline(transaction=False) as pipeline:
                        for stream_id, version in waiting.items():
                            pipeline.publish(keys.channel(stream_id), version)
                        await pipeline.execute()
        finally:
            self._sending = None


class Subscriptions:
    """Hears of any number of threads over one connection of its own.

    `heard` is told each hint. `begun` is told when hints of a thread begin to come, for the first time or
    after the connection was lost: what moved before was not heard.
    """

    def __init__(
        self, redis: Redis, *, heard: Callable[[UUID, int], None], begun: Callable[[UUID], None]
    ) -> None:
        self._redis = redis
        self._heard = heard
        self._begun = begun
        self._wanted: dict[str, UUID] = {}
        self._asked: set[str] = set()
        """Channels whose wish changed, and that the server is to be told of."""
        self._changed = asyncio.Event()
        self.connected = False
        """Whether hints come. A lost connection is noticed after 15 seconds at most."""

    def add(self, stream_id: UUID) -> None:
        """Begin to hear of a thread."""
        self._wanted[keys.channel(stream_id)] = stream_id
        self._change(stream_id)

    def remove(self, stream_id: UUID) -> None:
        """Hear of a thread no more."""
        self._wanted.pop(keys.channel(stream_id), None)
        self._change(stream_id)

    def _change(self, stream_id: UUID) -> None:
        self._asked.add(keys.channel(stream_id))
        self._changed.set()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await self._hold(pubsub)
            except AWAY as error:
                if self.connected:
                    _log.warning("no hints of threads come: %s", type(error).__name__)
            finally:
                self.connected = False
            await asyncio.sleep(_AGAIN_S)

    async def _hold(self, pubsub: PubSub) -> None:
        """One connection, until it fails."""
        await pubsub.connect()  # type: ignore[no-untyped-call]
        self._asked = set(self._wanted)
        self._changed.set()
        self.connected = True
        tasks = [asyncio.create_task(self._tell(pubsub)), asyncio.create_task(self._hear(pubsub))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await dismiss(tasks)

    async def _tell(self, pubsub: PubSub) -> None:
        """Subscribe and unsubscribe as wished."""
        told: set[str] = set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            asked, self._asked = self._asked, set()
            new = [name for name in asked if name in self._wanted and name not in told]
            gone = [name for name in asked if name not in self._wanted and name in told]
            for first in range(0, len(new), _AT_ONCE):
                await pubsub.subscribe(*new[first : first + _AT_ONCE])
            for first in range(0, len(gone), _AT_ONCE):
                await pubsub.unsubscribe(*gone[first : first + _AT_ONCE])
            told.update(new)
            told.difference_update(gone)

    async def _hear(self, pubsub: PubSub) -> None:
        """Pass on what comes. Raises TimeoutError where the server says nothing any more."""
        async for message in messages(pubsub):
            stream_id = self._wanted.get(_text(message["channel"]))
            if stream_id is None:
                continue
            if message["type"] == "subscribe":
                self._begun(stream_id)
            elif message["type"] == "message" and (version := _text(message["data"])).isdecimal():
                self._heard(stream_id, int(version))


async def messages(pubsub: PubSub) -> AsyncIterator[dict[str, object]]:
    """What comes over the connection. Raises TimeoutError where the server says nothing any more."""
    last = time.monotonic()
    while True:
        message = await pubsub.get_message(timeout=_QUIET_S)
        if message is not None:
            last = time.monotonic()
            yield message
        elif time.monotonic() - last > _DEAD_S:
            raise TimeoutError
        else:
            await pubsub.ping()


async def dismiss(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: a client that waits for an answer may swallow it once."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


def _text(given: object) -> str:
    return given.decode(errors="replace") if isinstance(given, bytes) else str(given or "")
