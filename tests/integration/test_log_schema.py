"""The log's tables: history refuses to be rewritten, partitions are kept, and no plan scans a table."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import orjson
import pytest

from services.errors import SchemaMismatch
from services.eventlog import migrate
from services.eventlog.queries import QUERIES
from services.eventlog.session import SESSION
from tests.databases import Databases

ROWS = 200_000


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def load(connection: asyncpg.Connection, rows: int) -> None:
    """Fill the tables as `rows` comments in threads of a hundred would, without the appender."""
    await connection.execute(
        """
        create temp table made as
        select n, md5('comment' || n)::uuid as comment_id, md5('stream' || n / 100)::uuid as stream_id,
            1 + n % 100 as version, 'u-' || n % 5000 as author_id,
            timestamptz '2026-01-01' + n * interval '1 s' as at
        from generate_series(0, $ROWS - 1) as n;
        insert into events
        select n + 1, 0, stream_id, version, comment_id, 'CommentPosted', 1, author_id, 'req', null, at,
            '{"text_mac":"0123456789abcdef0123456789abcdef"}', sha256(n::text::bytea), comment_id,
            sha256(n::text::bytea)
        from made;
        insert into streams select distinct on (stream_id) stream_id, 0, 'blog', n::text, 100, sha256('x'), at
        from made;
        insert into comments
        select comment_id, stream_id, version, 0, 0, author_id, comment_id, 'mac', 'visible', 1, at, null,
            null, version, version, 0, '', 0, 0, 'blog'
        from made;
        insert into reports select comment_id, author_id, stream_id, version from made where n % 4 = 0;
        insert into votes select comment_id, author_id, stream_id, 1, version from made where n % 4 = 0;
        insert into idempotency
        select sha256(n::text::bytea), sha256('r'), stream_id, comment_id, version, 201,
            now() - n % 20 * interval '1 day'
        from made where n % 2 = 0;
        insert into author_keys select comment_id, 'blog', n::text, 'wrapped' from made where n % 4 = 0;
        insert into notifications
        select 'blog', author_id, comment_id, comment_id, stream_id, comment_id, 'reply', 'u-1', at
        from made where n % 2 = 0;
        insert into subscriptions (stream_id, author_id, site, level)
        select stream_id, author_id, 'blog', case n % 3 when 0 then 'muted' else 'all' end from made;
        insert into preferences (site, author_id)
        select distinct 'blog', author_id from made;
        insert into contacts (site, author_id, source, key_id, sealed, address_mac)
        select distinct on (author_id) 'blog', author_id, 'token', comment_id, 'sealed'::bytea, 'mac'
        from made;
        insert into notifier_checkpoints select stream_id, 1 from streams;
        insert into participants
        select distinct on (stream_id, author_id) stream_id, sha256(author_id::bytea), author_id, version
        from made;
        insert into mentioned
        select comment_id, stream_id, version, array[author_id] from made where n % 2 = 0;
        insert into deliveries (
            delivery_id, site, channel, kind, recipient_id, endpoint_id, event_id, state, next_at, ended_at
        )
        select comment_id, 'blog', case when n % 2 = 0 then 'mail' else 'webhook' end, 'notification',
            case when n % 2 = 0 then author_id end, case when n % 2 = 1 then md5('e' || n % 97)::uuid end,
            comment_id, state, at, case when state <> 'pending' then at end
        from made, lateral (
            select case n / 2 % 100 when 0 then 'pending' when 1 then 'dead' else 'sent' end as state
        ) s;
        insert into snapshots select stream_id, 50, hash, 1, 'head' from streams;
        insert into snapshot_segments
        select stream_id, 50, kind, number, 'data'
        from streams, unnest('{mark,place}'::text[]) as kind, generate_series(0, 9) as number;
        drop table made;
        """.replace("$ROWS", str(rows))
    )


@pytest.fixture(scope="module")
def large_url(databases: Databases) -> Iterator[str]:
    """A database of 200,000 comments, analysed."""
    url = databases.create()

    async def fill() -> None:
        connection = await asyncpg.connect(url)
        try:
            await load(connection, ROWS)
            await connection.execute("analyze")
        finally:
            await connection.close()

    asyncio.run(fill())
    yield url
    databases.drop(url)


@pytest.fixture(scope="module")
def fresh_url(databases: Databases) -> Iterator[str]:
    """A database that holds nothing and was never analysed."""
    url = databases.create()
    yield url
    databases.drop(url)


# --- history is immutable --------------------------------------------------------------------------------


REWRITES = [
    "update {table} set data = data",
    "update {table} set hash = sha256('x') where version = 1",
    "delete from {table}",
    "truncate {table}",
]


@pytest.mark.parametrize("rewrite", REWRITES)
async def test_events_refuse_to_be_rewritten_on_every_partition(
    connection: asyncpg.Connection, rewrite: str
) -> None:
    await load(connection, 5_000)
    partitions = [
        row["name"]
        for row in await connection.fetch(
            "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'events'::regclass"
        )
    ]
    assert len(partitions) == 8
    for table in ("events", *partitions):
        assert await connection.fetchval(f"select count(*) from {table}") > 0
        with pytest.raises(asyncpg.RestrictViolationError, match="events are immutable"):
            await connection.execute(rewrite.format(table=table))
    assert await connection.fetchval("select count(*) from events") == 5_000


async def test_events_refuse_to_be_overwritten_by_an_upsert_or_a_merge(
    connection: asyncpg.Connection,
) -> None:
    await load(connection, 100)
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute(
            "insert into events select * from events on conflict (stream_id, version)"
            " do update set data = excluded.data"
        )
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute(
            "merge into events e using events n on e.stream_id = n.stream_id and e.version = n.version"
            " when matched then delete"
        )
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute("truncate events cascade")


async def test_a_place_in_a_stream_is_taken_once(connection: asyncpg.Connection) -> None:
    await load(connection, 100)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("insert into events select * from events where version = 7")


@pytest.mark.parametrize(
    "change", ["0 as version, hash", "version + 1000 as version, substr(hash, 1, 31) as hash"]
)
async def test_a_version_begins_at_1_and_a_hash_has_32_bytes(
    connection: asyncpg.Connection, change: str
) -> None:
    await load(connection, 100)
    rest = (
        "position, lane, stream_id, {} , event_id, type, schema_version, actor_id, correlation_id,"
        " causation_id, recorded_at, data, sealed, key_id"
    )
    version, hash_ = [part.strip() for part in change.split(",", 1)]
    columns = f"{rest.format(version)}, {hash_}"
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(f"insert into events select {columns} from events limit 1")


# --- plans -----------------------------------------------------------------------------------------------


LARGE = {
    "events",
    "comments",
    "streams",
    "reports",
    "votes",
    "idempotency",
    "author_keys",
    "site_author_keys",
    "thread_author_keys",
    "standing_of_keys",
    "notifications",
    "snapshots",
    "snapshot_segments",
    "participants",
    "mentioned",
    "subscriptions",
    "preferences",
    "contacts",
    "deliveries",
}
"""What must never be scanned from end to end. The others hold a row for each lane or site."""

PLANNED = [
    "load",
    "append",
    "event_at",
    "events_after",
    "votes_lately",
    "comment_state",
    "tell_followers",
    "own_deliveries",
    "forget_deliveries",
    "events_at",
    "events_by_position",
    "site_events_by_position",
    "hashes_at",
    "first_of",
    "stream_ends",
    "head",
    "heads",
    "threads",
    "comment_key",
    "stream_end",
    "streams_state",
    "stream_ends_in_log",
    "followers",
    "version_by_position",
    "untold",
    "snapshotted",
    "threads_since",
    "positions_after",
    "comments_state",
    "reports_state",
    "votes_state",
    "text_versions",
    "author_key",
    "author_keys",
    "wrapped_author_keys",
    "rewrap_author_keys",
    "notifier_checkpoint",
    "notifiable",
    "standings",
    "notified",
    "ancestors_who_ask",
    "bearers",
    "mentioned_in",
    "untold_of",
    "follow_on_post",
    "followers_to_tell",
    "wishes",
    "keep_bearers",
    "keep_mentioned",
    "end_names",
    "bearers_kept",
    "mentioned_kept",
    "reset_names",
    "inbox_all",
    "inbox_unread",
    "inbox_read",
    "unread",
    "inbox_since",
    "inbox_news",
    "mark_read",
    "mark_read_through",
    "followed",
    "letters_of",
    "discarded_letters",
    "comments_to_erase",
    "erased_comments",
    "finish_erasure",
    "streams_under_key",
    "living_keys_among",
    "empty_inbox",
    "own_comments",
    "own_reports",
    "own_votes",
    "subscribe",
    "unsubscribe",
    "subscriptions_of",
    "preferences",
    "prefer",
    "keep_contacts",
    "takes_addresses",
    "contacts",
    "remove_contact",
    "confirm_contact",
    "refuse_contact",
    "forget_contacts",
    "enter_mail",
    "enter_confirmation",
    "take_notification",
    "take_digest",
    "digest",
    "to_be_shown",
    "forget_preferences",
    "forget_subscriptions",
    "forget_untold",
    "visible_counts",
    "newest_of_site",
    "newest_of_thread",
    "newest_of_person",
    "own_in_thread",
    "steps_after",
    "ids_at",
    "comment_version",
    "comment_states",
    "version_at",
    "long_threads",
    "snapshot_at",
    "snapshot_versions",
    "segments_at",
    "segments_of",
    "remove_snapshots",
    "remove_older_snapshots",
    "remove_snapshots_of",
    "logged_streams",
    "events_of",
    "in_log",
    "streams_kept",
    "comments_kept",
    "reports_kept",
    "votes_kept",
    "repair_notified",
    "repair_lane",
    "told_of",
    "standing_of_keys",
    "claim_first",
    "claim_digests",
    "fanouts_left",
    "fanouts_waiting",
    "claim_webhooks",
    "end_delivery",
    "put_off_delivery",
    "leave_delivery",
    "delivery",
    "retry_delivery",
    "retry_dead_deliveries",
    "deliveries_standing",
    "bury_deliveries",
    "remove_old_deliveries",
    "webhook",
]

APPENDER = {"load", "append", "event_at"}
"""Planned once for each connection, as the appender sets it."""

FRESH = [
    name
    for name in PLANNED
    if name not in ("heads", "threads", "comments_state", "standings", "comment_states", "stream_ends")
    and name not in ("logged_streams", "streams_kept", "comments_kept", "repair_notified")
    and name not in ("inbox_since", "inbox_news", "keep_contacts", "takes_addresses", "end_names")
    and name not in ("bury_deliveries", "retry_dead_deliveries", "remove_old_deliveries")
]
"""These read ten pages at most of a table that holds nothing yet, and are planned anew once it does."""


PLAN_OF = """
create or replace function pg_temp.plan_of(statement text) returns json language plpgsql as $$
declare
    plan json;
begin
    execute 'explain (generic_plan, format json) ' || statement into plan;
    return plan;
end
$$
"""


async def nodes(connection: asyncpg.Connection, name: str) -> list[dict[str, Any]]:
    """The nodes of a statement's generic plan."""
    if name in APPENDER:
        for setting in ("jit", "plan_cache_mode", *(name for name in SESSION if name.startswith("enable_"))):
            await connection.execute(f"set {setting} = {SESSION[setting]}")
    # Through a function, since a driver that sends parameters would have to be given some.
    await connection.execute(PLAN_OF)
    stored = await connection.fetchval("select pg_temp.plan_of($1)", QUERIES[name])
    found: list[dict[str, Any]] = [orjson.loads(stored)[0]["Plan"]]
    for node in found:
        found.extend(node.get("Plans", []))
    return found


async def scans(connection: asyncpg.Connection, name: str) -> set[str]:
    """The large tables that the generic plan of a statement reads from end to end."""
    found: set[str] = set()
    for node in await nodes(connection, name):
        table = re.sub(r"_(p\d+|\d{8}|later)$", "", node.get("Relation Name", ""))
        whole = node["Node Type"] == "Seq Scan" or (
            node["Node Type"] in ("Index Scan", "Index Only Scan") and "Index Cond" not in node
        )
        if whole and table in LARGE:
            found.add(f"{node['Node Type']} on {node['Relation Name']}")
        if node["Node Type"] == "Bitmap Index Scan" and "Index Cond" not in node:
            found.add(f"all of {node['Index Name']}")
    return found


def test_every_statement_of_a_large_table_is_planned() -> None:
    # These run once for a batch of work by an operator, or touch one row by its primary key.
    unplanned = {
        "repair_stream",
        "repair_comment",
        "repair_report",
        "repair_vote",
        "insert_author_key",
        "adopt_author_keys",
        "insert_notifications",
        "insert_snapshot",
        "insert_segments",
    }
    # The site's stream comes with the list of sites; the sweeper's window is planned with its bounds known.
    unplanned |= {"sites", "site", "sweep_window", "names_of", "newest_author_keys"}
    unplanned |= {"event_counts", "stream_counts", "site_size", "count_wrapped"}
    unplanned |= {"site_author_keys", "thread_author_keys"}
    # These look at every row, once for a verify or a replay of everything.
    unplanned |= {"stray_comments", "stray_reports", "remove_stray_comments", "remove_stray_reports"}
    unplanned |= {"stray_votes", "remove_stray_votes"}
    unplanned |= {"stray_bearers", "stray_mentioned", "remove_stray_names"}
    unplanned |= {"stray_streams", "stray_checkpoints", "stray_snapshots", "stray_letters"}
    unplanned |= {"replay_size", "replay_failures"}
    unplanned |= {"remove_stray_letters", "remove_stray_snapshots"}
    unplanned |= {"remove_stray_streams", "remove_stray_checkpoints"}
    unplanned |= {"stray_notifications", "unlisted_streams", "unerased", "lane_ends", "thread_count"}
    # These only enter what somebody is to be sent, or list it for an operator.
    unplanned |= {"enter_webhooks", "switch_endpoint_off", "listed_deliveries"}
    reads = re.compile(rf"\b(?:from|join|update|into)\s+({'|'.join(LARGE)})\b")
    large = {name for name, text in QUERIES.items() if reads.search(text)}
    assert large - unplanned <= set(PLANNED)


@pytest.mark.parametrize("name", FRESH)
async def test_no_statement_scans_a_fresh_table(fresh_url: str, name: str) -> None:
    connection = await asyncpg.connect(fresh_url)
    try:
        assert await scans(connection, name) == set()
    finally:
        await connection.close()


@pytest.mark.parametrize("name", sorted(APPENDER))
async def test_no_statement_of_the_appender_scans_a_table_that_was_known_to_be_empty(
    databases: Databases, name: str
) -> None:
    connection = await asyncpg.connect(await asyncio.to_thread(databases.create))
    try:
        await connection.execute("vacuum analyze")
        assert await scans(connection, name) == set()
        used = {node["Index Name"] for node in await nodes(connection, name) if "Index Name" in node}
        # They would be skipped through by all that is between what is known and what is looked for.
        assert not used & {"comments_by_key", "votes_by_voter_in_thread", "reports_by_reporter_in_thread"}
    finally:
        await connection.close()


@pytest.mark.parametrize("name", PLANNED)
async def test_no_statement_scans_a_large_table(large_url: str, name: str) -> None:
    connection = await asyncpg.connect(large_url)
    try:
        assert await scans(connection, name) == set()
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("newest_of_site", "comments_newest"),
        ("newest_of_person", "comments_by_key"),
        ("own_in_thread", "comments_held"),
        ("own_in_thread", "votes_by_voter_in_thread"),
        ("own_in_thread", "reports_by_reporter_in_thread"),
    ],
)
async def test_the_newest_are_read_from_the_end_of_an_index(large_url: str, name: str, index: str) -> None:
    connection = await asyncpg.connect(large_url)
    try:
        found = await nodes(connection, name)
        assert index in {node.get("Index Name") for node in found}
        if index != "comments_held":  # which holds few, and is in no order
            sorts = [node for node in found if "Sort" in node["Node Type"]]
            assert not [node for node in sorts if node.get("Plans", [{}])[0].get("Index Name") == index]
    finally:
        await connection.close()


async def test_a_scan_would_be_seen(large_url: str) -> None:
    connection = await asyncpg.connect(large_url)
    try:
        await connection.execute("set enable_indexscan = off")
        await connection.execute("set enable_indexonlyscan = off")
        await connection.execute("set enable_bitmapscan = off")
        assert await scans(connection, "heads") == {"Seq Scan on streams"}
        assert await scans(connection, "standings") == {"Seq Scan on comments"}
    finally:
        await connection.close()


# --- migrations and partitions ---------------------------------------------------------------------------


async def test_migrating_twice_applies_nothing_and_keeps_the_lanes(databases: Databases) -> None:
    url = await asyncio.to_thread(databases.create_empty)
    assert await migrate.migrate(url, lanes=2) == migrate.known()
    assert await migrate.migrate(url, lanes=5) == []
    connection = await asyncpg.connect(url)
    try:
        assert await migrate.check(connection) == 2
        lanes = await connection.fetch("select lane, head from lanes order by lane")
        assert [tuple(row) for row in lanes] == [(0, 0), (1, 0)]
    finally:
        await connection.close()


async def test_two_hosts_that_migrate_at_once_do_it_once(databases: Databases) -> None:
    url = await asyncio.to_thread(databases.create_empty)
    applied = await asyncio.gather(*(migrate.migrate(url) for _ in range(3)))
    assert sorted(applied, key=len) == [[], [], migrate.known()]


async def test_a_database_without_the_schema_is_refused(databases: Databases) -> None:
    connection = await asyncpg.connect(await asyncio.to_thread(databases.create_empty))
    try:
        with pytest.raises(SchemaMismatch, match="threadlog migrate"):
            await migrate.check(connection)
    finally:
        await connection.close()


async def test_idempotency_partitions_are_made_ahead_and_dropped_after_30_days(
    connection: asyncpg.Connection,
) -> None:
    async def partitions() -> list[str]:
        rows = await connection.fetch(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'idempotency'::regclass"
        )
        return sorted(row[0] for row in rows)

    for at in ("2030-01-09", "2030-01-09", "2030-01-13"):
        await connection.execute("select ensure_partitions($1::text::timestamptz)", at)
    made = await partitions()
    assert "idempotency_later" in made
    assert [name for name in made if name.startswith("idempotency_20300")] == [
        "idempotency_20300107",
        "idempotency_20300114",
        "idempotency_20300121",
    ]
    assert not [name for name in made if name < "idempotency_2029"]
    await connection.execute("select ensure_partitions(timestamptz '2030-02-13')")  # 30 days after the 14th
    assert "idempotency_20300107" in await partitions()
    await connection.execute("select ensure_partitions(timestamptz '2030-02-14')")
    assert "idempotency_20300107" not in await partitions()
    assert "idempotency_20300114" in await partitions()


_KEEP = """
insert into idempotency
select sha256(key::bytea), 'r', gen_random_uuid(), gen_random_uuid(), 1, 201, $2::text::timestamptz
from unnest($1::text[]) as key
"""


async def kept(connection: asyncpg.Connection) -> list[tuple[str, int]]:
    """How many rows each partition holds."""
    rows = await connection.fetch(
        "select tableoid::regclass::text, count(*) from idempotency group by 1 order by 1"
    )
    return [(name, count) for name, count in rows]


async def test_keys_kept_while_their_week_had_no_partition_are_moved_into_it(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(_KEEP, ["a", "b"], "2030-01-09 12:00Z")
    await connection.execute(_KEEP, ["c"], "2030-01-14 00:00Z")
    await connection.execute(_KEEP, ["d"], "2030-03-01 00:00Z")
    assert await kept(connection) == [("idempotency_later", 4)]
    for _ in range(2):
        await connection.execute("select ensure_partitions(timestamptz '2030-01-10')")
        assert await kept(connection) == [
            ("idempotency_20300107", 2),
            ("idempotency_20300114", 1),
            ("idempotency_later", 1),
        ]
    found = await connection.fetchval(
        "select indexname from pg_indexes where tablename = 'idempotency_20300107'"
    )
    assert found == "idempotency_20300107_key_mac_idx"


async def test_keys_that_never_got_a_partition_are_forgotten_after_30_days(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(_KEEP, ["a"], "2029-11-01 00:00Z")
    await connection.execute(_KEEP, ["b"], "2029-12-20 00:00Z")
    await connection.execute("select ensure_partitions(timestamptz '2030-01-10')")
    assert await kept(connection) == [("idempotency_later", 1)]


async def test_partitions_are_weeks_of_utc_whatever_the_sessions_time_zone(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("set timezone = 'Europe/Berlin'")
    # The clocks change on 31 March.
    await connection.execute("select ensure_partitions(timestamptz '2030-03-27')")
    await connection.execute(_KEEP, ["a"], "2030-03-31 23:59:59Z")
    await connection.execute(_KEEP, ["b"], "2030-04-01 00:00Z")
    assert await kept(connection) == [("idempotency_20300325", 1), ("idempotency_20300401", 1)]


async def test_making_partitions_does_not_keep_writers_waiting_behind_a_long_reader(
    connection: asyncpg.Connection, database_url: str
) -> None:
    reader = await asyncpg.connect(database_url)
    try:
        async with reader.transaction():
            await reader.fetch("select * from idempotency")
            await connection.execute("select ensure_partitions(now())")  # all are there: nobody is in the way
            with pytest.raises(asyncpg.LockNotAvailableError):
                await connection.execute("select ensure_partitions(timestamptz '2030-01-10')")
        await connection.execute("select ensure_partitions(timestamptz '2030-01-10')")
    finally:
        await reader.close()


async def test_migrating_goes_on_where_a_partition_cannot_be_made_now(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        last = await connection.fetchval(
            "select max(inhrelid::regclass::text) from pg_inherits"
            " where inhparent = 'idempotency'::regclass and inhrelid::regclass::text ~ '[0-9]{8}$'"
        )
        await connection.execute(f"drop table {last}")
        async with connection.transaction():
            await connection.fetch("select * from idempotency")
            assert await migrate.migrate(database_url) == []
        assert await migrate.migrate(database_url) == []
        assert await connection.fetchval("select to_regclass($1) is not null", last)
    finally:
        await connection.close()
