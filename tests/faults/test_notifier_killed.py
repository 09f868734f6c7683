"""A notifier that is killed, or loses its connection, in the middle: nobody is told twice or missed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from functools import partial
from random import Random
from uuid import UUID

import asyncpg
import pytest

from services.workers.notifier import Notifier
from tests.processes import until
from tests.writer import Writer, stream_of, writer

KEYS = [str(number) for number in range(6)]
STREAMS = [stream_of(key) for key in KEYS]
KILLS = 4
REPLIES = 12


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Writer]:
    async with writer(database_url) as opened:
        yield opened


async def talk(log: Writer, roots: dict[str, UUID]) -> list[tuple[str, UUID]]:
    """Replies in all threads; who must be told of which."""
    posted = [
        await asyncio.gather(*(log.post(key, f"bob-{number}", roots[key]) for key in KEYS))
        for number in range(REPLIES)
    ]
    return [("ann", reply.event_id) for some in posted for reply in some]


async def told(log: Writer) -> list[tuple[str, UUID]]:
    return [tuple(row) for row in await log.pool.fetch("select recipient_id, event_id from notifications")]


async def test_a_notifier_that_is_killed_anywhere_has_told_nobody_twice_and_missed_nobody(
    log: Writer, database_url: str
) -> None:
    roots = {key: (await log.post(key, "ann")).event_id for key in KEYS}
    must: list[tuple[str, UUID]] = []
    chance = Random(7)
    for _ in range(KILLS):
        before = len(await told(log))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.telling", database_url, "1", *map(str, STREAMS)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"begins\n"
        writing = asyncio.create_task(talk(log, roots))
        some = before + chance.randrange(1, REPLIES * len(KEYS) // 2)
        await until(lambda: told(log), "some are told", partial(_at_least, some), within=60)
        process.kill()
        await process.wait()
        must += await writing
    await Notifier(log.pool, log.keyring).notify_all(STREAMS)
    assert sorted(await told(log)) == sorted(must)


def _at_least(some: int, rows: list[tuple[str, UUID]]) -> bool:
    return len(rows) >= some


async def test_a_notifier_whose_connection_is_cut_again_and_again_tells_everybody_once(
    log: Writer, database_url: str
) -> None:
    roots = {key: (await log.post(key, "ann")).event_id for key in KEYS}
    must = await talk(log, roots)
    cut = 0
    session = {"application_name": "notifier-under-test"}
    async with asyncpg.create_pool(database_url, min_size=1, max_size=2, server_settings=session) as pool:
        notifier = Notifier(pool, log.keyring, page=1)
        done = asyncio.Event()

        async def cutting() -> None:
            nonlocal cut
            while not done.is_set():
                cut += await log.pool.fetchval(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                    "where datname = current_database() and application_name = 'notifier-under-test' "
                    "and state in ('active', 'idle in transaction')"
                )
                await asyncio.sleep(0)

        knife = asyncio.create_task(cutting())
        for _ in range(30):
            try:
                await notifier.notify_all(STREAMS)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                continue
        done.set()
        await knife
    await Notifier(log.pool, log.keyring).notify_all(STREAMS)
    assert cut > 0
    assert sorted(await told(log)) == sorted(must)
