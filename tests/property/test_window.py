"""A thread folded part by part holds what it holds when it is folded whole."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.thread import Comment, ThreadState, evolve
from services.core.window import part_of
from tests.factories import BLOG
from tests.histories import Happening, happenings, history_of


@settings(deadline=None)
@given(happenings(), st.integers(1, 30))
def test_the_parts_of_a_thread_are_the_thread(happened: list[Happening], size: int) -> None:
    history = history_of(happened)
    end = len(history.events)
    whole = history.thread(end)

    comments: dict[UUID, Comment] = {}
    reported: dict[tuple[UUID, str], int] = {}
    votes: dict[tuple[UUID, str], tuple[int, int]] = {}
    for after in range(0, end, size):
        part = part_of(BLOG.stream_id, after, after + size)
        for event in history.events:
            evolve(part, event)
        assert (part.version, part.last_hash) == (whole.version, whole.last_hash)
        assert all(after < comment.posted <= after + size for comment in part.comments.values())
        comments |= part.comments
        reported |= part.reported
        votes |= part.votes

    assert comments == whole.comments
    assert reported == whole.reported
    assert votes == whole.votes


def test_a_deep_path_is_cut_to_its_last_ancestors() -> None:
    deep: list[Happening] = [(0, 0, 0, 0), *((4, number, 0, 0) for number in range(60))]
    history = history_of(deep)
    whole = history.thread(len(deep))

    part: ThreadState = part_of(BLOG.stream_id, len(deep) - 1, len(deep))
    for event in history.events:
        evolve(part, event)

    [last] = part.comments.values()
    assert last.depth == 60
    assert last == whole.comments[last.id]
