"""Verify: fold the log and compare it with what is served, writing nothing.

Rows of the database are compared in one snapshot with the events in it, a view at its own version, so that
neither need be up to the log, and writes go on meanwhile. That a view or a notifier is behind is a difference
only where the sweeper has passed the events that it lacks: nobody would come back for them.

Short threads go many at a time, in a few round trips for all; long ones one by one, read in slices.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Final
from uuid import UUID

import asyncpg

from schema.events.envelope import EPOCH, GENESIS, Recorded
from services.core.addresses import lane_of
from services.core.page import FoldIndex
from services.core.site import SiteState, evolve_site
from services.core.snapshot import FORMAT
from services.core.thread import ThreadState
from services.errors import PoisonEvent, StreamBroken, Unavailable
from services.eventlog import state
from services.eventlog.log import EventLog
from services.eventlog.queries import QUERIES
from services.eventlog.snapshots import Snapshots
from services.eventlog.state import Connection, Difference
from services.projection import namecheck, snapshotcheck, toldcheck, viewcheck
from services.projection.advance import SHORT, WRITE, Projector
from services.projection.fold import evolve_all, subjects, verify_chain
from services.projection.names import Reading, ThreadNames
from services.readmodel.dump import Stored

_TRIES: Final = 10
"""How often a large view that is replaced while it is read is read again."""

_HURRIED: Final = frozenset({"view head", "notifications", "notifier_checkpoints"})
"""What may be on its way between two looks: it counts if it is there at the second look too."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one thread, whose log ends at `version`."""

    stream_id: UUID
    version: int
    differences: list[Difference]


@dataclass(slots=True)
class _Read:
    """What the database holds of one thread, in one snapshot. `events` are those that were read with it."""

    kept: state.DecisionState
    events: list[Recorded] = field(default_factory=list)
    notified: int | None = None
    notifier_parked: bool = False
    view_parked: int | None = None
    """The version of the event that the view is parked before."""
    untold: list[asyncpg.Record] = field(default_factory=list)
    names: namecheck.Kept = field(default_factory=namecheck.Kept)
    snapshots: bool = False


@dataclass(slots=True)
class _Fold:
    """A thread being folded, from the events at hand and then from the log."""

    thread: ThreadState
    projector: Projector
    events: Sequence[Recorded]
    known: dict[int, Recorded] = field(default_factory=dict)

    async def to(self, version: int) -> None:
        """Fold up to this version, or to the log's end. Raises PoisonEvent, UnknownEventType."""
        at_hand = self.events[self.thread.version : max(version, 0)]
        evolve_all(self.thread, at_hand)
        self.known.update((event.version, event) for event in at_hand)
        if self.thread.version < version:
            self.known |= await self.projector.structure(self.thread, to=version)

    async def index(self) -> FoldIndex:
        """What the view at this version must hold. Raises PoisonEvent where a text does not open."""
        nodes: dict[int, bytes] = {}
        comments = iter(self.thread.comments.values())
        while chunk := list(islice(comments, WRITE)):
            nodes |= await self.projector.nodes(self.thread.stream_id, chunk, self.known)
        return FoldIndex(self.thread, nodes)


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane as it is stored (`head` is None where it has no row), the position of its last event, and up to
    where a sweeper saw every thread of it caught up."""

    number: int
    head: int | None
    last: int
    swept: int | None

    @property
    def safe(self) -> int:
        """Up to where nobody comes back for what is behind; 0 where that cannot be true."""
        return self.swept if self.swept is not None and self.swept <= self.last else 0


class Verifier:
    """Compares what is served with the log."""

    def __init__(self, pool: asyncpg.Pool[Any], log: EventLog, projector: Projector) -> None:
        """`pool`: connections to the database that `log` reads; a standby will do."""
        self.pool = pool
        self.log = log
        self._projector = projector

    async def thread(self, stream_id: UUID) -> list[Difference]:
        """Everything of one thread that a replay would change, and an event that cannot be applied.

        Raises Unavailable where its view is replaced faster than it can be read.
        """
        [checked] = await self.threads([stream_id])
        return checked.differences

    async def threads(self, stream_ids: Sequence[UUID], *, chain: bool = False) -> list[Checked]:
        """As `thread`, of several; with `chain`, their versions and hash chains as well."""
        found = {one.stream_id: one for one in await self._look(stream_ids, chain=chain)}
        hurried = [
            one.stream_id for one in found.values() if any(each.kind in _HURRIED for each in one.differences)
        ]
        for again in await self._look(hurried) if hurried else ():
            still = {(each.kind, each.path) for each in again.differences}
            differences = found[again.stream_id].differences
            differences[:] = [
                each for each in differences if each.kind not in _HURRIED or (each.kind, each.path) in still
            ]
        return [found[stream_id] for stream_id in stream_ids]

    async def site(self, stream_id: UUID, *, chain: bool = False) -> list[Difference]:
        """Everything of a site's own stream that a replay would change."""
        lanes = len(await self.lanes())
        async with self._snapshot() as connection:
            ends = await state.ends(connection, [stream_id])
            kept = (await state.stored(connection, ends, lanes))[stream_id]
        site, recorded_at = SiteState(stream_id), EPOCH
        previous, version = GENESIS, 0
        try:
            async for events in self.log.pages(stream_id, to=kept.end):
                if chain:
                    verify_chain(previous, version, events)
                for event in events:
                    evolve_site(site, event)
                recorded_at, previous, version = events[-1].recorded_at, events[-1].hash, events[-1].version
        except (PoisonEvent, StreamBroken) as error:
            return [broken(error)]
        return list(state.differences(kept, state.of_site(site, recorded_at)))

    async def lanes(self) -> list[Lane]:
        """The lanes that there are or should be."""
        rows = await self.pool.fetch(QUERIES["lane_ends"])
        return [Lane(row["lane"], row["head"], row["last"] or 0, row["swept"]) for row in rows]

    # --- reading ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        async with (
            self.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    async def _look(self, stream_ids: Sequence[UUID], *, chain: bool = False) -> list[Checked]:
        lanes = await self.lanes()  # before all else: what they say of the past stays true
        async with self._snapshot() as connection:
            ends = await state.ends(connection, stream_ids)
            short = {stream_id: end for stream_id, end in ends.items() if end <= SHORT}
            reads = await self._read(connection, short, len(lanes), events=True)
        views = await self._projector.views.dumps.small(list(short))
        checked = []
        for stream_id in stream_ids:
            read, view = reads.get(stream_id), views.get(stream_id)
            if read is None or view is None:
                async with self._snapshot() as connection:
                    end = await state.ends(connection, [stream_id])
                    read = (await self._read(connection, end, len(lanes)))[stream_id]
                view = (await self._projector.views.dumps.small([stream_id]))[stream_id]
            found: list[Difference] = []
            try:
                if chain:
                    await self._chain(stream_id, read.events)
            except StreamBroken as error:
                found.append(broken(error))
            found += await self._compare(stream_id, read, view, lanes)
            checked.append(Checked(stream_id, read.kept.end, found))
            await asyncio.sleep(0)
        return checked

    async def _read(
        self, connection: Connection, ends: dict[UUID, int], lanes: int, *, events: bool = False
    ) -> dict[UUID, _Read]:
        asked = list(ends)
        if not asked:
            return {}
        kept = await state.stored(connection, ends, lanes)
        reads = {stream_id: _Read(kept[stream_id]) for stream_id in asked}
        for row in await connection.fetch(QUERIES["events_of"], asked) if events else ():
            reads[row[0]].events.append(Recorded(*row))
        for row in await connection.fetch(QUERIES["followers"], asked):
            read = reads[row["stream_id"]]
            read.notified, read.view_parked = row["notified"], row["view"]
            read.notifier_parked = row["notifier_parked"]
        for row in await connection.fetch(QUERIES["untold"], asked):
            reads[row["stream_id"]].untold.append(row)
        for stream_id, names in (await namecheck.kept(connection, asked)).items():
            reads[stream_id].names = names
        for row in await connection.fetch(QUERIES["snapshotted"], asked, FORMAT):
            reads[row["stream_id"]].snapshots = True
        return reads

    async def _chain(self, stream_id: UUID, at_hand: Sequence[Recorded] = ()) -> None:
        previous, version = GENESIS, 0
        if at_hand:
            verify_chain(previous, version, at_hand)
            return
        async for events in self.log.pages(stream_id):
            await asyncio.to_thread(verify_chain, previous, version, events)
            previous, version = events[-1].hash, events[-1].version

    # --- comparing --------------------------------------------------------------------------------------

    async def _compare(
        self, stream_id: UUID, read: _Read, view: Stored, lanes: Sequence[Lane]
    ) -> list[Difference]:
        found: list[Difference] = []
        fold = _Fold(ThreadState(stream_id), self._projector, read.events)
        end = read.kept.end
        is_ahead = view.head is not None and view.head.version > end
        try:
            if view.is_there and not is_ahead:
                found += await self._view(fold, view, read)
            await fold.to(end)
            found += state.differences(read.kept, state.of_thread(fold.thread))
            for row in read.untold:
                found += toldcheck.differences(row, fold.thread)
            if is_ahead:
                found += await self._view(fold, view, read)
        except PoisonEvent as error:
            found.append(broken(error))
        found += await self._names(stream_id, read)
        found += await self._followers(stream_id, read, view, lanes)
        if read.snapshots:
            found += await snapshotcheck.differences(Snapshots(self.pool), stream_id)
        return found

    async def _names(self, stream_id: UUID, read: _Read) -> list[Difference]:
        if not read.names.is_there:
            return []
        names, reading, to = ThreadNames(), Reading(self._projector.keyring), read.names.named
        if read.events:
            await namecheck.fold(names, read.events[:to], reading)
        else:
            async for events in self.log.pages(stream_id, to=min(to, read.kept.end)):
                await namecheck.fold(names, events, reading)
        return list(namecheck.differences(read.names, names))

    async def _view(self, fold: _Fold, view: Stored, read: _Read, tries: int = _TRIES) -> list[Difference]:
        if view.head is None:
            return list(viewcheck.heads(view, FoldIndex(fold.thread, {})))
        stream_id, moved = fold.thread.stream_id, frozenset[int]()
        await fold.to(view.head.version)
        index = await fold.index()
        if view.rows is None:
            after = await self._projector.views.dumps.large(stream_id, view)
            if after is None or after.build != view.head.build:  # it was replaced: from the beginning
                if not tries:
                    raise Unavailable(f"the view of {stream_id} is replaced faster than it can be read")
                again = (await self._projector.views.dumps.small([stream_id]))[stream_id]
                anew = _Fold(ThreadState(stream_id), self._projector, read.events)
                return await self._view(anew, again, read, tries - 1) if again.is_there else []
            moved = await self._moved(index, view.head.version, after.version)
        compare = partial(_both, view, index, moved)
        found = await asyncio.to_thread(compare) if fold.thread.version > SHORT else compare()
        return found + await self._mark(fold, view, read)

    async def _moved(self, index: FoldIndex, before: int, after: int) -> frozenset[int]:
        """The comments that the events between two versions are about, and all above them."""
        if after == before:
            return frozenset()
        moved = {0, *range(before + 1, after + 1)}
        async for events in self.log.pages(index.thread.stream_id, before, to=after):
            ids, parents = subjects(events)
            for comment_id in ids:
                if (comment := index.thread.comments.get(comment_id)) is not None:
                    parents.add(comment.posted)
            for posted in parents:
                while posted not in moved:
                    moved.add(posted)
                    found = index.comments.get(posted)
                    posted = 0 if found is None else found.parent  # noqa: PLW2901 - up to the root
        return frozenset(moved)

    async def _mark(self, fold: _Fold, view: Stored, read: _Read) -> list[Difference]:
        """Whether the view is marked stale for a reason: a dead letter, an event that cannot be applied."""
        assert view.head is not None
        version, is_stale = view.head.version, view.head.stale
        if read.view_parked is not None:
            due = version < read.view_parked
        else:
            due = False
            if is_stale and fold.thread.version < read.kept.end:
                try:
                    await fold.to(version + 1)
                except PoisonEvent:
                    due = True
        return [] if is_stale == due else [Difference("view head", "stale", is_stale, due)]

    async def _followers(
        self, stream_id: UUID, read: _Read, view: Stored, lanes: Sequence[Lane]
    ) -> list[Difference]:
        """What is ahead of the log, or so far behind that nobody would come back for it."""
        found: list[Difference] = []
        notified, end = read.notified or 0, read.kept.end
        if notified > end:
            found.append(Difference("notifier_checkpoints", "version", notified, end))
        if read.names.named > notified:
            found.append(Difference("notifier_checkpoints", "named", read.names.named, f"at most {notified}"))
        lags = notified < end and not read.notifier_parked
        shown = view.head.version if view.head is not None and not view.head.stale else end
        if not lags and shown >= end:
            return found
        safe = lanes[lane_of(stream_id, len(lanes))].safe
        swept = await self.pool.fetchval(QUERIES["version_by_position"], stream_id, safe) or 0 if safe else 0
        if lags and notified < swept:
            found.append(Difference("notifier_checkpoints", "version", read.notified, swept))
        if shown < swept and read.view_parked is None:
            found.append(Difference("view head", "version", shown, swept))
        return found


def _both(view: Stored, index: FoldIndex, moved: Collection[int]) -> list[Difference]:
    return [*viewcheck.heads(view, index), *viewcheck.parts(view, index, moved)]


def broken(error: PoisonEvent | StreamBroken) -> Difference:
    """An event that cannot be applied, or that does not follow the one before it, as it is told of."""
    kind = "chain" if isinstance(error, StreamBroken) else "event"
    return Difference(kind, f"version {error.version}", error.reason, None)
