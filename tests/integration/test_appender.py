"""The appender on a real database: what it answers, and what the log holds afterwards."""

from __future__ import annotations

import asyncio
import os
import random
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from services.core.addresses import lane_of
from services.core.commands import Action, Command
from services.errors import (
    AlreadyReported,
    CommentNotFound,
    FieldInvalid,
    IdempotencyKeyReused,
    Overloaded,
    ParentNotFound,
    Refusal,
    RevisionMismatch,
    ThreadNotOpen,
    Unavailable,
    WriteFailed,
)
from services.eventlog.appender import Appender, Committed
from services.eventlog.appenders import Appenders
from services.eventlog.batch import Appended
from services.eventlog.keys import Keyring, MasterKey
from tests.factories import BLOG, Place, Writer, change_settings, described, fresh_id, imported, once, post
from tests.logcheck import read_log, violations

Start = Callable[..., Any]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        yield pool


@pytest.fixture
def writer(pool: asyncpg.Pool[Any]) -> Writer:
    return Writer(Keyring(pool, MasterKey(b64encode(os.urandom(32)).decode())))


@pytest.fixture
async def start(database_url: str) -> AsyncIterator[Start]:
    """Starts appenders of lane 0; they are stopped afterwards."""
    started: list[Appender] = []

    async def start_one(**settings: Any) -> Appender:
        started.append(Appender(database_url, 0, **settings))
        await started[-1].start()
        return started[-1]

    yield start_one
    for appender in started:
        await appender.stop()


async def answers(appender: Appender, commands: Sequence[Command]) -> list[Any]:
    """What each of `commands`, sent at once, is answered with."""
    return await asyncio.gather(*(appender.submit(each) for each in commands), return_exceptions=True)


async def types_of(pool: asyncpg.Pool[Any]) -> list[str]:
    return [row["type"] for row in await pool.fetch("select type from events order by lane, position")]


async def test_a_comment_is_in_the_log_when_it_is_answered(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any]
) -> None:
    appender = await start()
    command = await writer.post(describe=described(), correlation_id="req-1")
    answer = await appender.submit(command)
    assert (answer.event_id, answer.version, answer.status, answer.repeated) == (
        command.event_id,
        2,
        201,
        False,
    )
    assert (answer.title, answer.url) == ("Talk therapy", "https://blog.example/t")
    assert answer.comment is not None
    assert answer.comment.id == command.event_id
    async with pool.acquire() as connection:
        assert tuple(await read_log(connection)) == answer.events  # type: ignore[arg-type]
    describing, posting = answer.events
    assert (describing.type, describing.causation_id) == ("ThreadDescribed", posting.event_id)
    assert {event.correlation_id for event in answer.events} == {"req-1"}


async def test_one_batch_gives_each_command_its_own_answer(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any], database_url: str
) -> None:
    batches: list[Committed] = []
    appender = await start(on_committed=batches.append)
    first = await writer.post("first")
    found = await answers(
        appender,
        [
            first,
            await writer.reply(first.event_id, "below the first, in the same batch"),
            await writer.reply(fresh_id(), "below nobody"),
            await writer.edit(first.event_id, "first, edited in the same batch"),
            await writer.edit(first.event_id, "stale", revision=1),
            await writer.report(first.event_id, detail="rude"),
            await writer.report(first.event_id),
            await writer.report(first.event_id, by="carl", reason="boring"),
            writer.change(closed=True),
            await writer.post("too late"),
            writer.delete(fresh_id()),
            writer.delete(first.event_id),
        ],
    )
    kinds = [type(one) for one in found]
    assert kinds == [
        Appended,
        Appended,
        ParentNotFound,
        Appended,
        RevisionMismatch,
        Appended,
        AlreadyReported,
        FieldInvalid,
        Appended,
        ThreadNotOpen,
        CommentNotFound,
        Appended,
    ]
    assert [one.version for one in found if isinstance(one, Appended)] == [1, 2, 3, 4, 5, 6]
    assert await types_of(pool) == [
        "CommentPosted",
        "ReplyPosted",
        "CommentEdited",
        "CommentReported",
        "ThreadClosed",
        "CommentDeleted",
    ]
    assert [(b.commands, b.events, len(b.refusals), b.moved) for b in batches] == [
        (12, 6, 6, [BLOG.stream_id])
    ]
    assert await violations(database_url) == []


async def test_a_refused_command_alone_writes_nothing(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any]
) -> None:
    appender = await start()
    with pytest.raises(ParentNotFound):
        await appender.submit(await writer.reply(fresh_id(), idempotency=once("k")))
    assert await types_of(pool) == []
    assert await pool.fetchval("select count(*) from idempotency") == 0
    assert await pool.fetchval("select head from lanes") == 0
    assert await pool.fetchval("select count(*) from streams") == 0


async def test_a_refusal_is_not_remembered(start: Start, writer: Writer) -> None:
    appender = await start()
    parent = await writer.post()
    early = await writer.reply(parent.event_id, idempotency=once("k"))
    assert [type(one) for one in await answers(appender, [early])] == [ParentNotFound]
    await appender.submit(parent)
    assert (await appender.submit(early)).version == 2


@pytest.mark.parametrize("value", ["req\0", "req\ud800"], ids=["NUL", "lone surrogate"])
async def test_a_value_that_postgres_or_its_driver_refuses_fails_its_own_command_only(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any], database_url: str, value: str
) -> None:
    appender = await start()
    before, after = await writer.post("before"), await writer.post("after")
    nul = replace(await writer.post("between"), correlation_id=value)
    found = await answers(appender, [before, nul, after])
    assert [type(one) for one in found] == [Appended, WriteFailed, Appended]
    assert await types_of(pool) == ["CommentPosted", "CommentPosted"]
    assert await violations(database_url) == []


async def test_many_threads_and_lanes_are_dense(databases: Any, start: Start) -> None:
    url = await asyncio.to_thread(databases.create, 3)
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        keyring = Keyring(pool, MasterKey(b64encode(os.urandom(32)).decode()))
        writers = [Writer(keyring, Place("blog", f"article-{n}")) for n in range(12)]
        appenders = Appenders(url, 3, max_batch=7)
        await appenders.start()
        try:
            commands = [await writer.post(f"number {n}") for n in range(10) for writer in writers]
            found = await asyncio.gather(*(appenders.submit(each) for each in commands))
        finally:
            await appenders.stop()
        assert [max(a.version for a in found[n :: len(writers)]) for n in range(12)] == [10] * 12
        assert {lane_of(writer.place.stream_id, 3) for writer in writers} == {0, 1, 2}
    assert await violations(url) == []


# --- idempotency -----------------------------------------------------------------------------------------


async def test_a_repeat_adds_nothing_and_answers_as_the_first(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any]
) -> None:
    appender = await start()
    first = await appender.submit(await writer.post(idempotency=once("k")))
    await appender.submit(await writer.post("meanwhile"))
    again = await appender.submit(await writer.post(idempotency=once("k")))
    assert (again.event_id, again.version, again.status) == (first.event_id, first.version, 201)
    assert again.repeated
    assert again.events == ()
    assert len(await types_of(pool)) == 2


async def test_a_repeat_in_the_same_batch_adds_nothing(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any], database_url: str
) -> None:
    appender = await start()
    commands = [await writer.post(idempotency=once("k")) for _ in range(5)]
    found = await answers(appender, commands)
    assert {one.event_id for one in found} == {commands[0].event_id}
    assert [one.repeated for one in found] == [False, True, True, True, True]
    assert await types_of(pool) == ["CommentPosted"]
    assert await violations(database_url) == []


async def test_the_same_key_at_the_same_time_on_two_appenders_adds_once(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any], database_url: str
) -> None:
    appenders = [await start(), await start()]
    for number in range(10):
        commands = [await writer.post(idempotency=once(f"k{number}")) for _ in appenders]
        found = await asyncio.gather(*(a.submit(c) for a, c in zip(appenders, commands, strict=True)))
        assert sorted(one.repeated for one in found) == [False, True]
        assert len({(one.event_id, one.version) for one in found}) == 1
    assert len(await types_of(pool)) == 10
    assert await violations(database_url) == []


async def test_a_key_used_for_another_request_is_refused(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any]
) -> None:
    appender = await start()
    other = await writer.post(idempotency=once("k", "another body"))
    found = await answers(appender, [await writer.post(idempotency=once("k")), other])
    assert [type(one) for one in found] == [Appended, IdempotencyKeyReused]
    assert [type(one) for one in await answers(appender, [other])] == [IdempotencyKeyReused]
    assert await types_of(pool) == ["CommentPosted"]


async def test_a_key_is_the_authors_own(start: Start, writer: Writer, pool: asyncpg.Pool[Any]) -> None:
    appender = await start()
    await appender.submit(await writer.post(idempotency=once("k", by="ann")))
    assert not (await appender.submit(await writer.post(by="bob", idempotency=once("k", by="bob")))).repeated
    assert len(await types_of(pool)) == 2


async def test_a_no_op_is_remembered_too(start: Start, writer: Writer, pool: asyncpg.Pool[Any]) -> None:
    appender = await start()
    comment = await writer.post()
    await appender.submit(comment)
    await appender.submit(writer.delete(comment.event_id))
    no_op = writer.delete(comment.event_id, idempotency=once("k", "DELETE"))
    first = await appender.submit(no_op)
    assert (first.events, first.version, first.repeated) == ((), 2, False)
    again = await appender.submit(no_op)
    assert (again.version, again.status, again.repeated) == (2, 204, True)
    reused = writer.delete(comment.event_id, idempotency=once("k", "DELETE another"))
    with pytest.raises(IdempotencyKeyReused):
        await appender.submit(reused)
    assert len(await types_of(pool)) == 2


async def test_a_key_is_forgotten_after_30_days(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any]
) -> None:
    appender = await start()
    await appender.submit(await writer.post(idempotency=once("k")))
    await pool.execute("update idempotency set recorded_at = now() - interval '30 days 1 second'")
    assert not (await appender.submit(await writer.post(idempotency=once("k")))).repeated
    assert len(await types_of(pool)) == 2


# --- bounds ----------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_at_once_and_recovers(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any]
) -> None:
    appender = await start(max_queue=5, max_batch=2)
    commands = [await writer.post(f"number {n}") for n in range(12)]
    # The appender's own task runs only once these have all asked: the queue takes five of them.
    found = await answers(appender, commands)
    assert [type(one) for one in found] == [Appended] * 5 + [Overloaded] * 7
    assert found[-1].retry_after >= 1
    assert len(await types_of(pool)) == 5
    assert [type(one) for one in await answers(appender, commands[5:10])] == [Appended] * 5
    assert appender.queued == 0


async def test_stopping_finishes_what_was_taken_and_takes_no_more(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any]
) -> None:
    appender = await start(max_batch=3)
    commands = [await writer.post(f"number {n}") for n in range(20)]
    pending = [asyncio.create_task(appender.submit(each)) for each in commands]
    while appender.queued == 0:
        await asyncio.sleep(0)
    await appender.stop()
    assert [answer.version for answer in await asyncio.gather(*pending)] == list(range(1, 21))
    assert len(await types_of(pool)) == 20
    with pytest.raises(Unavailable):
        await appender.submit(await writer.post())


async def test_a_command_whose_caller_went_away_before_its_batch_is_not_sent(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any]
) -> None:
    appender = await start()
    gone = asyncio.create_task(appender.submit(await writer.post("gone")))
    while appender.queued == 0:
        await asyncio.sleep(0)
    gone.cancel()
    await appender.submit(await writer.post("still here"))
    assert len(await types_of(pool)) == 1


# --- time, import, settings --------------------------------------------------------------------------------


async def test_time_never_decreases_in_a_stream(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any], database_url: str
) -> None:
    appender = await start()
    first = await appender.submit(await writer.post())
    ahead = first.events[0].recorded_at + timedelta(hours=1)
    # As after a failover to a server whose clock is behind the last one's.
    await pool.execute("update streams set recorded_at = $1", ahead)
    found = await answers(appender, [await writer.post("second"), await writer.post("third")])
    assert [answer.events[0].recorded_at for answer in found] == [ahead, ahead]


async def test_an_import_run_again_adds_nothing(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any], database_url: str
) -> None:
    appender = await start()
    ids = [fresh_id() for _ in range(3)]

    async def run() -> list[Command]:
        return [
            post(ids[0], imported=imported("1", tombstone=True), place=writer.place),
            await writer.reply(ids[0], "two", event=ids[1], imported=imported("2")),
            await writer.reply(ids[1], "three", event=ids[2], imported=imported("3")),
        ]

    first = await answers(appender, await run())
    again = await answers(appender, await run())
    assert [answer.version for answer in first] == [1, 2, 3]
    assert [answer.events for answer in again] == [(), (), ()]
    assert len(await types_of(pool)) == 3
    assert await violations(database_url) == []


async def test_changed_settings_hold_for_the_next_command_of_the_batch_and_on_every_appender(
    start: Start, writer: Writer, database_url: str
) -> None:
    one, other = await start(), await start()
    comment = await writer.post()
    await other.submit(comment)
    found = await answers(
        one,
        [
            change_settings({"report_reasons": ["rude"]}),
            await writer.report(comment.event_id, reason="spam"),
            await writer.report(comment.event_id, reason="rude"),
        ],
    )
    assert [type(each) for each in found] == [Appended, FieldInvalid, Appended]
    await one.submit(change_settings({"report_reasons": ["dull"], "report_threshold": 2}))
    hiding = await other.submit(await writer.report(comment.event_id, by="carl", reason="dull"))
    assert [event.type for event in hiding.events] == ["CommentReported", "CommentHidden"]
    again = await other.submit(change_settings({"report_threshold": 2}))
    assert (again.version, again.events) == (2, ())
    assert await violations(database_url) == []


async def test_a_setting_of_a_newer_release_is_passed_over_and_kept(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any]
) -> None:
    await (await start()).submit(change_settings({"report_threshold": 3}))
    stored = "select settings from streams where key is null"
    assert await pool.fetchval(stored) == '{"report_threshold": 3}'
    await pool.execute("update streams set settings = settings || '{\"newer\": true}' where key is null")
    appender = await start()
    comment = await writer.post()
    await appender.submit(comment)
    await appender.submit(change_settings({"report_threshold": 1}))
    hiding = await appender.submit(await writer.report(comment.event_id))
    assert [event.type for event in hiding.events] == ["CommentReported", "CommentHidden"]
    assert orjson.loads(await pool.fetchval(stored)) == {"report_threshold": 1, "newer": True}


async def test_what_is_posted_and_approved_in_one_batch_is_kept_as_approved(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any], database_url: str
) -> None:
    appender = await start()
    comment, other = await writer.post(), await writer.post()
    commands = [comment, other, writer.moderate(comment.event_id, "approve")]
    found = await answers(appender, commands)
    assert [type(each) for each in found] == [Appended] * 3
    kept = await pool.fetch("select comment_id from comments where approved")
    assert [row["comment_id"] for row in kept] == [comment.event_id]
    assert await violations(database_url) == []


# --- a random mix ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_any_mix_on_two_appenders_leaves_a_whole_log(
    start: Start, writer: Writer, pool: asyncpg.Pool[Any], database_url: str, seed: int
) -> None:
    chance = random.Random(seed)
    appenders = [await start(max_batch=20), await start(max_batch=20)]
    writers = [Writer(writer.keyring, Place("blog", f"article-{n}")) for n in range(3)]
    comments: dict[Writer, list[UUID]] = {each: [fresh_id()] for each in writers}

    async def anything() -> Command:
        to = chance.choice(writers)
        by, comment = chance.choice("abcdef"), chance.choice(comments[to])
        key = once(f"k{chance.randrange(30)}", by=by) if chance.random() < 0.2 else None
        match chance.randrange(14):
            case 0 | 1 | 2:
                command = await to.post(by=by, idempotency=key, describe=described())
                comments[to].append(command.event_id)
                return command
            case 3 | 4 | 5:
                command = await to.reply(comment, by=by, idempotency=key)
                comments[to].append(command.event_id)
                return command
            case 6 | 7:
                body, revision = f"text {chance.randrange(3)}", chance.randint(1, 3)
                return await to.edit(comment, body, by=by, moderator=True, revision=revision)
            case 8:
                return to.delete(comment, by=by, moderator=chance.random() < 0.3, idempotency=key)
            case 9 | 10:
                return await to.report(comment, by=by, detail="why")
            case 11 | 12:
                action: Action = chance.choice(("approve", "approve", "hide", "restore", "remove"))
                return to.moderate(comment, action, idempotency=key)
            case _:
                if chance.random() < 0.3:
                    return change_settings({"report_threshold": chance.randint(1, 4)})
                return to.change({"title": chance.choice("TU")}, closed=chance.random() < 0.2)

    acknowledged: dict[UUID, Appended] = {}
    for _ in range(6):
        commands = [await anything() for _ in range(60)]
        found = await asyncio.gather(
            *(chance.choice(appenders).submit(each) for each in commands), return_exceptions=True
        )
        for one in found:
            assert isinstance(one, Appended | Refusal), repr(one)
            if isinstance(one, Appended):
                acknowledged |= {event.event_id: one for event in one.events}
    assert await violations(database_url) == []
    async with pool.acquire() as connection:
        events = await read_log(connection)  # type: ignore[arg-type]
    assert {event.event_id for event in events} == set(acknowledged)
    assert len({event.type for event in events}) >= 11
