"""A chunk of events folded onto what a view holds."""

from __future__ import annotations

from services.core.thread import Comment
from services.projection.fold import fold, subjects
from tests.factories import id_of
from tests.given import folded, posted, recorded, voted

VOTERS = [f"u-{number}" for number in range(50)]


def test_many_votes_on_one_comment_are_one_node_to_write() -> None:
    thread = folded([posted("c1"), posted("c2")])
    ahead = folded([posted("c1"), posted("c2")])
    events = []
    for voter in VOTERS:
        for value, previous in ((1, 0), (-1, 1)):
            event = recorded(voted("c1", value, by=voter, previous=previous), ahead)
            fold(ahead, {}, [event])
            events.append(event)
    assert subjects(events) == ({id_of("c1")}, set())

    found = fold(thread, {1: 0, 2: 0}, events)

    assert list(found.touched) == [1]
    assert (found.added, found.descendants) == ([], {})
    assert tally(found.touched[1]) == (0, 50, 102)


def tally(comment: Comment) -> tuple[int, int, int]:
    return comment.up, comment.down, comment.version
