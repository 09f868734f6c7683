"""A replay that reads the log on a standby, which may be behind: THREADLOG_LOG_READ_URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import asyncpg
import pytest

from services.dev.servers import EmbeddedPostgres
from services.errors import Unavailable
from services.eventlog.migrate import migrate
from services.eventlog.replays import State
from services.eventlog.standby import StandbyLog, catch_up
from services.wiring import Reading, Resources, reading, resources
from tests.faults.test_failover import base_backup
from tests.processes import until
from tests.replaying import damage, differences, fill, replayed, writing
from tests.talk import settings_of
from tests.writer import stream_of

StartPostgres = Callable[..., EmbeddedPostgres]


@pytest.fixture
async def standby(start_postgres: StartPostgres, tmp_path: Path) -> tuple[str, str]:
    """The addresses of a primary and of a standby that follows it."""
    primary = start_postgres(tmp_path / "primary")
    await migrate(primary.dsn(), lanes=2)
    await asyncio.to_thread(
        base_backup, primary, tmp_path / "standby" / "postgres" / "data", "--write-recovery-conf"
    )
    return primary.dsn(), start_postgres(tmp_path / "standby").dsn()


@pytest.fixture
async def parts(standby: tuple[str, str], redis_url: str) -> AsyncIterator[Resources]:
    settings = settings_of(standby[0], redis_url).model_copy(update={"log_read_url": standby[1]})
    async with resources(settings) as made:
        yield made


@asynccontextmanager
async def behind(parts: Resources, reads: Reading) -> AsyncIterator[Callable[[], asyncio.Task[None]]]:
    """The standby stands still, as it is now, until what this gives is called."""
    await catch_up(reads.pool, parts.pool)
    connection = await asyncpg.connect(parts.settings.log_read_url)
    try:
        await connection.execute("select pg_wal_replay_pause()")
        # It takes effect between two records.
        await until(
            lambda: connection.fetchval("select pg_get_wal_replay_pause_state()"),
            "the standby stands still",
            lambda state: state == "paused",
        )

        async def go_on() -> None:
            await connection.execute("select pg_wal_replay_resume()")

        yield lambda: asyncio.create_task(go_on())
        await connection.execute("select pg_wal_replay_resume()")
    finally:
        await connection.close()


async def test_a_replay_reads_the_standby_and_repairs_the_primary(parts: Resources) -> None:
    async with writing(parts) as writer:
        streams = await fill(writer, 40)
    await damage(parts, streams, Random(1), 20)
    async with reading(parts) as reads:
        assert isinstance(reads.log, StandbyLog)
        found = [one for each in await reads.verifier.threads(streams) for one in each.differences]
        assert {one.kind for one in found} >= {"streams", "comments"}
    done = await replayed(parts)
    assert (done.state, done.threads, done.failed) == (State.DONE, 40, 0)
    assert await differences(parts) == []


async def test_a_replay_on_a_standby_that_is_behind_leaves_nothing_behind(parts: Resources) -> None:
    async with writing(parts) as writer:
        streams = await fill(writer, 10)
        async with reading(parts) as reads, behind(parts, reads):
            before = (await parts.log.head(streams[3]) or (0,))[0]
            await writer.post("thread-3", "dee")
            new = stream_of("begun-lately")
            await writer.post("begun-lately", "dee")
            await parts.projector.advance(streams[3])
            await parts.pool.execute("update comments set up = 9 where parent = 0")
            # The standby has neither the new comments nor the damage.
            assert await reads.log.events_after(new, 0, 1) == []
            one = await reads.replayer.replay(streams[3])
            assert one.version == before + 1
            other = await reads.replayer.replay(new)
            assert other.version == 1
            together = await reads.replayer.replay_together([streams[3], streams[4], new])
            assert {one.stream_id: one.error for one in together} == dict.fromkeys(
                (streams[3], streams[4], new)
            )
            heads = await parts.views.heads([streams[3], new])
            assert {one: head.version for one, head in heads.items()} == {streams[3]: before + 1, new: 1}


async def test_a_standby_is_read_once_it_has_what_was_there_before(parts: Resources) -> None:
    async with writing(parts) as writer:
        await fill(writer, 1)
        async with reading(parts) as reads, behind(parts, reads) as go_on:
            await writer.post("thread-0", "dee")
            with pytest.raises(Unavailable, match="behind"):
                await catch_up(reads.pool, parts.pool, patience=0.1)
            waiting = asyncio.create_task(catch_up(reads.pool, parts.pool))
            await go_on()
            await waiting
            assert len(await reads.log.events_after(stream_of("thread-0"), 0, 100)) == 6


async def test_verify_waits_for_a_standby_that_is_behind_the_view(parts: Resources) -> None:
    async with writing(parts) as writer:
        [stream_id] = await fill(writer, 1)
        async with reading(parts) as reads, behind(parts, reads) as go_on:
            assert isinstance(reads.log, StandbyLog)
            await writer.post("thread-0", "dee")
            head = await parts.projector.advance(stream_id)
            assert head is not None
            impatient = StandbyLog(reads.pool, parts.pool, patience=0.1)
            with pytest.raises(Unavailable, match="the standby is behind"):
                [events async for events in impatient.pages(stream_id, to=head.version)]
            pages = [events async for events in impatient.pages(stream_id, to=head.version - 1)]
            assert pages[-1][-1].version == head.version - 1
            waiting = asyncio.create_task(reads.verifier.thread(stream_id))

            async def waits() -> bool:
                assert isinstance(reads.log, StandbyLog)
                return reads.log.waits > 0

            await until(waits, "it waits")
            assert not waiting.done()
            await go_on()
            assert await waiting == []


async def test_a_version_that_nobody_has_is_not_waited_for(parts: Resources) -> None:
    async with writing(parts) as writer:
        [stream_id] = await fill(writer, 1)
    async with reading(parts) as reads:
        there = [event.version async for page in reads.log.pages(stream_id, to=99) for event in page]
        assert there == [event.version async for page in parts.log.pages(stream_id) for event in page]
        head = await parts.log.head(stream_id)
        assert head is not None
        assert len(there) == head[0]
