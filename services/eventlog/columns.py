"""The columns of the append statement (schema/queries/append.sql), in the order of its parameters.

Postgres and the driver spend most of a value's time on its way there, so what is usual is not sent: a column
may be empty, and its nulls stand for the usual value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from schema.events.envelope import Recorded
from services.core.thread import Comment, CommentState

Row = Sequence[Any]
Columns = list[list[Any]]


def of_rows(rows: Sequence[Row], width: int) -> Columns:
    """Rows as columns: what unnest takes."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def of_events(events: Sequence[Recorded], now: datetime) -> Columns:
    """The events. Usual are schema version 1, no cause, and the batch's own time."""
    return [
        *of_rows([(e.stream_id, e.version, e.event_id, e.type) for e in events], 4),
        _unless_usual([e.schema_version for e in events], 1),
        *of_rows([(e.actor_id, e.correlation_id) for e in events], 2),
        _unless_usual([e.causation_id for e in events], None),
        _unless_usual([e.recorded_at for e in events], now),
        *of_rows([(e.data, e.sealed, e.key_id, e.hash) for e in events], 4),
    ]


def of_posted(events: Sequence[Recorded], comments: Mapping[UUID, Comment]) -> Columns:
    """The comments that the events post, each at its event's place. Most are just as they were posted: what
    could have changed since is sent only where something has."""
    if not comments:
        return [[] for _ in range(14)]
    posted = [comments.get(event.event_id) for event in events]
    rows = [(None,) * 4 if c is None else (c.parent, c.depth, c.text_mac, c.path) for c in posted]
    later: list[Row] = []
    if any(c is not None and _has_changed(c, e) for c, e in zip(posted, events, strict=True)):
        later = [(None,) * 10 if c is None else _later(c) for c in posted]
    return [*of_rows(rows, 4), *of_rows(later, 10)]


def of_sites(
    events: Sequence[Recorded], comments: Mapping[UUID, Comment], sites: Mapping[UUID, str]
) -> tuple[str | None, list[str]]:
    """The sites of the comments that the events post: one for all of them, where that is so, else each at its
    event's place. `sites` has that of every event's stream."""
    if not comments:
        return None, []
    if len(sites) == 1 or len(found := set(sites.values())) == 1:
        return next(iter(sites.values())), []
    return next(iter(found)), [sites[event.stream_id] for event in events]


def of_moved(rows: Sequence[Row], described: Collection[UUID], now: datetime) -> Columns:
    """The rows of streams that were there before and have moved on. What they tell of a thread is sent only
    where an event of the batch tells it: of the `described`."""
    places: list[Row] = []
    times: list[datetime] = []
    counts: list[int] = []
    told: list[Row] = []
    for stream_id, _, _, version, last_hash, recorded_at, closed, visible, by, title, url, settings in rows:
        places.append((stream_id, version, last_hash))
        times.append(recorded_at)
        counts.append(visible)
        told.append((*((closed, by, title, url) if stream_id in described else (None,) * 4), settings))
    is_told = any(value is not None for row in told for value in row)
    return [
        *of_rows(places, 3),
        _unless_usual(times, now),
        counts,
        *of_rows(told if is_told else [], 5),
    ]


def of_changed(comments: Mapping[UUID, Comment]) -> Columns:
    """What events about comments that were there before may have changed of them."""
    return of_rows(
        [
            (
                c.id,
                c.text_mac,
                c.state.value,
                c.revision,
                c.edited_at,
                c.edited_by,
                c.version,
                c.text_version,
                c.report_weight,
                c.up,
                c.down,
            )
            for _, c in sorted(comments.items())
        ],
        11,
    )


def _has_changed(c: Comment, posting: Recorded) -> bool:
    """Whether a comment is not just as its event posted it. An imported one is older than its event."""
    return c.version != c.posted or c.state is not CommentState.VISIBLE or c.created_at != posting.recorded_at


def _later(c: Comment) -> Row:
    """What may be otherwise than the posting event has it."""
    return (
        c.state.value,
        c.revision,
        c.created_at,
        c.edited_at,
        c.edited_by,
        c.version,
        c.text_version,
        c.report_weight,
        c.up,
        c.down,
    )


def _unless_usual(values: list[Any], usual: object) -> list[Any]:
    """The values, or none where each of them is the usual one."""
    return values if any(value != usual for value in values) else []
