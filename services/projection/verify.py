"""Verify: fold the log and compare it with what is served, writing nothing.

The view is compared at its own version, and so is the decision state: neither need be up to the log, and
writes go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any, Final
from uuid import UUID

import asyncpg

from schema.events.envelope import EPOCH
from services.core.node import Node, decode
from services.core.page import FoldIndex, Row
from services.core.site import SiteState, evolve_site
from services.core.thread import ThreadState
from services.errors import StreamBroken, Unavailable
from services.eventlog import state
from services.eventlog.log import EventLog
from services.eventlog.snapshots import Snapshots
from services.eventlog.state import Difference
from services.projection import snapshotcheck
from services.projection.advance import Projector
from services.projection.fold import verify_chain
from services.readmodel.records import Head

_TRIES: Final = 10
"""How often a view that moves while it is read is read again."""


class Verifier:
    """Compares what is served with the log."""

    def __init__(self, pool: asyncpg.Pool[Any], log: EventLog, projector: Projector) -> None:
        self._pool = pool
        self._log = log
        self._projector = projector

    async def thread(self, stream_id: UUID) -> list[Difference]:
        """Everything of one thread that a replay would change.

        Raises PoisonEvent, UnknownEventType; Unavailable where its view moves faster than it can be read.
        """
        found = list(await self._decision(stream_id))
        found.extend(await self._view(stream_id))
        found.extend(await snapshotcheck.differences(Snapshots(self._pool), stream_id))
        return found

    async def site(self, stream_id: UUID) -> list[Difference]:
        """Everything of a site's own stream that a replay would change."""
        kept = await self._stored(stream_id)
        site, recorded_at = SiteState(stream_id), EPOCH
        async for events in self._log.pages(stream_id, to=kept.end):
            for event in events:
                evolve_site(site, event)
                recorded_at = event.recorded_at
        return list(state.differences(kept, state.of_site(site, recorded_at)))

    async def strays(self, limit: int = 1000) -> list[Difference]:
        """Rows of the decision state, of all streams, that no event made; at most `limit` of each table."""
        async with self._pool.acquire() as connection:
            found = await state.strays(connection, limit)
        return list(state.differences(found, state.DecisionState()))

    async def chain(self, stream_id: UUID) -> int:
        """Check the stream's versions and its hash chain; its length. Raises StreamBroken."""
        previous, version = bytes(32), 0
        async for events in self._log.pages(stream_id):
            verify_chain(previous, version, events)
            previous, version = events[-1].hash, events[-1].version
        head = await self._log.head(stream_id)
        if head is not None and head[0] > version:
            raise StreamBroken(stream_id, head[0], f"the log ends at version {version}")
        return version

    async def _stored(self, stream_id: UUID) -> state.DecisionState:
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await state.stored(connection, stream_id)

    async def _decision(self, stream_id: UUID) -> Iterator[Difference]:
        kept = await self._stored(stream_id)
        thread = ThreadState(stream_id)
        await self._projector.structure(thread, to=kept.end)
        return state.differences(kept, state.of_thread(thread))

    async def _view(self, stream_id: UUID) -> list[Difference]:
        views = self._projector.views
        for _ in range(_TRIES):
            head = await views.head(stream_id)
            if head is None:
                return []
            stored = {row.key: row async for row in views.dump(stream_id, head.build)}
            if await views.head(stream_id) == head:
                index = await self._projector.index(stream_id, to=head.version)
                return [*_heads(head, index), *_compare(stored, index)]
        raise Unavailable(f"the view of {stream_id} moves faster than it can be read")


def _heads(head: Head, index: FoldIndex) -> Iterator[Difference]:
    replayed = Head.of(index.thread, head.build)
    for name in ("version", "hash", "site", "key", "title", "url", "described_by", "closed", "visible"):
        before, after = getattr(head, name), getattr(replayed, name)
        if before != after:
            yield Difference("view head", name, before, after)


def _compare(stored: dict[tuple[str, int | UUID | bytes], Row], index: FoldIndex) -> Iterator[Difference]:
    replayed = {row.key: row for row in index.rows()}
    for key in sorted(stored.keys() | replayed.keys(), key=str):
        kind, at = key
        before, after = stored.get(key), replayed.get(key)
        if before == after:
            continue
        if before is not None and after is not None and kind == "nodes":
            yield from _nodes(str(at), before.value, after.value)
        else:
            yield Difference(f"view {kind}", str(at), _value(before), _value(after))


def _nodes(path: str, before: object, after: object) -> Iterator[Difference]:
    match before, after:
        case (int(was_below), int(was_at), bytes(was)), (int(below), int(at), bytes(raw)):
            if (was_below, was_at) != (below, at):
                yield Difference("view nodes", f"{path}.place", (was_below, was_at), (below, at))
            if was != raw:
                yield from _fields(path, was, raw)
        case _:
            yield Difference("view nodes", path, before, after)


def _fields(path: str, before: bytes, after: bytes) -> Iterator[Difference]:
    told = False
    with suppress(ValueError):
        stored, replayed = decode(before), decode(after)
        for one in fields(Node):
            was, is_ = getattr(stored, one.name), getattr(replayed, one.name)
            if was != is_:
                told = True
                yield Difference("view nodes", f"{path}.{one.name}", was, is_)
    if not told:  # what no field shows, as the order of the members
        yield Difference("view nodes", path, before, after)


def _value(row: Row | None) -> object:
    return None if row is None else row.value
