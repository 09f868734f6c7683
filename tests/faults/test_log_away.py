"""A log that is away, full or refuses: each command gets its answer, and writes go on when it is back."""

from __future__ import annotations

import asyncio
import os
import ssl
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.dev.servers import EmbeddedPostgres
from services.errors import Overloaded, Unavailable, WriteFailed
from services.eventlog.appender import Appender, Committed
from services.eventlog.batch import Appended, Batch
from services.eventlog.keys import Keyring, MasterKey
from services.eventlog.migrate import migrate
from services.eventlog.pool import open_pool
from tests.factories import Place, Writer
from tests.faults.cutting import Cutter, logged, posts, until
from tests.logcheck import violations


async def test_a_log_that_does_not_answer_is_unavailable_and_a_repeat_with_the_key_adds_once(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str
) -> None:
    [command] = await posts(writers[:1], 1)
    cutting = True
    async with Cutter(database_url, lambda: "answer lost" if cutting else None) as cutter:
        appender = Appender(cutter.url, 0, patience=0.0)
        await appender.start()
        with pytest.raises(Unavailable):
            await appender.submit(command)
        cutting = False
        await until(lambda: not appender.away, "the appender has a connection again")
        assert await logged(pool) == [command.event_id]
        again = replace(await writers[0].post("number 0"), idempotency=command.idempotency)
        answer = await appender.submit(again)
        await appender.stop()
    assert (answer.event_id, answer.repeated) == (command.event_id, True)
    assert await logged(pool) == [command.event_id]
    assert await violations(database_url) == []


class Counted(Appender):
    """An appender that counts the batches it has begun."""

    batches = 0

    async def _settle(self, waiting: Sequence[Any]) -> None:
        self.batches += 1
        await super()._settle(waiting)


async def test_while_the_log_is_away_a_full_queue_is_answered_at_once_and_writes_go_on_when_it_is_back(
    start_postgres: Callable[..., EmbeddedPostgres], tmp_path: Path
) -> None:
    postgres = start_postgres(tmp_path)
    await migrate(postgres.dsn())
    async with asyncpg.create_pool(postgres.dsn(), min_size=1, max_size=1) as pool:
        keyring = Keyring(pool, MasterKey(b64encode(os.urandom(32)).decode()))
        commands = await posts([Writer(keyring, Place("blog", "article"))], 1_001)
    appender = Counted(postgres.dsn(), 0, patience=0.3, max_queue=1_000)
    await appender.start()
    await asyncio.to_thread(postgres.stop)
    answers = await asyncio.gather(*(appender.submit(each) for each in commands), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 1_000 + [Overloaded]
    # All were submitted at once and lost patience together: five batches did not wait one after the other.
    assert appender.batches <= 2
    assert (appender.queued, appender.away) == (0, True)
    with pytest.raises(Unavailable):
        await appender.submit(commands[0])
    assert appender.queued == 0
    await asyncio.to_thread(postgres.start)
    await until(lambda: not appender.away, "the appender has a connection again")
    assert isinstance(await appender.submit(commands[0]), Appended)
    await appender.stop()
    assert await violations(postgres.dsn()) == []


async def test_stopping_while_the_log_is_away_ends(
    start_postgres: Callable[..., EmbeddedPostgres],
) -> None:
    postgres = start_postgres()
    await migrate(postgres.dsn())
    appender = Appender(postgres.dsn(), 0, patience=0.0)
    await appender.start()
    async with asyncpg.create_pool(postgres.dsn(), min_size=1, max_size=1) as pool:
        keyring = Keyring(pool, MasterKey(b64encode(os.urandom(32)).decode()))
        [command] = await posts([Writer(keyring, Place("blog", "article"))], 1)
    await asyncio.to_thread(postgres.stop)
    with pytest.raises(Unavailable):
        await appender.submit(command)
    async with asyncio.timeout(30):
        await appender.stop()


class Refused(Appender):
    """An appender whose connecting fails with each of `errors` once, from when it is `armed`."""

    def __init__(self, url: str, *errors: Exception, patience: float = 30.0) -> None:
        super().__init__(url, 0, patience=patience)
        self.errors = list(errors)
        self.armed = asyncio.Event()

    async def _connect(self) -> asyncpg.Connection:
        if self.armed.is_set() and self.errors and self._connection is None:
            raise self.errors.pop(0)
        return await super()._connect()


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DiskFullError("no space left on device"),
        asyncpg.OutOfMemoryError("out of memory"),
        asyncpg.InvalidPasswordError("password authentication failed"),
        asyncpg.InvalidCatalogNameError("database does not exist"),
        ssl.SSLCertVerificationError("certificate has expired"),
        RuntimeError("anything at all"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_batch_of_unknown_fate_is_not_decided_again_whatever_the_reconnect_meets(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str, error: Exception
) -> None:
    appender: Refused

    def fate() -> str | None:
        if appender.armed.is_set():
            return None
        appender.armed.set()
        return "answer lost"

    async with Cutter(database_url, fate) as cutter:
        appender = Refused(cutter.url, error, error)
        await appender.start()
        # No Idempotency-Key: only the appender itself can know them again.
        commands = [await writers[n % 3].post(f"number {n}") for n in range(6)]
        answers = await asyncio.gather(*(appender.submit(each) for each in commands))
        await appender.stop()
    assert appender.errors == []
    assert [answer.event_id for answer in answers] == [command.event_id for command in commands]
    assert sorted(await logged(pool)) == sorted(command.event_id for command in commands)
    assert await violations(database_url) == []


async def test_a_follower_that_fails_takes_no_answer_back(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str
) -> None:
    def follower(_: Committed) -> None:
        raise RuntimeError("a follower's own mistake")

    appender = Appender(database_url, 0, on_committed=follower)
    await appender.start()
    commands = await posts(writers, 6)
    answers = [await appender.submit(each) for each in commands]
    await appender.stop()
    assert [answer.repeated for answer in answers] == [False] * 6
    assert sorted(await logged(pool)) == sorted(command.event_id for command in commands)


class Full(Appender):
    """An appender whose disk is full as long as `full` is set."""

    full = True

    async def _append(self, batch: Batch) -> None:
        if self.full:
            assert self._connection is not None
            # What Postgres itself sends, in the place where it sends it.
            await self._connection.execute(
                "do $$ begin raise exception 'no space left on device' using errcode = 'disk_full'; end $$"
            )
        await super()._append(batch)


async def test_a_full_disk_is_unavailable_and_no_commands_fault(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str
) -> None:
    appender = Full(database_url, 0, patience=0.2)
    await appender.start()
    commands = await posts(writers, 6)
    answers = await asyncio.gather(*(appender.submit(each) for each in commands), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 6
    appender.full = False
    await until(lambda: not appender.away, "the appender has a connection again")
    again = await asyncio.gather(*(appender.submit(each) for each in commands))
    await appender.stop()
    assert [answer.repeated for answer in again] == [False] * 6
    assert sorted(await logged(pool)) == sorted(command.event_id for command in commands)
    assert await violations(database_url) == []


class Unencodable(Appender):
    """An appender whose every batch fails as if a value could not be written; `after` batches it is away."""

    def __init__(self, url: str, after: int) -> None:
        super().__init__(url, 0, patience=0.0)
        self.batches = 0
        self._after = after

    async def _append(self, batch: Batch) -> None:
        self.batches += 1
        if self.batches > self._after:
            raise ConnectionResetError
        raise asyncpg.DataError("a value is out of range")


async def test_a_log_that_goes_away_while_a_batch_is_taken_apart_is_waited_for_once(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str
) -> None:
    appender = Unencodable(database_url, 2)
    await appender.start()
    commands = await posts(writers, 50)
    answers = await asyncio.gather(*(appender.submit(each) for each in commands), return_exceptions=True)
    await appender.stop()
    # The batch and its first command fail by themselves; the second command finds the log away.
    assert [type(answer) for answer in answers] == [WriteFailed] + [Unavailable] * 49
    assert appender.batches == 3
    assert await logged(pool) == []


async def test_who_waits_for_a_connection_gives_up(database_url: str) -> None:
    async with open_pool(database_url, 1, session={}, patience=0.05) as bounded:
        keyring = Keyring(bounded, MasterKey(b64encode(os.urandom(32)).decode()))
        async with bounded.acquire():
            with pytest.raises(TimeoutError):
                await keyring.for_author("blog", "ann")
            with pytest.raises(TimeoutError):
                await bounded.fetch("select 1")
        key = await keyring.for_author("blog", "ann")
        assert (await keyring.for_author("blog", "ann")).key_id == key.key_id
