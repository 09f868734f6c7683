"""Migration 0006: comments that were there before it, and those that an older release writes beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pogo_core.migration import read_sql_migration

from services.eventlog import migrate
from services.eventlog.migrate import MIGRATIONS
from tests.databases import Databases

COMMENTS = """
insert into comments (
    comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision, created_at,
    version, text_version, path
)
select md5('c' || n)::uuid, md5('s' || n % 7)::uuid, n, 0, 0, 'ann', null, '', 'visible', 1, now(), n, n, ''
from generate_series($1::int, $2::int) as n
"""
STREAMS = """
insert into streams (stream_id, lane, site, key, version, hash, recorded_at)
select md5('s' || n)::uuid, 0, 'site-' || n, 'k', 1, sha256('x'), now() from generate_series(0, 6) as n
"""
"""As the release before writes them: without their site."""

NEWEST = MIGRATIONS / "0006_newest.sql"

_WRONG = """
select count(*) from comments c join streams s using (stream_id) where c.site is distinct from s.site
"""


async def apply(connection: asyncpg.Connection, name: str) -> None:
    _, _, applying, _, transaction, _, _ = read_sql_migration(MIGRATIONS / f"{name}.sql")
    if transaction:
        async with connection.transaction():
            await applying(connection)
    else:
        await applying(connection)


@pytest.fixture
async def before_url(databases: Databases) -> AsyncIterator[str]:
    """A database as the release before left it, with 5,000 comments of seven sites."""
    url = await asyncio.to_thread(databases.create_empty)
    connection = await asyncpg.connect(url)
    for name in migrate.known():
        if name < "0006":
            await apply(connection, name)
    await connection.execute(STREAMS)
    await connection.execute(COMMENTS, 1, 5000)
    await connection.close()
    yield url
    await asyncio.to_thread(databases.drop, url)


async def test_every_comment_that_was_there_is_given_its_site(before_url: str) -> None:
    connection = await asyncpg.connect(before_url)
    await apply(connection, "0006_newest")
    assert await connection.fetchval("select count(*) from comments where site is null") == 0
    assert await connection.fetchval(_WRONG) == 0
    await connection.close()


async def test_it_may_be_applied_again_where_it_was_cut_off(before_url: str) -> None:
    connection = await asyncpg.connect(before_url)
    await apply(connection, "0006_newest")
    await connection.execute("update comments set site = null where posted % 2 = 0")
    await apply(connection, "0006_newest")
    assert await connection.fetchval("select count(*) from comments where site is null") == 0
    await connection.close()


async def test_a_writer_and_the_backfill_do_not_wait_for_each_other(before_url: str) -> None:
    connection, writer = await asyncpg.connect(before_url), await asyncpg.connect(before_url)
    *_, statements, _ = read_sql_migration(NEWEST)
    place = next(number for number, statement in enumerate(statements) if "do $$" in statement)
    for statement in statements[:place]:
        await connection.execute(statement)
    held = writer.transaction()
    await held.start()
    ends = await writer.fetchrow("select min(comment_id::text), max(comment_id::text) from comments")
    assert ends is not None
    first, last = ends
    lock = "update comments set revision = 2 where comment_id = $1::text::uuid"
    await writer.execute(lock, last)
    await writer.execute("set local lock_timeout = '3s'")
    await writer.execute(lock, first)
    applying = asyncio.create_task(connection.execute(statements[place]))
    async with asyncio.timeout(30):
        while await writer.fetchval("select count(*) from comments where site is null") > 5000 - 1999:
            await asyncio.sleep(0.01)
    # All of the first slice but the held row is done and committed: an appender may change any of it.
    await writer.execute(
        "update comments set revision = 3 where comment_id in "
        "(select comment_id from comments order by comment_id limit 2000)"
    )
    assert not applying.done()
    await held.commit()
    async with asyncio.timeout(30):
        await applying
    assert await connection.fetchval("select count(*) from comments where site is null") == 0
    assert await connection.fetchval(_WRONG) == 0
    await connection.close()
    await writer.close()


async def test_what_an_older_release_writes_is_given_its_site_in_the_same_statement(
    database_url: str,
) -> None:
    connection = await asyncpg.connect(database_url)
    # In one statement, the comments first: as the append does it for a thread's first comment.
    await connection.execute(f"with new_comments as ({COMMENTS}), opened as ({STREAMS}) select 1", 1, 20)
    assert await connection.fetchval("select count(*) from comments") == 20
    assert await connection.fetchval(_WRONG) == 0
    await connection.close()
