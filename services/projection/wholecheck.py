"""What is only found by going through everything: rows and keys that no event made, streams without a row,
lanes, and what an erasure should have left.

Each table is read in slices, and so is Redis; what is found is given as it is found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final
from uuid import UUID

import orjson

from services.core.addresses import check_site, site_stream_id
from services.core.segments import TYPES
from services.core.snapshot import FORMAT
from services.eventlog import state
from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES
from services.eventlog.state import SLICE, Difference
from services.projection import toldcheck
from services.projection.verify import Verifier
from services.readmodel.views import Views

_NO_EVENT: Final = ("a row", "no event")
_POSITIONS: Final = 100_000
_SEGMENTED: Final = 100
"""Snapshots looked at by one statement: each has many segments."""


class WholeCheck:
    """Looks at the whole database and at all of Redis."""

    def __init__(self, verifier: Verifier, views: Views) -> None:
        self._pool = verifier.pool
        self._views = views
        self._verifier = verifier

    async def differences(self) -> AsyncIterator[Difference]:
        """All that belongs to no thread that the log has. Raises redis.exceptions.RedisError."""
        async for one in self._rows():
            yield one
        async for one in self._followers():
            yield one
        async for one in self._lanes():
            yield one
        for row in await self._pool.fetch(QUERIES["wrong_sites"]):
            if row["stream_id"] != (due := site_stream_id(check_site(row["site"]))):
                yield Difference("sites", f"{row['site']}: stream_id", row["stream_id"], due)
        async for one in self._erasures():
            yield one
        async for one in self._keys():
            yield one

    async def unlisted(self) -> AsyncIterator[UUID]:
        """The streams in the log that `streams` does not have: nobody who goes by that table finds them."""
        after = NIL
        while rows := await self._pool.fetch(QUERIES["unlisted_streams"], after, SLICE):
            for row in rows:
                if not row["listed"]:
                    yield row["stream_id"]
            after = rows[-1]["stream_id"]

    async def name(self, stream_id: UUID) -> tuple[str, str]:
        """Site and key of a thread that `streams` does not have, as its first event tells."""
        async for events in self._verifier.log.pages(stream_id, to=1):
            with suppress(ValueError, KeyError, TypeError):
                opens = orjson.loads(events[0].data)["opens"]
                return opens["site"], opens["key"]
        return "", str(stream_id)

    async def positions(self) -> AsyncIterator[Difference]:
        """Where a lane's positions are not dense: each event has its own, from 1 on, without a gap."""
        for lane in await self._verifier.lanes():
            after = 0
            while True:
                row = await self._pool.fetchrow(QUERIES["positions_after"], lane.number, after, _POSITIONS)
                if row is None or not row["events"]:
                    break
                events, last = row["events"], row["last"]
                if (row["first"], row["places"], last) != (after + 1, events, after + events):
                    where = f"lane {lane.number}: positions {after + 1} to {last}"
                    yield Difference("chain", where, f"{row['places']} events", f"{last - after} events")
                after = last

    async def _rows(self) -> AsyncIterator[Difference]:
        async with self._pool.acquire() as connection:
            async for ids in state.comment_strays(connection):
                for comment_id in ids:
                    yield Difference("comments", str(comment_id), *_NO_EVENT)
            for table in ("reports", "votes"):
                async for pairs in state.pair_strays(connection, f"stray_{table}"):
                    for comment_id, person in pairs:
                        yield Difference(table, f"{comment_id} by {person}", *_NO_EVENT)
        for query, table in (
            ("stray_streams", "streams"),
            ("stray_checkpoints", "notifier_checkpoints"),
            ("stray_bearers", "participants"),
            ("stray_mentioned", "mentioned"),
        ):
            after = NIL
            while rows := await self._pool.fetch(QUERIES[query], after, SLICE):
                for row in rows:
                    if row["stray"]:
                        yield Difference(table, str(row["stream_id"]), *_NO_EVENT)
                after = rows[-1]["stream_id"]

    async def _followers(self) -> AsyncIterator[Difference]:
        told = ("", "", NIL)
        while rows := await self._pool.fetch(QUERIES["stray_notifications"], *told, SLICE):
            for row in rows:
                if row["is_stray"]:
                    path = f"{row['notification_id']} to {row['recipient_id']} of {row['event_id']}"
                    yield Difference(toldcheck.KIND, path, "a row", "no event that it tells of")
            told = rows[-1]["recipient_id"], rows[-1]["site"], rows[-1]["notification_id"]
        for row in await self._pool.fetch(QUERIES["stray_letters"]):
            path = f"{row['projection']} {row['stream_id']} version {row['version']}: event_id"
            yield Difference("dead_letters", path, row["event_id"], row["logged"] or "no event")
        at = (NIL, 0)
        while rows := await self._pool.fetch(
            QUERIES["stray_snapshots"], *at, _SEGMENTED, FORMAT, list(TYPES)
        ):
            for row in rows:
                path = f"{row['stream_id']} version {row['version']}"
                if row["stray"]:
                    yield Difference("snapshots", path, "a snapshot", "another event, or none")
                if row["strange"]:
                    yield Difference("snapshot_segments", path, "segments that nobody reads", "none")
            at = rows[-1]["stream_id"], rows[-1]["version"]

    async def _lanes(self) -> AsyncIterator[Difference]:
        lanes = await self._verifier.lanes()
        for lane in lanes:
            if lane.head != lane.last:
                yield Difference("lanes", f"{lane.number}: head", lane.head, lane.last)
            if lane.swept is not None and not 0 <= lane.swept <= lane.last:
                path = f"{lane.number}: position"
                yield Difference("sweeper_checkpoints", path, lane.swept, f"at most {lane.last}")
        for row in await self._pool.fetch(QUERIES["stray_lanes"]):
            yield Difference(row["name"], str(row["lane"]), "a row", f"{len(lanes)} lanes")

    async def _erasures(self) -> AsyncIterator[Difference]:
        for row in await self._pool.fetch(QUERIES["unerased"]):
            path = f"{row['erasure_id']} on {row['site']}"
            if row["living"]:
                yield Difference("erasures", f"{path}: key", "lives", "destroyed")
            if row["standing"]:
                yield Difference("erasures", f"{path}: comments left", row["standing"], 0)
            if row["comments"] != row["sealed"]:
                yield Difference("erasures", f"{path}: comments", row["comments"], row["sealed"])

    async def _keys(self) -> AsyncIterator[Difference]:
        async for some in self._views.all_keys():
            for name in some.strays:
                yield Difference("view keys", repr(name)[2:-1], "a key", "of no view")
            ends = await self._ends(some.threads)
            for stream_id in some.threads:
                if not ends.get(stream_id):
                    yield Difference("view head", str(stream_id), "a view", "no event")

    async def _ends(self, stream_ids: list[UUID]) -> dict[UUID, int]:
        async with self._pool.acquire() as connection:
            return await state.ends(connection, stream_ids)
