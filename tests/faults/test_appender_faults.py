"""Connections that die in mid-batch, or with its fate unknown: everything is there exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import ssl
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest

from services.core.commands import PostComment
from services.dev.servers import EmbeddedPostgres
from services.errors import Overloaded, Unavailable, WriteFailed
from services.eventlog.appender import Appender
from services.eventlog.batch import Appended, Batch
from services.eventlog.keys import Keyring, MasterKey
from services.eventlog.locks import LockClass
from services.eventlog.migrate import migrate
from services.eventlog.pool import open_pool
from tests.factories import Place, Writer, once
from tests.logcheck import violations

FATES = ("lost", "answer lost", "either")


def appends(data: bytes) -> bool:
    """Whether a client sends the append, which commits: a Bind of the unnamed portal to that statement
    (PostgreSQL documentation, 54.7)."""
    return data[:1] == b"B" and data[5:13] == b"\0append\0"


class Cutter:
    """A unix socket before Postgres that cuts connections at their append.

    `lost`: the append never arrives. `answer lost`: it is carried out, and nobody is told. `either`: it is
    sent, and the connection is cut at once.
    """

    def __init__(self, url: str, fate: Callable[[], str | None]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cut-", dir="/tmp"))
        parts = urlsplit(url)
        self._postgres = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._fate = fate
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}?host={quote(str(self._folder))}"
        self.cuts: list[str] = []
        self.asked = 0
        """How many times a client has sent something: each waits for its answer."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._folder / ".s.PGSQL.5432")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        shutil.rmtree(self._folder)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._postgres)
        down = asyncio.create_task(_copy(up_reader, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.asked += 1
                fate = self._fate() if appends(data) else None
                if fate is None:
                    up_writer.write(data)
                    await up_writer.drain()
                    continue
                self.cuts.append(fate)
                down.cancel()
                if fate != "lost":
                    up_writer.write(data)
                    await up_writer.drain()
                if fate == "answer lost":
                    await asyncio.gather(down, return_exceptions=True)
                    await up_reader.read(1)
                break
        down.cancel()
        up_writer.close()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=3) as pool:
        yield pool


@pytest.fixture
def writers(pool: asyncpg.Pool[Any]) -> list[Writer]:
    keyring = Keyring(pool, MasterKey(b64encode(os.urandom(32)).decode()))
    return [Writer(keyring, Place("blog", f"article-{number}")) for number in range(3)]


async def posts(writers: Sequence[Writer], count: int) -> list[PostComment]:
    return [
        await writers[n % len(writers)].post(f"number {n}", idempotency=once(os.urandom(8).hex()))
        for n in range(count)
    ]


async def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)  # between two looks at the condition


async def logged(pool: asyncpg.Pool[Any]) -> list[Any]:
    return [row["event_id"] for row in await pool.fetch("select event_id from events")]


@pytest.mark.parametrize("fate", FATES)
async def test_a_batch_whose_commit_is_cut_off_is_there_once_and_answered(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str, fate: str
) -> None:
    fates = iter([fate])
    async with Cutter(database_url, lambda: next(fates, None)) as cutter:
        appender = Appender(cutter.url, 0)
        await appender.start()
        commands = await posts(writers, 6)
        answers = await asyncio.gather(*(appender.submit(each) for each in commands))
        await appender.stop()
    assert cutter.cuts == [fate]
    assert [answer.event_id for answer in answers] == [command.event_id for command in commands]
    assert [answer.repeated for answer in answers] == [False] * 6
    assert sorted(await logged(pool)) == sorted(command.event_id for command in commands)
    assert await violations(database_url) == []


@pytest.mark.parametrize("seed", range(3))
async def test_commits_cut_off_at_random_leave_everything_once(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str, seed: int
) -> None:
    chance = random.Random(seed)

    def fate() -> str | None:
        return chance.choice(FATES) if chance.random() < 0.3 else None

    async with Cutter(database_url, fate) as cutter:
        appenders = [Appender(cutter.url, 0, max_batch=5) for _ in range(2)]
        for appender in appenders:
            await appender.start()
        commands = await posts(writers, 60)
        answers = await asyncio.gather(
            *(appenders[n % 2].submit(each) for n, each in enumerate(commands)), return_exceptions=True
        )
        for appender in appenders:
            await appender.stop()
    assert len(cutter.cuts) >= 2
    assert {type(answer) for answer in answers} <= {Appended, Unavailable}
    acknowledged = {
        command.event_id
        for command, answer in zip(commands, answers, strict=True)
        if isinstance(answer, Appended)
    }
    in_log = await logged(pool)
    assert len(in_log) == len(set(in_log))
    assert acknowledged <= set(in_log) <= {command.event_id for command in commands}
    assert await violations(database_url) == []


async def test_a_batch_takes_two_round_trips_while_its_lane_is_held(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.eventlog.appender._TURN_S", 60.0)
    async with Cutter(database_url, lambda: None) as cutter:
        appender = Appender(cutter.url, 0, max_batch=2)
        await appender.start()
        commands = await posts(writers, 6)
        before = cutter.asked
        await asyncio.gather(*(appender.submit(each) for each in commands))
        # The lock, load and append of three batches, and the lock given back.
        await until(lambda: cutter.asked - before >= 1 + 3 * 2 + 1, "the lane is given back")
        await appender.stop()
        assert cutter.asked - before == 1 + 3 * 2 + 1
    assert await violations(database_url) == []


async def test_who_waits_for_a_lane_gets_it_while_another_process_has_more_to_append(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str
) -> None:
    busy, other = Appender(database_url, 0, max_batch=1), Appender(database_url, 0)
    for appender in (busy, other):
        await appender.start()
    flood = [asyncio.create_task(busy.submit(each)) for each in await posts(writers, 400)]
    (command,) = await posts(writers, 1)
    await flood[0]
    await other.submit(command)
    assert busy.queued > 0
    await asyncio.gather(*flood)
    for appender in (busy, other):
        await appender.stop()
    assert await violations(database_url) == []


async def test_a_lane_is_given_back_when_nothing_waits(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str
) -> None:
    async with Cutter(database_url, lambda: None) as cutter:
        appender = Appender(cutter.url, 0)
        await appender.start()
        (command,) = await posts(writers, 1)
        before = cutter.asked
        await appender.submit(command)
        await until(lambda: cutter.asked - before == 4, "lock, load, append, and the lock given back")
        async with asyncio.timeout(10), pool.acquire() as connection, connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1, 0)", int(LockClass.LANE))
        await appender.stop()


class Terminated(Appender):
    """An appender whose session an administrator ends, once, before or after the append."""

    def __init__(self, url: str, place: str, admin: asyncpg.Pool[Any]) -> None:
        super().__init__(url, 0)
        self._place: str | None = place
        self._admin = admin

    async def _terminate_at(self, place: str) -> None:
        if place == self._place:
            self._place = None
            assert self._connection is not None
            await self._admin.fetchval(
                "select pg_terminate_backend($1, 5000)", self._connection.get_server_pid()
            )

    async def _decide(self, waiting: Sequence[Any]) -> Any:
        attempt = await super()._decide(waiting)
        await self._terminate_at("loaded")
        return attempt

    async def _append(self, batch: Batch) -> None:
        await super()._append(batch)
        await self._terminate_at("appended")


@pytest.mark.parametrize("place", ["loaded", "appended"])
async def test_a_session_ended_in_mid_batch_is_tried_again(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str, place: str
) -> None:
    appender = Terminated(database_url, place, pool)
    await appender.start()
    commands = await posts(writers, 6)
    answers = await asyncio.gather(*(appender.submit(each) for each in commands))
    await appender.stop()
    assert [answer.event_id for answer in answers] == [command.event_id for command in commands]
    assert sorted(await logged(pool)) == sorted(command.event_id for command in commands)
    assert await violations(database_url) == []


async def test_sessions_ended_at_any_moment_leave_everything_once(
    pool: asyncpg.Pool[Any], writers: list[Writer], database_url: str
) -> None:
    appenders = [Appender(database_url, 0, max_batch=4) for _ in range(2)]
    for appender in appenders:
        await appender.start()
    commands = await posts(writers, 120)
    answered = 0

    async def submit(number: int, command: PostComment) -> Appended:
        nonlocal answered
        try:
            return await appenders[number % 2].submit(command)
        finally:
            answered += 1

    pending = [asyncio.create_task(submit(n, each)) for n, each in enumerate(commands)]
    for target in range(10, 90, 10):
        while answered < target:
            await asyncio.sleep(0.001)  # between two looks at the condition
        await pool.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'threadlog-appender' and datname = current_database()"
        )
    answers = await asyncio.gather(*pending)
    for appender in appenders:
        await appender.stop()
    assert all(isinstance(answer, Appended) for answer in answers)
    assert sorted(await logged(pool)) == sorted(command.event_id for command in commands)
    assert await violations(database_url) == []


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
