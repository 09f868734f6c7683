"""The decision state beside the folds of some threads: which rows a repair must look at.

The rows are looked up by what the folds say, some at a time, so that it costs little memory however long a
thread is. What no event made is found elsewhere (`state.comment_strays`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson

from services.core.addresses import lane_of
from services.core.thread import ThreadState
from services.eventlog.queries import QUERIES
from services.eventlog.state import Connection, Row, Suspects, comment_row, stream_row

_T = TypeVar("_T")
Rows = tuple[Iterable[UUID], Iterable[tuple[UUID, str]], Iterable[tuple[UUID, str]]]
"""Comments, reports and votes of one thread."""

_Mark = tuple[UUID, tuple[UUID, str], Row]
"""A report or a vote: its stream, the comment and the person, and what is kept of it."""

_AT_ONCE: Final = 500

COMPARED: Final = 5_000
"""Rows of a table that are compared in one snapshot where a thread has many: some 100 ms. What died since a
snapshot was opened no vacuum takes away, in any table."""


async def suspects(
    connection: Connection, threads: Sequence[ThreadState], lanes: int
) -> dict[UUID, Suspects]:
    """The rows of these threads that are not as their folds have them, by stream; a thread without any is
    left out. There are `lanes` lanes. To be called in a snapshot that the folds are brought up to.
    """
    return await _suspects(
        connection, [(t, (t.comments, t.reported, t.votes)) for t in threads if t.version], lanes
    )


async def suspects_of(connection: Connection, thread: ThreadState, rows: Rows, lanes: int) -> Suspects | None:
    """As `suspects`, of these rows of one thread, and of its stream's own; None where there is none."""
    if not thread.version:
        return None
    return (await _suspects(connection, [(thread, rows)], lanes)).get(thread.stream_id)


def slices(thread: ThreadState) -> Iterator[Rows]:
    """The rows that a fold has when this is called, `COMPARED` of each table at a time."""
    comments, reports, votes = list(thread.comments), list(thread.reported), list(thread.votes)
    for start in range(0, max(1, len(comments), len(reports), len(votes)), COMPARED):
        some = slice(start, start + COMPARED)
        yield comments[some], reports[some], votes[some]


async def _suspects(
    connection: Connection, asked: Sequence[tuple[ThreadState, Rows]], lanes: int
) -> dict[UUID, Suspects]:
    streams = await _streams(connection, [thread.stream_id for thread, _ in asked])
    comments: defaultdict[UUID, set[UUID]] = defaultdict(set)
    posted = ((thread, thread.comments[one]) for thread, rows in asked for one in rows[0])
    for some in _parts(posted):
        found = await connection.fetch(QUERIES["comments_kept"], [comment.id for _, comment in some])
        kept = {row["comment_id"]: tuple(row) for row in found}
        for thread, comment in some:
            if kept.get(comment.id) != comment_row(thread.stream_id, thread.site, comment):
                comments[thread.stream_id].add(comment.id)
        await asyncio.sleep(0)
    reported = ((t.stream_id, one, (t.stream_id, t.reported[one])) for t, rows in asked for one in rows[1])
    voted = ((t.stream_id, one, (t.stream_id, *t.votes[one])) for t, rows in asked for one in rows[2])
    reports = await _marks(connection, "reports_kept", reported)
    votes = await _marks(connection, "votes_kept", voted)
    differing: dict[UUID, Suspects] = {}
    for thread, _ in asked:
        of = thread.stream_id
        one = Suspects(
            stream=streams.get(of) != (lane_of(of, lanes), *stream_row(thread)),
            comments=frozenset(comments.get(of, ())),
            reports=frozenset(reports.get(of, ())),
            votes=frozenset(votes.get(of, ())),
        )
        if one.rows:
            differing[of] = one
    return differing


async def stream_differs(connection: Connection, stream_id: UUID, row: Row, lanes: int) -> bool:
    """Whether `row` is not what is kept of the stream itself."""
    return (await _streams(connection, [stream_id])).get(stream_id) != (lane_of(stream_id, lanes), *row)


async def _streams(connection: Connection, stream_ids: list[UUID]) -> dict[UUID, Row]:
    rows = await connection.fetch(QUERIES["streams_kept"], stream_ids)
    return {
        stream_id: (*values, None if settings is None else orjson.loads(settings))
        for stream_id, *values, settings in map(tuple, rows)
    }


async def _marks(
    connection: Connection, query: str, marks: Iterable[_Mark]
) -> dict[UUID, set[tuple[UUID, str]]]:
    found: defaultdict[UUID, set[tuple[UUID, str]]] = defaultdict(set)
    for some in _parts(marks):
        rows: list[Any] = await connection.fetch(
            QUERIES[query], [comment for _, (comment, _), _ in some], [person for _, (_, person), _ in some]
        )
        kept = {(row[0], row[1]): tuple(row)[2:] for row in rows}
        for stream_id, pair, value in some:
            if kept.get(pair) != value:
                found[stream_id].add(pair)
        await asyncio.sleep(0)
    return found


def _parts(things: Iterable[_T]) -> Iterator[list[_T]]:
    left = iter(things)
    while part := list(islice(left, _AT_ONCE)):
        yield part
