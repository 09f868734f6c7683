"""The live streams of one process: which threads are followed, and by whom.

Each thread is subscribed to once, however many follow it. A hint says that its view moved; where hints are
lost the log's heads tell, looked at in one query every few seconds, each second while Redis is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import randrange
from typing import Final
from uuid import UUID

from redis.asyncio import Redis

from services.api.live.frames import piece, reset
from services.api.live.listener import Listener
from services.api.live.places import Places
from services.api.live.telling import Teller
from services.api.live.thread import FAULTS, LiveThread
from services.errors import Overloaded, Unavailable
from services.readmodel.announcements import Subscriptions, dismiss

_log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 15
_LOOK_S: Final = 3
_LOOK_ALONE_S: Final = 1
_PAUSE_MS: Final = (1_000, 6_000)
"""After how long clients that this process sends away come back: not all at once."""


class Hub:
    """Every open live stream of this process: `limit` of them at most, `limit_of_one` to one address."""

    def __init__(self, teller: Teller, redis: Redis, *, limit: int, limit_of_one: int) -> None:
        """`redis` is for hints alone, and is closed by `stop`."""
        self.teller = teller
        self._redis = redis
        self._limit = limit
        self._limit_of_one = limit_of_one
        self._of_one: Counter[str] = Counter()
        self._places = Places()
        self._threads: dict[UUID, LiveThread] = {}
        self._slots: list[set[Listener]] = [set() for _ in range(HEARTBEAT_S)]
        self._tick = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriptions = Subscriptions(redis, heard=self._heard, begun=self._begun)
        self._fresh: set[UUID] = set()
        """Threads whose heads are to be looked at now."""
        self._look_now = asyncio.Event()
        self._closed = False
        self.streams = 0
        self.dropped = 0
        """Streams that were cut off since their readers were too slow."""
        self.resets = 0

    @property
    def threads(self) -> int:
        """How many threads are followed."""
        return len(self._threads)

    def start(self) -> None:
        """Begin to listen to hints."""
        self._tasks = [
            asyncio.create_task(self._subscriptions.run(), name="live-hints"),
            asyncio.create_task(self._watch(), name="live-watch"),
            asyncio.create_task(self._beat(), name="live-heartbeats"),
        ]

    async def stop(self) -> None:
        """End every stream, and take no more."""
        self.close()
        await dismiss(self._tasks)
        self._tasks.clear()
        with contextlib.suppress(Exception):
            await self._redis.aclose()

    def close(self) -> None:
        """End every stream in good order; each client is told when to come back."""
        self._closed = True
        for slot in self._slots:
            for listener in list(slot):
                listener.write(piece(b"retry: %d\n\n" % randrange(*_PAUSE_MS), 0))  # noqa: S311
                listener.end()

    # --- streams --------------------------------------------------------------------------------------

    @contextmanager
    def place(self, address: str | None) -> Iterator[None]:
        """Room for one stream more, to a client of that address (None: it has none).

        Raises Overloaded, Unavailable.
        """
        if self._closed:
            raise Unavailable("this process is about to stop")
        if self.streams >= self._limit:
            raise Overloaded("the list of live streams", retry_after=5)
        if address is not None and self._of_one[address] >= self._limit_of_one:
            raise Overloaded("the list of live streams to this address", retry_after=5)
        self.streams += 1
        if address is not None:
            self._of_one[address] += 1
        try:
            yield
        finally:
            self.streams -= 1
            if address is not None:
                self._of_one[address] -= 1
                if not self._of_one[address]:
                    del self._of_one[address]

    @contextmanager
    def following(self, stream_id: UUID, site: str, head: int) -> Iterator[LiveThread]:
        """The thread, which is followed from now on at the latest, its log's head being `head`."""
        thread = self._threads.get(stream_id)
        if thread is None:
            thread = self._threads[stream_id] = LiveThread(self.teller, self._places, stream_id, site, head)
            self._subscriptions.add(stream_id)
        thread.members += 1
        thread.wake(head)
        try:
            yield thread
        finally:
            thread.members -= 1
            if not thread.members:
                del self._threads[stream_id]
                self._subscriptions.remove(stream_id)
                thread.close()

    @contextmanager
    def listening(self, listener: Listener, until: float | None) -> Iterator[None]:
        """Heartbeats for the stream, and its end after `until` seconds (None: none is set)."""
        listener.slot = (self._tick - 1) % HEARTBEAT_S
        self._slots[listener.slot].add(listener)
        if until is not None:
            listener.timer = asyncio.get_running_loop().call_later(until, listener.end)
        if self._closed:
            listener.end()
        try:
            yield
        finally:
            self._slots[listener.slot].discard(listener)
            listener.cut()

    def drop(self) -> None:
        """A stream was cut off."""
        self.dropped += 1

    # --- hints ----------------------------------------------------------------------------------------

    def _heard(self, stream_id: UUID, version: int) -> None:
        thread = self._threads.get(stream_id)
        if thread is None:
            return
        if version:
            thread.wake(version)
        else:
            self._begun(stream_id)

    def _begun(self, stream_id: UUID) -> None:
        self._fresh.add(stream_id)
        self._look_now.set()

    async def _watch(self) -> None:
        """Look at the heads of all threads again and again, at once where hints begin to come."""
        clock = asyncio.get_running_loop().time
        last = clock()
        while True:
            # However often some are looked at, all of them have their turn.
            pause = _LOOK_S if self._subscriptions.connected else _LOOK_ALONE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(last + pause):
                    await self._look_now.wait()
            all_of_them = clock() >= last + pause
            if all_of_them:
                last = clock()
            self._look_now.clear()
            fresh, self._fresh = self._fresh, set()
            try:
                await self._look(list(self._threads if all_of_them else fresh & self._threads.keys()))
            except FAULTS as error:
                _log.warning("the heads of live threads are not to be had: %s", type(error).__name__)

    async def _look(self, stream_ids: list[UUID]) -> None:
        if not stream_ids:
            return
        told = {stream_id: self._threads[stream_id].position for stream_id in stream_ids}
        heads = await self.teller.log.heads(stream_ids)
        for stream_id, position in told.items():
            thread, head = self._threads.get(stream_id), heads.get(stream_id, 0)
            if thread is None:
                continue
            if head < position and not thread.busy:
                await self._set_back(thread, head)
            else:
                thread.wake(head)

    async def _set_back(self, thread: LiveThread, head: int) -> None:
        """The log ends before what was told of it: it was recovered to an earlier point in time."""
        _log.warning("the log of %s was set back to version %d", thread.stream_id, head)
        made = reset(head, await self.teller.head(thread.stream_id, head))
        self.resets += len(thread.listeners)
        await thread.begin_anew(made)

    async def _beat(self) -> None:
        """A heartbeat to a fifteenth of all streams each second."""
        while True:
            await asyncio.sleep(1)  # the beat itself: nothing is waited for
            self._tick = (self._tick + 1) % HEARTBEAT_S
            for count, listener in enumerate(list(self._slots[self._tick]), 1):
                listener.beat()
                if count % 500 == 0:
                    await asyncio.sleep(0)  # requests have their turn
