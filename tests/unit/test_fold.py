"""A chunk of events folded onto what a view holds."""

from __future__ import annotations

import orjson

from schema.events.envelope import Recorded, canonical
from services.core.thread import Comment, ThreadState
from services.core.window import part_of
from services.projection.fold import evolve_all, fold, subjects
from tests.factories import BLOG, id_of
from tests.given import closed, deleted, edited, folded, posted, recorded, replied, reported, voted

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


STORY = [
    posted("c1"),
    replied("c2", to="c1"),
    replied("c3", to="c2"),
    edited("c2", "other words"),
    reported("c3", by="cid"),
    posted("c4"),
    deleted("c1"),
    closed(),
]


def test_a_thread_folded_from_its_beginning_is_as_one_folded_event_by_event() -> None:
    thread = ThreadState(BLOG.stream_id, BLOG.site, BLOG.key)
    evolve_all(thread, story())
    assert thread == folded(STORY)
    assert thread.posted is not None
    assert {posted: comment.id for posted, comment in thread.posted.items()} == {
        comment.posted: comment.id for comment in thread.comments.values()
    }


def test_an_event_is_about_the_comment_whose_id_it_names() -> None:
    events = story()
    for at, key in ((3 - 1, "parent"), (4 - 1, "posted")):  # both name c2, by its id: let the version be c1's
        payload = orjson.loads(events[at].data)
        events[at] = events[at]._replace(data=canonical(payload | {key: 1}))
    thread = ThreadState(BLOG.stream_id)
    evolve_all(thread, events)
    comments, expected = thread.comments, folded(STORY).comments
    assert comments[id_of("c2")] == expected[id_of("c2")]
    assert comments[id_of("c3")].path == expected[id_of("c3")].path


def test_a_part_of_a_thread_keeps_no_comment_outside_of_it() -> None:
    part = part_of(BLOG.stream_id, 1, 2)
    evolve_all(part, story())
    assert list(part.comments) == [id_of("c2")]
    assert not part.posted


def story() -> list[Recorded]:
    return [recorded(fact, folded(STORY[:before])) for before, fact in enumerate(STORY)]
