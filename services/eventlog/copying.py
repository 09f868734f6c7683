"""Events of another log on their way into this one: as they were recorded, at new positions.

A batch of them is written as the appender writes its own: the lane's lock in a statement of its own, the
load, the fold onto the partial state that it brought, and one statement for events and decision state. So
others go on writing to the lane meanwhile, and whatever is committed is whole. The notifier's checkpoints
move in the same transaction: nobody is told of what is copied.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from schema.events.envelope import GENESIS, Recorded, chain_of
from schema.events.registry import UPCASTERS, PayloadInvalid, TypeUnknown
from services.core.addresses import lane_of, site_stream_id
from services.core.site import SiteState, evolve_site
from services.core.thread import ThreadState
from services.errors import PoisonEvent, StreamBroken, Unavailable, UnknownEventType
from services.eventlog.batch import Batch, SettingsCache
from services.eventlog.locks import LockClass
from services.eventlog.pool import Hosts
from services.eventlog.queries import QUERIES
from services.eventlog.session import SESSION

_TRIES: Final = 20
"""How often a lane's lock is asked for: each time for three seconds."""

End = tuple[int, bytes]
"""Version and hash of a stream's last event."""

NOTHING: Final[End] = (0, GENESIS)


@dataclass(slots=True)
class Copied:
    """What became of the events: `poison` of the `added` are in the log, but cannot be folded."""

    added: int = 0
    existing: int = 0
    poison: int = 0


class CopyBatch(Batch):
    """Events that were decided elsewhere, on the state that the load brought."""

    def __init__(self, loaded: Sequence[Any], lane: int, site: str) -> None:
        super().__init__(loaded, lane, SettingsCache())
        self._site = site
        self.poison = 0

    @property
    def ends(self) -> dict[UUID, End]:
        """Where the loaded streams end."""
        states: Iterable[ThreadState | SiteState] = (*self._threads.values(), *self._sites.values())
        return {state.stream_id: (state.version, state.last_hash) for state in states}

    @property
    def silenced(self) -> dict[UUID, int]:
        """The threads that the batch adds to, and the versions that they come to."""
        return {stream_id: self._threads[stream_id].version for stream_id in self.moved}

    def take(self, event: Recorded) -> None:
        """Put an event behind the others, and fold it. One that cannot be folded is kept in the log all the
        same, as it was where it comes from. Raises UnknownEventType for what a newer release recorded."""
        event = event._replace(lane=self.lane, position=self.head + len(self.events) + 1)
        if event.stream_id == site_stream_id(self._site):
            self._take_for_site(event)
        else:
            self._take_for_thread(event)
        self.events.append(event)
        self._moved.add(event.stream_id)
        self._sites_of[event.stream_id] = self._site

    def _take_for_thread(self, event: Recorded) -> None:
        thread = self._threads.get(event.stream_id)
        if thread is None:
            thread = self._threads[event.stream_id] = ThreadState(event.stream_id, self._site, _key_of(event))
        try:
            payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
            self._fold(thread, event, payload)
        except TypeUnknown as error:
            raise UnknownEventType(event.stream_id, event.version, event.event_id, str(error)) from error
        except (PayloadInvalid, PoisonEvent):
            self.poison += 1
            thread.version, thread.last_hash = event.version, event.hash
            thread.recorded_at = event.recorded_at

    def _take_for_site(self, event: Recorded) -> None:
        site = self._sites.get(event.stream_id)
        if site is None:
            site = self._sites[event.stream_id] = SiteState(event.stream_id, self._site)
        try:
            evolve_site(site, event)
        except UnknownEventType:
            raise
        except PoisonEvent:
            self.poison += 1
            site.version, site.last_hash = event.version, event.hash
        self._times[event.stream_id] = event.recorded_at


class Copier:
    """Writes events of one site into this log, on a connection of its own."""

    def __init__(self, hosts: Hosts, lanes: int, site: str) -> None:
        self._hosts = hosts
        self._lanes = lanes
        self._site = site
        self._connection: asyncpg.Connection | None = None
        self._compared: Recorded | None = None

    async def close(self) -> None:
        """Leave the database."""
        if self._connection is not None:
            await self._connection.close()

    async def ends(self, stream_ids: Iterable[UUID]) -> dict[UUID, End]:
        """Where these streams end here; those without events are left out."""
        connection = await self._connect()
        rows = await connection.fetch(QUERIES["stream_ends"], list(stream_ids))
        return {row["stream_id"]: (row["version"], row["hash"]) for row in rows}

    async def compare(self, events: Sequence[Recorded]) -> None:
        """Compare the next events of a file, stream by stream in it, with what is here, and write nothing.

        Raises StreamBroken as `missing` does.
        """
        if not events:
            return
        ends = await self.ends({event.stream_id for event in events})
        last = self._compared
        if last is not None and ends.get(last.stream_id, NOTHING)[0] < last.version:
            ends[last.stream_id] = last.version, last.hash
        await self.missing(events, ends)
        self._compared = events[-1]

    async def missing(self, events: Sequence[Recorded], ends: Mapping[UUID, End]) -> list[Recorded]:
        """Those of these events that are not here yet, where the streams end at `ends`.

        The events are in the order of their versions. Raises StreamBroken where the log has another event at
        the place of one of them, or none before it.
        """
        behind: list[Recorded] = []
        last: dict[UUID, End] = {}
        asked: dict[UUID, Recorded] = {}
        for event in events:
            version, previous = last.get(event.stream_id) or ends.get(event.stream_id, NOTHING)
            if event.version <= version:
                asked[event.stream_id] = event  # the chain leads from the last one to all before it
                continue
            if event.version > version + 1:
                reason = f"the log here ends at version {version}: what lies between is in another file"
                raise StreamBroken(event.stream_id, event.version, reason)
            if chain_of(previous, event) != event.hash:
                raise _forked(event)
            last[event.stream_id] = event.version, event.hash
            behind.append(event)
        await self._compare(asked, ends)
        return behind

    async def _compare(self, asked: Mapping[UUID, Recorded], ends: Mapping[UUID, End]) -> None:
        """Raises StreamBroken where the log has another event at the place of one of these."""
        known = {
            stream_id: ends[stream_id][1]
            for stream_id, event in asked.items()
            if ends[stream_id][0] == event.version
        }
        others = [event for stream_id, event in asked.items() if stream_id not in known]
        if others:
            connection = await self._connect()
            ids, versions = [event.stream_id for event in others], [event.version for event in others]
            rows = await connection.fetch(QUERIES["hashes_at"], ids, versions)
            known |= {row["stream_id"]: row["hash"] for row in rows}
        for stream_id, event in asked.items():
            if known.get(stream_id) != event.hash:
                raise _forked(event)

    async def write(self, events: Sequence[Recorded], copied: Copied) -> None:
        """Write those of these events that are not here yet, a transaction for each lane, and count them.

        Raises StreamBroken, UnknownEventType; Unavailable where a lane is held for long.
        """
        there = await self.ends({event.stream_id for event in events})
        new = await self.missing(events, there)
        copied.existing += len(events) - len(new)
        by_lane: defaultdict[int, list[Recorded]] = defaultdict(list)
        for event in new:
            by_lane[lane_of(event.stream_id, self._lanes)].append(event)
        for lane, some in sorted(by_lane.items()):
            await self._write(lane, some, copied)

    async def _write(self, lane: int, events: list[Recorded], copied: Copied) -> None:
        for _ in range(_TRIES):
            try:
                batch = await self._append(lane, events)
                break
            except asyncpg.LockNotAvailableError:
                await asyncio.sleep(0.1)  # whoever waits for the lane meanwhile has it first
        else:
            raise Unavailable(f"lane {lane} of the log is held")
        copied.added += len(batch.events)
        copied.existing += len(events) - len(batch.events)
        copied.poison += batch.poison

    async def _append(self, lane: int, events: list[Recorded]) -> CopyBatch:
        connection = await self._connect()
        streams, comments, parents = _needs(events)
        async with connection.transaction():
            await connection.fetchval(QUERIES["lock_lane"], int(LockClass.LANE), lane)
            nothing: list[Any] = []
            loaded = await connection.fetchrow(
                QUERIES["load"], lane, streams, comments, *(nothing for _ in range(6)), parents
            )
            assert loaded is not None
            batch = CopyBatch(tuple(loaded), lane, self._site)
            for event in await self.missing(events, batch.ends):
                batch.take(event)
            if batch.events:
                await connection.fetchval(QUERIES["append"], *batch.arguments())
                silenced = batch.silenced
                await connection.execute(QUERIES["silence_streams"], list(silenced), list(silenced.values()))
        return batch

    async def _connect(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._hosts.connect(
                server_settings=SESSION, timeout=5, command_timeout=10
            )
        return self._connection


def _key_of(event: Recorded) -> str:
    """The key of the thread that its first event opens: whether it can be folded or not."""
    opens: dict[str, str] = orjson.loads(event.data)["opens"]
    return opens["key"]


def _forked(event: Recorded) -> StreamBroken:
    return StreamBroken(event.stream_id, event.version, "the log here tells another story")


def _needs(events: Iterable[Recorded]) -> tuple[list[UUID], list[UUID], list[UUID]]:
    """The streams of these events, the comments that they are about, and the parents of what they post."""
    streams: set[UUID] = set()
    comments: set[UUID] = set()
    parents: set[UUID] = set()
    for event in events:
        streams.add(event.stream_id)
        try:
            payload = UPCASTERS.payload(event.type, event.schema_version, event.data)
            if event.type == "ReplyPosted":
                parents.add(UUID(payload["parent_id"]))
            elif "comment_id" in payload:
                comments.add(UUID(payload["comment_id"]))
        except (TypeUnknown, PayloadInvalid, KeyError, AttributeError, TypeError, ValueError):
            continue  # the fold meets it again
    return list(streams), list(comments), list(parents)
