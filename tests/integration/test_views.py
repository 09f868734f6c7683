"""The views in Redis: compare-and-set, builds and their remains, what happens when parts go missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import OutOfMemoryError

from services.core.page import FoldIndex, PageRequest, Place
from services.core.ranking import RANKED, Sort
from services.core.thread import CommentState
from services.dev.servers import EmbeddedRedis
from services.errors import Unavailable
from services.readmodel import builds, keys, layout, sending
from services.readmodel.batches import Made
from services.readmodel.builds import ABANDONED_SECONDS, Build
from services.readmodel.line import Line
from services.readmodel.packing import pack_by_hiredis
from services.readmodel.views import Changes, Head, One, Outcome, Views, whole
from tests.threads import STREAM, Said, add, comment_id, index_of, node_of, thread_of
from tests.viewing import filled, nodes_of, rows, rows_of, written

OTHER = UUID(int=7)
SORTS: tuple[Sort, ...] = ("oldest", "newest", *RANKED)
Contents = dict[bytes, dict[bytes, bytes | float]]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def views(redis: Redis) -> Views:
    return Views(redis)


def forum(depth: int = 3) -> FoldIndex:
    """A chain of `depth` comments, and a root beside it."""
    return index_of(thread_of([*(Said(number) for number in range(depth)), Said()]))


def reply(index: FoldIndex, parent: int) -> tuple[Head, Changes]:
    """The thread's next comment, below `parent`, as the head and the changes that it makes."""
    thread = index.thread
    comment = add(thread, Said(parent, second=60), thread.version + 1)
    above, ancestors = parent, []
    while above:
        ancestors.append(above)
        above = index.comments[above].parent
    changes = Changes(descendants=dict.fromkeys(ancestors, 1))
    changes.put(comment, node_of(comment), new=True)
    return Head.of(thread), changes


def part_of(head: Head, part: str) -> bytes:
    """The key of a part of the view: "n", or "k2" for the replies to the comment posted at 2."""
    name = f"{keys.build(STREAM, head.build)}{part[0]}".encode()
    return name + b":" + keys.posted(int(part[1:])) if part[1:] else name


async def contents(redis: Redis) -> Contents:
    """Every element of every key of the thread."""
    found: Contents = {}
    async for key in redis.scan_iter(match=f"{keys.prefix(STREAM)[:-2]}*".encode()):
        elements: Any
        if await redis.type(key) == b"hash":
            elements = await redis.hgetall(key)
        else:
            elements = await redis.zrange(key, 0, -1, withscores=True)
        found[key] = dict(elements)
    return found


# --- reading --------------------------------------------------------------------------------------------


async def test_no_view_is_told_from_no_comment(views: Views) -> None:
    assert await views.comment(STREAM, comment_id(1)) is None
    assert await views.page(STREAM, PageRequest()) is None
    head = await written(views, forum())
    assert await views.comment(STREAM, comment_id(99)) == One(head)


async def test_an_empty_thread_has_a_view(views: Views) -> None:
    await written(views, index_of(thread_of([])))
    answer = await views.page(STREAM, PageRequest())
    assert answer is not None
    assert answer[1].picked == ()


async def test_heads_of_many_threads_leave_out_those_without_a_view(views: Views) -> None:
    head = await written(views, forum())
    assert await views.heads([OTHER, STREAM]) == {STREAM: head}
    assert await views.heads([]) == {}


@pytest.mark.parametrize("part", ["n", "i", "d", "o", "k0", "b0", "c0", "r0", "k2", "b2", "c2", "r2"])
async def test_a_view_that_lost_a_key_is_absent_and_goes_as_a_whole(
    views: Views, redis: Redis, part: str
) -> None:
    head = await written(views, bushy())
    assert await redis.delete(part_of(head, part)) == 1
    sort: dict[str, Sort] = {"b2": "best", "c2": "controversial", "r2": "replies"}
    # The first replies are named in their parent's record: their list is missed where it is asked for.
    parent = comment_id(2) if part == "k2" else None
    assert await views.page(STREAM, PageRequest(sort.get(part, "oldest"), parent_id=parent)) is None
    assert await views.head(STREAM) is None
    nameless = {key for key in await contents(redis) if key[-6:-5] in b"kbcr"}  # only :d names them
    assert set(await contents(redis)) == (nameless if part == "d" else set())


async def test_a_damaged_node_is_no_node(views: Views, redis: Redis) -> None:
    for damage in (b"", b"\0" * 11, bytes(12), bytes(12) + b"no frame", bytes(12) + b"\xff" * 40):
        for ask in (
            lambda: views.page(STREAM, PageRequest()),
            lambda: views.page(STREAM, PageRequest(parent_id=comment_id(3))),
            lambda: views.page(STREAM, PageRequest("best", focus=comment_id(3))),
            lambda: views.comment(STREAM, comment_id(3)),
        ):
            head = await written(views, bushy())
            await redis.hset(keys.nodes(STREAM, head.build), keys.posted(2), damage)
            assert await ask() is None, damage
            assert await contents(redis) == {}
        head = await written(views, bushy())
        await redis.hset(keys.nodes(STREAM, head.build), keys.posted(2), damage)
        if len(damage) >= 12:
            assert await views.touch(STREAM, head, [comment_id(2)], []) is None
            assert await contents(redis) == {}
        await views.drop(STREAM)


async def test_a_view_that_lost_one_node_is_absent(views: Views, redis: Redis) -> None:
    head = await written(views, forum())
    await redis.hdel(keys.nodes(STREAM, head.build), keys.posted(3))
    assert await views.comment(STREAM, comment_id(3)) is None
    assert await views.page(STREAM, PageRequest()) is None
    assert await contents(redis) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("meta", b"not json"),
        ("meta", b"[]"),
        ("meta", b'[null,"k",null,null,null,false,3]'),
        ("version", b"4.5"),
        ("build", b"\xff"),
        ("build", b"a:b"),
        ("build", None),
        ("version", None),
        ("size", None),
        ("stale", None),
    ],
)
async def test_a_damaged_head_is_no_view_and_another_takes_its_place(
    views: Views, redis: Redis, field: str, value: bytes | None
) -> None:
    index = forum()

    async def damage() -> None:
        await written(views, index)
        if value is None:
            await redis.hdel(keys.head(STREAM), field)
        else:
            await redis.hset(keys.head(STREAM), field, value)

    await damage()
    assert await views.head(STREAM) is None
    await damage()
    assert await views.page(STREAM, PageRequest()) is None
    assert await views.head(STREAM) is None
    await damage()
    assert await views.comment(STREAM, comment_id(99)) is None
    assert await views.head(STREAM) is None
    await written(views, index)
    assert await views.page(STREAM, PageRequest()) is not None


# --- keeping up -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1, 30, 300])
async def test_a_reply_at_depth_d_touches_at_most_d_and_ten_elements(
    views: Views, redis: Redis, depth: int
) -> None:
    index = forum(max(depth, 1))
    head = await written(views, index)
    before = await contents(redis)
    commands = await redis.info("commandstats")
    new, changes = reply(index, depth)
    assert await views.apply(STREAM, head, new, changes) is Outcome.APPLIED
    calls_after = await redis.info("commandstats")
    after = await contents(redis)
    changed = sum(
        value != before.get(key, {}).get(member)
        for key, members in after.items()
        for member, value in members.items()
    )
    head_fields = 5
    # Of each ancestor two elements: its record, and its place among those with replies.
    assert 2 * depth + 3 < changed <= 2 * depth + head_fields + 5

    def calls(stats: dict[str, dict[str, int]], command: str) -> int:
        return stats.get(f"cmdstat_{command}", {}).get("calls", 0)

    # One command for all records; the places of the ancestors are in a list each.
    names = ("hset", "zadd", "hmget", "hincrby", "zscore", "zcard")
    sent = {name: calls(calls_after, name) - calls(commands, name) for name in names}
    assert sent == {
        "hset": 3 + bool(depth),
        "zadd": 1 + depth,
        "hmget": 1 + 2 * bool(depth),
        "hincrby": 0,
        "zscore": 0,
        "zcard": 8 + 2 * bool(depth),
    }


@pytest.mark.parametrize("of", ["a root", "a reply", "a vote"])
async def test_what_a_change_costs_does_not_depend_on_how_large_the_thread_is(
    views: Views, redis: Redis, of: str
) -> None:
    sent: list[tuple[dict[str, int], int]] = []
    for size in (20, 2_000):
        index = index_of(thread_of([Said(), Said(1, up=1), *[Said(1, up=1), Said(2), Said()] * size]))
        head = await written(views, index, 500, await views.head(STREAM))
        if of == "a vote":
            comment = index.comments[2]
            comment.up += 1
            index.thread.version += 1
            new, changes = Head.of(index.thread), Changes()
            changes.put(comment, node_of(comment), voted=True)
        else:
            new, changes = reply(index, 2 if of == "a reply" else 0)
        before = await redis.info("commandstats")
        traffic = (await redis.info("stats"))["total_net_input_bytes"]
        assert await views.apply(STREAM, head, new, changes) is Outcome.APPLIED
        traffic = (await redis.info("stats"))["total_net_input_bytes"] - traffic
        after = await redis.info("commandstats")
        calls = {
            name: stat["calls"] - before.get(name, {"calls": 0})["calls"] for name, stat in after.items()
        }
        sent.append(({name: count for name, count in calls.items() if count}, traffic))
        assert await rows_of(views, head) == rows(index_of(index.thread))
    (few, few_bytes), (many, many_bytes) = sent
    assert few == many
    assert abs(few_bytes - many_bytes) < 20  # the head's figures have more digits


@pytest.mark.parametrize("sort", ["oldest", "newest", "best", "controversial", "replies"])
async def test_a_page_costs_the_same_wherever_it_is_and_however_many_there_are(
    views: Views, redis: Redis, sort: Sort
) -> None:
    costs: list[set[int]] = []
    for size in (1_000, 10_000):
        said = [Said(up=number % 7, down=number % 5) for number in range(size)]
        said += [Said(number) for number in range(1, size, 3)]
        index = index_of(thread_of(said))
        head = await written(views, index, 500, await views.head(STREAM))
        ordered = index.page(PageRequest(sort, limit=size, replies=0)).picked
        costs.append(set())
        for at in (50, size // 3, size // 2, size - 100):
            last = ordered[at]
            # The comment's own score has changed since: where its page went on is looked for.
            for score in {last.score, last.score * 1.000001}:
                before = (await redis.info("commandstats")).values()
                answer = await views.page(
                    STREAM, PageRequest(sort, 20, replies=0, after=Place(last.posted, score))
                )
                after = (await redis.info("commandstats")).values()
                assert answer is not None
                assert len(answer[1].picked) == 20
                calls = sum(stat["calls"] for stat in after) - sum(stat["calls"] for stat in before)
                costs[-1].add(calls)
        assert head.version == len(said)
    small, large = costs
    halvings = 2 * 14 if sort in RANKED else 0
    assert max(small | large) <= 25 + halvings
    assert max(large) - max(small) <= 4


PARTS = [
    "head",
    "n",
    "i",
    "d",
    "o",
    "k0",
    "k1",
    "k2",
    "k5",
    "b0",
    "b1",
    "b2",
    "c0",
    "c1",
    "c2",
    "r0",
    "r1",
    "r2",
]


def bushy() -> FoldIndex:
    """Roots 1 and 5, replies on four levels, votes on three of them."""
    hidden = CommentState.HIDDEN
    said = [Said(up=2, down=1), Said(1, up=1, down=1), Said(2, state=hidden, up=1, down=1), Said(1), Said()]
    return index_of(thread_of([*said, Said(5), Said(3)]))


@pytest.mark.parametrize("parent", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("part", PARTS)
async def test_a_lost_key_is_never_begun_anew(views: Views, redis: Redis, part: str, parent: int) -> None:
    index = bushy()
    head = await written(views, index)
    assert await redis.delete(keys.head(STREAM) if part == "head" else part_of(head, part)) == 1
    new, changes = reply(index, parent)
    outcome = await views.apply(STREAM, head, new, changes)
    after = index_of(index.thread)
    for sort, parent_id in product(SORTS, (None, *map(comment_id, range(1, 8)))):
        request = PageRequest(sort, parent_id=parent_id)
        answer = await views.page(STREAM, request)
        assert answer is None or answer[1] == after.page(request)
    for posted in range(1, 9):
        one = await views.comment(STREAM, comment_id(posted))
        assert one is None or (one.picked, one.path) == after.comment(comment_id(posted))
    if part[1:] in ("", "0") or part == "head":
        assert outcome is Outcome.ABSENT
    assert await views.head(STREAM) is None


@pytest.mark.parametrize("part", ["n", "i", "d", "o", "k0", "b0", "c0", "r0"])
async def test_a_batch_on_a_view_that_lost_a_key_is_not_begun(views: Views, redis: Redis, part: str) -> None:
    head = await written(views, bushy())
    assert await redis.delete(part_of(head, part)) == 1
    assert await views.touch(STREAM, head, [comment_id(2)], [1]) is None
    assert await views.head(STREAM) is None


@pytest.mark.parametrize("part", PARTS[1:])
async def test_a_build_that_lost_a_key_never_becomes_a_view_that_lacks_it(
    views: Views, redis: Redis, part: str
) -> None:
    index = bushy()
    parts = list(whole(index, size=2))
    for lost_after in range(1, len(parts) + 1):
        build = views.build(STREAM)
        for changes in parts[:lost_after]:
            await build.write(changes)
        assert await redis.exists("the writes have arrived") == 0
        lost = await redis.delete(part_of(Head(0, b"", build.token), part))
        try:
            for changes in parts[lost_after:]:
                await build.write(changes)
            outcome = await build.switch(None, Head.of(index.thread))
        except Unavailable:
            outcome = Outcome.ABSENT
        if outcome is Outcome.APPLIED:
            asked = [PageRequest(sort) for sort in SORTS]
            asked += [PageRequest(parent_id=comment_id(parent)) for parent in (1, 2, 5)]
            answers = [await views.page(STREAM, request) for request in asked]
            assert None in answers if lost else None not in answers
        await views.drop(STREAM)


@pytest.mark.parametrize("part", PARTS[1:])
async def test_a_build_that_lost_a_key_while_it_was_filled_never_becomes_a_view_that_lacks_it(
    views: Views, redis: Redis, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "CALL_BYTES", 1)
    index = bushy()
    asked = [PageRequest(sort) for sort in SORTS]
    asked += [PageRequest(parent_id=comment_id(parent)) for parent in (1, 2, 5)]
    for lost_after in range(1, 5):
        build = views.build(STREAM)
        lost = 0

        async def lose(build: Build = build) -> None:
            nonlocal lost
            lost += await redis.delete(part_of(Head(0, b"", build.token), part))

        async def nodes(after: int = lost_after) -> AsyncIterator[dict[int, bytes]]:
            async for some in nodes_of(index, size=2):
                yield some
                after -= 1
                if after == 0:
                    await lose()

        await build.fill(index, nodes())
        if not lost:  # it is there only now
            await lose()
        if await build.switch(None, Head.of(index.thread)) is Outcome.APPLIED:
            answers = [await views.page(STREAM, request) for request in asked]
            assert None in answers if lost else None not in answers
        assert await views.head(STREAM) is None or not lost
        await views.drop(STREAM)


async def test_a_thread_is_filled_in_calls_of_bounded_weight(
    views: Views, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = forum(60)
    monkeypatch.setattr(sending, "CALL_BYTES", most := 4_000)
    monkeypatch.setattr(layout, "CALL_BYTES", most // 4)
    told: list[int] = []
    tell = Line.tell

    async def weighed(line: Line, *commands: bytes) -> list[Any]:
        told.append(len(b"".join(commands)))
        return await tell(line, *commands)

    monkeypatch.setattr(Line, "tell", weighed)
    nodes = {posted: index.node(posted) for posted in index.comments}
    made = Made(STREAM, await filled(views, index), Head.of(index.thread), index, nodes)
    assert await views.replace([made]) == [Outcome.APPLIED]
    head = await views.head(STREAM)
    assert head is not None
    assert len(told) > 6
    assert max(told) <= most
    assert await rows_of(views, head) == rows(index)


async def test_a_build_is_sent_in_calls_of_bounded_weight(
    views: Views, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = forum(60)
    most = 3 * len(index.node(60))
    monkeypatch.setattr(builds, "CALL_BYTES", most)
    before = await redis.info("commandstats")
    (changes,) = whole(index)
    head = await written(views, index)
    calls = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    calls -= before.get("cmdstat_evalsha", {"calls": 0})["calls"]
    assert len(list(changes.slices(most))) >= 61 // 3
    assert calls >= len(list(changes.slices(most))) + 1
    assert all(sum(len(one.raw) for one in part.comments) <= most for part in changes.slices(most))
    assert await rows_of(views, head) == rows(index)


async def test_one_node_heavier_than_a_call_goes_alone() -> None:
    (changes,) = whole(forum(3))
    assert [[one.posted for one in part.comments] for part in changes.slices(1)] == [[1], [2], [3], [4]]


async def test_of_two_writers_from_one_head_the_second_is_told_it_moved(views: Views, redis: Redis) -> None:
    index = forum()
    head = await written(views, index)
    new, changes = reply(index, 1)
    outcomes = await asyncio.gather(*(views.apply(STREAM, head, new, changes) for _ in range(5)))
    assert sorted(outcomes) == [Outcome.APPLIED] + [Outcome.MOVED] * 4
    assert await rows_of(views, head) == rows(index_of(index.thread))


@pytest.mark.parametrize(
    "other",
    [{"version": 3}, {"hash": b"another history"}, {"build": "0badc0de"}],
    ids=["version", "hash", "build"],
)
async def test_a_head_that_differs_in_anything_moved(
    views: Views, redis: Redis, other: dict[str, int | bytes | str]
) -> None:
    index = forum()
    head = await written(views, index)
    before = await contents(redis)
    wrong = replace(head, **other)  # type: ignore[arg-type]
    new, changes = reply(index, 1)
    assert await views.apply(STREAM, wrong, new, changes) is Outcome.MOVED
    assert await views.touch(STREAM, wrong, [comment_id(1)], [1]) is None
    assert await contents(redis) == before


async def test_changes_to_no_view_are_absent(views: Views, redis: Redis) -> None:
    new, changes = reply(forum(), 1)
    assert await views.apply(STREAM, Head(4, b"", "0badc0de"), new, changes) is Outcome.ABSENT
    assert await contents(redis) == {}


async def test_touch_gives_nodes_and_chains_and_leaves_out_what_the_view_lacks(views: Views) -> None:
    index = forum()
    head = await written(views, index)
    touched = await views.touch(STREAM, head, [comment_id(2), comment_id(99)], [3, 1, 77])
    assert touched is not None
    assert touched.nodes == {comment_id(2): (2, index.node(2))}
    assert touched.chains == {3: (2, 1), 1: ()}


async def test_a_change_set_larger_than_the_scripts_stack_is_applied_whole(views: Views) -> None:
    head = await written(views, index_of(thread_of([])))
    index = index_of(thread_of([Said(number // 2) for number in range(9000)]))
    (changes,) = whole(index, size=10_000)
    assert await views.apply(STREAM, head, Head.of(index.thread), changes) is Outcome.APPLIED
    assert await rows_of(views, head) == rows(index)


async def test_a_parked_view_is_stale_until_changes_are_applied(views: Views) -> None:
    index = forum()
    head = await written(views, index)
    assert not await views.park(STREAM, head.version - 1)
    assert await views.park(STREAM, head.version)
    assert await views.head(STREAM) == replace(head, stale=True)
    new, changes = reply(index, 1)
    assert await views.apply(STREAM, head, new, changes) is Outcome.APPLIED
    assert await views.head(STREAM) == replace(new, build=head.build)


async def test_a_parked_view_is_fresh_again_when_told_so(views: Views) -> None:
    head = await written(views, forum())
    await views.park(STREAM, head.version)
    assert await views.unpark(STREAM, head.version)
    assert await views.head(STREAM) == head


async def test_parking_a_thread_without_a_view_makes_none(views: Views, redis: Redis) -> None:
    assert not await views.park(STREAM, 4)
    assert await contents(redis) == {}


# --- building and dropping ------------------------------------------------------------------------------


async def test_switching_unlinks_the_view_before(views: Views, redis: Redis) -> None:
    first = await written(views, forum())
    second = await written(views, forum(), expected=first)
    assert first.build != second.build
    assert not [key for key in await contents(redis) if first.build.encode() in key]
    assert await redis.zcard(keys.BUILDS) == 0


async def test_a_build_is_invisible_until_the_switch(views: Views) -> None:
    build = views.build(STREAM)
    for changes in whole(forum()):
        await build.write(changes)
    assert await views.head(STREAM) is None
    await build.discard()


async def test_the_second_of_two_builders_leaves_nothing_behind(views: Views, redis: Redis) -> None:
    index = forum()
    late = views.build(STREAM)
    for changes in whole(index):
        await late.write(changes)
    head = await written(views, index)
    before = await contents(redis)
    assert await late.switch(None, Head.of(index.thread)) is Outcome.MOVED
    await late.discard()
    token = late.token.encode()
    assert await contents(redis) == {key: value for key, value in before.items() if token not in key}
    assert await views.head(STREAM) == head


async def test_a_discarded_build_leaves_nothing_behind(views: Views, redis: Redis) -> None:
    build = views.build(STREAM)
    for changes in whole(forum(600)):
        await build.write(changes)
    await build.discard()
    assert await contents(redis) == {}
    assert await redis.zcard(keys.BUILDS) == 0


async def test_an_abandoned_build_is_swept_and_never_becomes_a_view(views: Views, redis: Redis) -> None:
    index = forum()
    build = views.build(STREAM)
    for changes in whole(index):
        await build.write(changes)
    assert await views.sweep() == 0
    long_ago = time.time() - ABANDONED_SECONDS - 1
    await redis.zadd(keys.BUILDS, {f"{STREAM.hex}:{build.token}": long_ago})
    assert await views.sweep() == 1
    assert await contents(redis) == {}
    assert await build.switch(None, Head.of(index.thread)) is Outcome.ABSENT
    assert await views.head(STREAM) is None


async def test_sweeping_spares_a_build_that_became_the_view(views: Views, redis: Redis) -> None:
    head = await written(views, forum())
    await redis.zadd(keys.BUILDS, {f"{STREAM.hex}:{head.build}": 1})
    before = await contents(redis)
    assert await views.sweep() == 1
    assert await contents(redis) == before
    assert await redis.zcard(keys.BUILDS) == 0


async def test_dropping_a_view_leaves_nothing_of_it(views: Views, redis: Redis) -> None:
    await written(views, index_of(thread_of([Said(number // 2) for number in range(2000)])))
    await views.drop(STREAM)
    assert await contents(redis) == {}
    await views.drop(STREAM)


async def test_dropping_one_build_spares_another(views: Views) -> None:
    head = await written(views, forum())
    await views.drop(STREAM, "0badc0de")
    assert await views.head(STREAM) == head


async def test_views_are_replaced_together_on_a_server_that_forgot_the_scripts(
    views: Views, redis: Redis
) -> None:
    first = await filled(views, forum())
    await redis.script_flush()
    index = bushy()
    nodes = {posted: index.node(posted) for posted in index.comments}
    made = [
        Made(OTHER, None, Head.of(index.thread), index, nodes),
        Made(STREAM, first, Head.of(index.thread), index, nodes),
        Made(STREAM, first, Head.of(index.thread), index, nodes),
    ]
    outcomes = await views.replace(made)
    assert outcomes == [Outcome.APPLIED, Outcome.APPLIED, Outcome.MOVED]
    assert await redis.zcard(keys.BUILDS) == 0
    head = await views.head(STREAM)
    assert head is not None
    assert await rows_of(views, head) == rows(index)
    assert {key.split(b":")[3] for key in await contents(redis)} == {b"head", head.build.encode()}


async def test_scripts_are_sent_again_to_a_server_that_forgot_them(views: Views, redis: Redis) -> None:
    await written(views, forum())
    await redis.script_flush()
    assert await views.page(STREAM, PageRequest()) is not None


# --- a full server --------------------------------------------------------------------------------------


@pytest.fixture
async def small_redis(start_redis: Callable[..., EmbeddedRedis]) -> AsyncIterator[Redis]:
    """A server of the test's own, with room for a few views."""
    async with Redis.from_url(start_redis(settings={"maxmemory": "64mb"}).url()) as client:
        yield client


async def fill(redis: Redis) -> None:
    """Leave the server no room at all."""
    await redis.config_set("maxmemory", "1mb")
    if (await redis.info("memory"))["used_memory"] < 1 << 20:
        await redis.set("filling", b"x" * (1 << 20))
    with pytest.raises(OutOfMemoryError):
        await redis.set("no", "room")


async def test_a_view_that_a_full_server_cannot_bring_up_is_dropped(small_redis: Redis) -> None:
    views, index = Views(small_redis), forum()
    head = await written(views, index)
    await fill(small_redis)
    await small_redis.script_flush()  # nor does it know the scripts
    assert await views.page(STREAM, PageRequest()) is not None
    assert await views.park(STREAM, head.version)
    new, changes = reply(index, 1)
    assert await views.apply(STREAM, head, new, changes) is Outcome.ABSENT
    assert await views.page(STREAM, PageRequest()) is None
    assert await contents(small_redis) == {}


@pytest.mark.parametrize("begun", [0, 2, 5])
async def test_a_build_that_a_full_server_has_no_room_for_leaves_nothing_behind(
    small_redis: Redis, begun: int
) -> None:
    views, index = Views(small_redis), forum(2_000)
    parts = list(whole(index))
    build = views.build(STREAM)
    for changes in parts[:begun]:
        await build.write(changes)
    await fill(small_redis)

    async def go_on() -> None:
        for changes in parts[begun:]:
            await build.write(changes)
        await build.switch(None, Head.of(index.thread))

    with pytest.raises(Unavailable, match="full"):
        await go_on()
    assert await contents(small_redis) == {}
    assert await small_redis.zcard(keys.BUILDS) == 0


@pytest.mark.parametrize("begun", [0, 2, 5])
async def test_a_thread_that_a_full_server_cannot_take_whole_leaves_nothing_behind(
    small_redis: Redis, begun: int
) -> None:
    views, index = Views(small_redis), forum(2_000)

    async def nodes(left: int = begun) -> AsyncIterator[dict[int, bytes]]:
        async for some in nodes_of(index, size=300):
            if left == 0:
                await fill(small_redis)
            left -= 1
            yield some

    with pytest.raises(Unavailable, match="full"):
        await views.build(STREAM).fill(index, nodes())
    assert await contents(small_redis) == {}
    assert await small_redis.zcard(keys.BUILDS) == 0


async def test_threads_that_a_full_server_cannot_take_together_leave_nothing_behind(
    small_redis: Redis,
) -> None:
    views, index = Views(small_redis), forum(2_000)
    head = await filled(views, forum())
    before = await contents(small_redis)
    await fill(small_redis)
    nodes = {posted: index.node(posted) for posted in index.comments}
    with pytest.raises(Unavailable, match="full"):
        await views.replace([Made(STREAM, head, Head.of(index.thread), index, nodes)])
    assert await contents(small_redis) == before


async def test_a_build_that_finds_the_server_full_at_the_switch_leaves_the_view_as_it_is(
    small_redis: Redis,
) -> None:
    views, index = Views(small_redis), forum()
    head = await written(views, index)
    before = await contents(small_redis)
    build = views.build(STREAM)
    for changes in whole(index):
        await build.write(changes)
    await small_redis.exists("the writes have arrived")
    await fill(small_redis)
    with pytest.raises(Unavailable, match="full"):
        await build.switch(head, Head.of(index.thread))
    assert await contents(small_redis) == before


async def test_a_hidden_comment_keeps_its_place(views: Views) -> None:
    index = index_of(thread_of([Said(), Said(1, state=CommentState.HIDDEN), Said(2)]))
    await written(views, index)
    answer = await views.page(STREAM, PageRequest())
    assert answer is not None
    assert answer[1] == index.page(PageRequest())
    assert answer[1].picked[0].descendants == 2


# --- what is sent ---------------------------------------------------------------------------------------


def test_hiredis_packs_as_the_connection_itself_would() -> None:
    pool = ConnectionPool()
    plain = pool.connection_class()
    pack_by_hiredis(pool)
    pack_by_hiredis(pool)
    packing = pool.connection_class()
    assert isinstance(packing, type(plain))
    commands: list[tuple[str | bytes | int | float, ...]] = [
        ("GET", "k"),
        ("SCRIPT LOAD", "return 1"),
        (b"SET", b"\xff\0", -7, 1.5, "ü", ""),
        ("SET", "long", b"x" * 100_000),
    ]
    for command in commands:
        assert b"".join(packing.pack_command(*command)) == b"".join(plain.pack_command(*command))
    with pytest.raises(TypeError):
        packing.pack_command("SET", "k", None)  # type: ignore[arg-type]
