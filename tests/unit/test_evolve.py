"""The fold of a thread, event by event, and the events that cannot be applied."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from schema.events.envelope import GENESIS, canonical
from services.core.thread import PATH_LENGTH, Comment, CommentState, ThreadState, evolve, timestamp
from services.errors import PoisonEvent, UnknownEventType
from tests.factories import BLOG, LONG_AGO, at, id_of, key_id_of, mac_of
from tests.given import (
    Fact,
    approved,
    closed,
    deleted,
    described,
    edited,
    folded,
    hidden,
    hidden_by_moderator,
    posted,
    recorded,
    removed,
    reopened,
    replied,
    reported,
    restored,
    voted,
)


def comment(given: list[Fact], name: str = "c1") -> Comment:
    return folded(given).comments[id_of(name)]


def test_nothing_has_happened_in_a_new_thread() -> None:
    thread = folded([])
    assert (thread.version, thread.last_hash, thread.visible, thread.closed) == (0, GENESIS, 0, False)


def test_a_posted_comment_is_visible_at_the_root() -> None:
    assert comment([posted("c1", second=3)]) == Comment(
        id=id_of("c1"),
        posted=1,
        parent=0,
        depth=0,
        created_at=at(3),
        author_id="ann",
        key_id=key_id_of("ann"),
        text_mac=mac_of("c1"),
        version=1,
        text_version=1,
    )


def test_a_reply_lies_below_its_parent() -> None:
    given = [posted("c1"), replied("c2", to="c1"), replied("c3", to="c2", second=9)]
    assert comment(given, "c3") == Comment(
        id=id_of("c3"),
        posted=3,
        parent=2,
        depth=2,
        created_at=at(9),
        author_id="bob",
        key_id=key_id_of("bob"),
        text_mac=mac_of("c3"),
        version=3,
        text_version=3,
        path=id_of("c1").bytes + id_of("c2").bytes,
    )


def test_a_path_names_the_last_32_ancestors() -> None:
    given = [posted("c0"), *(replied(f"c{n}", to=f"c{n - 1}") for n in range(1, 41))]
    path = comment(given, "c40").path
    names = [path[start : start + 16] for start in range(0, len(path), 16)]
    assert PATH_LENGTH == 32
    assert names == [id_of(f"c{n}").bytes for n in range(8, 40)]


def test_an_imported_comment_keeps_its_time() -> None:
    assert comment([posted("c1", when=LONG_AGO, second=5)]).created_at == LONG_AGO


def test_a_tombstone_has_no_author_no_text_and_does_not_count() -> None:
    thread = folded([posted("c1", tombstone=True)])
    lost = thread.comments[id_of("c1")]
    assert (lost.state, lost.author_id, lost.key_id) == (CommentState.DELETED, None, None)
    assert thread.visible == 0


def test_an_edit_changes_text_and_revision_but_not_the_time_of_posting() -> None:
    before = comment([posted("c1")])
    after = comment([posted("c1"), posted("c2"), edited("c1", "better", second=7)])
    assert after == replace(
        before,
        revision=2,
        text_mac=mac_of("better"),
        edited_at=at(7),
        edited_by="author",
        version=3,
        text_version=3,
    )
    assert comment([posted("c1"), edited("c1", "milder", by="moderator")]).edited_by == "moderator"


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        (deleted, CommentState.DELETED),
        (removed, CommentState.REMOVED),
        (hidden, CommentState.HIDDEN),
    ],
)
def test_what_leaves_sight_keeps_its_place_and_is_not_counted(ending: Any, state: CommentState) -> None:
    thread = folded([posted("c1"), replied("c2", to="c1"), ending("c1")])
    gone = thread.comments[id_of("c1")]
    assert (gone.state, gone.version, gone.text_version) == (state, 3, 1)
    assert thread.visible == 1
    assert thread.comments[id_of("c2")].parent == gone.posted


def test_what_is_taken_back_while_hidden_is_counted_out_once() -> None:
    thread = folded([posted("c1"), posted("c2"), hidden("c1"), deleted("c1")])
    assert thread.comments[id_of("c1")].state is CommentState.DELETED
    assert thread.visible == 1


@pytest.mark.parametrize("comes_back", [approved, restored])
@pytest.mark.parametrize("hiding", [hidden, hidden_by_moderator])
def test_what_is_approved_or_restored_is_seen_and_counted_again(hiding: Any, comes_back: Any) -> None:
    thread = folded([posted("c1"), replied("c2", to="c1"), hiding("c1"), comes_back("c1")])
    back = thread.comments[id_of("c1")]
    assert (back.state, back.version, back.text_version) == (CommentState.VISIBLE, 4, 1)
    assert back.approved is (comes_back is approved)
    assert thread.visible == 2


def test_what_is_held_counts_once_it_is_approved() -> None:
    thread = folded([posted("c1"), posted("c2")])
    thread.comments[id_of("c1")].state, thread.visible = CommentState.HELD, 1
    evolve(thread, recorded(approved("c1"), thread))
    assert thread.comments[id_of("c1")].state is CommentState.VISIBLE
    assert thread.visible == 2


def test_what_was_approved_once_stays_approved() -> None:
    given = [posted("c1"), approved("c1"), hidden_by_moderator("c1"), edited("c1", "x"), restored("c1")]
    assert comment(given).approved


def test_reports_add_up_and_remember_who() -> None:
    thread = folded([posted("c1"), reported("c1", by="bob"), reported("c1", by="carl", weight=0.5)])
    assert thread.comments[id_of("c1")].report_weight == 1.5
    assert thread.reported == {(id_of("c1"), "bob"): 2, (id_of("c1"), "carl"): 3}
    assert thread.comments[id_of("c1")].version == 3


def test_votes_are_counted_changed_and_withdrawn() -> None:
    thread = folded(
        [
            posted("c1"),
            voted("c1", 1, by="bob"),
            voted("c1", -1, by="carl"),
            voted("c1", -1, by="bob", previous=1),
            voted("c1", 0, by="carl", previous=-1),
            voted("c1", 1, by="dee"),
        ]
    )
    comment = thread.comments[id_of("c1")]
    assert (comment.up, comment.down, comment.version, comment.text_version) == (1, 1, 6, 1)
    assert thread.votes == {
        (id_of("c1"), "bob"): (-1, 4),
        (id_of("c1"), "carl"): (0, 5),
        (id_of("c1"), "dee"): (1, 6),
    }


def test_votes_fold_without_knowing_who_voted_before() -> None:
    thread = folded([posted("c1"), voted("c1", 1, by="bob")])
    thread.votes.clear()  # as a view knows the comment
    evolve(thread, recorded(voted("c1", -1, by="bob", previous=1), thread))
    comment = thread.comments[id_of("c1")]
    assert (comment.up, comment.down) == (0, 1)


def test_votes_stay_counted_when_the_comment_goes() -> None:
    thread = folded([posted("c1"), voted("c1", 1, by="bob"), removed("c1")])
    assert thread.comments[id_of("c1")].up == 1


def test_a_description_is_replaced_by_the_next() -> None:
    thread = folded([described("T", "https://a.example/"), described("U", None, by="site")])
    assert (thread.title, thread.url, thread.described_by) == ("U", None, "site")


def test_a_thread_is_closed_and_reopened() -> None:
    assert folded([posted("c1"), closed()]).closed
    assert not folded([posted("c1"), closed(), reopened()]).closed


def test_the_first_event_names_the_thread() -> None:
    opens = {"opens": {"site": "news", "key": "a/b"}}
    for type, rest in (
        ("CommentPosted", {"text_mac": ""}),
        ("ThreadDescribed", {"title": None, "url": None, "by": "site"}),
    ):
        thread = ThreadState(BLOG.stream_id)
        evolve(thread, recorded(Fact(type, lambda _, rest=rest: rest | opens, id_of("e"), "ann"), thread))  # type: ignore[misc]
        assert (thread.site, thread.key) == ("news", "a/b")


def test_every_event_moves_version_hash_and_time() -> None:
    given = [posted("c1"), edited("c1", "x", second=1), closed(second=2)]
    thread = ThreadState(BLOG.stream_id)
    for place, fact in enumerate(given, 1):
        event = recorded(fact, thread)
        evolve(thread, event)
        assert (thread.version, thread.last_hash, thread.recorded_at) == (
            place,
            event.hash,
            event.recorded_at,
        )


def test_evolve_answers_with_the_comment_that_the_event_is_about() -> None:
    thread = folded([posted("c1")])
    assert evolve(thread, recorded(edited("c1", "x"), thread)) is thread.comments[id_of("c1")]
    assert evolve(thread, recorded(closed(), thread)) is None


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_gap_or_a_repeat_is_poison(version: int) -> None:
    thread = folded([posted("c1")])
    event = recorded(posted("c2"), thread, version=version)
    with pytest.raises(PoisonEvent, match="follows version 1") as raised:
        evolve(thread, event)
    assert (raised.value.version, raised.value.event_id) == (version, id_of("c2"))


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("CommentEdited", {"comment_id": str(id_of("c9")), "revision": 2, "text_mac": "", "by": "author"}),
        ("CommentDeleted", {"comment_id": str(id_of("c9"))}),
        ("CommentDeleted", {"comment_id": "no id"}),
        ("CommentDeleted", {"comment_id": 17}),
        ("CommentDeleted", {"comment_id": None}),
        ("CommentDeleted", {}),
        ("CommentDeleted", []),
        ("CommentPosted", []),
        ("CommentPosted", 17),
        ("CommentPosted", None),
        ("CommentPosted", {}),
        ("CommentPosted", {"text_mac": "", "opens": {"site": "blog"}}),
        ("CommentPosted", {"text_mac": "", "opens": "blog"}),
        ("CommentPosted", {"text_mac": "", "imported": {"created_at": "long ago"}}),
        ("CommentPosted", {"text_mac": "", "imported": {"created_at": 17}}),
        ("ReplyPosted", {"parent_id": str(id_of("c1")), "text_mac": ""}),
        ("ReplyPosted", {"parent_id": 17, "parent": 1, "depth": 1, "text_mac": ""}),
        ("CommentReported", {"comment_id": str(id_of("c1")), "weight": "heavy"}),
        ("CommentVoted", {"comment_id": str(id_of("c1")), "value": 2, "previous": 0}),
        ("CommentVoted", {"comment_id": str(id_of("c1")), "value": 1, "previous": "0"}),
        ("CommentVoted", {"comment_id": str(id_of("c1")), "value": 1}),
        ("CommentEdited", {"comment_id": str(id_of("c1")), "revision": 2}),
        ("ThreadDescribed", {"title": "T"}),
        ("SiteSettingsChanged", {"changes": {}}),
    ],
)
def test_an_event_that_does_not_fit_is_poison_and_leaves_the_state_as_it_was(type: str, data: Any) -> None:
    thread = folded([posted("c1")])
    before = copy.deepcopy(thread)
    event = recorded(Fact(type, lambda _: data, id_of("poison"), "ann"), thread)
    with pytest.raises(PoisonEvent) as raised:
        evolve(thread, event)
    assert not isinstance(raised.value, UnknownEventType)
    assert thread == before


def test_a_vote_without_a_voter_is_poison_and_leaves_the_state_as_it_was() -> None:
    thread = folded([posted("c1")])
    with pytest.raises(PoisonEvent):
        evolve(thread, recorded(replace(voted("c1", 1, by="bob"), by=None), thread))
    assert thread == folded([posted("c1")])


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"text_mac":"\xff"}', b"NaN"])
def test_bytes_that_are_not_json_are_poison(data: bytes) -> None:
    thread = folded([posted("c1")])
    event = recorded(posted("c2"), thread)._replace(data=data)
    with pytest.raises(PoisonEvent):
        evolve(thread, event)
    assert thread == folded([posted("c1")])


@pytest.mark.parametrize(("type", "schema_version"), [("CommentSung", 1), ("CommentPosted", 4)])
def test_what_a_newer_release_wrote_is_unknown_and_no_other_poison(type: str, schema_version: int) -> None:
    thread = folded([posted("c1")])
    fact = Fact(type, lambda _: {}, id_of("new"), "ann", schema_version=schema_version)
    with pytest.raises(UnknownEventType):
        evolve(thread, recorded(fact, thread))
    assert thread == folded([posted("c1")])


def test_the_order_of_keys_in_an_event_does_not_matter() -> None:
    thread = folded([posted("c1")])
    event = recorded(posted("c2"), thread)
    assert canonical({"b": 1, "a": {"d": 2, "c": 3}}) == b'{"a":{"c":3,"d":2},"b":1}'
    assert event.data == canonical({"text_mac": mac_of("c2")})


def test_timestamps_are_rfc_3339_in_utc_with_microseconds() -> None:
    assert timestamp(at(0)) == "2026-11-23T05:00:00.123456Z"
    assert timestamp(LONG_AGO) == "2015-09-03T21:30:00.000000Z"
    assert timestamp(LONG_AGO.replace(year=987)) == "0987-09-03T21:30:00.000000Z"


def test_votes_are_counted_where_nobody_asks_who_voted() -> None:
    given = [posted("c1"), voted("c1", 1, by="bob"), voted("c1", -1, by="cid")]
    whole = folded(given)
    thread = ThreadState(BLOG.stream_id, BLOG.site, BLOG.key, voters=False)
    for version, fact in enumerate(given, start=1):
        evolve(thread, recorded(fact, folded(given[: version - 1])))
    assert (thread.comments, thread.votes) == (whole.comments, {})
    assert len(whole.votes) == 2
