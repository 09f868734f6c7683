"""Connections that die in mid-batch, or with its fate unknown: everything is there exactly once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from services.core.commands import PostComment
from services.errors import Unavailable
from services.eventlog.appender import Appender
from services.eventlog.batch import Appended, Batch
from services.eventlog.locks import LockClass
from tests.factories import Writer
from tests.faults.cutting import FATES, Cutter, logged, posts, until
from tests.logcheck import violations


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
        async with asyncio.timeout(30), pool.acquire() as connection, connection.transaction():
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
