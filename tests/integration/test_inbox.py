"""Inboxes on a real Postgres."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from services.eventlog.inbox import Inbox, Notification
from services.eventlog.queries import QUERIES
from services.workers.notifier import Notifier
from tests.writer import SITE, stream_of, writer

Pool: TypeAlias = "asyncpg.Pool[Any]"


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A thread of ann's in which bob replied five times, of which ann was told."""
    async with writer(database_url) as log:
        root = await log.post("t", "ann")
        for _ in range(5):
            await log.post("t", "bob", root.event_id)
        await Notifier(log.pool, log.keyring).notify(stream_of("t"))
        yield log.pool


async def everything(inbox: Inbox) -> list[Notification]:
    return await inbox.page(SITE, "ann", "all", None, 100)


async def test_an_inbox_is_paged_newest_first(pool: Pool) -> None:
    inbox = Inbox(pool)
    whole = await everything(inbox)
    assert [one.id for one in whole] == sorted((one.id for one in whole), reverse=True)
    rows = await pool.fetch("select event_id from events where type = 'ReplyPosted' order by version desc")
    assert [one.event_id for one in whole] == [row["event_id"] for row in rows]
    first = await inbox.page(SITE, "ann", "all", None, 2)
    second = await inbox.page(SITE, "ann", "all", first[-1].id, 2)
    third = await inbox.page(SITE, "ann", "all", second[-1].id, 2)
    assert first + second + third == whole


async def test_a_notification_says_who_did_what_where(pool: Pool) -> None:
    one = (await everything(Inbox(pool)))[0]
    assert (one.reason, one.actor_id, one.key, one.title, one.url, one.stream_id) == (
        "reply",
        "bob",
        "t",
        None,
        None,
        stream_of("t"),
    )
    assert one.comment_id == one.event_id


async def test_an_inbox_is_of_one_person_on_one_site(pool: Pool) -> None:
    inbox = Inbox(pool)
    assert await inbox.page(SITE, "bob", "all", None, 100) == []
    assert await inbox.page("other", "ann", "all", None, 100) == []
    assert await inbox.unread("other", "ann") == 0


async def test_what_was_read_moves_from_unread_to_read(pool: Pool) -> None:
    inbox = Inbox(pool)
    whole = await everything(inbox)
    chosen = {whole[1].id, whole[3].id}
    await inbox.mark_read(SITE, "ann", [*chosen, UUID(int=5)])
    assert {one.id for one in await inbox.page(SITE, "ann", "read", None, 100)} == chosen
    assert [one.id for one in await inbox.page(SITE, "ann", "unread", None, 100)] == [
        one.id for one in whole if one.id not in chosen
    ]
    assert await inbox.unread(SITE, "ann") == 3
    assert [one.id for one in await everything(inbox) if one.read] == [whole[1].id, whole[3].id]


async def test_reading_through_one_takes_it_and_all_older_ones(pool: Pool) -> None:
    inbox = Inbox(pool)
    whole = await everything(inbox)
    await inbox.mark_read(SITE, "ann", whole[2].id)
    assert [one.read for one in await everything(inbox)] == [False, False, True, True, True]


async def test_nobody_reads_for_others(pool: Pool) -> None:
    inbox = Inbox(pool)
    whole = await everything(inbox)
    await inbox.mark_read(SITE, "bob", [one.id for one in whole])
    await inbox.mark_read("other", "ann", whole[0].id)
    assert await inbox.unread(SITE, "ann") == 5


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("inbox_all", 4),
        ("inbox_unread", 4),
        ("inbox_read", 4),
        ("unread", 3),
        ("mark_read", 3),
        ("mark_read_through", 4),
    ],
)
@pytest.mark.parametrize("analysed", [False, True])
async def test_an_inbox_is_found_by_an_index(pool: Pool, query: str, arguments: int, analysed: bool) -> None:
    await pool.execute(
        "insert into notifications select site, 'person-' || n % 50, gen_random_uuid(), gen_random_uuid(), "
        "stream_id, comment_id, reason, actor_id, created_at from notifications, generate_series(1, 2000) n"
    )
    if analysed:
        await pool.execute("analyze notifications")
    bound = [UUID(int=1 << 127)] if query == "mark_read" else UUID(int=1 << 127)
    given = [SITE, "ann", 10 if query == "unread" else bound, 10][:arguments]
    async with pool.acquire() as connection:
        await connection.execute("set plan_cache_mode = force_generic_plan")
        raw = await connection.fetchval(f"explain (format json) {QUERIES[query]}", *given)
    scans = {
        node["Node Type"]
        for node in nodes(json.loads(raw)[0]["Plan"])
        if node.get("Relation Name", "").startswith("notifications")
    } - {"ModifyTable"}
    assert scans <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
    assert scans


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for below in plan.get("Plans", []) for node in nodes(below))]


async def test_a_large_inbox_is_counted_up_to_a_bound_and_read_in_slices(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(pool)
    monkeypatch.setattr("services.eventlog.inbox.UNREAD", 3)
    assert await inbox.unread(SITE, "ann") == 3
    monkeypatch.setattr("services.eventlog.inbox._SLICE", 2)
    whole = await everything(inbox)
    await inbox.mark_read(SITE, "ann", whole[1].id)
    assert [one.read for one in await everything(inbox)] == [False, True, True, True, True]
    assert await inbox.unread(SITE, "ann") == 1
