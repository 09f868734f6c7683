"""Replays as the database keeps them: which threads, cut into ranges, and how far each range is.

A range is a span of stream ids. These are UUIDv5, so spans of equal width hold about as many threads each.
Who works on a range leases it, and moves its checkpoint on together with the counts of what lies before it; a
process that is killed loses its lease, and the next one goes on from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES

LEASE_S: Final = 10.0
"""Seconds after which the range of a process that says nothing more is another's."""

PER_RANGE: Final = 256
"""Threads of a range, about, as far as there may be as many ranges."""

EVENTS_PER_RANGE: Final = 8_000
"""Events of a range, about, where its threads are longer: so that all processes have some until the end."""

MOST_RANGES: Final = 1024

_IDS: Final = 1 << 128


class State(StrEnum):
    """What becomes of a replay. The last two are final."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Selected:
    """Which threads: one, those of a site, or all; `since`: of these, those with an event since then (UTC).

    All threads, whenever they moved, are `everything`: then also what belongs to no thread is looked at.
    """

    site: str | None = None
    stream_id: UUID | None = None
    since: datetime | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self.site is None and self.stream_id is None and self.since is None


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay and how far it is. `rate` is in events a second, since it was last begun or resumed."""

    id: int
    selected: Selected
    differing: bool
    max_rate: int | None
    workers: bool
    state: State
    of_threads: int
    of_events: int
    """What there was when it began."""
    threads: int
    rebuilt: int
    failed: int
    events: int
    repaired: int
    ranges: int
    done: int
    leased: int
    """Ranges that somebody works on."""
    began_at: datetime
    ended_at: datetime | None
    rate: float | None


@dataclass(frozen=True, slots=True)
class Range:
    """A range that this process has leased as `holder`: what lies behind stream `done_through`, up to `last`
    (None: what belongs to no thread)."""

    replay_id: int
    number: int
    holder: UUID
    done_through: UUID
    last: UUID | None


@dataclass(frozen=True, slots=True)
class Step:
    """What was done of a range: all up to stream `through`, so many threads, of which `rebuilt` were, and
    those that could not be, with the reasons."""

    through: UUID
    threads: int
    rebuilt: int
    events: int
    repaired: int
    failed: Sequence[tuple[UUID, str]]


@dataclass(frozen=True, slots=True)
class Logged:
    """A stream as the log has it. `version` is None where its row in the decision state is lost, `key` where
    it is a site's own."""

    stream_id: UUID
    site: str
    key: str | None
    version: int | None

    @property
    def is_site(self) -> bool:
        """Whether it is a site's own stream. One whose first event tells nothing is taken for a thread."""
        return self.key is None and self.site != ""


class Replays:
    """The replays of one database."""

    def __init__(self, pool: asyncpg.Pool[Any], reads: asyncpg.Pool[Any] | None = None) -> None:
        """`reads`: connections to where the log is read, where that is a standby."""
        self._pool = pool
        self._reads = reads or pool

    async def begin(
        self,
        selected: Selected,
        *,
        differing: bool = False,
        max_rate: int | None = None,
        workers: bool = False,
    ) -> int:
        """Enter a replay; its number."""
        threads, events = await self.size(selected)
        spans = spans_of(selected, threads, events)
        replay_id: int = await self._pool.fetchval(
            QUERIES["begin_replay"],
            *(selected.site, selected.stream_id, selected.since, differing, max_rate, workers, threads),
            [behind for behind, _ in spans],
            [last for _, last in spans],
            events,
        )
        return replay_id

    async def size(self, selected: Selected) -> tuple[int, int]:
        """How many threads these are, and how many events they have, as far as the decision state knows."""
        if selected.stream_id is not None:
            return 1, await self._pool.fetchval(QUERIES["stream_end"], selected.stream_id) or 0
        [row] = await self._pool.fetch(QUERIES["replay_size"], selected.site, selected.since)
        return row["threads"], row["events"]

    async def one(self, replay_id: int) -> Replay | None:
        """A replay by its number."""
        row = await self._pool.fetchrow(QUERIES["replays"], replay_id, 1)
        return None if row is None else _replay(row)

    async def newest(self, limit: int = 20) -> list[Replay]:
        """The last replays, newest first."""
        return [_replay(row) for row in await self._pool.fetch(QUERIES["replays"], None, limit)]

    async def failures(
        self, replay_id: int, limit: int = 100
    ) -> list[tuple[UUID, str | None, str | None, str]]:
        """Threads that it could not rebuild: stream, site and key as far as they are known, and why."""
        rows = await self._pool.fetch(QUERIES["replay_failures"], replay_id, limit)
        return [(row["stream_id"], row["site"], row["key"], row["reason"]) for row in rows]

    async def move(self, replay_id: int, to: State, of: Sequence[State]) -> bool:
        """Give a replay another state, if it is in one `of` these; whether it was."""
        moved = await self._pool.fetchval(QUERIES["move_replay"], replay_id, to, list(of))
        return moved is not None

    async def to_do(self) -> list[tuple[int, int]]:
        """The running replays that workers do and that have ranges for them, and how many; those that are to
        be said done, with none."""
        rows = await self._pool.fetch(QUERIES["replays_to_do"])
        return [(row["replay_id"], row["free"]) for row in rows]

    # --- ranges -----------------------------------------------------------------------------------------

    async def claim(self, replay_id: int, holder: UUID) -> Range | None:
        """Lease a range that nobody works on; None where there is none, or the replay does not run."""
        row = await self._pool.fetchrow(QUERIES["claim_range"], replay_id, holder, LEASE_S)
        return (
            None if row is None else Range(replay_id, row["number"], holder, row["done_through"], row["last"])
        )

    async def renew(self, mine: Range) -> State | None:
        """Keep the lease; the replay's state, or None where the range is another's by now."""
        state = await self._pool.fetchval(
            QUERIES["renew_range"], mine.replay_id, mine.number, mine.holder, LEASE_S
        )
        return None if state is None else State(state)

    async def checkpoint(self, mine: Range, step: Step, *, ends: bool) -> State | None:
        """Record, as one, that this much of the range is done, all of it if it `ends`. Gives what `renew`
        does, and where that is None nothing was recorded."""
        state = await self._pool.fetchval(
            QUERIES["checkpoint_range"],
            *(mine.replay_id, mine.number, mine.holder, LEASE_S),
            *(step.through, step.threads, step.rebuilt, len(step.failed), step.events, step.repaired, ends),
            [stream_id for stream_id, _ in step.failed],
            [reason[:1000].replace("\0", "?") for _, reason in step.failed],
        )
        return None if state is None else State(state)

    async def take_over(self, replay_id: int) -> None:
        """End all leases of a replay: who held them is known to be gone, or loses some seconds of work."""
        await self._pool.execute(QUERIES["take_over_ranges"], replay_id)

    async def give_back(self, mine: Range) -> None:
        """End the lease, for whoever wants to go on."""
        await self._pool.execute(QUERIES["give_back_range"], mine.replay_id, mine.number, mine.holder)

    async def finish(self, replay_id: int) -> None:
        """The replay is done, if all its ranges are."""
        await self._pool.execute(QUERIES["finish_replay"], replay_id)

    async def pay(self, replay_id: int, events: int) -> float:
        """How many seconds to wait before replaying so many events more, for all processes together to keep
        to the replay's rate."""
        return float(await self._pool.fetchval(QUERIES["pay_for_events"], replay_id, events) or 0.0)

    # --- what lies in a range ---------------------------------------------------------------------------

    async def streams(
        self, selected: Selected, behind: UUID, last: UUID, limit: int
    ) -> tuple[list[Logged], UUID | None]:
        """At most `limit` streams of the log in the order of their ids, found by their first events; and up
        to which id that was all, None where it was all of the range."""
        rows = await self._reads.fetch(
            QUERIES["logged_streams"], behind, last, selected.site, selected.since, limit
        )
        found = [_logged(row) for row in rows]
        named = [one for one in found if selected.site is None or one.site == selected.site]
        return named, found[-1].stream_id if len(found) == limit else None


def spans_of(selected: Selected, threads: int, events: int = 0) -> list[tuple[UUID, UUID | None]]:
    """The ranges of a replay of so many threads, with so many events in all: each what lies behind one id, up
    to another."""
    if selected.stream_id is not None:
        return [(UUID(int=selected.stream_id.int - 1), selected.stream_id)]
    by_events = min(threads, -(-events // EVENTS_PER_RANGE))
    count = max(1, min(MOST_RANGES, max(-(-threads // PER_RANGE), by_events)))
    ends = [UUID(int=_IDS * number // count - 1) for number in range(1, count + 1)]
    spans: list[tuple[UUID, UUID | None]] = list(zip([NIL, *ends], ends, strict=False))
    return [*spans, (NIL, None)] if selected.everything else spans


def _replay(row: asyncpg.Record) -> Replay:
    replay_id, site, stream_id, since, differing, max_rate, workers, state, *rest = row
    return Replay(
        replay_id, Selected(site, stream_id, since), differing, max_rate, workers, State(state), *rest
    )


def _logged(row: asyncpg.Record) -> Logged:
    if row["opened"] is None:
        return Logged(row["stream_id"], row["site"], row["key"], row["version"])
    try:
        opens = orjson.loads(row["opened"]).get("opens") or {}
    except (ValueError, AttributeError):
        opens = {}  # the fold meets it again, and names it as poison
    return Logged(row["stream_id"], opens.get("site", ""), opens.get("key"), None)
