"""Positions become visible in order, whatever happens to the process that holds a lane (design, invariant 2).

Two processes append to two lanes while a reader follows the log with a checkpoint for each lane. One of them
stops dead in the middle of a batch. The same race without the lane's lock must be seen to fail.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg
import orjson
import psutil
import pytest

from services.eventlog.locks import LockClass
from services.eventlog.log import EventLog
from tests.logcheck import read_log, violations

ROOT = Path(__file__).resolve().parents[2]
LANES = (0, 1)


@dataclass(slots=True)
class GlobalReader:
    """Follows every lane from its own checkpoint, as the sweeper and every export do."""

    log: EventLog
    checkpoints: dict[int, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    seen: dict[int, list[UUID]] = field(default_factory=lambda: defaultdict(list))

    async def read(self) -> int:
        """One round through the lanes; how many events it brought."""
        count = 0
        for lane in LANES:
            events = await self.log.by_position(lane, self.checkpoints[lane], 500)
            if events:
                self.checkpoints[lane] = events[-1].position
                self.seen[lane].extend(event.event_id for event in events)
                count += len(events)
        return count

    async def follow(self, ended: asyncio.Event) -> None:
        """Read until `ended`, and then to the end of the log."""
        while True:
            last = ended.is_set()
            if await self.read() == 0:
                if last:
                    return
                await asyncio.sleep(0.002)  # nothing new yet


@dataclass(slots=True)
class Racers:
    """Processes of `tests.faults.racer`."""

    url: str
    locks: str
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self, name: str, pause: str | None = None) -> asyncio.subprocess.Process:
        asked = {"url": self.url, "name": name, "locks": self.locks, "pause": pause}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.faults.racer",
            orjson.dumps(asked).decode(),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        self.processes.append(process)
        return process

    async def finish(self) -> list[tuple[str, list[UUID]]]:
        """Let all of them end; what their commands were answered with."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        async with asyncio.timeout(60):
            outputs = await asyncio.gather(*(process.communicate() for process in self.processes))
        assert [process.returncode for process in self.processes] == [0] * len(self.processes)
        answers = [answer for output, _ in outputs for answer in orjson.loads(output)]
        return [(said, [UUID(event_id) for event_id in ids]) for said, ids in answers]

    def kill(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 30.0) -> float:
    """Wait for a condition; after how many seconds it held."""
    started = time.monotonic()
    while not await condition():
        if time.monotonic() - started > seconds:
            pytest.fail(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.01)  # between two looks at the condition
    return time.monotonic() - started


@dataclass(slots=True)
class Race:
    """What came of a race: everything that does not hold, and the answers."""

    found: list[str]
    answers: list[tuple[str, list[UUID]]]


async def race(url: str, *, locks: str, pause: str, until_ended: bool) -> Race:
    """Race two processes, the first of which stops at `pause`; it is woken once the other one stands at the
    lock (or, without it, has gone on), or `until_ended` once Postgres has ended the stopped transaction."""
    racers = Racers(url, locks)
    async with asyncpg.create_pool(url, min_size=1, max_size=4) as pool:
        log = EventLog(pool)
        reader, ended = GlobalReader(log), asyncio.Event()

        async def head(lane: int) -> int:
            return (await log.lanes())[lane]

        async def others_wait() -> bool:
            return bool(
                await pool.fetchval(
                    "select count(*) from pg_locks where locktype = 'advisory' and not granted"
                    " and classid = $1 and objid = 0",
                    int(LockClass.LANE),
                )
            )

        following = asyncio.create_task(reader.follow(ended))
        try:
            await racers.start("awake")

            async def awake() -> bool:
                return min((await log.lanes()).values()) > 0

            # Postgres ends a stopped transaction after 3 s: no time for the other process to start in.
            await until(awake, "the other process appends")
            frozen = await racers.start("frozen", pause)
            process = psutil.Process(frozen.pid)
            await until(is_stopped(process), "the first process stopped itself in its batch")
            before = await log.lanes()

            async def lane_went_on() -> bool:
                return await head(0) > before[0] + 3

            if locks == "held":
                await until(others_wait, "the other process stands at the lane's lock")
                assert await head(0) == before[0]
                if until_ended:
                    await until(lane_went_on, "the lane goes on without the stopped process", 9.0)
            else:
                await until(lane_went_on, "without a lock nobody waits")

            async def other_lane_went_on() -> bool:
                return await head(1) > before[1] + 3

            await until(other_lane_went_on, "the other lane was never held up")
            frozen.send_signal(signal.SIGCONT)
            after = await head(0)

            async def lane_goes_on() -> bool:
                return await head(0) > after + 10 or locks == "unguarded"

            await until(lane_goes_on, "both go on")
            answers = await racers.finish()
        finally:
            racers.kill()
            ended.set()
            await following
        async with pool.acquire() as connection:
            events = await read_log(connection)  # type: ignore[arg-type]
    found = await violations(url)
    for lane in LANES:
        in_lane = [event.event_id for event in events if event.lane == lane]
        found.extend(f"lane {lane}: {e} was skipped" for e in set(in_lane) - set(reader.seen[lane]))
        if reader.seen[lane] != in_lane:
            found.append(f"lane {lane}: read in another order than it stands in the log")
    found.extend(wrong_answers(answers, {event.event_id for event in events}))
    return Race(found, answers)


def wrong_answers(answers: list[tuple[str, list[UUID]]], logged: set[UUID]) -> Iterator[str]:
    """What was acknowledged and is not in the log, what should not have failed, and what nobody asked for."""
    asked: set[UUID] = set()
    for said, ids in answers:
        asked.update(ids)
        if said == "Appended":
            yield from (f"{e} was acknowledged and lost" for e in ids if e not in logged)
        elif not said.startswith("Unavailable"):
            yield f"a good command was answered with {said}"
    yield from (f"{e} is in the log, and nobody asked for it" for e in logged - asked)


def is_stopped(process: psutil.Process) -> Callable[[], Awaitable[bool]]:
    async def stopped() -> bool:
        return bool(process.status() == psutil.STATUS_STOPPED)

    return stopped


@pytest.mark.parametrize("pause", ["loaded", "appended"])
async def test_a_holder_that_stops_for_a_moment_holds_the_lane_and_nothing_is_skipped(
    two_lane_database_url: str, pause: str
) -> None:
    came = await race(two_lane_database_url, locks="held", pause=pause, until_ended=False)
    assert came.found == []


@pytest.mark.parametrize("pause", ["loaded", "appended"])
async def test_a_holder_that_freezes_loses_the_lane_within_seconds_and_nothing_is_skipped_or_doubled(
    two_lane_database_url: str, pause: str
) -> None:
    came = await race(two_lane_database_url, locks="held", pause=pause, until_ended=True)
    assert came.found == []
    # The woken process finds its transaction gone and tries again, within its patience.
    assert {said.partition(":")[0] for said, _ in came.answers} <= {"Appended", "Unavailable"}


async def test_without_the_lanes_lock_good_commands_fail(two_lane_database_url: str) -> None:
    came = await race(two_lane_database_url, locks="dropped", pause="loaded", until_ended=False)
    assert any("LaneMoved" in one for one in came.found)


async def test_without_lock_and_guard_the_reader_skips_events(two_lane_database_url: str) -> None:
    came = await race(two_lane_database_url, locks="unguarded", pause="loaded", until_ended=False)
    assert any("was skipped" in one for one in came.found)
    assert any("positions" in one for one in came.found)
