"""Views of threads that were made by hand: written whole, and kept up with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from redis.asyncio import Redis

from services.core.page import FoldIndex, Row
from services.core.thread import ThreadState
from services.readmodel.views import Changes, Head, Outcome, Views, whole
from tests.threads import STREAM, node_of


def run_on(redis_url: str, scenario: Callable[[Views], Awaitable[None]]) -> None:
    """Run `scenario` on an empty Redis."""

    async def run() -> None:
        async with Redis.from_url(redis_url) as redis:
            await redis.flushdb()
            await scenario(Views(redis))

    asyncio.run(run())


async def written(views: Views, index: FoldIndex, size: int = 7, expected: Head | None = None) -> Head:
    """The head of a view built of this thread, `size` comments at a time."""
    build = views.build(STREAM)
    for changes in whole(index, size):
        await build.write(changes)
    assert await build.switch(expected, Head.of(index.thread)) is Outcome.APPLIED
    head = await views.head(STREAM)
    assert head is not None
    return head


async def nodes_of(index: FoldIndex, size: int = 7) -> AsyncIterator[dict[int, bytes]]:
    """The nodes of this thread, `size` at a time."""
    for begin in range(0, len(versions := list(index.comments)), size):
        yield {posted: index.node(posted) for posted in versions[begin : begin + size]}


async def filled(views: Views, index: FoldIndex, expected: Head | None = None) -> Head:
    """As `written`, of a view that is filled by one who knows the whole thread."""
    build = views.build(STREAM)
    await build.fill(index, nodes_of(index))
    assert await build.switch(expected, Head.of(index.thread)) is Outcome.APPLIED
    head = await views.head(STREAM)
    assert head is not None
    return head


async def follow(views: Views, head: Head, thread: ThreadState, batch: Iterable[int]) -> Head:
    """Bring the view up to `thread`, whose comments `batch` are new to it or changed."""
    comments = {comment.posted: comment for comment in thread.comments.values()}
    batch = sorted(set(batch))
    parents = {comments[posted].parent for posted in batch}
    touched = await views.touch(STREAM, head, {comments[posted].id for posted in batch}, parents)
    assert touched is not None
    changes = Changes()
    chains: dict[int, tuple[int, ...]] = {0: (), **touched.chains}
    for posted in batch:
        comment = comments[posted]
        if comment.id in touched.nodes:
            assert touched.nodes[comment.id][0] == posted
            changes.put(comment, node_of(comment), voted=True)
            continue
        above = (comment.parent, *chains[comment.parent]) if comment.parent else ()
        chains[posted] = above
        changes.put(comment, node_of(comment), new=True)
        for ancestor in above:
            changes.descendants[ancestor] = changes.descendants.get(ancestor, 0) + 1
    new = Head.of(thread, head.build)
    assert await views.apply(STREAM, head, new, changes) is Outcome.APPLIED
    return new


def rows(index: FoldIndex) -> dict[object, Row]:
    """Everything that a view of this thread holds."""
    return {row.key: row for row in index.rows()}


async def rows_of(views: Views, head: Head) -> dict[object, Row]:
    """Everything that the view holds."""
    return {row.key: row async for row in views.dump(STREAM, head.build)}
