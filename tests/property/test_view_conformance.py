"""One suite for both ways of picking a page: the fold in memory and the scripts in Redis give the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.core.page import FoldIndex, PageRequest, Place, Selection
from services.core.ranking import RANKED, Sort, best
from services.core.thread import CommentState
from services.errors import CommentNotFound, CursorInvalid, ParentNotFound
from services.readmodel import pages
from services.readmodel.batches import Made
from services.readmodel.views import Head, Outcome, Views
from tests.threads import STREAM, Said, add, comment_id, index_of, thread_of
from tests.viewing import filled, follow, rows, rows_of, run_on, written

REAL_SERVER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
STATES = st.sampled_from([CommentState.VISIBLE] * 4 + [CommentState.HIDDEN, CommentState.DELETED])
SORTS: st.SearchStrategy[Sort] = st.sampled_from(["oldest", "newest", "best", "controversial", "replies"])
VOTES = st.sampled_from([(0, 0)] * 3 + [(1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (2, 2), (9, 7)])
AUTHORS = st.sampled_from(["u-1", "u-2", None])
REFUSALS = (CommentNotFound, CursorInvalid, ParentNotFound)


@st.composite
def forests(draw: st.DrawFn, most: int = 40) -> list[Said]:
    """Comments in the order of posting, three versions apart; many share a time, some are dated back."""
    said: list[Said] = []
    for number in range(draw(st.integers(0, most))):
        parent = draw(st.integers(0, number)) * 3 - 2
        up, down = draw(VOTES)
        said.append(Said(max(parent, 0), draw(st.integers(0, 3)), draw(STATES), draw(AUTHORS), up, down))
    return said


VERSIONS = st.integers(0, 40).map(lambda number: 1 + 3 * number) | st.integers(0, 125)
SCORES = st.sampled_from([0.0, best(1, 0), best(2, 1), 1.0, 2.0, 3.0, 4.0]) | st.floats(0, 20)
LISTS = st.builds(
    PageRequest,
    sort=SORTS,
    limit=st.integers(1, 8),
    replies=st.integers(0, 4),
    depth=st.integers(0, 4),
    parent_id=st.none() | VERSIONS.map(comment_id),
    after=st.none() | st.builds(Place, VERSIONS, SCORES),
)
FOCUSED = st.builds(
    PageRequest,
    sort=SORTS,
    replies=st.integers(0, 4),
    depth=st.integers(0, 4),
    focus=VERSIONS.map(comment_id),
)
REQUESTS = LISTS | FOCUSED


async def paged(views: Views, request: PageRequest) -> Selection | type[Exception]:
    """The page, which is the same whether its nodes come out of the script or are fetched beside it."""
    found = await paged_once(views, request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "ALONG", 0)
        assert await paged_once(views, request) == found
    return found


async def paged_once(views: Views, request: PageRequest) -> Selection | type[Exception]:
    try:
        answer = await views.page(STREAM, request)
    except REFUSALS as error:
        return type(error)
    assert answer is not None
    return answer[1]


def folded(index: FoldIndex, request: PageRequest) -> Selection | type[Exception]:
    try:
        return index.page(request)
    except REFUSALS as error:
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


@settings(REAL_SERVER, max_examples=25)
@given(forest=forests(), other=forests())
def test_however_a_view_is_built_it_holds_the_same(
    redis_url: str, forest: list[Said], other: list[Said]
) -> None:
    index, second = (index_of(thread_of(said, step=3)) for said in (forest, other))

    async def scenario(views: Views) -> None:
        assert await rows_of(views, head := await written(views, index)) == rows(index)
        assert await rows_of(views, head := await filled(views, index, head)) == rows(index)
        await views.drop(STREAM)
        for then in (second, index):
            nodes = {posted: then.node(posted) for posted in then.comments}
            made = Made(STREAM, await views.head(STREAM), Head.of(then.thread), then, nodes)
            assert await views.replace([made]) == [Outcome.APPLIED]
            stands = await views.head(STREAM)
            assert stands is not None
            assert stands == Head.of(then.thread, stands.build)
            assert await rows_of(views, stands) == rows(then)

    run_on(redis_url, scenario)


@pytest.mark.parametrize("sort", ["oldest", "newest", "best", "replies"])
def test_the_path_to_a_comment_deep_in_a_thread_is_cut_at_32(redis_url: str, sort: Sort) -> None:
    index = index_of(thread_of([*(Said(number, up=number % 3) for number in range(80)), Said(70), Said(70)]))

    async def scenario(views: Views) -> None:
        await written(views, index)
        for posted in (1, 2, 31, 32, 33, 34, 64, 65, 66, 70, 80, 82):
            request = PageRequest(sort, focus=comment_id(posted))
            page = await paged(views, request)
            assert page == folded(index, request)
            assert isinstance(page, Selection)
            assert page.picked[page.pathed].posted == posted
            assert len(page.ancestors) == min(max(posted - 33 if posted < 81 else 70 - 32, 0), 32)

    run_on(redis_url, scenario)


@pytest.mark.parametrize("sort", RANKED)
def test_paging_goes_on_from_the_score_that_a_comment_had_whatever_it_has_by_now(
    redis_url: str, sort: Sort
) -> None:
    """Of equal scores, equal times and both; from each comment with each of the scores."""
    votes = [(0, 0), (1, 1), (2, 2), (2, 1)]
    said = [
        Said(0, (number * 5) % 3, up=votes[number % 4][0], down=votes[number % 4][1]) for number in range(16)
    ]
    said += [Said(1 + number % 16) for number in range(24)]
    index = index_of(thread_of(said))
    roots = index.children(0)
    scores = {index.score(root, sort) for root in roots} | {0.1, 99.0}

    async def scenario(views: Views) -> None:
        await written(views, index)
        for root, score in product(roots, scores):
            request = PageRequest(sort, limit=3, replies=0, after=Place(root, score))
            assert await paged(views, request) == folded(index, request), (root, score)

    run_on(redis_url, scenario)


@pytest.mark.parametrize("sort", RANKED)
def test_a_list_of_which_thousands_have_a_score_is_paged_to_its_end(redis_url: str, sort: Sort) -> None:
    """The rest of them is behind a long run of those that were shown."""
    said = [Said(up=1, down=1)] * 4500 + [Said()] * 30
    if sort == "replies":
        said = [Said()] * 4530 + [Said(number + 1) for number in range(4500)]
    index = index_of(thread_of(said))

    async def scenario(views: Views) -> None:
        await written(views, index, 1000)
        request, listed = PageRequest(sort, limit=100, replies=0), list[int]()
        while True:
            page = await paged(views, request)
            assert isinstance(page, Selection)
            listed += [picked.posted for picked in page.picked]
            if not page.more:
                break
            last = page.picked[-1]
            request = replace(request, after=Place(last.posted, last.score))
        assert listed == list(range(1, 4531))

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
                last = page.picked[page.roots - 1]
                request = replace(request, after=Place(last.posted, last.score))
            assert (listed[::-1] if sort == "newest" else listed) == sorted(
                index.children(posted), key=lambda child: -index.score(child, sort)
            )

    run_on(redis_url, scenario)


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
                comment.up, comment.down = data.draw(VOTES)
                comment.state = data.draw(STATES)
                batch.append(comment.posted)
            if batch:
                head = await follow(views, head, thread, batch)
        assert await rows_of(views, head) == rows(index_of(thread))

    run_on(redis_url, scenario)
