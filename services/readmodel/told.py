"""Hints that people were told of something, for the processes that have their inbox open: Redis' publish and
subscribe.

One channel for all, one message a transaction: a digest of 8 bytes for each person, one behind the other. Who
listens looks for those whose inbox is open here. Lost, late and repeated hints change nothing but latency:
whoever listens reads the inbox, and looks at it every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

from redis.asyncio import Redis

from services.readmodel.announcements import AWAY, messages

_log = logging.getLogger(__name__)

CHANNEL: Final = "tl:told"
"""Without the format of the views, so that releases hear each other."""
DIGEST: Final = 8
WAITING: Final = 1_000
"""Messages that wait to be published, at most: what they would have said is found by looking."""
_AGAIN_S: Final = 1.0


def digest(site: str, person: str) -> bytes:
    """What stands for a person of a site; that of another one is as good as never the same."""
    return blake2b(f"{site}\0{person}".encode(), digest_size=DIGEST).digest()


class Told:
    """Publishes hints: what gathers while one pipeline is under way goes with the next one."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: list[bytes] = []
        self._sending: asyncio.Task[None] | None = None

    def tell(self, people: Iterable[tuple[str, str]]) -> None:
        """These people, each of a site, have something new in their inbox. Never waits, and never fails."""
        message = b"".join(digest(site, person) for site, person in people)
        if not message or len(self._waiting) >= WAITING:
            return
        self._waiting.append(message)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="told")

    def of_site(self, site: str, people: Iterable[str]) -> None:
        """The same, of one site's."""
        self.tell((site, person) for person in people)

    async def stop(self) -> None:
        """Wait until what was said is published, or Redis did not take it."""
        if self._sending is not None:
            await self._sending

    async def _send(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                with contextlib.suppress(*AWAY):
                    async with self._redis.pipeline(transaction=False) as pipeline:
                        for message in waiting:
                            pipeline.publish(CHANNEL, message)
                        await pipeline.execute()
        finally:
            self._sending = None


class Hearing:
    """Hears the hints, over one connection of its own, once somebody wants them.

    `heard` is told each person's digest. `begun` is told when hints begin to come, for the first time or
    after the connection was lost: what was said before was not heard.
    """

    def __init__(self, redis: Redis, *, heard: Callable[[bytes], None], begun: Callable[[], None]) -> None:
        self._redis = redis
        self._heard = heard
        self._begun = begun
        self.wanted = asyncio.Event()

    async def run(self) -> None:
        """Stay connected, once it is wanted, until cancelled."""
        await self.wanted.wait()
        connected = False
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(CHANNEL)
                    async for message in messages(pubsub):
                        connected = True
                        self._take(message)
            except AWAY as error:
                if connected:
                    _log.warning("no hints of inboxes come: %s", type(error).__name__)
                connected = False
            await asyncio.sleep(_AGAIN_S)

    def _take(self, message: dict[str, object]) -> None:
        data = message["data"]
        if message["type"] == "subscribe":
            self._begun()
        elif message["type"] == "message" and isinstance(data, bytes):
            for start in range(0, len(data), DIGEST):
                self._heard(data[start : start + DIGEST])
