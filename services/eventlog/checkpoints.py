"""How far the followers of the log are, and the dead letters they left."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.errors import LetterMoved, PoisonEvent
from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES

FIRST: Final = ("", NIL)
"""Before the first dead letter, in the order of (projection, stream)."""


class Projection(StrEnum):
    """What follows the log."""

    VIEW = "view"
    NOTIFICATIONS = "notifications"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a projection could not apply. Its stream is parked before it; `build` is the release."""

    projection: Projection
    stream_id: UUID
    version: int
    event_id: UUID
    reason: str
    build: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ListedLetter(DeadLetter):
    """A dead letter with what an operator asks of it: the thread's names and the event's type (None where the
    log does not have them), and the version that the thread has reached."""

    site: str | None
    key: str | None
    type: str | None
    head: int

    @property
    def behind(self) -> int:
        """How many events wait behind the one that it stands before."""
        return max(0, self.head - self.version)


@dataclass(frozen=True, slots=True)
class Discarded:
    """An event that a projection was made to pass over: `error` is what it met there, `reason` is why an
    operator had it passed over."""

    projection: Projection
    stream_id: UUID
    version: int
    event_id: UUID
    error: str
    build: str
    reason: str
    discarded_at: datetime
    site: str | None
    key: str | None


@dataclass(frozen=True, slots=True)
class Parked:
    """Where a stream is parked: before the event at `version`, by the release `build`."""

    version: int
    build: str


@dataclass(frozen=True, slots=True)
class Followed:
    """How far the notifier is in a stream, and which projections are parked there."""

    notified: int
    parked: frozenset[str]


class DeadLetters:
    """The events that wait for a release, or an operator, who knows what to do with them."""

    def __init__(self, pool: asyncpg.Pool[Any], build: str = "") -> None:
        """`build`: the release that buries. Who only looks at letters, or takes them away, needs none."""
        self._pool = pool
        self.build = build

    async def bury(self, projection: Projection, event: PoisonEvent) -> None:
        """Record that the projection stands before this event. Again for the same event changes nothing."""
        assert self.build, "a dead letter names the release that left it"
        await self._pool.execute(
            QUERIES["bury"],
            projection,
            event.stream_id,
            event.version,
            event.event_id,
            event.reason[:1000].replace("\0", "?"),
            self.build,
        )

    async def among(self, projection: Projection, stream_ids: Collection[UUID]) -> dict[UUID, Parked]:
        """Those of these streams that are parked."""
        rows = await self._pool.fetch(QUERIES["dead_among"], projection, list(stream_ids))
        return {row["stream_id"]: Parked(row["version"], row["build"]) for row in rows}

    async def resurrect(self, projection: Projection, stream_id: UUID, version: int) -> None:
        """Take the dead letter away, if there is one: the projection has reached `version`.

        One that stands before a later event stays.
        """
        await self._pool.execute(QUERIES["resurrect"], projection, stream_id, version)

    async def of_other_builds(self, after: tuple[str, UUID] = FIRST, limit: int = 100) -> list[DeadLetter]:
        """Dead letters that another release left, in the order of (projection, stream)."""
        rows = await self._pool.fetch(QUERIES["dead_of_other_builds"], self.build, *after, limit)
        return [_letter(row) for row in rows]

    async def page(self, after: tuple[str, UUID] = FIRST, limit: int = 1000) -> list[DeadLetter]:
        """Dead letters in the order of (projection, stream)."""
        rows = await self._pool.fetch(QUERIES["dead_letters"], *after, limit)
        return [_letter(row) for row in rows]

    async def listed(
        self,
        projections: Collection[Projection] = tuple(Projection),
        site: str | None = None,
        *,
        after: tuple[str, UUID] = FIRST,
        limit: int = 1000,
    ) -> list[ListedLetter]:
        """As `page`, of these projections and of this site alone, with what an operator asks of them."""
        rows = await self._pool.fetch(QUERIES["letters_of"], list(projections), site, *after, limit)
        return [_listed(row) for row in rows]

    async def of_thread(self, projection: Projection, stream_id: UUID) -> ListedLetter | None:
        """The projection's dead letter in this thread, if there is one."""
        behind = (projection, UUID(int=stream_id.int - 1))
        found = await self.listed([projection], after=behind, limit=1)
        return found[0] if found and found[0].stream_id == stream_id else None

    async def discard(self, letter: DeadLetter, reason: str) -> None:
        """Have the notifier pass over the event of this letter, and record it with the reason.

        Checkpoint and letter move in one transaction, under the lock that the notifier takes. Only the
        notifier can: a view is a fold, and passes over nothing. Raises LetterMoved where the letter is not
        what it was.
        """
        assert letter.projection is Projection.NOTIFICATIONS, "a view passes over nothing"
        moved = LetterMoved(letter.stream_id, letter.version)
        async with self._pool.acquire() as connection, connection.transaction():
            reached = await connection.fetchval(QUERIES["notifier_checkpoint"], letter.stream_id)
            if reached != letter.version - 1:
                raise moved
            await connection.execute(
                QUERIES["move_notifier_checkpoint"], letter.stream_id, reached, letter.version
            )
            discarded = (letter.projection, letter.stream_id, letter.event_id, reason)
            if await connection.fetchval(QUERIES["discard"], *discarded) is None:
                raise moved

    async def discarded(
        self,
        projections: Collection[Projection] = tuple(Projection),
        site: str | None = None,
        limit: int = 1000,
    ) -> list[Discarded]:
        """What was passed over, the last first."""
        rows = await self._pool.fetch(QUERIES["discarded_letters"], list(projections), site, limit)
        return [Discarded(Projection(row[0]), *tuple(row)[1:]) for row in rows]

    async def counts(self) -> dict[Projection, int]:
        """How many there are of each projection."""
        rows = await self._pool.fetch(QUERIES["dead_counts"])
        return dict.fromkeys(Projection, 0) | {Projection(row["projection"]): row["letters"] for row in rows}


def _letter(row: asyncpg.Record) -> DeadLetter:
    projection, *rest = row
    return DeadLetter(Projection(projection), *rest)


def _listed(row: asyncpg.Record) -> ListedLetter:
    projection, *rest = row
    return ListedLetter(Projection(projection), *rest)


@dataclass(frozen=True, slots=True)
class Span:
    """A stream's events in one stretch of a lane: the first and last position, the last version."""

    stream_id: UUID
    version: int
    first: int
    last: int
    recorded_at: datetime
    thread: bool


class LaneCheckpoints:
    """What the sweeper of lanes reads and writes, on its own connection."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def position(self, lane: int) -> int:
        """Up to where every thread of the lane was seen to be caught up."""
        return int(await self._connection.fetchval(QUERIES["sweeper_checkpoint"], lane) or 0)

    async def move(self, lane: int, position: int) -> None:
        """Move the checkpoint forward; a position before it is ignored."""
        await self._connection.execute(QUERIES["move_sweeper_checkpoint"], lane, position)

    async def window(self, lane: int, after: int, size: int, settled: float) -> list[Span]:
        """What happened at the `size` positions after `after`, as far as it is `settled` seconds old.

        What is over 5 s ahead of the database's clock, which was set back since, counts as old.
        """
        rows = await self._connection.fetch(QUERIES["sweep_window"], lane, after, size, settled)
        return [Span(*row) for row in rows]

    async def first_of(self, versions: Mapping[UUID, int]) -> tuple[int, datetime] | None:
        """The first position among the events at these versions of streams, and when the oldest was
        recorded; None where there is no such event."""
        row = await self._connection.fetchrow(QUERIES["first_of"], list(versions), list(versions.values()))
        return None if row is None or row["position"] is None else (row["position"], row["recorded_at"])

    async def head(self, lane: int) -> int:
        """The position of the lane's last event."""
        return int(await self._connection.fetchval(QUERIES["lane_head"], lane) or 0)

    async def followed(self, stream_ids: Collection[UUID]) -> dict[UUID, Followed]:
        """How far the notifier is in each of these streams."""
        rows = await self._connection.fetch(QUERIES["followed"], list(stream_ids))
        return {row["stream_id"]: Followed(row["notified"], frozenset(row["parked"])) for row in rows}
