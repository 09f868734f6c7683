"""What must hold of a log at any moment, checked row by row on the database itself."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from schema.events.envelope import EPOCH, GENESIS, Recorded, chain_of
from services.core.addresses import lane_of
from services.core.site import SiteState, evolve_site
from services.core.thread import ThreadState, evolve
from services.eventlog.log import EventLog
from services.eventlog.state import comment_row, of_site, of_thread
from services.projection.fold import verify_chain

_EVENTS = """
select stream_id, version, event_id, type, schema_version, actor_id, correlation_id, causation_id,
    recorded_at, data, sealed, key_id, hash, lane, position
from events order by lane, position, stream_id, version
"""
_STREAMS = """
select stream_id, lane, site, key, version, hash, recorded_at, closed, visible, described_by, title, url,
    settings
from streams
"""
_COMMENTS = """
select comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision, created_at,
    edited_at, edited_by, version, text_version, report_weight, path, up, down, site, approved
from comments
"""


async def read_log(connection: asyncpg.Connection) -> list[Recorded]:
    """Every event, by lane and position."""
    return [Recorded(*row) for row in await connection.fetch(_EVENTS)]


async def violations(url: str) -> list[str]:
    """Everything that does not hold: of the events by themselves, then of the decision state beside them."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            events = await read_log(connection)
            heads = {row["lane"]: row["head"] for row in await connection.fetch("select * from lanes")}
            return [
                *_places(events, heads),
                *_streams(events, len(heads)),
                *await _decision_state(connection, events),
            ]
    finally:
        await connection.close()


def _places(events: Iterable[Recorded], heads: dict[int, int]) -> Iterable[str]:
    """Positions are dense in each lane, from 1 to its head; no event is there twice."""
    positions: dict[int, list[int]] = {lane: [] for lane in heads}
    seen: set[UUID] = set()
    for event in events:
        positions[event.lane].append(event.position)
        if event.event_id in seen:
            yield f"event {event.event_id} is in the log twice"
        seen.add(event.event_id)
    for lane, found in positions.items():
        if found != list(range(1, heads[lane] + 1)):
            yield f"lane {lane}: positions {_short(found)}, head {heads[lane]}"


def _streams(events: Iterable[Recorded], lanes: int) -> Iterable[str]:
    """Versions are dense, times never decrease, hashes chain, positions rise with versions."""
    for stream_id, stream in _by_stream(events).items():
        if [event.version for event in stream] != list(range(1, len(stream) + 1)):
            yield f"stream {stream_id}: versions {_short([event.version for event in stream])}"
        previous = GENESIS
        for event in stream:
            if event.lane != lane_of(stream_id, lanes):
                yield f"stream {stream_id}: version {event.version} is in lane {event.lane}"
            if event.hash != chain_of(previous, event):
                yield f"stream {stream_id}: the chain breaks at version {event.version}"
            previous = event.hash
        for before, after in itertools.pairwise(stream):
            if after.recorded_at < before.recorded_at:
                yield f"stream {stream_id}: time runs back at version {after.version}"
            if after.position <= before.position:
                yield f"stream {stream_id}: version {after.version} lies before {before.version}"


async def _decision_state(connection: asyncpg.Connection, events: Iterable[Recorded]) -> list[str]:
    """The rows of the decision state are exactly those that a fold of the log gives."""
    streams: dict[Any, Any] = {}
    comments: dict[Any, Any] = {}
    reports: dict[Any, Any] = {}
    votes: dict[Any, Any] = {}
    for stream_id, stream in _by_stream(events).items():
        if stream[0].type == "SiteSettingsChanged":
            site, recorded_at = SiteState(stream_id), EPOCH
            for event in stream:
                evolve_site(site, event)
                recorded_at = event.recorded_at
            folded = of_site(site, recorded_at).stream
        else:
            thread = ThreadState(stream_id)
            for event in stream:
                evolve(thread, event)
            folded = of_thread(thread).stream
            for comment in thread.comments.values():
                comments[comment.id] = comment_row(stream_id, thread.site, comment)
            for (comment_id, reporter), version in thread.reported.items():
                reports[comment_id, reporter] = (stream_id, version)
            for voted, vote in thread.votes.items():
                votes[voted] = (stream_id, *vote)
        assert folded is not None
        streams[stream_id] = (stream[0].lane, *folded)
    stored_streams = {}
    for row in await connection.fetch(_STREAMS):
        stream_id, *values, settings = tuple(row)
        stored_streams[stream_id] = (*values, None if settings is None else orjson.loads(settings))
    stored_comments = {row["comment_id"]: tuple(row) for row in await connection.fetch(_COMMENTS)}
    stored_reports = {
        (row["comment_id"], row["reporter_id"]): (row["stream_id"], row["version"])
        for row in await connection.fetch("select * from reports")
    }
    stored_votes = {
        (row["comment_id"], row["voter_id"]): (row["stream_id"], row["value"], row["version"])
        for row in await connection.fetch("select * from votes")
    }
    return [
        *_differences("streams", stored_streams, streams),
        *_differences("comments", stored_comments, comments),
        *_differences("reports", stored_reports, reports),
        *_differences("votes", stored_votes, votes),
    ]


def _differences(table: str, stored: dict[Any, Any], folded: dict[Any, Any]) -> Iterable[str]:
    for key in stored.keys() | folded.keys():
        if stored.get(key) != folded.get(key):
            yield f"{table} {key}: stored {stored.get(key)}, folded {folded.get(key)}"


def _by_stream(events: Iterable[Recorded]) -> dict[UUID, list[Recorded]]:
    streams: defaultdict[UUID, list[Recorded]] = defaultdict(list)
    for event in events:
        streams[event.stream_id].append(event)
    return {
        stream_id: sorted(stream, key=lambda event: event.version) for stream_id, stream in streams.items()
    }


def _short(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:20]))
    return f"[{shown}{', …' if len(numbers) > 20 else ''}]"


async def chain(log: EventLog, stream_id: UUID) -> int:
    """Check the stream's versions and its hash chain, up to where the log ends; its length. Raises
    StreamBroken."""
    previous, version = GENESIS, 0
    async for events in log.pages(stream_id):
        verify_chain(previous, version, events)
        previous, version = events[-1].hash, events[-1].version
    head = await log.head(stream_id)
    assert version == (0 if head is None else head[0])
    return version
