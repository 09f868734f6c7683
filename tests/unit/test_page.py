"""What a page holds, and its JSON, letter by letter as the contract has it (section 2)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest

from services.core.page import FoldIndex, PageRequest, Place
from services.core.pagejson import PUBLIC, Reader, comment_json, page_json, thread_json
from services.core.ranking import RANKED, Sort, best, controversial
from services.core.thread import CommentState, ThreadState
from services.errors import CommentNotFound, CursorInvalid, ParentNotFound
from tests.threads import Said, comment_id, index_of, thread_of

COMMENT_URL = "{url}#comment-{id}"
COMMENT_KEYS = [
    *("id", "thread", "parent_id", "depth", "path", "author", "body", "html", "state"),
    *("created_at", "edited_at", "edited_by", "revision", "votes", "children", "descendants"),
    *("pinned", "permalink", "version"),
]


def named(parent: int, last: int, score: float) -> str:
    return f"{parent}>{last}" if score == 0 else f"{parent}>{last}@{score:g}"


def read(index: FoldIndex, request: PageRequest, reader: Reader = PUBLIC) -> dict[str, Any]:
    page = page_json(
        index.page(request),
        index.thread,
        cursor=named,
        comment_url=COMMENT_URL,
        reader=reader,
    )
    answer: dict[str, Any] = orjson.loads(page)
    return answer


def tree(items: list[dict[str, Any]]) -> list[Any]:
    """Posting versions, each with those of its shown replies."""
    return [(UUID(item["id"]).int & 0xFFFF, tree(item["replies"]["items"])) for item in items]


def forum() -> FoldIndex:
    """1 ─ 2 ─ 4 ─ 5, 1 ─ 3, and the roots 6 and 7, the later of which is dated before all."""
    places = [Said(), Said(1), Said(1), Said(2), Said(4), Said(), Said(second=-1)]
    return index_of(thread_of(places))


def test_a_page_is_a_tree_in_the_order_of_time() -> None:
    assert tree(read(forum(), PageRequest())["comments"]) == [
        (7, []),
        (1, [(2, [(4, [(5, [])])]), (3, [])]),
        (6, []),
    ]


def test_newest_first_orders_replies_too() -> None:
    page = read(forum(), PageRequest(sort="newest"))
    assert tree(page["comments"]) == [(6, []), (1, [(3, []), (2, [(4, [(5, [])])])]), (7, [])]


def test_a_page_has_the_members_of_the_contract() -> None:
    page = read(forum(), PageRequest())
    assert list(page) == ["thread", "comments", "after"]
    assert list(page["thread"]) == ["key", "title", "url", "state", "comments", "pinned", "version"]
    assert sorted(page["comments"][0]) == sorted([*COMMENT_KEYS, "replies"])
    assert list(page["comments"][0]["replies"]) == ["items", "after", "more"]


def test_every_member_says_what_the_fold_holds() -> None:
    thread = forum().thread
    voted_on = thread.comments[comment_id(4)]
    voted_on.up, voted_on.down, voted_on.version = 12, 3, 9
    page = read(index_of(thread), PageRequest())
    reply = page["comments"][1]["replies"]["items"][0]["replies"]["items"][0]
    del reply["replies"]
    assert reply == {
        "id": str(comment_id(4)),
        "thread": "talk-therapy",
        "parent_id": str(comment_id(2)),
        "depth": 2,
        "path": [str(comment_id(1)), str(comment_id(2))],
        "author": {"id": "u-1", "name": "Ann", "avatar": None, "badge": None},
        "body": "as *written*",
        "html": "<p>as <em>written</em></p>",
        "state": "visible",
        "created_at": "2026-11-23T05:00:00.123456Z",
        "edited_at": None,
        "edited_by": None,
        "revision": 1,
        "votes": {"up": 12, "down": 3},
        "children": 1,
        "descendants": 1,
        "pinned": False,
        "permalink": f"https://blog.example/talk-therapy#comment-{comment_id(4)}",
        "version": 9,
    }


def test_what_a_node_leaves_out_is_counted_and_can_be_asked_for() -> None:
    root = read(forum(), PageRequest(replies=1, depth=1))["comments"][1]
    assert (root["children"], root["descendants"]) == (2, 4)
    assert (root["replies"]["more"], root["replies"]["after"]) == (1, "1>2")
    reply = root["replies"]["items"][0]
    assert reply["replies"] == {"items": [], "after": None, "more": 1}


def test_all_replies_shown_leave_no_cursor() -> None:
    root = read(forum(), PageRequest())["comments"][1]
    assert (root["replies"]["more"], root["replies"]["after"]) == (0, None)


def test_a_page_of_replies_keeps_their_path_and_goes_on_by_cursor() -> None:
    page = read(forum(), PageRequest(parent_id=comment_id(1), limit=1))
    assert page["after"] == "1>2"
    assert page["comments"][0]["parent_id"] == str(comment_id(1))
    assert page["comments"][0]["replies"]["items"][0]["path"] == [str(comment_id(1)), str(comment_id(2))]
    rest = read(forum(), PageRequest(parent_id=comment_id(1), limit=1, after=Place(2)))
    assert (tree(rest["comments"]), rest["after"]) == ([(3, [])], None)


def test_a_page_is_filled_breadth_first_and_holds_500() -> None:
    roots = [Said() for _ in range(100)]
    replies = [Said(parent=1 + number % 100) for number in range(600)]
    selection = index_of(thread_of(roots + replies)).page(PageRequest(limit=100, replies=20))
    assert len(selection.picked) == 500
    assert [picked.shown for picked in selection.picked[:100]] == [6] * 66 + [4] + [0] * 33


def test_a_path_names_the_last_32_ancestors() -> None:
    index = index_of(thread_of([Said(parent=number) for number in range(40)]))
    found = index.comment(comment_id(40))
    assert found is not None
    comment = orjson.loads(comment_json(*found, index.thread, comment_url=COMMENT_URL))
    assert sorted(comment) == sorted(COMMENT_KEYS)
    assert comment["path"] == [str(comment_id(number)) for number in range(8, 40)]
    below = read(index, PageRequest(parent_id=comment_id(39)))["comments"][0]
    assert below["path"] == comment["path"]


@pytest.mark.parametrize(
    ("state", "public", "author", "moderator"),
    [
        ("visible", True, True, True),
        ("hidden", False, True, True),
        ("removed", False, False, True),
        ("deleted", False, False, True),
        ("erased", False, False, False),
    ],
)
def test_text_is_shown_to_whom_the_state_allows(
    state: str, public: bool, author: bool, moderator: bool
) -> None:
    index = index_of(thread_of([Said(state=CommentState(state))]))
    for reader, sees in (
        (PUBLIC, public),
        (Reader("u-1"), author),
        (Reader("u-17"), public),
        (Reader("m", moderator=True), moderator),
    ):
        comment = read(index, PageRequest(), reader)["comments"][0]
        assert comment["state"] == state
        shown = [comment["author"] is not None, comment["body"] is not None, comment["html"] is not None]
        assert shown == [sees] * 3


def test_hidden_and_deleted_comments_count_but_held_ones_do_not() -> None:
    states = (CommentState.HIDDEN, CommentState.DELETED, CommentState.HELD)
    index = index_of(thread_of([Said(), *(Said(parent=1, state=state) for state in states)]))
    page = read(index, PageRequest())
    root = page["comments"][0]
    assert (root["children"], root["descendants"], len(root["replies"]["items"])) == (2, 2, 2)
    assert page["thread"]["comments"] == 1
    assert index.comment(comment_id(4)) is None


def test_a_thread_without_url_gives_no_permalinks() -> None:
    thread = thread_of([Said()])
    thread.url = None
    assert read(index_of(thread), PageRequest())["comments"][0]["permalink"] is None


def test_a_url_that_looks_like_a_template_is_left_alone() -> None:
    thread = thread_of([Said()])
    thread.url = 'https://blog.example/?a={id}&b={url}&c="%b'
    permalink = read(index_of(thread), PageRequest())["comments"][0]["permalink"]
    assert permalink == f"{thread.url}#comment-{comment_id(1)}"


def test_an_empty_thread_is_an_empty_page() -> None:
    page = read(index_of(ThreadState(UUID(int=1), key="new")), PageRequest())
    assert (page["comments"], page["after"], page["thread"]["version"]) == ([], None, 0)


def test_a_closed_thread_says_so() -> None:
    thread = thread_of([])
    thread.closed, thread.title = True, 'A "title"'
    assert orjson.loads(thread_json(thread)) == {
        "key": "talk-therapy",
        "title": 'A "title"',
        "url": "https://blog.example/talk-therapy",
        "state": "closed",
        "comments": 0,
        "pinned": [],
        "version": 0,
    }


def test_an_unknown_parent_is_refused() -> None:
    with pytest.raises(ParentNotFound):
        forum().page(PageRequest(parent_id=comment_id(99)))


@pytest.mark.parametrize("after", [4, 99])
def test_a_cursor_from_another_list_is_refused(after: int) -> None:
    with pytest.raises(CursorInvalid):
        forum().page(PageRequest(parent_id=comment_id(1), after=Place(after)))


def judged() -> FoldIndex:
    """Roots 1 to 5, of which 2, 3 and 5 were voted on, and 6 below 4."""
    thread = thread_of([Said(second=place) for place in range(5)] + [Said(4, second=5)])
    for posted, up, down in ((2, 9, 1), (3, 40, 38), (5, 9, 1), (1, 0, 7)):
        comment = thread.comments[comment_id(posted)]
        comment.up, comment.down = up, down
    return index_of(thread)


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        # 0.9 of ten votes is surely more than 0.51 of 78; of equal ones the oldest, of none too
        ("best", [2, 5, 3, 1, 4]),
        ("controversial", [3, 2, 5, 1, 4]),
        ("replies", [4, 1, 2, 3, 5]),
    ],
)
def test_a_ranked_page_begins_with_the_greatest_score(sort: Sort, order: list[int]) -> None:
    page = read(judged(), PageRequest(sort=sort, replies=0))
    assert [posted for posted, _ in tree(page["comments"])] == order


@pytest.mark.parametrize("sort", RANKED)
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_ranked_pages_follow_on_one_another(sort: Sort, limit: int) -> None:
    index, seen = judged(), list[int]()
    request = PageRequest(sort=sort, limit=limit, replies=0)
    while True:
        page = index.page(request)
        seen += [picked.posted for picked in page.picked]
        if not page.more:
            break
        request = PageRequest(sort=sort, limit=limit, replies=0, after=Place(seen[-1], page.picked[-1].score))
    whole = index.page(PageRequest(sort=sort, replies=0))
    assert seen == [picked.posted for picked in whole.picked]


def test_a_ranked_list_goes_on_where_its_last_comment_was_shown_though_it_rose_since() -> None:
    index = judged()
    [shown] = index.page(PageRequest(sort="best", limit=1, replies=0)).picked
    later = index.thread
    later.comments[comment_id(2)].up = 500
    later.comments[comment_id(4)].up = 499  # which was not shown, and is not, since its rank changed
    page = index_of(later).page(PageRequest(sort="best", replies=0, after=Place(2, shown.score)))
    assert [picked.posted for picked in page.picked] == [5, 3, 1]


def test_the_bound_of_wilson_is_the_published_one() -> None:
    # Wilson's interval of 10 in 10 at 95 % is 72.2 % to 100 %, of 1 in 1 20.7 % to 100 %
    assert round(best(10, 0), 3) == 0.722
    assert round(best(1, 0), 3) == 0.207
    assert best(0, 0) == best(0, 50) == 0.0
    assert best(600, 400) > best(5, 4)


def test_what_divides_people_evenly_and_often_is_controversial() -> None:
    assert controversial(10, 10) == 20
    assert controversial(20, 10) == controversial(10, 20) == 15
    assert controversial(100, 0) == controversial(0, 3) == 0.0


def chain(length: int) -> FoldIndex:
    """1 ─ 2 ─ 3 …, each but the last with a second reply."""
    places = [Said(number) for number in range(length)]
    return index_of(thread_of(places + [Said(number) for number in range(1, length)]))


def test_a_page_in_focus_leads_to_the_comment_and_leaves_all_else_in_more() -> None:
    page = read(chain(6), PageRequest(focus=comment_id(4)))
    assert tree(page["comments"]) == [(1, [(2, [(3, [(4, [(5, [(6, []), (11, [])]), (10, [])])])])])]
    assert page["after"] is None
    above = page["comments"][0]["replies"]
    assert (above["more"], above["after"]) == (1, None)


def test_focus_on_a_root_shows_that_root() -> None:
    assert tree(read(forum(), PageRequest(focus=comment_id(6)))["comments"]) == [(6, [])]


def test_a_page_in_focus_begins_with_the_32nd_comment_above() -> None:
    page = read(chain(50), PageRequest(focus=comment_id(45), replies=1, depth=1))
    top = page["comments"][0]
    assert tree([top])[0][0] == 13
    assert top["path"] == [str(comment_id(number)) for number in range(1, 13)]
    lowest = top
    while lowest["replies"]["items"]:
        lowest = lowest["replies"]["items"][0]
    assert lowest["id"] == str(comment_id(46))
    assert lowest["path"] == [str(comment_id(number)) for number in range(14, 46)]


def test_focus_on_what_is_no_comment_is_refused() -> None:
    with pytest.raises(CommentNotFound):
        forum().page(PageRequest(focus=comment_id(99)))
