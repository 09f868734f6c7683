"""Votes in the log and in the decision state, on a real database."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from services.core.commands import Command
from services.errors import CommentNotFound, CommentNotOpen, Forbidden, IdempotencyKeyReused, OwnComment
from services.eventlog.appender import Appender, Committed
from services.eventlog.batch import Appended, Tally
from services.eventlog.keys import Keyring, MasterKey
from tests.factories import Place, Writer, change_settings, erase, fresh_id, once, vote
from tests.logcheck import violations


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        yield pool


@pytest.fixture
def writer(pool: asyncpg.Pool[Any]) -> Writer:
    return Writer(Keyring(pool, MasterKey(b64encode(os.urandom(32)).decode())))


@pytest.fixture
def batches() -> list[Committed]:
    return []


@pytest.fixture
async def appender(database_url: str, batches: list[Committed]) -> AsyncIterator[Appender]:
    appender = Appender(database_url, 0, on_committed=batches.append)
    await appender.start()
    yield appender
    await appender.stop()


async def answers(appender: Appender, commands: Sequence[Command]) -> list[Any]:
    """What each of `commands`, sent at once, is answered with."""
    return await asyncio.gather(*(appender.submit(each) for each in commands), return_exceptions=True)


async def test_a_vote_is_cast_changed_and_withdrawn(
    appender: Appender, writer: Writer, database_url: str
) -> None:
    comment = (await appender.submit(await writer.post())).event_id
    tallies = []
    for value in (1, -1, -1, 0, 0):
        answer = await appender.submit(writer.vote(comment, value))
        tallies.append((answer.tally, answer.version, len(answer.events)))
    assert tallies == [
        (Tally(1, 0, 1), 2, 1),
        (Tally(0, 1, -1), 3, 1),
        (Tally(0, 1, -1), 3, 0),
        (Tally(0, 0, 0), 4, 1),
        (Tally(0, 0, 0), 4, 0),
    ]
    assert await violations(database_url) == []


async def test_votes_of_one_batch_are_answered_one_by_one_and_written_once(
    appender: Appender,
    writer: Writer,
    batches: list[Committed],
    database_url: str,
    pool: asyncpg.Pool[Any],
) -> None:
    comment = (await appender.submit(await writer.post())).event_id
    before = len(batches)
    found = await answers(
        appender,
        [
            writer.vote(comment, 1, by="bob"),
            writer.vote(comment, -1, by="cem"),
            writer.vote(comment, -1, by="bob"),
            writer.vote(comment, 1, by="ann"),
            writer.vote(comment, 1, by="guest:0199"),
            writer.vote(fresh_id(), 1),
            writer.vote(comment, 1, by="bob"),
        ],
    )
    assert len(batches) == before + 1
    assert [one.tally if isinstance(one, Appended) else type(one) for one in found] == [
        Tally(1, 0, 1),
        Tally(1, 1, -1),
        Tally(0, 2, -1),
        OwnComment,
        Forbidden,
        CommentNotFound,
        Tally(1, 1, 1),
    ]
    rows = await pool.fetch("select voter_id, value, version from votes order by voter_id")
    assert [tuple(row) for row in rows] == [("bob", 1, 5), ("cem", -1, 3)]
    # One new version of the comment's row, however many votes: xmin tells the transaction that wrote it.
    assert await pool.fetchval("select count(distinct xmin::text) from votes") == 1
    assert await violations(database_url) == []


async def test_a_vote_on_a_comment_of_the_same_batch_is_counted(
    appender: Appender, writer: Writer, database_url: str
) -> None:
    post = await writer.post()
    _, cast, ended, late = await answers(
        appender,
        [
            post,
            writer.vote(post.event_id, -1),
            writer.delete(post.event_id),
            writer.vote(post.event_id, 1, by="cem"),
        ],
    )
    assert (cast.tally, ended.version) == (Tally(0, 1, -1), 3)
    assert isinstance(late, CommentNotOpen)
    assert await violations(database_url) == []


async def test_a_comment_of_another_thread_is_not_found(
    appender: Appender, writer: Writer, database_url: str
) -> None:
    here = (await appender.submit(await writer.post())).event_id
    await appender.submit(await Writer(writer.keyring, Place(key="elsewhere")).post())
    with pytest.raises(CommentNotFound):
        await appender.submit(vote(here, 1, place=Place(key="elsewhere")))
    assert await violations(database_url) == []


async def test_a_repeated_vote_writes_nothing_and_tells_the_votes_as_they_are_now(
    appender: Appender, writer: Writer, database_url: str
) -> None:
    comment = (await appender.submit(await writer.post())).event_id
    first = await appender.submit(writer.vote(comment, 1, idempotency=once("k")))
    await answers(appender, [writer.vote(comment, 1, by="cem"), writer.vote(comment, -1)])
    again = await appender.submit(writer.vote(comment, 1, idempotency=once("k")))
    assert (again.repeated, again.events, again.version, again.status) == (True, (), first.version, 200)
    assert again.tally == Tally(1, 1, -1)
    with pytest.raises(IdempotencyKeyReused):
        await appender.submit(writer.vote(comment, -1, idempotency=once("k", "another request")))
    assert await violations(database_url) == []


async def test_a_repeated_vote_on_what_was_erased_since_is_refused(
    appender: Appender, writer: Writer, database_url: str
) -> None:
    comment = (await appender.submit(await writer.post())).event_id
    await appender.submit(writer.vote(comment, 1, idempotency=once("k")))
    key = await writer.keyring.for_author("blog", "ann")
    await appender.submit(replace(erase(comment), key_id=key.key_id))
    with pytest.raises(CommentNotOpen, match="erased"):
        await appender.submit(writer.vote(comment, 1, idempotency=once("k")))
    assert await violations(database_url) == []


async def test_a_no_op_is_remembered_by_its_key(
    appender: Appender, writer: Writer, database_url: str
) -> None:
    comment = (await appender.submit(await writer.post())).event_id
    first = await appender.submit(writer.vote(comment, 0, idempotency=once("k")))
    await appender.submit(writer.vote(comment, 1))
    again = await appender.submit(writer.vote(comment, 0, idempotency=once("k")))
    assert (first.version, first.repeated, first.tally) == (1, False, Tally(0, 0, 0))
    assert (again.version, again.repeated, again.tally) == (1, True, Tally(1, 0, 1))
    assert await violations(database_url) == []


@pytest.mark.parametrize("value", [1, -1, 0])
async def test_nobody_votes_on_a_hidden_comment(
    appender: Appender, writer: Writer, database_url: str, value: Any
) -> None:
    await appender.submit(change_settings({"report_threshold": 1}))
    comment = (await appender.submit(await writer.post())).event_id
    await appender.submit(writer.vote(comment, 1))
    await appender.submit(await writer.report(comment))
    with pytest.raises(CommentNotOpen, match="hidden"):
        await appender.submit(writer.vote(comment, value))
    assert await violations(database_url) == []
