"""Paging through a list, page by page with its cursors, while others write: what the contract promises.

In `oldest` and `newest` nothing that existed when paging began is lost or repeated; in the ranked sorts
nothing whose score has not changed. Many comments share a time, many a score, and some are dated back, as
imported ones.
"""

from __future__ import annotations

from typing import Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.api.cursors import Cursors
from services.core.page import FoldIndex, PageRequest, Place
from services.core.ranking import Sort
from services.core.thread import FINAL, CommentState, ThreadState
from services.readmodel.views import Head, Views
from tests.threads import STREAM, Said, add, comment_id, index_of, thread_of
from tests.viewing import follow, rows, rows_of, run_on, written

CURSORS = Cursors(b"k" * 32)
Deed = Literal["post", "reply", "edit", "delete", "hide", "restore", "vote"]
DEEDS: st.SearchStrategy[Deed] = st.sampled_from(
    ["post", "post", "reply", "reply", "edit", "delete", "hide", "restore", "vote", "vote", "vote"]
)
SORTS: st.SearchStrategy[Sort] = st.sampled_from(["oldest", "newest", "best", "controversial", "replies"])
VOTES = st.sampled_from([(0, 0), (0, 0), (1, 0), (0, 1), (1, 1), (2, 2), (3, 1)])


class Others:
    """Those who write into a thread while somebody pages through it."""

    def __init__(self, views: Views, head: Head, thread: ThreadState, data: st.DataObject) -> None:
        self._views, self.head, self.thread, self._data = views, head, thread, data

    async def write(self) -> None:
        """A batch of anything, brought into the view."""
        touched: set[int] = set()
        for _ in range(self._data.draw(st.integers(0, 6), label="writes")):
            touched.add(self._one())
        if touched:
            self.head = await follow(self._views, self.head, self.thread, touched)

    def _one(self) -> int:
        draw, thread = self._data.draw, self.thread
        deed = draw(DEEDS)
        comments = list(thread.comments.values())
        if deed in ("post", "reply") or not comments:
            parent = draw(st.sampled_from(comments)).posted if deed == "reply" and comments else 0
            # Mostly now, sometimes long ago: an import.
            said = Said(parent, second=draw(st.sampled_from([3, 3, 3, 1, 0])))
            return add(thread, said, thread.version + 1).posted
        comment = draw(st.sampled_from(comments))
        thread.version += 1
        thread.last_hash = thread.version.to_bytes(32, "big")
        comment.version = thread.version
        if deed == "edit":
            comment.revision += 1
        elif deed == "vote":
            comment.up, comment.down = draw(VOTES)
        elif comment.state not in FINAL:
            states = {"delete": CommentState.DELETED, "hide": CommentState.HIDDEN}
            comment.state = states.get(deed, CommentState.VISIBLE)
        return comment.posted


def scores(index: FoldIndex, parent: int, sort: Sort) -> dict[int, float]:
    return {child: index.score(child, sort) for child in index.children(parent)}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whoever_pages_while_others_write_misses_nothing_and_sees_nothing_twice(
    redis_url: str, data: st.DataObject
) -> None:
    sort = data.draw(SORTS, label="sort")
    said = [Said(), Said(1)]
    for number in range(data.draw(st.integers(0, 30), label="comments")):
        parent = data.draw(st.sampled_from([0, 0, 0, 1, 1, 1, 2, number]))
        up, down = data.draw(VOTES)
        said.append(Said(parent, data.draw(st.integers(0, 3)), up=up, down=down))
    parent = data.draw(st.sampled_from([0, 0, 1]), label="parent")

    async def scenario(views: Views) -> None:
        thread = thread_of(said)
        index = index_of(thread)
        others = Others(views, await written(views, index), thread, data)
        began = unchanged = scores(index, parent, sort)
        listed: list[int] = []
        parent_id = comment_id(parent) if parent else None
        place: Place | None = None
        while True:
            limit = data.draw(st.integers(1, 5), label="limit")
            request = PageRequest(sort, limit, replies=0, parent_id=parent_id, after=place)
            answer = await views.page(STREAM, request)
            assert answer is not None
            assert answer[0] == others.head
            page = answer[1]
            assert page == index_of(thread).page(request)
            listed += [picked.posted for picked in page.picked]
            if not page.more:
                break
            last = page.picked[-1]
            cursor = CURSORS.comments(STREAM, sort, parent, Place(last.posted, last.score))
            assert CURSORS.place(STREAM, sort, cursor) == (parent, Place(last.posted, last.score))
            place = CURSORS.place(STREAM, sort, cursor)[1]
            await others.write()
            now = scores(index_of(thread), parent, sort)
            unchanged = {child: score for child, score in unchanged.items() if now[child] == score}
        if sort in ("oldest", "newest"):
            assert unchanged == began
            assert len(set(listed)) == len(listed)
        for child in unchanged:
            assert listed.count(child) == 1, (sort, child, listed)
        assert await rows_of(views, others.head) == rows(index_of(thread))

    run_on(redis_url, scenario)
