"""A page picked from a snapshot and the events behind it is the page picked from the whole fold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import fields, replace
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schema.events.envelope import Recorded
from services.core import picking, segments, snapshot, structure
from services.core.page import FoldIndex, PageRequest, Picked, Place, Selection
from services.core.picking import Draft, Picker
from services.core.thread import Comment
from services.errors import CommentNotFound, CursorInvalid, ParentNotFound
from services.eventlog.keys import Keyring, MasterKey
from services.eventlog.log import EventLog
from services.eventlog.snapshots import Snapshots
from services.projection.fold import Texts
from services.projection.logpages import LogPages
from services.readmodel.records import Head
from tests.factories import BLOG, id_of
from tests.histories import (
    NOTHING,
    History,
    Stored,
    asked,
    fold_onto,
    happenings,
    history_of,
    requests,
)
from tests.histories import snapshot as snapshot_of
from tests.writer import MASTER_KEY

SHAPE = (
    *("posted", "parent", "depth", "created_at", "state", "revision", "edited_at", "edited_by", "version"),
    *("text_version", "up", "down"),
)
HISTORIES = happenings().map(history_of)


@pytest.fixture(scope="module", autouse=True)
def small_segments() -> Iterator[None]:
    """Segments of four comments, so that a thread of a test has many."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (segments, structure, snapshot, picking):
            patch.setattr(module, "SHIFT", 2, raising=False)
            patch.setattr(module, "SEGMENT", 4, raising=False)
        yield


def walked(index: FoldIndex, data: st.DataObject, request: PageRequest) -> Iterator[PageRequest]:
    """The page asked for and, some of the time, those behind it: also where a score has changed meanwhile."""
    yield request
    for _ in range(4):
        page = folded(index, request)
        if not isinstance(page, Selection) or not page.more or not data.draw(st.booleans()):
            return
        last = page.picked[page.roots - 1]
        score = last.score * data.draw(st.sampled_from([1.0, 1.0, 0.5, 2.0]))
        request = replace(request, after=Place(last.posted, score))
        yield request


def folded(index: FoldIndex, request: PageRequest) -> Selection | type[Exception]:
    try:
        # Whose text is not public is not told by what is read from the log.
        return replace(index.page(request), overlay=None)
    except (ParentNotFound, CommentNotFound, CursorInvalid) as error:
        return type(error)


def told(index: FoldIndex, draft: Draft) -> Selection:
    """A draft as a Selection with empty nodes; its comments must be the fold's."""
    ids = {comment.posted: comment.id for comment in index.comments.values()}
    for one in draft.drafted:
        comment = index.comments[one.comment.posted]
        assert shape(one.comment) == shape(comment)
    return Selection(
        tuple(Picked(one.comment.posted, one.parent, b"", *one[2:]) for one in draft.drafted),
        draft.roots,
        draft.more,
        draft.parent,
        tuple(ids[posted] for posted in draft.ancestors),
        draft.pathed,
    )


def shape(comment: Comment) -> list[object]:
    return [getattr(comment, name) for name in SHAPE]


@settings(max_examples=150, deadline=None)
@given(history=HISTORIES, data=st.data())
def test_a_page_from_a_snapshot_is_the_page_of_the_fold(history: History, data: st.DataObject) -> None:
    end = len(history.events)
    first = data.draw(st.integers(0, end), label="first snapshot")
    second = data.draw(st.integers(first, end), label="second snapshot")
    half = data.draw(st.integers(second, end), label="read at")
    stored = NOTHING
    if first:
        stored = snapshot_of(history.events[:first])
    if second > first:
        stored = snapshot_of(history.events[first:second], stored)
    assert stored == (snapshot_of(history.events[:second]) if second else NOTHING)

    thread = stored.structure()
    for begin, stop in ((second, half), (half, end)):
        fold_onto(thread, stored, history.events[begin:stop])
        index = history.index(stop)
        assert (thread.version, thread.visible) == (index.thread.version, index.thread.visible)
        assert thread.last_hash == index.thread.last_hash
        for request in data.draw(st.lists(requests(history.names), min_size=1, max_size=6)):
            for page in walked(index, data, request):
                assert picked(thread, stored, index, page) == folded(index, page)
        for name in history.names[:20]:
            comment = index.thread.comments.get(id_of(name))
            if comment is not None:
                found = index.comment(comment.id)
                assert found is not None
                drafted, above = asked(thread, stored, lambda: Picker(thread).comment(comment.posted))  # noqa: B023
                assert (drafted.descendants, drafted.children) == (found[0].descendants, found[0].children)
                assert len(above) == len(found[1])


def picked(
    thread: structure.Structure, stored: Stored, index: FoldIndex, request: PageRequest
) -> Selection | type[Exception]:
    named = request.parent_id or request.focus
    posted = None
    if named is not None:
        comment = index.thread.comments.get(named)
        if comment is None:
            return ParentNotFound if request.focus is None else CommentNotFound
        posted = comment.posted
    try:
        return told(index, asked(thread, stored, lambda: Picker(thread).page(request, posted)))
    except CursorInvalid as error:
        return type(error)


# --- on a real database ------------------------------------------------------------------------------------


async def recorded(pool: asyncpg.Pool, stream_id: UUID, history: History) -> list[Recorded]:
    """The events in the log, past all rules, and the comments they posted."""
    events = [event._replace(stream_id=stream_id) for event in history.events]
    thread = history.thread(len(events))
    columns = ", ".join(name for name in Recorded._fields)
    places = ", ".join(f"${number + 1}" for number in range(len(Recorded._fields)))
    async with pool.acquire() as connection:
        await connection.executemany(f"insert into events ({columns}) values ({places})", events)
        await connection.executemany(
            "insert into comments (comment_id, stream_id, posted, parent, depth, text_mac, state, revision,"
            " created_at, version, text_version, path, site)"
            " values ($1, $2, $3, $4, $5, '', 'visible', 1, $6, 1, 1, '', 'blog')",
            [(c.id, stream_id, c.posted, c.parent, c.depth, c.created_at) for c in thread.comments.values()],
        )
    return events


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=HISTORIES, data=st.data())
def test_pages_from_the_log_are_those_of_the_fold(
    database_url: str, history: History, data: st.DataObject
) -> None:
    end = len(history.events)
    versions = data.draw(st.sets(st.integers(1, end), max_size=3), label="snapshots")
    asked_for = data.draw(st.lists(st.none() | st.integers(0, end), min_size=1, max_size=4), label="as of")
    pages = data.draw(st.lists(requests(history.names), min_size=1, max_size=6))

    async def run() -> None:
        async with asyncpg.create_pool(database_url, min_size=1, max_size=3) as pool:
            await pool.execute(
                "delete from comments; delete from snapshots; drop trigger if exists "
                "events_are_immutable on events; delete from events;"
            )
            events = await recorded(pool, BLOG.stream_id, history)
            snapshots = Snapshots(pool)
            for version in versions:
                made = snapshot_of(events[:version])
                await snapshots.write(
                    BLOG.stream_id, made.base, snapshot.head_json(made.base), one_by_one(made)
                )
            log, keyring = EventLog(pool), Keyring(pool, MasterKey(MASTER_KEY))
            log_pages, texts = LogPages(log, keyring, snapshots), Texts(log, keyring)
            for to in asked_for:
                index = await with_nodes(texts, history.index(end if to is None else to), events)
                for request in pages:
                    for page in walked(index, data, request):
                        assert await from_log(log_pages, page, to) == folded(index, page)
                head = await log_pages.head(BLOG.stream_id, to)
                thread = index.thread
                thread.site = thread.key = ""  # no fact opens the stream
                assert head == (Head.of(thread) if thread.version else None)
                for name in history.names[:10]:
                    found = index.comment(id_of(name))
                    try:
                        _, *one = await log_pages.comment(BLOG.stream_id, id_of(name), to)
                    except CommentNotFound:
                        assert found is None
                    else:
                        assert tuple(one) == found

    asyncio.run(run())


async def one_by_one(made: Stored):  # type: ignore[no-untyped-def]
    for pair in made.segments.items():
        yield [pair]


async def with_nodes(texts: Texts, index: FoldIndex, events: list[Recorded]) -> FoldIndex:
    nodes = await texts.nodes(
        BLOG.stream_id,
        list(index.comments.values()),
        events={event.version: event for event in events},
        known={},
    )
    return FoldIndex(index.thread, nodes)


async def from_log(log_pages: LogPages, request: PageRequest, to: int | None) -> Selection | type[Exception]:
    try:
        return (await log_pages.page(BLOG.stream_id, request, to))[1]
    except (ParentNotFound, CommentNotFound, CursorInvalid) as error:
        return type(error)


def test_the_structure_of_a_comment_is_all_that_a_node_shows() -> None:
    left_to_events = {"id", "author_id", "key_id", "text_mac", "path", "report_weight", "approved"}
    assert {field.name for field in fields(Comment)} - left_to_events == set(SHAPE)
