"""The notifier: tells people of what happens in threads, once, from the log.

Several threads go together. Their events are read and their texts opened first; then rows and checkpoints
move in one transaction (telling.py). So of two notifiers on one thread the second finds the checkpoint moved,
and reads on from where the first has ended: nothing is skipped, nothing told twice. Who is told is decided on
the comments as they stand after the events were read.

What cannot be read ends the telling in its own thread, and a thread whose rows cannot be written leaves the
others alone. Names are folded as well of what people were told of before there were any, or are never told
of: imports.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg

from schema.events.envelope import Recorded
from schema.events.registry import TypeUnknown
from services.core.tellable import READ, TEXTS, step_of
from services.errors import PoisonEvent, UnknownEventType
from services.eventlog.keys import AuthorKey, Keyring
from services.eventlog.queries import QUERIES
from services.projection.names import Reading
from services.workers.happened import Thread, Told
from services.workers.telling import Crowded, Telling

PAGE: Final = 500
"""Events of one thread that are read for one transaction, at most."""
TOGETHER: Final = 64
"""Threads in one transaction, at most."""

_EVENTS: Final = 2_048
"""Events of all threads that are read for one transaction, at most."""
_CONNECTION: Final = (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, TimeoutError)
"""What is wrong with no thread in particular."""


@dataclass(slots=True)
class Outcome:
    """How many notifications were written, and what ended the telling in which threads before all was
    told."""

    told: int = 0
    failed: dict[UUID, Exception] = field(default_factory=dict)


class Notifier:
    """Writes the notifications that threads' events cause."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        keyring: Keyring,
        *,
        page: int = PAGE,
        mails: bool = False,
        told: Callable[[Collection[tuple[str, str]]], None] = lambda _people: None,
        fanned: Callable[[Collection[UUID]], None] = lambda _stream_ids: None,
    ) -> None:
        """`mails`: whether there is a mail server, so that mails are entered. After each commit `told` hears
        who was told, as pairs of site and person, and `fanned` in which threads followers are left to be
        told."""
        self._pool = pool
        self._reading = Reading(keyring)
        self._page = page
        self._mails = mails
        self._told = told
        self._fanned = fanned

    async def notify(self, stream_id: UUID) -> int:
        """Tell of all events after the thread's checkpoint; how many notifications were written.

        Raises PoisonEvent or UnknownEventType at an event that cannot be read, having told of all before it.
        """
        outcome = await self.notify_all([stream_id])
        for error in outcome.failed.values():
            raise error
        return outcome.told

    async def notify_all(self, stream_ids: Iterable[UUID]) -> Outcome:
        """As `notify`, of several threads; whatever ends the telling in one of them is left to that one."""
        outcome = Outcome()
        left = list(dict.fromkeys(stream_ids))
        while left:
            some, left = left[:TOGETHER], left[TOGETHER:]
            left = await self._together(some, outcome) + left
        return outcome

    async def reached(self, stream_id: UUID) -> int:
        """The version up to which people were told of the thread."""
        return int(await self._pool.fetchval(QUERIES["notifier_checkpoint"], stream_id) or 0)

    async def _together(
        self, stream_ids: Sequence[UUID], outcome: Outcome, page: int | None = None
    ) -> list[UUID]:
        """One transaction for these threads, `page` events of each at most; those of which there is more to
        read."""
        try:
            return await self._step(stream_ids, outcome, page or self._page)
        except Crowded as crowded:
            if len(stream_ids) == 1:
                smaller = max(1, int((page or self._page) / (1.5 * crowded.times)))
                return await self._together(stream_ids, outcome, smaller)
        except Exception as error:  # noqa: BLE001 - only the thread that it is about suffers
            if len(stream_ids) == 1 or isinstance(error, _CONNECTION):
                outcome.failed.update(dict.fromkeys(stream_ids, error))
                return []
        return [more for stream_id in stream_ids for more in await self._together([stream_id], outcome)]

    async def _step(self, stream_ids: Sequence[UUID], outcome: Outcome, page: int) -> list[UUID]:
        threads = await self._read(stream_ids, page)
        moving = [thread for thread in threads if thread.moves]
        told = Told()
        if moving:
            async with self._pool.acquire() as connection, connection.transaction():
                told = await Telling(connection, moving, mails=self._mails).tell()
            outcome.told += told.count
            if told.fanned:
                self._fanned(told.fanned)
            if told.people:
                self._told(told.people)
        more = []
        for thread in threads:
            if thread.stream_id in told.passed or (thread.full and thread.error is None):
                more.append(thread.stream_id)
            elif thread.error is not None:
                outcome.failed[thread.stream_id] = thread.error
        return more

    async def _read(self, stream_ids: Sequence[UUID], page: int) -> list[Thread]:
        """What the threads hold behind their checkpoints, a page of each."""
        rows = await self._pool.fetch(QUERIES["notified"], list(stream_ids))
        threads = [
            Thread(
                row["stream_id"],
                row["site"],
                row["version"] or 0,
                row["named"],
                follows=row["follows"],
                asks=row["asks"],
                hooked=row["hooked"],
                is_new=row["version"] is None,
            )
            for row in rows
        ]
        page = min(page, max(16, _EVENTS // max(1, len(threads))))
        events = defaultdict[UUID, list[Recorded]](list)
        for row in await self._pool.fetch(
            QUERIES["notifiable"],
            [thread.stream_id for thread in threads],
            [thread.named for thread in threads],
            page,
            READ,
            TEXTS,
        ):
            events[row[0]].append(Recorded(*row))
        keys = await self._reading.keys(event for some in events.values() for event in some)
        for thread in threads:
            found = events[thread.stream_id]
            thread.full = len(found) == page
            self._take(thread, found, keys)
        return threads

    def _take(self, thread: Thread, events: Iterable[Recorded], keys: Mapping[UUID, AuthorKey]) -> None:
        """Read the events as far as they can be. Of what was passed over before, nothing is made."""
        thread.reached = thread.named
        for event in events:
            try:
                step = step_of(event)
                said = self._reading.read(event, keys)
            except Exception as error:  # noqa: BLE001 - no I/O here: whatever it is, it is this event's
                if event.version > thread.version:
                    thread.error = _ended_by(event, error)
                    return
            else:
                if step is not None:
                    thread.steps.append((step, said))
            thread.reached = event.version


def _ended_by(event: Recorded, error: Exception) -> PoisonEvent:
    if isinstance(error, PoisonEvent):
        return error
    if isinstance(error, TypeUnknown):
        return UnknownEventType(event.stream_id, event.version, event.event_id, str(error))
    return PoisonEvent(event.stream_id, event.version, event.event_id, f"{type(error).__name__}: {error}")
