"""The decision state of one stream: what is stored, what a fold of the log says, and how they differ.

Everything here is a projection of the log; `verify` compares it and a replay repairs it, row by row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from services.core.addresses import lane_of
from services.core.site import SiteState
from services.core.thread import Comment, ThreadState
from services.eventlog.log import NIL
from services.eventlog.queries import QUERIES

Connection = asyncpg.Connection | PoolConnectionProxy
Row = tuple[Any, ...]

STREAM: Final = (
    "site",
    "key",
    "version",
    "hash",
    "recorded_at",
    "closed",
    "visible",
    "described_by",
    "title",
    "url",
    "settings",
)
COMMENT: Final = (
    "comment_id",
    "stream_id",
    "posted",
    "parent",
    "depth",
    "author_id",
    "key_id",
    "text_mac",
    "state",
    "revision",
    "created_at",
    "edited_at",
    "edited_by",
    "version",
    "text_version",
    "report_weight",
    "path",
    "up",
    "down",
    "site",
    "approved",
)
REPORT: Final = ("version",)
VOTE: Final = ("value", "version")

SLICE: Final = 10_000
"""Rows looked at by one statement where all of a table are."""


@dataclass(slots=True)
class DecisionState:
    """The rows of one stream: `stream` is None where it has none. `end` is the version of the stream's last
    event when they were read: what they are compared at."""

    end: int = 0
    stream: Row | None = None
    comments: dict[UUID, Row] = field(default_factory=dict)
    reports: dict[tuple[UUID, str], int] = field(default_factory=dict)
    votes: dict[tuple[UUID, str], tuple[int, int]] = field(default_factory=dict)
    """Value and version of each vote."""
    misplaced: list[Difference] = field(default_factory=list)
    """What tells of a lane or a stream that the rows do not belong to."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not what a replay of the log gives. `kind` is the table or kind of key it lies in,
    `path` leads to it there."""

    kind: str
    path: str
    stored: object
    replayed: object


def comment_row(stream_id: UUID, site: str, c: Comment) -> Row:
    """A comment of a thread of `site` as the decision state keeps it."""
    return (
        c.id,
        stream_id,
        c.posted,
        c.parent,
        c.depth,
        c.author_id,
        c.key_id,
        c.text_mac,
        c.state.value,
        c.revision,
        c.created_at,
        c.edited_at,
        c.edited_by,
        c.version,
        c.text_version,
        c.report_weight,
        c.path,
        c.up,
        c.down,
        site,
        c.approved,
    )


def stream_row(t: ThreadState) -> Row:
    """A thread's stream as the decision state keeps it."""
    return (
        t.site,
        t.key,
        t.version,
        t.last_hash,
        t.recorded_at,
        t.closed,
        t.visible,
        t.described_by,
        t.title,
        t.url,
        None,
    )


def of_thread(t: ThreadState) -> DecisionState:
    """What a folded thread's decision state must be."""
    if t.version == 0:
        return DecisionState()
    return DecisionState(
        end=t.version,
        stream=stream_row(t),
        comments={c.id: comment_row(t.stream_id, t.site, c) for c in t.comments.values()},
        reports=dict(t.reported),
        votes=dict(t.votes),
    )


def site_row(site: SiteState, recorded_at: datetime) -> Row:
    """A site's stream as the decision state keeps it; its settings as a dict."""
    threads = (False, 0, None, None, None)
    return (site.site, None, site.version, site.last_hash, recorded_at, *threads, site.settings.given())


def of_site(site: SiteState, recorded_at: datetime) -> DecisionState:
    """What a folded site's decision state must be."""
    if site.version == 0:
        return DecisionState()
    return DecisionState(end=site.version, stream=site_row(site, recorded_at))


async def ends(connection: Connection, stream_ids: Collection[UUID]) -> dict[UUID, int]:
    """The version of the last event of each of these streams; 0 where there is none."""
    rows = await connection.fetch(QUERIES["stream_ends_in_log"], list(stream_ids))
    return {row["stream_id"]: row["version"] or 0 for row in rows}


async def stored(connection: Connection, at: Mapping[UUID, int], lanes: int) -> dict[UUID, DecisionState]:
    """The rows of streams, whose last events have the versions `at`; there are `lanes` lanes.

    Run it in a transaction whose snapshot holds the rows and the events together.
    """
    asked = list(at)
    found = {stream_id: DecisionState(end) for stream_id, end in at.items()}
    for stream_id, lane, *values, settings in await connection.fetch(QUERIES["streams_state"], asked):
        kept = found[stream_id]
        kept.stream = (*values, None if settings is None else orjson.loads(settings))
        if lane != (due := lane_of(stream_id, lanes)):
            kept.misplaced.append(Difference("streams", "lane", lane, due))
    for of_stream, *row in await connection.fetch(QUERIES["comments_state"], asked):
        found[of_stream].comments[row[0]] = tuple(row)
    for of_stream, comment_id, who, stream_id, version in await connection.fetch(
        QUERIES["reports_state"], asked
    ):
        kept = found[of_stream]
        kept.reports[comment_id, who] = version
        kept.misplaced += _misplaced("reports", (comment_id, who), stream_id, of_stream)
    for of_stream, comment_id, who, stream_id, *vote in await connection.fetch(QUERIES["votes_state"], asked):
        kept = found[of_stream]
        if (comment_id, who) not in kept.votes:  # there is a row for each event of the voter's
            kept.misplaced += _misplaced("votes", (comment_id, who), stream_id, of_stream)
        kept.votes[comment_id, who] = (vote[0], vote[1])
    return found


def _misplaced(kind: str, pair: tuple[UUID, str], stream_id: UUID, of_stream: UUID) -> Iterator[Difference]:
    if stream_id != of_stream:
        yield Difference(kind, f"{pair[0]} by {pair[1]}: stream_id", stream_id, of_stream)


def differences(kept: DecisionState, replayed: DecisionState) -> Iterator[Difference]:
    """Each value of the stored state that is not what the log gives."""
    yield from kept.misplaced
    yield from _compare("streams", "", STREAM, kept.stream, replayed.stream)
    for comment_id in sorted(kept.comments.keys() | replayed.comments.keys()):
        before, after = kept.comments.get(comment_id), replayed.comments.get(comment_id)
        if before != after:
            row = after or before
            path = f"{comment_id} (version {row[COMMENT.index('posted')]})" if row else str(comment_id)
            yield from _compare("comments", path, COMMENT, before, after)
    for pair in sorted(kept.reports.keys() | replayed.reports.keys()):
        was, is_ = kept.reports.get(pair), replayed.reports.get(pair)
        path = f"{pair[0]} by {pair[1]}"
        yield from _compare(
            "reports", path, REPORT, None if was is None else (was,), None if is_ is None else (is_,)
        )
    for pair in sorted(kept.votes.keys() | replayed.votes.keys()):
        path = f"{pair[0]} by {pair[1]}"
        yield from _compare("votes", path, VOTE, kept.votes.get(pair), replayed.votes.get(pair))


def _compare(
    kind: str, path: str, names: tuple[str, ...], kept: Row | None, replayed: Row | None
) -> Iterator[Difference]:
    if kept == replayed:
        return
    if kept is None or replayed is None:
        yield Difference(kind, path, _there(kept), _there(replayed))
        return
    for name, before, after in zip(names, kept, replayed, strict=True):
        if before != after:
            yield Difference(kind, f"{path}: {name}" if path else name, before, after)


def _there(row: Row | None) -> str:
    return "no row" if row is None else "a row"


async def comment_strays(connection: Connection) -> AsyncIterator[list[UUID]]:
    """The comments that no event made, as they are found."""
    after = NIL
    while rows := await connection.fetch(QUERIES["stray_comments"], after, SLICE):
        if found := [row["comment_id"] for row in rows if row["stray"]]:
            yield found
        after = rows[-1]["comment_id"]


async def pair_strays(connection: Connection, query: str) -> AsyncIterator[list[tuple[UUID, str]]]:
    """The reports (`stray_reports`) or votes (`stray_votes`) that no event made, as they are found: comment
    and person."""
    after = (NIL, "")
    while rows := await connection.fetch(QUERIES[query], *after, SLICE):
        if found := [(row[0], row[1]) for row in rows if row["stray"]]:
            yield found
        after = rows[-1][0], rows[-1][1]


async def remove(connection: Connection, rows: DecisionState) -> int:
    """Delete these rows of `comments`, `reports` and `votes`; how many there were."""
    await connection.execute(QUERIES["remove_stray_comments"], list(rows.comments))
    await connection.execute(
        QUERIES["remove_stray_reports"],
        [comment_id for comment_id, _ in rows.reports],
        [reporter for _, reporter in rows.reports],
    )
    await connection.execute(
        QUERIES["remove_stray_votes"],
        [comment_id for comment_id, _ in rows.votes],
        [voter for _, voter in rows.votes],
    )
    return len(rows.comments) + len(rows.reports) + len(rows.votes)


@dataclass(frozen=True, slots=True)
class Suspects:
    """The rows of a stream that differed from the log when they were compared."""

    stream: bool
    comments: frozenset[UUID]
    reports: frozenset[tuple[UUID, str]]
    votes: frozenset[tuple[UUID, str]]

    @property
    def rows(self) -> int:
        """How many they are."""
        return self.stream + len(self.comments) + len(self.reports) + len(self.votes)

    def slices(self, size: int) -> Iterator[Suspects]:
        """The same rows, at most `size` comments and as many reports and votes at a time."""
        comments, reports, votes = sorted(self.comments), sorted(self.reports), sorted(self.votes)
        for start in range(0, max(len(comments), len(reports), len(votes), self.stream), size):
            yield Suspects(
                self.stream and start == 0,
                frozenset(comments[start : start + size]),
                frozenset(reports[start : start + size]),
                frozenset(votes[start : start + size]),
            )


async def repair(connection: Connection, lane: int, thread: ThreadState, rows: Suspects) -> None:
    """Write these rows as the folded `thread` has them. Under the lane's lock, with `thread` at its head."""
    if rows.stream and (replayed := stream_row(thread)):
        await connection.execute(QUERIES["repair_stream"], thread.stream_id, lane, *replayed)
    await connection.executemany(
        QUERIES["repair_comment"],
        [
            comment_row(thread.stream_id, thread.site, thread.comments[comment_id])
            for comment_id in rows.comments
        ],
    )
    await connection.executemany(
        QUERIES["repair_report"],
        [
            (comment_id, reporter, thread.stream_id, thread.reported[comment_id, reporter])
            for comment_id, reporter in rows.reports
        ],
    )
    await connection.executemany(
        QUERIES["repair_vote"],
        [
            (comment_id, voter, thread.stream_id, *thread.votes[comment_id, voter])
            for comment_id, voter in rows.votes
        ],
    )
