"""One suite for both ways of picking a page: the fold in memory and the scripts in Redis give the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.core.page import FoldIndex, PageRequest, Selection, Sort
from services.core.thread import CommentState, ThreadState
from services.errors import CursorInvalid, ParentNotFound
from services.readmodel.views import Changes, Head, Outcome, Views, whole
from tests.threads import STREAM, Said, add, comment_id, index_of, node_of, thread_of

REAL_SERVER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
STATES = st.sampled_from([CommentState.VISIBLE] * 4 + [CommentState.HIDDEN, CommentState.DELETED])
SORTS = st.sampled_from(["oldest", "newest"])


@st.composite
def forests(draw: st.DrawFn, most: int = 40) -> list[Said]:
    """Comments in the order of posting, three versions apart; many share a time, some are dated back."""
    said: list[Said] = []
    for number in range(draw(st.integers(0, most))):
        parent = draw(st.integers(0, number)) * 3 - 2
        said.append(Said(max(parent, 0), draw(st.integers(0, 3)), draw(STATES)))
    return said


VERSIONS = st.integers(0, 125)
REQUESTS = st.builds(
    PageRequest,
    sort=SORTS,
    limit=st.integers(1, 8),
    replies=st.integers(0, 4),
    depth=st.integers(0, 4),
    parent_id=st.none() | VERSIONS.map(comment_id),
    after=st.none() | VERSIONS,
)


def run_on(redis_url: str, scenario: Callable[[Views], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Redis.from_url(redis_url) as redis:
            await redis.flushdb()
            await scenario(Views(redis))

    asyncio.run(run())


async def written(views: Views, index: FoldIndex, size: int = 7) -> Head:
    build = views.build(STREAM)
    for changes in whole(index, size):
        await build.write(changes)
    assert await build.switch(None, Head.of(index.thread)) is Outcome.APPLIED
    head = await views.head(STREAM)
    assert head is not None
    return head


async def paged(views: Views, request: PageRequest) -> Selection | type[Exception]:
    try:
        answer = await views.page(STREAM, request)
    except (ParentNotFound, CursorInvalid) as error:
        return type(error)
    assert answer is not None
    return answer[1]


def folded(index: FoldIndex, request: PageRequest) -> Selection | type[Exception]:
    try:
        return index.page(request)
    except (ParentNotFound, CursorInvalid) as error:
        return type(error)


@REAL_SERVER
@given(forest=forests(), requests=st.lists(REQUESTS, min_size=1, max_size=12))
def test_redis_and_the_fold_pick_the_same_page(
    redis_url: str, forest: list[Said], requests: list[PageRequest]
) -> None:
    index = index_of(thread_of(forest, step=3))

    async def scenario(views: Views) -> None:
        head = await written(views, index)
        assert head == Head.of(index.thread, head.build)
        for request in requests:
            assert await paged(views, request) == folded(index, request)
        for posted in range(1, 40):
            one = await views.comment(STREAM, comment_id(posted))
            assert one is not None
            found = index.comment(comment_id(posted))
            assert (one.picked, one.path) == ((None, ()) if found is None else found)

    run_on(redis_url, scenario)


@REAL_SERVER
@given(forest=forests(), sort=SORTS, limit=st.integers(1, 5))
def test_paging_to_the_end_lists_every_comment_once(
    redis_url: str, forest: list[Said], sort: Sort, limit: int
) -> None:
    index = index_of(thread_of(forest, step=3))

    async def scenario(views: Views) -> None:
        await written(views, index)
        parents: list[tuple[int, UUID | None]] = [(0, None)]
        parents += [(posted, comment_id(posted)) for posted in index.comments]
        for posted, parent_id in parents:
            request, listed = PageRequest(sort, limit, parent_id=parent_id), list[int]()
            while True:
                page = await paged(views, request)
                assert isinstance(page, Selection)
                listed += [picked.posted for picked in page.picked[: page.roots]]
                if not page.more:
                    break
                request = replace(request, after=page.last_root)
            assert (listed if sort == "oldest" else listed[::-1]) == list(index.children(posted))

    run_on(redis_url, scenario)


async def follow(views: Views, head: Head, thread: ThreadState, batch: list[int]) -> Head:
    """Bring the view up to `thread`, whose comments `batch` are new to it or changed."""
    comments = {comment.posted: comment for comment in thread.comments.values()}
    parents = {comments[posted].parent for posted in batch}
    touched = await views.touch(STREAM, head, {comments[posted].id for posted in batch}, parents)
    assert touched is not None
    changes = Changes()
    chains: dict[int, tuple[int, ...]] = {0: (), **touched.chains}
    for posted in batch:
        comment = comments[posted]
        if comment.id in touched.nodes:
            assert touched.nodes[comment.id][0] == posted
            changes.nodes[posted] = node_of(comment)
            continue
        above = (comment.parent, *chains[comment.parent]) if comment.parent else ()
        chains[posted] = above
        changes.add(comment, node_of(comment), above)
    new = Head.of(thread, head.build)
    assert await views.apply(STREAM, head, new, changes) is Outcome.APPLIED
    return new


@REAL_SERVER
@given(
    forest=forests(),
    data=st.data(),
)
def test_a_view_kept_up_equals_one_built_afresh(
    redis_url: str, forest: list[Said], data: st.DataObject
) -> None:
    built = data.draw(st.integers(0, len(forest)))
    batches = data.draw(st.lists(st.integers(1, 10), min_size=len(forest), max_size=len(forest)))

    async def scenario(views: Views) -> None:
        thread = thread_of(forest[:built], step=3)
        head = await written(views, index_of(thread))
        done = built
        for size in batches:
            batch = []
            for number in range(done, min(done + size, len(forest))):
                add(thread, forest[number], 1 + 3 * number)
                batch.append(1 + 3 * number)
            done += len(batch)
            for comment in list(thread.comments.values())[::5]:
                comment.revision += 1
                comment.version = thread.version
                batch.append(comment.posted)
            if batch:
                head = await follow(views, head, thread, sorted(set(batch)))
        kept_up = {row.posted: row async for row in views.dump(STREAM, head.build)}
        assert kept_up == {row.posted: row for row in index_of(thread).placed()}

    run_on(redis_url, scenario)
