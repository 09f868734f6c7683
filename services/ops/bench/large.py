"""A log of millions of events, comments and idempotency keys, beside an empty one.

It is filled by SQL, since through the appender it would take the better part of an hour: threads that grew
side by side over a month, each author under a key of their own, ids and MACs as random as real ones. Texts do
not open and hashes do not verify; nothing that appends to these threads looks at either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.core.addresses import thread_stream_id
from services.ops.bench.rounds import Case, Figures, interleaved, ratio, warm_up
from services.ops.bench.servers import SITE, Servers
from services.ops.output import Progress

AUTHORS: Final = 500_000
"""Authors of a large log, a tenth of the events at most."""
_DAYS: Final = 29
_CHUNK: Final = 100_000
_SEALED: Final = 1 << 20
_PARENTS: Final = 200
"""Comments of each thread that are replied to."""

_ID: Final = """
    create function pg_temp.id_of(i bigint, began timestamptz, step interval) returns uuid language sql as $$
        select (
            lpad(to_hex((extract(epoch from began + i * step) * 1000)::bigint), 12, '0')
            || '7' || substr(md5('c' || i), 1, 3) || '8' || substr(md5('c' || i), 4, 15)
        )::uuid
    $$
"""
"""The UUIDv7 of comment number i."""

_EVENTS: Final = """
    insert into events (
        position, lane, stream_id, version, event_id, type, schema_version, actor_id, correlation_id,
        causation_id, recorded_at, data, sealed, key_id, hash
    )
    select i + 1, 0, ($3::uuid[])[i % $4 + 1], i / $4 + 1, id,
        case when reply then 'ReplyPosted' else 'CommentPosted' end, 1, 'a-' || author, md5('r' || i), null,
        $5::timestamptz + i * $6::interval,
        convert_to(
            case when reply
                then format(
                    '{"depth":1,"parent":%s,"parent_id":"%s","text_mac":"%s"}', i / $4, parent, md5('t' || i)
                )
                else format('{"text_mac":"%s"}', md5('t' || i))
            end,
            'UTF8'
        ),
        substr($8::bytea, 1 + (i * 331 % 1000000)::int, 150 + (i * 7919 % 400)::int),
        md5('k' || author)::uuid,
        substr($8::bytea, 1 + (i * 577 % 1000000)::int, 32)
    from generate_series($1::bigint, $2::bigint - 1) as i
    cross join lateral (
        select i / $4 % 2 = 1 as reply, i * 7919 % $7::bigint as author,
            pg_temp.id_of(i, $5, $6) as id, pg_temp.id_of(i - $4, $5, $6) as parent
    ) as made
"""
_COMMENTS: Final = """
    insert into comments (
        comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision,
        created_at, edited_at, edited_by, version, text_version, report_weight, path, site
    )
    select id, ($3::uuid[])[i % $4 + 1], i / $4 + 1, case when reply then i / $4 else 0 end, reply::int,
        'a-' || author, md5('k' || author)::uuid, md5('t' || i), 'visible', 1,
        $5::timestamptz + i * $6::interval, null, null, i / $4 + 1, i / $4 + 1, 0,
        case when reply then uuid_send(parent) else ''::bytea end, $8
    from generate_series($1::bigint, $2::bigint - 1) as i
    cross join lateral (
        select i / $4 % 2 = 1 as reply, i * 7919 % $7::bigint as author,
            pg_temp.id_of(i, $5, $6) as id, pg_temp.id_of(i - $4, $5, $6) as parent
    ) as made
"""
_REPEATS: Final = """
    insert into idempotency (key_mac, request_mac, stream_id, event_id, version, status, recorded_at)
    select sha256(int8send(i)), substr($7::bytea, 1 + (i * 577 % 1000000)::int, 32), ($3::uuid[])[i % $4 + 1],
        pg_temp.id_of(i, $5, $6), i / $4 + 1, 201, $5::timestamptz + i * $6::interval
    from generate_series($1::bigint, $2::bigint - 1) as i
"""
_KEYS: Final = """
    insert into author_keys (key_id, site, author_id, wrapped)
    select md5('k' || author)::uuid, $1, 'a-' || author,
        substr($3::bytea, 1 + (author * 61 % 1000000)::int, 60)
    from generate_series(0, $2::bigint - 1) as author
"""
_STREAMS: Final = """
    insert into streams (stream_id, lane, site, key, version, hash, recorded_at, visible)
    select stream_id, 0, $2, key, version, substr($6::bytea, 1, 32), $5, version
    from unnest($1::uuid[], $3::text[], $4::bigint[]) as s (stream_id, key, version)
"""
_INDEXES: Final = """
    select c.relname as name, pg_get_indexdef(i.indexrelid) as definition
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where i.indrelid = any ('{comments, idempotency}'::regclass[]) and not i.indisunique
"""

_WHILE_FILLING: Final = (
    "alter system set max_wal_size = '16GB'",
    "alter system set checkpoint_timeout = '1h'",
    "alter system set maintenance_work_mem = '512MB'",
    "select pg_reload_conf()",
)
_NO_VACUUM: Final = ("alter system set autovacuum = off", "select pg_reload_conf()")
"""Else it would make the statistics that are meant to be missing."""
_AS_BEFORE: Final = (
    "alter system reset max_wal_size",
    "alter system reset checkpoint_timeout",
    "alter system reset maintenance_work_mem",
    "select pg_reload_conf()",
)


def measure(
    servers: Servers, events: int, *, connections: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """The rates on a log of `events` events and on an empty one: statistics missing, then fresh."""
    asyncio.run(servers.execute(*_NO_VACUUM))
    try:
        large = servers.database()
        began = time.monotonic()
        filled = asyncio.run(fill(servers, large, events))
        report: dict[str, Any] = {
            "connections": connections,
            "events": events,
            "authors": filled.authors,
            "fill_seconds": time.monotonic() - began,
            "bytes": asyncio.run(_size(large)),
            "statistics": {},
        }
        for name in ("missing", "fresh"):
            if name == "fresh":
                asyncio.run(_on(large, "analyze"))
            # Both start behind a checkpoint, and with as little in the servers' own caches.
            asyncio.run(servers.execute("checkpoint"))
            report["statistics"][name] = _beside_empty(
                servers, large, filled.parents, connections, rounds, seconds, analyse=name == "fresh"
            )
        servers.drop(large)
    finally:
        asyncio.run(servers.execute("alter system reset autovacuum", "select pg_reload_conf()"))
    return report


def _beside_empty(
    servers: Servers,
    large: str,
    parents: list[list[str]],
    connections: int,
    rounds: int,
    seconds: float,
    *,
    analyse: bool,
) -> dict[str, Any]:
    empty = servers.database()
    if analyse:
        asyncio.run(_on(empty, "analyze"))
    with servers.part() as stack:
        cases = []
        for name, url, there in (("empty", empty, None), ("large", large, parents)):
            subject = servers.api(stack, url, name=name, parents=there)
            cases.append(Case(name, subject, connections))
            warm_up(servers, stack, cases[-1])
        found: dict[str, Figures] = interleaved(servers, cases, rounds=rounds, seconds=seconds)
    servers.drop(empty)
    return {**found, "ratio": ratio(found["large"], found["empty"])}


class Filled:
    """What is in the log: how many authors, and of each thread some comments."""

    def __init__(self, authors: int, parents: list[list[str]]) -> None:
        self.authors = authors
        self.parents = parents


async def fill(servers: Servers, url: str, events: int) -> Filled:
    """Fill the database `url`, which is new, with `events` events and what belongs to them."""
    threads = servers.threads
    authors = max(1, min(AUTHORS, events // 10))
    began = datetime.now(UTC) - timedelta(days=_DAYS)
    step = timedelta(days=_DAYS) / max(events, 1)
    streams = [thread_stream_id(SITE, thread) for thread in threads]
    blob = os.urandom(_SEALED)
    await servers.execute(*_WHILE_FILLING)
    connections = [await asyncpg.connect(url) for _ in range(2)]
    try:
        for connection in connections:
            await connection.execute(_ID)
        first, second = connections
        for week in range(_DAYS // 7 + 1, -1, -1):
            await first.execute("select ensure_partitions(now() - $1::interval)", timedelta(days=7 * week))
        indexes = await first.fetch(_INDEXES)
        for index in indexes:
            await first.execute(f'drop index "{index["name"]}"')
        last = began + events * step
        counts = [len(range(number, events, len(threads))) for number in range(len(threads))]
        await first.execute(_STREAMS, streams, SITE, threads, counts, last, blob)
        await first.execute("update lanes set head = $1 where lane = 0", events)
        await first.execute(_KEYS, SITE, authors, blob)
        given: tuple[Any, ...] = (streams, len(streams), began, step)
        with Progress("filling a large log", 3 * events, unit="rows") as progress:

            async def run(connection: asyncpg.Connection, *work: tuple[str, Sequence[Any]]) -> None:
                for begin in range(0, events, _CHUNK):
                    end = min(begin + _CHUNK, events)
                    for statement, more in work:
                        await connection.execute(statement, begin, end, *given, *more)
                        progress.advance(end - begin)

            await asyncio.gather(
                run(first, (_EVENTS, (authors, blob))),
                run(second, (_COMMENTS, (authors, SITE)), (_REPEATS, (blob,))),
            )
        for index in indexes:
            # ONLY would leave the partitions without it.
            await first.execute(index["definition"].replace(" ON ONLY ", " ON ", 1))
        parents = await _parents(first, events, streams, began, step, servers.seed)
        await servers.execute("checkpoint", *_AS_BEFORE)
    finally:
        for connection in connections:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.close()
    return Filled(authors, parents)


async def _parents(
    connection: asyncpg.Connection,
    events: int,
    streams: Sequence[UUID],
    began: datetime,
    step: timedelta,
    seed: int,
) -> list[list[str]]:
    """Of each thread some comments, from all of its time."""
    random = Random(seed)  # noqa: S311 - a choice, no secret
    numbers = [random.randrange(events) for _ in range(_PARENTS * len(streams))]
    rows = await connection.fetch(
        "select comment_id, stream_id from comments where comment_id in "
        "(select pg_temp.id_of(i, $2, $3) from unnest($1::bigint[]) as i)",
        numbers,
        began,
        step,
    )
    found: dict[UUID, list[str]] = {stream: [] for stream in streams}
    for row in rows:
        found[row["stream_id"]].append(str(row["comment_id"]))
    return [found[stream] for stream in streams]


async def _size(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("select pg_database_size(current_database())"))
    finally:
        await connection.close()


async def _on(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
