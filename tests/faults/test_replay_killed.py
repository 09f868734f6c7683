"""Replays and workers killed at any moment: what is left is taken up, and nothing is done twice."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random
from uuid import UUID

import psutil
import pytest

from services.eventlog.replays import Replay, Replays, Selected, State
from services.workers.replayer import hand_out
from tests.processes import Process, Threadlog, threadlog, until
from tests.replaying import builds, damage, differences, fill, keys_of, writing

THREADS = 300
POSTS = 3
RATE = 600
"""Events a second: a page takes about half of one."""


@pytest.fixture
async def running(
    two_lane_database_url: str, redis_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Threadlog]:
    async with threadlog(two_lane_database_url, redis_url, broker_url, tmp_path) as started:
        yield started


async def present(running: Threadlog, number: int) -> Replay:
    found = await Replays(running.parts.pool).one(number)
    assert found is not None
    return found


async def done_streams(running: Threadlog, number: int, streams: list[UUID]) -> list[UUID]:
    """Those that lie before the checkpoint of their range."""
    rows = await running.parts.pool.fetch(
        "select lag(last, 1, '00000000-0000-0000-0000-000000000000') over (order by number) as behind, "
        "done_through from replay_ranges where replay_id = $1 and last is not null",
        number,
    )
    return [one for one in streams if any(row["behind"] < one <= row["done_through"] for row in rows)]


async def killed_again_and_again(running: Threadlog, chance: Random) -> None:
    parts = running.parts
    async with writing(parts) as writer:
        streams = await fill(writer, THREADS, posts=POSTS)
        await damage(parts, streams, chance, 100)
        number = await Replays(parts.pool).begin(Selected(), max_rate=RATE)
        kills = 0
        while (now := await present(running, number)).state is State.RUNNING:
            finished = await done_streams(running, number, streams)
            before = await builds(parts, finished)
            process = running.start("replay", "resume", str(number))
            await comes_to(running, number, process, now.threads + chance.randint(1, THREADS // 3))
            await asyncio.sleep(chance.random() * 0.1)  # in the middle of whatever it does by then
            process.kill()
            kills += 1
            assert await builds(parts, finished) == before, "what was done is not done again"
        ended = await present(running, number)
        assert (ended.state, ended.threads, ended.failed) == (State.DONE, THREADS, 0)
        assert kills > 2
        assert set(await builds(parts, streams)) == set(streams)
        assert await differences(parts) == []


async def comes_to(running: Threadlog, number: int, process: Process, threads: int) -> None:
    """Wait until so many threads are done, or the process has ended by itself."""

    async def far_enough() -> bool:
        if not process.alive:
            assert process.popen.returncode == 0, process.said
            return True
        return (await present(running, number)).threads >= threads

    await until(far_enough, f"{threads} threads are done", within=60)


async def test_a_replay_that_is_killed_again_and_again_comes_to_its_end(running: Threadlog) -> None:
    await killed_again_and_again(running, Random(20261123))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
async def test_a_replay_that_is_killed_at_any_moment_comes_to_its_end(running: Threadlog, seed: int) -> None:
    await killed_again_and_again(running, Random(seed))


async def test_a_replay_goes_on_while_people_write_and_after_it_was_killed(running: Threadlog) -> None:
    parts = running.parts
    async with writing(parts) as writer:
        streams = await fill(writer, THREADS, posts=POSTS)
        number = await Replays(parts.pool).begin(Selected(), max_rate=RATE)
        enough = asyncio.Event()

        async def post() -> None:
            for key in itertools.cycle(keys_of(THREADS)):
                if enough.is_set():
                    return
                await writer.post(key, "dee")

        posting = asyncio.create_task(post())
        process = running.start("replay", "resume", str(number))
        await comes_to(running, number, process, THREADS // 3)
        process.kill()
        await parts.pool.execute("update streams set visible = visible + 50 where key is not null")
        done = await running.run("replay", "resume", str(number), "--json")
        enough.set()
        await posting
        assert done[0] == 0, done
        assert json.loads(done[1])["threads"] == THREADS
        assert (await running.run("replay", "--all"))[0] == 0
        for stream_id in streams:
            await parts.projector.advance(stream_id)
        assert await differences(parts) == []


async def test_what_a_killed_worker_was_at_another_one_takes_up(running: Threadlog) -> None:
    parts = running.parts
    async with writing(parts) as writer:
        streams = await fill(writer, THREADS, posts=POSTS)
    first = running.worker()
    number = await Replays(parts.pool).begin(Selected(), max_rate=RATE // 3, workers=True)
    # Nobody is told of it: the caretaker finds out.
    await comes_to(running, number, first, 1)
    for child in psutil.Process(first.popen.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    first.kill()
    now = await present(running, number)
    assert (now.state, now.threads < THREADS) == (State.RUNNING, True)
    before = await builds(parts, await done_streams(running, number, streams))

    second = running.worker()
    await hand_out(running.settings.broker, number, 1)
    await until(
        lambda: present(running, number), "it is done", lambda now: now.state is State.DONE, within=120
    )
    ended = await present(running, number)
    assert (ended.threads, ended.failed) == (THREADS, 0)
    after = await builds(parts, streams)
    assert set(after) == set(streams)
    assert {one: after[one] for one in before} == before
    assert second.alive
