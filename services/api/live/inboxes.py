"""The inboxes that are open in this process: who is told at once where a hint comes, and who is looked at.

Hints name people, by digests, and are heard once for all. Every stream is looked at with each of its
heartbeats too, all those of a second together; so what no hint told, while Redis is away, comes within 15
seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from redis.asyncio import Redis

from services.api.live.places import Places
from services.api.live.thread import FAULTS
from services.eventlog.inbox import Inbox, Seen
from services.readmodel.announcements import dismiss
from services.readmodel.told import Hearing, digest

_log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Seconds between two looks, each at a fifteenth of the streams."""
AT_ONCE: Final = 1_000
"""Inboxes that one query looks at."""


class Open(Protocol):
    """An inbox that somebody follows."""

    site: str
    person: str
    seen: Seen

    async def tell(self) -> None:
        """Tell what there is to tell. Raises FAULTS."""

    def beat(self) -> None:
        """Write a heartbeat that says what has been seen."""


class _Turn:
    """Whether somebody is being told, and whether there is more to tell then."""

    __slots__ = ("due", "task")

    def __init__(self) -> None:
        self.due = False
        self.task: asyncio.Task[None] | None = None


class Inboxes:
    """Every inbox that is open, from `start` until `stop`."""

    def __init__(self, inbox: Inbox, redis: Redis) -> None:
        """`redis` is for hints alone, and is closed by `stop`."""
        self._inbox = inbox
        self._redis = redis
        self._places = Places()
        self._open: dict[Open, _Turn] = {}
        self._people: dict[bytes, set[Open]] = {}
        self._beaten: list[Open] = []
        self._unheard: dict[Open, None] = {}
        """Those whose hints may have been missed."""
        self._hearing = Hearing(redis, heard=self._heard, begun=self._begun)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look, and to hear once an inbox is open."""
        self._tasks = [
            asyncio.create_task(self._hearing.run(), name="inbox-hints"),
            asyncio.create_task(self._look(), name="inbox-look"),
        ]

    async def stop(self) -> None:
        """Look and hear no more."""
        await dismiss(self._tasks)
        self._tasks.clear()
        with contextlib.suppress(Exception):
            await self._redis.aclose()

    @contextmanager
    def following(self, one: Open) -> Iterator[None]:
        """Tell it from now on what comes, and first of all what came meanwhile."""
        turn = self._open[one] = _Turn()
        name = digest(one.site, one.person)
        self._people.setdefault(name, set()).add(one)
        self._hearing.wanted.set()
        self.wake(one)
        try:
            yield
        finally:
            del self._open[one]
            self._people[name].discard(one)
            if not self._people[name]:
                del self._people[name]
            if turn.task is not None:
                turn.task.cancel()

    def wake(self, one: Open) -> None:
        """There may be something to tell."""
        turn = self._open.get(one)
        if turn is None:
            return
        turn.due = True
        if turn.task is None:
            turn.task = asyncio.create_task(self._tell(one, turn), name="inbox-tell")

    def beat(self, one: Open) -> None:
        """It is time for a heartbeat, and a look."""
        self._beaten.append(one)

    def _heard(self, name: bytes) -> None:
        for one in self._people.get(name, ()):
            self.wake(one)

    def _begun(self) -> None:
        self._unheard = dict.fromkeys(self._open)

    async def _tell(self, one: Open, turn: _Turn) -> None:
        try:
            while turn.due:
                turn.due = False
                async with self._places.held():
                    await one.tell()
        except FAULTS as error:
            _log.warning("an inbox waits: %s", type(error).__name__)  # until it is looked at
        finally:
            turn.task = None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)  # the beat itself: nothing is waited for
            beaten, self._beaten = self._beaten, []
            looked_at = list(dict.fromkeys(beaten) | self._unheard)
            self._unheard = {}
            try:
                for start in range(0, len(looked_at), AT_ONCE):
                    await self._look_at(looked_at[start : start + AT_ONCE])
            except Exception as error:  # noqa: BLE001 - whatever it was, the next look is to come
                _log.warning("inboxes are not to be had: %s", type(error).__name__)
            for one in beaten:
                one.beat()

    async def _look_at(self, some: list[Open]) -> None:
        # Who is being told is looked at again with the next heartbeat.
        asked = [(one, one.seen) for one in some if (turn := self._open.get(one)) and not turn.task]
        if not asked:
            return
        found, now = await self._inbox.news([(one.site, one.person, seen.snapshot) for one, seen in asked])
        for place, (one, seen) in enumerate(asked):
            if place in found:
                self.wake(one)
            elif one.seen is seen and seen.then is None:
                one.seen = now  # nothing came: so nothing between the two is to be told
