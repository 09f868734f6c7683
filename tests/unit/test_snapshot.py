"""How a thread's structure is kept: what is written is read back, damage is told, and nothing is personal."""

from __future__ import annotations

from array import array
from dataclasses import replace

import orjson
import pytest

from services.core.page import PageRequest, Place
from services.core.picking import Picker
from services.core.ranking import Sort
from services.core.segments import (
    COUNTS,
    MARKS,
    NUMBERS,
    OF_COMMENTS,
    ORDER,
    PLACES,
    RANK_KINDS,
    SEGMENT,
    TREE,
    TYPES,
    Missing,
)
from services.core.snapshot import SnapshotBroken, decode, encode, head_json, read_head, written
from services.core.steps import APPLY, Unfoldable, fold, read_payloads
from services.core.structure import Step, Structure
from services.core.thread import _APPLY as EVOLVED
from services.core.thread import CommentState
from services.projection.snapshotting import LEAST, grid, is_due, superfluous
from tests.factories import at, id_of
from tests.histories import Stored, asked, fold_onto, history_of, snapshot, steps_of

POSTS = [(0, 0, 0, 0)] * 3 + [(5, 2, 0, 0)] * 2 + [(5, n, 0, 0) for n in range(9)]


def stored_of(count: int) -> Stored:
    """A snapshot of a thread of so many roots."""
    return snapshot(history_of([(0, 0, 0, 0)] * count).events)


# --- coding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_a_segment_is_read_back_as_it_was_written(kind: str) -> None:
    limits = {"B": 255, "H": 65_535, "I": 2**32 - 1, "q": 2**62}
    columns = tuple(array(code, [0, 1, limits[code] // 2, limits[code]]) for code in TYPES[kind])
    assert decode(kind, encode(kind, columns)) == columns


def test_a_time_before_1970_or_out_of_order_is_read_back() -> None:
    columns = array("q", [5, -3, 2, -(2**50)]), array("H", [0, 1, 2, 1000])
    assert decode(PLACES, encode(PLACES, columns)) == columns


@pytest.mark.parametrize("place", range(0, 40, 3))
def test_a_damaged_segment_is_noticed(place: int) -> None:
    columns = (array("I", range(100)),)
    data = bytearray(encode(TREE, columns))
    data[place % len(data)] ^= 0x10
    try:
        read = decode(TREE, bytes(data))
    except SnapshotBroken:
        return
    assert read == columns, "only what zlib takes for the same may pass"


@pytest.mark.parametrize("cut", [0, 1, -1])
def test_a_cut_segment_is_noticed(cut: int) -> None:
    with pytest.raises(SnapshotBroken):
        decode(ORDER, encode(ORDER, (array("I", range(9)),))[:cut])


def test_a_head_is_read_back_and_another_is_refused() -> None:
    base = snapshot(history_of(POSTS).events).base
    assert read_head(head_json(base), base.hash) == base
    for head in (b"", b"[]", b"{}", head_json(base)[:-1], head_json(base).replace(b'"firsts"', b'"first"')):
        with pytest.raises(SnapshotBroken):
            read_head(head, base.hash)


def test_a_segment_of_another_length_or_place_is_refused() -> None:
    stored = stored_of(SEGMENT + 5)
    thread = Structure(stored.base)
    whole, rest = (decode(NUMBERS, stored.segments[NUMBERS, number]) for number in (0, 1))
    for columns in (rest, (array("I", range(2, SEGMENT + 2)),)):
        with pytest.raises(ValueError, match="number 0"):
            thread.load((NUMBERS, 0), columns)
    thread.load((NUMBERS, 0), whole)
    assert (len(rest[0]), thread.posted(SEGMENT - 1)) == (5, SEGMENT)


def test_a_loaded_segment_never_takes_the_place_of_one_that_was_folded_onto() -> None:
    happenings = [*POSTS, (11, 0, 1, 2)]
    events = history_of(happenings).events
    stored = snapshot(events[:-1])
    thread = Structure(stored.base)
    steps, payloads = steps_of(events[-1:])
    needed = thread.lacks(payloads)
    stored.load(thread, needed)
    fold(thread, steps, payloads)
    assert thread.votes(0) == (1, 0)
    stored.load(thread, needed)
    assert thread.votes(0) == (1, 0)


# --- what is written ---------------------------------------------------------------------------------------


def test_a_snapshot_holds_numbers_only() -> None:
    stored = snapshot(history_of(POSTS).events)
    assert {kind for kind, _ in stored.segments} == {*OF_COMMENTS, COUNTS, ORDER, RANK_KINDS["replies"]}
    named = {"firsts", "lasts", "starts", "ranked", "described_by", "closed", "visible", "size", "roots"}
    named |= {"placed", "version", "site", "key", "title", "url"}
    assert orjson.loads(head_json(stored.base)).keys() == named


def test_an_order_by_score_is_left_out_where_it_is_that_of_time() -> None:
    roots = [(0, 0, 0, 0)] * 3
    up = 2
    assert snapshot(history_of(roots).events).base.ranked == {
        RANK_KINDS["best"]: frozenset(),
        RANK_KINDS["controversial"]: frozenset(),
        RANK_KINDS["replies"]: frozenset(),
    }
    for voted, written_ in ((0, frozenset()), (1, frozenset({0}))):
        ranked = snapshot(history_of([*roots, (11, voted, 1, up)]).events).base.ranked
        assert ranked[RANK_KINDS["best"]] == written_


def test_a_held_comment_stands_in_no_order() -> None:
    thread = Structure(orders=False)
    fold(thread, *steps_of(history_of([(0, 0, 0, 0)] * 3).events))
    thread.move(1, CommentState.HELD)
    base, segments = written(thread)
    assert (base.size, base.placed, base.roots, base.visible) == (3, 2, 2, 2)
    assert list(decode(ORDER, dict(segments)[ORDER, 0])[0]) == [0, 2]


def test_a_held_comment_that_is_approved_comes_to_its_place() -> None:
    thread = Structure()
    fold(thread, *steps_of(history_of([(0, 0, 0, 0)] * 3).events))
    thread.added[0].remove(1)
    thread.new[MARKS][0][1] = list(CommentState).index(CommentState.HELD)
    thread.move(1, CommentState.VISIBLE)
    assert thread.added[0] == [0, 1, 2]


# --- folding ---------------------------------------------------------------------------------------------


def test_it_folds_what_a_thread_folds() -> None:
    assert APPLY.keys() == EVOLVED.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 5},
        {"type": "AuthorErased"},
        {"type": "CommentApplauded"},
        {"schema_version": 2},
        {"data": b"not json"},
        {"data": b"[]"},
        {"type": "CommentVoted", "data": b'{"posted":1}'},
        {"type": "CommentVoted", "data": b'{"comment_id":"%s","posted":1,"previous":1,"value":0}'},
        {"type": "CommentVoted", "data": b'{"comment_id":"%s","posted":1,"previous":0,"value":7}'},
        {"type": "CommentDeleted", "data": b'{"comment_id":"%s","posted":2}'},
        {"type": "CommentDeleted", "data": b'{"comment_id":"%s","posted":"1"}'},
        {"type": "CommentDeleted", "data": b'{"comment_id":"0199","posted":1}'},
        {"type": "CommentEdited", "data": b'{"comment_id":"%s","posted":1,"revision":2,"by":"cat"}'},
        {"type": "ReplyPosted", "data": b'{"parent":9,"depth":1}'},
        {"type": "ReplyPosted", "data": b'{"parent":1,"depth":-1}'},
        {"type": "CommentPosted", "data": b'{"imported":{}}'},
    ],
)
def test_an_event_that_cannot_be_folded_changes_nothing(change: dict[str, object]) -> None:
    thread = Structure()
    fold(thread, *steps_of(history_of([(0, 0, 0, 0)]).events))
    before = snapshot(history_of([(0, 0, 0, 0)]).events)
    step = Step(2, id_of("next"), "ThreadClosed", 1, at(1), b"{}", bytes(32))
    if isinstance(data := change.get("data"), bytes):
        change = change | {"data": data.replace(b"%s", str(id_of("c0")).encode())}
    step = step._replace(**change)  # type: ignore[arg-type]
    payloads, stopped = read_payloads([step])
    if stopped is None:
        with pytest.raises(Unfoldable) as caught:
            fold(thread, [step], payloads)
        stopped = caught.value
    assert stopped.version == step.version
    assert stopped.unknown == (change.get("type") == "CommentApplauded" or "schema_version" in change)
    assert (thread.version, thread.size, [len(c) for k in thread.new.values() for c in k]) == (1, 1, [1] * 14)
    thread.orders = False
    assert replace(written(thread)[0], hash=b"") == replace(before.base, hash=b"")


def test_what_is_not_loaded_is_asked_for() -> None:
    thread = Structure(stored_of(3).base)
    with pytest.raises(Missing) as caught:
        thread.comment(0)
    assert caught.value.keys == {(PLACES, 0), (MARKS, 0), (TREE, 0)}


# --- lists that changed since ------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", ["best", "replies"])
def test_a_list_goes_on_behind_its_cursor_though_scores_have_changed_since_the_snapshot(sort: Sort) -> None:
    up, vote, reply = 2, 11, 5
    kind = vote if sort == "best" else reply
    roots = [(0, 0, 0, 0)] * 7
    ranked = [(kind, which, voter, up) for which in range(7) for voter in range(7 - which)]
    leaps = [(kind, 3, 100 + voter, up) for voter in range(50)]
    history = history_of([*roots, *ranked, *leaps])
    then = len(roots) + len(ranked)
    stored = snapshot(history.events[:then])
    thread = stored.structure()
    fold_onto(thread, stored, history.events[then:])
    before, after = history.index(then), history.index(len(history.events))
    for place in range(7):
        last = before.page(PageRequest(sort, replies=0)).picked[place]
        request = PageRequest(sort, replies=0, after=Place(last.posted, last.score))
        draft = asked(thread, stored, lambda: Picker(thread).page(request))  # noqa: B023 - called at once
        listed = [one.comment.posted for one in draft.drafted]
        assert listed == [one.posted for one in after.page(request).picked]
        assert listed == [posted for posted in range(place + 2, 8) if posted != 4]


# --- when, and which are kept ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "last", "due"),
    [
        (1_999, 0, False),
        (2_000, 0, True),
        (3_999, 2_000, False),
        (4_000, 2_000, True),
        (1_000_000, 981_000, False),
        (1_000_000, 980_000, True),
    ],
)
def test_a_snapshot_is_due_when_there_is_a_tail(version: int, last: int, *, due: bool) -> None:
    assert is_due(version, last) is due


def test_as_a_thread_grows_its_snapshots_stay_few_and_evenly_spread() -> None:
    kept: list[int] = []
    for version in range(0, 400_000, 500):
        if is_due(version, kept[-1] if kept else 0):
            kept.append(version)
            gone = superfluous(kept)
            kept = [one for one in kept if one not in gone]
        if kept:
            apart = grid(kept[-1])
            gaps = [after - before for before, after in zip([0, *kept], kept, strict=False)]
            assert len(kept) <= 18
            assert max(gaps) <= max(2 * apart, 2 * LEAST)
    assert kept[-1] > 390_000
