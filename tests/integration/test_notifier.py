"""The notifier against a real log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from services.core.addresses import site_stream_id
from services.errors import PoisonEvent, UnknownEventType
from services.workers.notifier import Notifier
from tests.writer import SITE, Writer, stream_of, writer

THREAD = stream_of("t")


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Writer]:
    async with writer(database_url) as opened:
        yield opened


async def told(log: Writer) -> list[tuple[str, UUID]]:
    rows = await log.pool.fetch("select recipient_id, event_id from notifications order by notification_id")
    return [(row["recipient_id"], row["event_id"]) for row in rows]


async def checkpoint(log: Writer) -> int:
    return int(
        await log.pool.fetchval("select version from notifier_checkpoints where stream_id = $1", THREAD) or 0
    )


async def test_a_reply_is_told_to_its_parents_author_once(log: Writer) -> None:
    root = await log.post("t", "ann")
    reply = await log.post("t", "bob", root.event_id)
    own = await log.post("t", "ann", root.event_id)
    notifier = Notifier(log.pool, log.keyring)
    assert await notifier.notify(THREAD) == 1
    assert await notifier.notify(THREAD) == 0
    assert await told(log) == [("ann", reply.event_id)]
    assert await checkpoint(log) == own.version
    row = await log.pool.fetchrow("select * from notifications")
    assert row is not None
    assert (
        row["site"],
        row["stream_id"],
        row["comment_id"],
        row["reason"],
        row["actor_id"],
        row["read_at"],
    ) == (
        SITE,
        THREAD,
        reply.event_id,
        "reply",
        "bob",
        None,
    )


async def test_many_notifiers_at_once_tell_each_reply_once(log: Writer, database_url: str) -> None:
    root = await log.post("t", "ann")
    replies = [(await log.post("t", "bob", root.event_id)).event_id for _ in range(40)]
    async with asyncpg.create_pool(database_url, min_size=6, max_size=6) as pool:
        written = await asyncio.gather(
            *(Notifier(pool, log.keyring, page=7).notify(THREAD) for _ in range(6))
        )
    assert sum(written) == len(replies)
    assert await told(log) == [("ann", reply) for reply in replies]
    assert await checkpoint(log) == 41


async def test_two_notifiers_meet_on_a_thread_that_none_has_seen(log: Writer, database_url: str) -> None:
    root = await log.post("t", "ann")
    await log.post("t", "bob", root.event_id)
    async with asyncpg.create_pool(database_url, min_size=2, max_size=2) as pool:
        for _ in range(10):
            await pool.execute("truncate notifier_checkpoints, notifications")
            written = await asyncio.gather(*(Notifier(pool, log.keyring).notify(THREAD) for _ in range(2)))
            assert sorted(written) == [0, 1]


async def test_a_notifier_that_died_in_mid_page_has_told_and_skipped_nothing(log: Writer) -> None:
    root = await log.post("t", "ann")
    await log.post("t", "bob", root.event_id)
    await log.pool.execute(
        "alter table notifier_checkpoints add constraint fails check (version = 0) not valid"
    )
    with pytest.raises(asyncpg.CheckViolationError):
        await Notifier(log.pool, log.keyring).notify(THREAD)
    assert await told(log) == []
    await log.pool.execute("alter table notifier_checkpoints drop constraint fails")
    assert await Notifier(log.pool, log.keyring).notify(THREAD) == 1


async def test_a_reply_removed_before_its_parents_author_was_told_is_not_told(log: Writer) -> None:
    root = await log.post("t", "ann")
    reply = await log.post("t", "bob", root.event_id)
    removed = await log.remove("t", reply.event_id)
    assert await Notifier(log.pool, log.keyring).notify(THREAD) == 1
    assert await told(log) == [("bob", removed.event_id)]  # whose it was
    assert await checkpoint(log) == removed.version


async def test_an_import_is_silent(log: Writer) -> None:
    root = await log.post("t", "ann")
    await log.post("t", "bob", root.event_id, imported=True)
    assert await Notifier(log.pool, log.keyring).notify(THREAD) == 0


async def test_an_event_of_a_newer_release_is_waited_for(log: Writer) -> None:
    root = await log.post("t", "ann")
    before = await log.post("t", "bob", root.event_id)
    await log.put("t", "CommentApplauded", {})
    await log.post("t", "cleo", root.event_id)
    for _ in range(2):
        with pytest.raises(UnknownEventType):
            await Notifier(log.pool, log.keyring).notify(THREAD)
    assert await told(log) == [("ann", before.event_id)]
    assert await checkpoint(log) == before.version


async def test_a_reply_that_cannot_be_read_ends_the_telling_there(log: Writer) -> None:
    root = await log.post("t", "ann")
    before = await log.post("t", "bob", root.event_id)
    version = await log.put("t", "ReplyPosted", {"parent_id": "nobody"})
    with pytest.raises(PoisonEvent) as caught:
        await Notifier(log.pool, log.keyring).notify(THREAD)
    assert caught.value.version == version
    assert await told(log) == [("ann", before.event_id)]


async def test_a_sites_stream_and_an_unknown_one_tell_nobody(log: Writer) -> None:
    assert await Notifier(log.pool, log.keyring).notify(site_stream_id(SITE)) == 0
    assert await Notifier(log.pool, log.keyring).notify(THREAD) == 0
    assert await checkpoint(log) == 0
