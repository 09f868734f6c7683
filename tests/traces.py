"""Looks for a text in everything that Postgres and Redis hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg
from redis.asyncio import Redis

from services.readmodel.frames import FrameDamaged, Frames


async def in_postgres(pool: asyncpg.Pool[Any], needles: Iterable[str]) -> list[str]:
    """The tables, each with the needle, in whose rows one of these texts stands, in any column, as text or as
    bytes. Partitions are looked at as tables of their own."""
    tables = await pool.fetch(
        "select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind in ('r', 'p', 'm') and n.nspname not in ('pg_catalog', 'information_schema')"
    )
    assert len(tables) > 20
    found = []
    for (table,) in tables:
        for needle in needles:
            # A row as text writes bytea in hex; so the needle is looked for as both.
            count = await pool.fetchval(
                f"select count(*) from {table} as one where strpos(one::text, $1) > 0"
                " or strpos(one::text, encode(convert_to($1, 'UTF8'), 'hex')) > 0",
                needle,
            )
            if count:
                found.append(f"{table}: {needle} in {count} rows")
    return found


async def in_redis(url: str, needles: Iterable[str]) -> list[str]:
    """The keys of one Redis database that hold one of these texts: in their name, in any element of what they
    are, as it is or unpacked, or in the bytes that DUMP gives."""
    found = []
    client = Redis.from_url(url)
    try:
        async for name in client.scan_iter():
            held = [name, await client.dump(name), *await _elements(client, name)]
            found += [
                f"{name!r}: {needle}"
                for needle in needles
                if any(needle.encode() in part for part in held if part is not None)
            ]
    finally:
        await client.aclose()
    return found


async def _elements(client: Redis, name: bytes) -> list[bytes]:
    kind = await client.type(name)
    everything: Any
    match kind:
        case b"string":
            everything = [await client.get(name)]
        case b"hash":
            everything = [part for pair in (await client.hgetall(name)).items() for part in pair]
            everything += [_unpacked(part) for part in everything]
        case b"zset":
            everything = await client.zrange(name, 0, -1)
        case b"list":
            everything = await client.lrange(name, 0, -1)
        case b"set":
            everything = list(await client.smembers(name))
        case b"none":
            everything = []
        case _:
            raise AssertionError(f"nobody looks into a {kind!r}")
    return list(everything)


def _unpacked(part: bytes) -> bytes:
    """The node, if this is one as the views store it."""
    try:
        return Frames().unpack(part)
    except FrameDamaged:
        return b""
