"""Replay: rebuild what is derived of threads from their events, while they are read and written.

The decision state is compared in one snapshot of the database (a standby's, where there is one), and what
differs is repaired in place, under the lane's lock, a few rows at a time. A view is built beside the one that
serves and switched to. Short threads go many at a time, long ones one by one.
Nothing is sent: a replay knows no notification, mail or live event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from schema.events.envelope import Recorded
from services.core.addresses import lane_of
from services.core.page import FoldIndex
from services.core.thread import ThreadState
from services.core.window import part_of
from services.errors import PoisonEvent, Unavailable
from services.eventlog import kept, state
from services.eventlog.checkpoints import DeadLetters, Projection
from services.eventlog.locks import LockClass
from services.eventlog.log import NIL, EventLog
from services.eventlog.queries import QUERIES
from services.eventlog.state import Connection
from services.projection.advance import SHORT, Projector
from services.projection.behind import SiteFold, bring, bring_long
from services.projection.fold import evolve_all
from services.projection.longthread import LONG, LongThread
from services.projection.whole import Nodes, Whole
from services.readmodel.batches import Made
from services.readmodel.records import Head, Outcome

REBUILT: Final = frozenset(
    {
        "streams",
        "comments",
        "reports",
        "votes",
        "notifier_checkpoints",
        "participants",
        "mentioned",
        "dead_letters",
        "snapshots",
        "snapshot_segments",
        "lanes",
        "sweeper_checkpoints",
    }
)
"""What a replay sets right, of the kinds of differences that there are, beside all kinds of views."""

SLICE: Final = 100
"""Rows of one table that are repaired in one hold of the lane's lock."""

PART: Final = 100_000
"""Events of a long thread whose comments are compared together: some 500 bytes each."""

TOGETHER: Final = SHORT
"""Threads of up to so many events are replayed with others."""

_LOCK_TRIES: Final = 20
_HOLD = "set local lock_timeout = '3s'; set local idle_in_transaction_session_timeout = '3s'"
"""A lane that is busy is waited for; a process that freezes does not keep it."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay of one stream did. `rows` counts the rows of the decision state that it changed; `error`
    is what ended it."""

    stream_id: UUID
    version: int
    rows: int
    seconds: float = 0.0
    error: Exception | None = None


def is_rebuilt(difference: state.Difference) -> bool:
    """Whether a replay sets this right."""
    return difference.kind in REBUILT or difference.kind.startswith("view ")


class Replayer:
    """Rebuilds threads, while they are read and written."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        projector: Projector,
        letters: DeadLetters,
        lanes: int,
        *,
        reads: asyncpg.Pool[Any] | None = None,
    ) -> None:
        """`reads`: connections to what `projector` reads, where that is not the primary."""
        self._pool = pool
        self._reads = reads or pool
        self._log = EventLog(pool)
        self._projector = projector
        self._letters = letters
        self._lanes = lanes
        self.bared: Callable[[UUID, int], None] = lambda _stream_id, _version: None
        """Told of each thread, at its version, that was replayed alone and has no snapshot any more."""

    async def replay(self, stream_id: UUID) -> Replayed:
        """Rebuild one thread: its decision state, then its view. A dead letter of the view goes with it, and
        its snapshots: they are written again as they are needed.

        Raises PoisonEvent and UnknownEventType; the view then serves what comes before that event, marked
        stale.
        """
        started = time.perf_counter()
        if (last := await self._log.head(stream_id)) is not None and last[0] > LONG:
            return await self._long(stream_id, last[0], started)
        whole = await self._projector.whole(stream_id)
        if whole.thread.version == 0 and whole.poison is None and self._reads is not self._pool:
            async with self._pool.acquire() as connection:  # begun so lately that the standby has none of it
                await bring(connection, whole.thread)
        rows = 0
        if whole.poison is None:
            with suppress(PoisonEvent):  # in what came meanwhile: the view's rebuild tells of it
                rows = await self._compare_and_repair(whole.thread)
            await self._projector.reindex(whole)
        return await self._rebuilt(stream_id, rows, started, whole)

    async def _long(self, stream_id: UUID, length: int, started: float) -> Replayed:
        """As `replay`, of a thread that is too long to be held in memory as objects: its comments are
        compared a part after the other, and the stream is folded for each. The view comes first: what it is
        made of is large, and what parts leave of the heap is no place for it."""
        thread = LongThread(self._projector.log, stream_id)
        await thread.fold()
        if thread.poison is not None:
            return await self._rebuilt(stream_id, 0, started, thread)
        rows = await self._repair_stream(stream_id, thread)
        try:
            done = await self._rebuilt(stream_id, rows, started, thread)
        except PoisonEvent:  # a text that does not open is the view's concern alone
            await self._repair_parts(stream_id, length)
            raise
        del thread
        rows = await self._repair_parts(stream_id, length)
        return replace(done, rows=done.rows + rows, seconds=time.perf_counter() - started)

    async def _repair_parts(self, stream_id: UUID, length: int) -> int:
        rows = 0
        with suppress(PoisonEvent):  # in what came meanwhile: whoever brings the view there tells of it
            for after in range(0, length, PART):
                rows += await self._compare_and_repair(part_of(stream_id, after, after + PART), own=False)
        return rows

    async def _rebuilt(
        self, stream_id: UUID, rows: int, started: float, whole: Whole | LongThread
    ) -> Replayed:
        rows += await self._settle([stream_id])
        head = await self._projector.rebuild(stream_id, whole)
        version = 0 if head is None else head.version
        if version:
            await self._letters.resurrect(Projection.VIEW, stream_id, version)
            self.bared(stream_id, version)
        return Replayed(stream_id, version, rows, time.perf_counter() - started)

    async def replay_together(self, stream_ids: Sequence[UUID]) -> list[Replayed]:
        """Rebuild several short threads as `replay` does, in a few round trips for all.

        What went wrong with one of them is in its result; what goes wrong with all is raised.
        """
        started = time.perf_counter()
        async with self._snapshot() as connection:
            folds = await self._folds(connection, stream_ids)
            found = await kept.suspects(connection, [thread for thread, _ in folds.values()], self._lanes)
        rows = dict.fromkeys(folds, 0)
        for stream_id, suspects in found.items():
            with suppress(PoisonEvent):
                rows[stream_id] = await self._repair(folds[stream_id][0], suspects)
        done = await self._views(folds)
        settled = await self._settle(list(done))
        for stream_id in await self._letters.among(Projection.VIEW, list(done)):
            await self._letters.resurrect(Projection.VIEW, stream_id, done[stream_id])
        seconds = (time.perf_counter() - started) / max(len(stream_ids), 1)
        replayed = [Replayed(one, version, rows[one], seconds) for one, version in done.items()]
        if settled:
            replayed[0] = replace(replayed[0], rows=replayed[0].rows + settled)
        others = [one for one in stream_ids if one not in done]  # moved, or with what cannot be applied
        return replayed + [await self._alone(one, rows.get(one, 0)) for one in others]

    async def _settle(self, stream_ids: list[UUID]) -> int:
        """What goes with a replay beside rows and views; how many notifiers' checkpoints were set right."""
        await self._pool.execute(QUERIES["remove_snapshots_of"], stream_ids)
        async with self._pool.acquire() as connection, connection.transaction():
            # The notifier folds them again, and tells nobody of it, before it tells of anything else.
            await connection.fetch(QUERIES["lock_notifier_checkpoints"], stream_ids)
            await connection.execute(QUERIES["reset_names"], stream_ids)
        return _rows(await self._pool.execute(QUERIES["repair_notified"], stream_ids))

    async def _alone(self, stream_id: UUID, rows: int) -> Replayed:
        try:
            one = await self.replay(stream_id)
        except (PoisonEvent, Unavailable) as error:
            return Replayed(stream_id, 0, rows, error=error)
        return Replayed(stream_id, one.version, rows + one.rows, one.seconds)

    async def _folds(
        self, connection: Connection, stream_ids: Sequence[UUID]
    ) -> dict[UUID, tuple[ThreadState, dict[int, Recorded]]]:
        """The structure of each of these threads, with its events, but of those that cannot be folded."""
        folds: dict[UUID, tuple[ThreadState, dict[int, Recorded]]] = {}
        events: dict[UUID, list[Recorded]] = {}
        for row in await connection.fetch(QUERIES["events_of"], list(stream_ids)):
            events.setdefault(row[0], []).append(Recorded(*row))
        for stream_id, own in events.items():
            thread = ThreadState(stream_id)
            with suppress(PoisonEvent):
                evolve_all(thread, own)
                folds[stream_id] = thread, {event.version: event for event in own}
            await asyncio.sleep(0)
        return folds

    async def _views(self, folds: dict[UUID, tuple[ThreadState, dict[int, Recorded]]]) -> dict[UUID, int]:
        """Build and switch to the views of these folds; the versions of those that were. The others have
        moved on, hold a text that does not open, or others wrote their views first."""
        indexes: dict[UUID, FoldIndex] = {}
        rendered: dict[UUID, dict[int, bytes]] = {}
        for stream_id, (thread, events) in folds.items():
            index = FoldIndex(thread, Nodes())
            with suppress(PoisonEvent):
                rendered[stream_id] = await self._projector.all_nodes(index, events)
                indexes[stream_id] = index
        views = self._projector.views
        # The heads first: whatever the log is given after them is poked after them.
        heads = await views.heads(list(indexes))
        ends = await self._log.heads(list(indexes))
        made = [
            Made(one, heads.get(one), Head.of(folds[one][0]), index, rendered[one])
            for one, index in indexes.items()
            if ends.get(one, 0) == index.thread.version
        ]
        outcomes = await views.replace(made) if made else []
        switched = [one for one, outcome in zip(made, outcomes, strict=True) if outcome is Outcome.APPLIED]
        self._projector.rebuilds += len(switched)
        self._projector.projected += sum(one.head.version for one in switched)
        return {one.stream_id: one.head.version for one in switched}

    async def site(self, stream_id: UUID) -> Replayed:
        """Repair what is kept of a site's own stream: its settings. Raises PoisonEvent, UnknownEventType."""
        site = SiteFold(stream_id)
        async with self._snapshot() as connection:
            await site.bring(connection)
            differs = site.state.version > 0 and await kept.stream_differs(
                connection, stream_id, site.row, self._lanes
            )
        if differs:
            lane = lane_of(stream_id, self._lanes)
            async with self._held(lane) as connection:
                await site.bring(connection)
                *values, settings = site.row
                await connection.execute(
                    QUERIES["repair_stream"], stream_id, lane, *values, orjson.dumps(settings).decode()
                )
        return Replayed(stream_id, site.state.version, int(differs))

    async def remove_strays(self, *, keys: bool = False) -> int:
        """Remove what belongs to no thread: rows that no event made, and views of threads that have no
        events; with `keys`, which goes through all of Redis, also the keys that no view has. Set right where
        the lanes end. How many rows there were.

        A row and its event are committed together, so none of a batch under way is among them.
        """
        removed = 0
        async with self._pool.acquire() as connection:
            async for comments in state.comment_strays(connection):
                rows = state.DecisionState(comments=dict.fromkeys(comments, ()))
                removed += await state.remove(connection, rows)
            async for pairs in state.pair_strays(connection, "stray_reports"):
                rows = state.DecisionState(reports=dict.fromkeys(pairs, 0))
                removed += await state.remove(connection, rows)
            async for pairs in state.pair_strays(connection, "stray_votes"):
                rows = state.DecisionState(votes=dict.fromkeys(pairs, (0, 0)))
                removed += await state.remove(connection, rows)
            for table in ("streams", "checkpoints"):
                removed += await _remove_empty(connection, table)
            for query in ("remove_stray_letters", "remove_stray_snapshots", "remove_stray_names"):
                removed += _rows(await connection.execute(QUERIES[query]))
        for lane in range(self._lanes):
            async with self._held(lane) as connection:
                removed += _rows(await connection.execute(QUERIES["repair_lane"], lane))
                removed += _rows(await connection.execute(QUERIES["repair_sweeper"], lane))
        await self._drop_stray_views()
        if keys:
            async for some in self._projector.views.all_keys():
                await self._projector.views.unlink(some.strays)
        return removed

    async def _drop_stray_views(self) -> None:
        views, cursor, begun = self._projector.views, 0, False
        while cursor or not begun:
            begun = True
            cursor, stream_ids = await views.recency.entered(cursor)
            there = await self._pool.fetch(QUERIES["in_log"], stream_ids)
            for stream_id in set(stream_ids) - {row["stream_id"] for row in there}:
                await views.drop(stream_id)

    # --- the decision state -----------------------------------------------------------------------------

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        async with (
            self._reads.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    @asynccontextmanager
    async def _held(self, lane: int) -> AsyncIterator[Connection]:
        """A transaction that holds the lane's lock. Raises Unavailable where others hold it for long."""
        for _ in range(_LOCK_TRIES):
            async with self._pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    await connection.execute(_HOLD)
                    await connection.fetchval(QUERIES["lock_lane"], int(LockClass.LANE), lane)
                except asyncpg.LockNotAvailableError:
                    await transaction.rollback()
                    continue
                except BaseException:
                    await transaction.rollback()
                    raise
                try:
                    yield connection
                except BaseException:
                    await transaction.rollback()
                    raise
                await transaction.commit()
                return
        raise Unavailable(f"lane {lane} of the log is held", retry_after=5)

    async def _compare_and_repair(self, thread: ThreadState, *, own: bool = True) -> int:
        """Compare the rows of a fold, which is brought up to each snapshot that some of them are read in; the
        stream's own row too, if `own`."""
        async with self._reads.acquire() as connection:
            await bring(connection, thread)  # so that no snapshot is open for as long as that takes
        found: list[state.Suspects] = []
        for rows in kept.slices(thread):
            async with self._snapshot() as connection:
                await bring(connection, thread)
                suspects = await kept.suspects_of(connection, thread, rows, self._lanes)
            if suspects is not None:
                found.append(suspects if own and not found else replace(suspects, stream=False))
        return sum([await self._repair(thread, suspects) for suspects in found])

    async def _repair_stream(self, stream_id: UUID, thread: LongThread) -> int:
        """Compare a long thread's own row, and write it under the lock where it differs."""
        async with self._pool.acquire() as connection:
            await bring_long(connection, stream_id, thread)
        lane = lane_of(stream_id, self._lanes)
        async with self._held(lane) as connection:
            await bring_long(connection, stream_id, thread)
            if thread.poison is not None or not await kept.stream_differs(
                connection, stream_id, thread.row, self._lanes
            ):
                return 0
            await connection.execute(QUERIES["repair_stream"], stream_id, lane, *thread.row)
        return 1

    async def _repair(self, thread: ThreadState, suspects: state.Suspects) -> int:
        """Write these rows under the lock, a slice at a time, as they are by then.

        A row that agreed when it was compared is right now: what was added since was decided on it.
        """
        lane = lane_of(thread.stream_id, self._lanes)
        for part in suspects.slices(SLICE):
            async with self._pool.acquire() as connection:
                await bring(connection, thread)  # so that there is little left to do under the lock
            async with self._held(lane) as connection:
                await bring(connection, thread)
                await state.repair(connection, lane, thread, part)
        return suspects.rows


async def _remove_empty(connection: Connection, table: str) -> int:
    """Remove what is kept of streams without events, some at a time; how many rows there were."""
    removed, after = 0, NIL
    while rows := await connection.fetch(QUERIES[f"stray_{table}"], after, state.SLICE):
        if found := [row["stream_id"] for row in rows if row["stray"]]:
            removed += _rows(await connection.execute(QUERIES[f"remove_stray_{table}"], found))
        after = rows[-1]["stream_id"]
    return removed


def _rows(told: str) -> int:
    """How many rows a command says that it touched."""
    return int(told.rpartition(" ")[2])
