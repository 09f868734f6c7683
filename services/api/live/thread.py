"""A thread that somebody follows: its events are read once, made once, and written to all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import asyncpg
from redis.exceptions import RedisError

from services.api.live.frames import Batch
from services.api.live.listener import Listener
from services.api.live.places import Places
from services.api.live.telling import Teller
from services.api.live.votes import LATELY, LATELY_S, Votes, may_have_waited
from services.errors import ThreadlogError, ThreadParked

_log = logging.getLogger(__name__)

SLICE: Final = 500
"""Streams written to before others have their turn."""

FAULTS: Final = (
    ThreadlogError,
    RedisError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)
"""What keeps a stream from going on just now."""


class LiveThread:
    """A thread with its listeners. `position` is the version up to which they were told, `target` the one up
    to which there is something to tell."""

    def __init__(self, teller: Teller, places: Places, stream_id: UUID, site: str, position: int) -> None:
        self._teller = teller
        self._places = places
        self._votes = Votes()
        self._owed: list[UUID] = []
        """Comments whose tallies are to be told next."""
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._replays: dict[tuple[int, bool], asyncio.Task[Batch]] = {}
        self._closed = False
        self.stream_id = stream_id
        self.site = site
        self.position = position
        self.target = position
        self.members = 0
        """Streams that are open, or about to be."""
        self.listeners: dict[Listener, None] = {}

    # --- events ---------------------------------------------------------------------------------------

    def wake(self, version: int) -> None:
        """There may be events up to `version`."""
        self.target = max(self.target, version)
        if self.position < self.target:
            self._run()

    def _run(self) -> None:
        if self._running is None and not self._closed:
            self._running = asyncio.create_task(self._go_on(), name="live-thread")

    async def _go_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            while not self._closed and (self._is_due() or self.position < self.target):
                async with self._places.held():
                    await self._step()
        except FAULTS as error:
            # The hub looks at the log's head every few seconds, and has it tried again.
            level = logging.DEBUG if isinstance(error, ThreadParked) else logging.WARNING
            _log.log(level, "live streams of %s wait: %s", self.stream_id, type(error).__name__)
        finally:
            self._running = None
            wait = 1.0 if self._owed else self._votes.wait()
            if wait is not None and not self._closed:
                self._timer = asyncio.get_running_loop().call_later(wait, self._run)

    def _is_due(self) -> bool:
        self._owed += self._votes.due()
        return bool(self._owed)

    async def _step(self) -> None:
        """Tell the tallies that are due, then the next events."""
        read = None
        if self.position < self.target:
            # No further than its view is said to be: else this process would do the projector's work.
            read = await self._teller.read(self.stream_id, self.position, self.target)
            if read is None:
                self.target = self.position  # the hint was of another log
            else:
                self._owed += self._votes.overdue(read.last)
        if self._owed:
            await self._send(await self._teller.tallies(self.stream_id, self.site, self._owed, self.position))
            self._owed.clear()
        if read is None:
            return
        to = read.last.version
        notes = self._votes.pass_on(read.notes, read.last)
        told = await self._teller.told(self.stream_id, self.site, notes, to)
        batch = Batch(self.position, to, told)
        # Whoever joins from here on begins after these events; those who are there are written to.
        self.position = to
        await self._send(batch)

    async def _send(self, batch: Batch) -> None:
        for count, listener in enumerate(list(self.listeners), 1):
            rest = batch.behind(listener.position)
            if rest is not None:
                listener.tell(rest.pieces(listener.reader), rest.to)
            if count % SLICE == 0:
                await asyncio.sleep(0)  # requests have their turn

    @property
    def busy(self) -> bool:
        """Whether events are being told."""
        return self._running is not None

    async def begin_anew(self, reset: Batch) -> None:
        """Go on after a reset, whose version lies before what was told: the log was set back."""
        self.position = self.target = reset.to
        for listener in self.listeners:
            listener.position = reset.after
        await self._send(reset)

    # --- joining --------------------------------------------------------------------------------------

    def join(self, listener: Listener) -> None:
        """Tell the listener what comes after its position, which is that of the thread or a later one."""
        self.listeners[listener] = None
        self.wake(listener.position)

    async def replay(self, after: int) -> Batch:
        """The next events after `after`, for whoever is behind; those who ask together share one reading."""
        return await self._shared(
            (after, False), lambda: self._teller.after(self.stream_id, self.site, after)
        )

    async def waited(self, version: int) -> Batch:
        """The tallies that may have waited when everything else up to `version` was told."""
        return await self._shared((version, True), lambda: self._waited(version))

    async def _waited(self, version: int) -> Batch:
        votes = await self._teller.log.votes_lately(
            self.stream_id, version, events=2 * LATELY, seconds=2 * LATELY_S
        )
        if len(votes) < 2:
            return Batch(version, version, ())
        [event] = await self._teller.log.events_at(self.stream_id, [version])
        ids = may_have_waited(votes, event.recorded_at)
        return await self._teller.tallies(self.stream_id, self.site, ids, version)

    async def _shared(self, name: tuple[int, bool], read: Callable[[], Awaitable[Batch]]) -> Batch:
        running = self._replays.get(name)
        if running is None:
            running = asyncio.create_task(self._read(read), name="live-replay")
            self._replays[name] = running
            running.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(running)

    def _ended(self, name: tuple[int, bool], done: asyncio.Task[Batch]) -> None:
        del self._replays[name]
        if not done.cancelled():
            done.exception()  # whoever waited has it; where nobody does any more, nobody needs to hear of it

    async def _read(self, read: Callable[[], Awaitable[Batch]]) -> Batch:
        async with self._places.held():
            return await read()

    def close(self) -> None:
        """Nobody listens any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
