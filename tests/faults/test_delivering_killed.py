"""Workers killed between sending and recording: nothing is lost, and what comes twice has the same id.

What may come twice is what was under way as the worker died: at most TO_ONE_ENDPOINT to one endpoint.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from uuid import UUID

import psutil
import pytest
from aiohttp import web
from pydantic import SecretStr

from services.eventlog.deliveries import TO_ONE_ENDPOINT
from tests.processes import Process, Threadlog, threadlog, until
from tests.receiving import LOOPBACK, Desk, Receiver, receiving
from tests.writer import MASTER_KEY, writer


@pytest.fixture
async def running(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(database_url, redis_url, broker_url, tmp_path) as started:
        yield started


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def desk(running: Threadlog, database_url: str) -> AsyncIterator[Desk]:
    async with writer(database_url) as log:
        yield Desk(log)


def worker(running: Threadlog) -> Process:
    return running.start(
        "worker",
        worker_processes=1,
        worker_threads=2,
        master_key=SecretStr(MASTER_KEY),
        webhook_allow_private=(LOOPBACK,),
    )


async def killed(process: Process) -> None:
    """Kill a worker and all its processes, and see them gone."""
    family = [psutil.Process(process.popen.pid), *psutil.Process(process.popen.pid).children(recursive=True)]
    for one in family:
        one.kill()
    await asyncio.to_thread(process.popen.wait, 30)
    await asyncio.to_thread(psutil.wait_procs, family, 30)


async def all_sent(desk: Desk, count: int) -> None:
    await until(desk.states, f"{count} are sent", lambda states: states == {"sent": count}, 90)


def times(receiver: Receiver) -> Counter[UUID]:
    return Counter(got.id for got in receiver.got)


async def test_who_is_killed_after_it_sent_sends_again_under_the_same_id(
    running: Threadlog, desk: Desk, receiver: Receiver
) -> None:
    made = await desk.endpoint(receiver.url + "/")
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def hold(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await ended.wait()
        return web.Response(status=204)

    receiver.answers["/"] = hold
    (comment,) = await desk.comments(1)
    await desk.tell(comment)
    first = worker(running)
    await asyncio.wait_for(arrived.wait(), 90)
    await killed(first)
    ended.set()
    del receiver.answers["/"]
    assert await desk.states() == {"pending": 1}
    await desk.due()  # its lease has run out
    worker(running)
    await all_sent(desk, 1)
    sent, again = receiver.got
    assert sent.id == again.id
    assert sent.opened(made.secret) == again.opened(made.secret)


async def killed_again_and_again(
    running: Threadlog, desk: Desk, receiver: Receiver, chance: Random, *, count: int, kills: int
) -> None:
    """Kill the worker at moments that the seed says, until all is sent."""
    made = await desk.endpoint(receiver.url + "/")
    for comment in await desk.comments(count):
        await desk.tell(comment)
    until_kill = 0
    reached = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        nonlocal until_kill
        until_kill -= 1
        if until_kill <= 0:
            reached.set()
        return web.Response(status=204)

    async def reached_or_all_sent() -> bool:
        return reached.is_set() or await desk.states() == {"sent": count}

    receiver.answers["/"] = answer
    for _ in range(kills):
        until_kill = chance.randint(1, count // kills // 2)
        reached.clear()
        process = worker(running)
        await until(reached_or_all_sent, "so many requests", within=90)
        await asyncio.sleep(chance.random() * 0.01)  # somewhere between the answer and what follows it
        await killed(process)
        await desk.due()  # leases have run out
    process = worker(running)
    await all_sent(desk, count)
    seen = times(receiver)
    assert len(seen) == count
    assert sum(seen.values()) - count <= kills * TO_ONE_ENDPOINT
    for got in receiver.got:
        got.opened(made.secret)


async def test_deliveries_survive_workers_that_are_killed(
    running: Threadlog, desk: Desk, receiver: Receiver
) -> None:
    await killed_again_and_again(running, desk, receiver, Random(20261123), count=60, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
async def test_deliveries_survive_workers_that_are_killed_at_any_moment(
    running: Threadlog, desk: Desk, receiver: Receiver, seed: int
) -> None:
    await killed_again_and_again(running, desk, receiver, Random(seed), count=400, kills=10)
