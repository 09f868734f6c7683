"""`threadlog bench replay`: how fast the log folds, beside the fastest that Python reads the same rows.

Everything but `one process` and `two processes` runs in this one, in turns, on one log that a process before
it filled. The bare cursor and the peer have the garbage collector as Python sets it, as any script has;
threadlog's ways have it as its processes set it. The peer is measured where the package `eventsourcing` is
installed.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
import uvloop

from services.core.thread import ThreadState
from services.dev.servers import EmbeddedPostgres, EmbeddedRedis
from services.errors import Unavailable
from services.eventlog.log import NIL
from services.eventlog.migrate import migrate
from services.garbage import settle
from services.ops.bench.fill import Filled, Filling
from services.ops.bench.folding import shares, together
from services.ops.bench.goals import Goal, held
from services.ops.bench.memory import peak_bytes, reset_peak
from services.ops.bench.replaying import replay_all
from services.settings import Settings
from services.wiring import Resources, resources

_BARE: Final = """
    select stream_id, version, event_id, type, schema_version, actor_id, correlation_id, causation_id,
        recorded_at, data, sealed, key_id, hash, lane, position
    from events
"""
_BARE_JSON: Final = "select event_id, data from events"
_PREFETCH: Final = 1000
LIMIT: Final = "bare cursor"
"""The name of the measurement that the others are compared with."""
BARE_SETTLED: Final = "bare cursor, collector as threadlog's"
STRUCTURE: Final = "fold, structure only"
FOLD: Final = "fold, opened and rendered"
ONE: Final = "fold, one process"
TWO: Final = "fold, two processes"
REPLAY: Final = "threadlog replay --all"
REPLAY_TWO: Final = "threadlog replay --all --processes 2"
SINGLE: Final = "rebuild of the largest thread"
PEER: Final = "the largest thread by eventsourcing"
_PYTHONS: Final = (700, 10, 10)
"""Thresholds of the garbage collector, as Python sets them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: `events` in the log, of which `large` in one thread, everything `rounds` times."""

    events: int = 50_000
    large: int = 10_000
    rounds: int = 3
    seed: int = 1
    memory: int = 0
    """If not 0, logs of so many events, a fifth of them in one thread, and of a tenth of that are replayed as
    well, for the memory that each takes."""


@dataclass(slots=True)
class Measured:
    """One way through the log: `events` in each of its rounds, which took `seconds` and `cpu_seconds` of this
    process; `peak` is the largest resident set meanwhile, in bytes."""

    name: str
    events: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def rate(self) -> float:
        """Events a second, median of the rounds."""
        return self.events / statistics.median(self.seconds)


Way = Callable[[], Awaitable[int | tuple[int, float]]]
"""Goes through the log, or a thread, once; the number of events, and the seconds if it knows better."""


def run(plan: Plan) -> dict[str, Any]:
    """Fill a log of its own on servers of its own, measure, and give the report."""
    peaks = [_peak(plan, plan.memory // part) for part in (10, 1)] if plan.memory else []
    key = base64.b64encode(os.urandom(32)).decode()
    # An index over what one process wrote does not stay in the smallest of memories.
    with EmbeddedPostgres(settings={"shared_buffers": "256MB"}) as postgres, EmbeddedRedis() as redis:
        asyncio.run(migrate(postgres.dsn()))
        settings = Settings.load(database_url=postgres.dsn(), redis_url=redis.url(), master_key=key)
        filled = _fill(
            Filling(
                database_url=postgres.dsn(),
                redis_url=redis.url(),
                master_key=key,
                events=plan.events,
                large=plan.large,
                seed=plan.seed,
            )
        )
        start = peak_bytes()
        measured = uvloop.run(_measure(settings, plan, UUID(filled["large"])))
    return report(plan, filled, measured, start, peaks)


def _peak(plan: Plan, events: int) -> int:
    """The largest resident set of a replay of a log of so many events, in bytes."""
    key = base64.b64encode(os.urandom(32)).decode()
    with EmbeddedPostgres(settings={"shared_buffers": "256MB"}) as postgres, EmbeddedRedis() as redis:
        asyncio.run(migrate(postgres.dsn()))
        _fill(
            Filling(
                database_url=postgres.dsn(),
                redis_url=redis.url(),
                master_key=key,
                events=events,
                large=events // 5,
                seed=plan.seed,
            )
        )
        asyncio.run(_analyse(postgres.dsn()))
        settings = Settings.load(database_url=postgres.dsn(), redis_url=redis.url(), master_key=key)
        return replay_all(settings).peak


async def _analyse(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("vacuum analyze", timeout=3600)
    finally:
        await connection.close()


def _fill(filling: Filling) -> Filled:
    done = subprocess.run(
        [sys.executable, "-m", "services.ops.bench.fill"],
        input=orjson.dumps(filling),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        raise Unavailable(f"the log was not filled: exit code {done.returncode}")
    filled: Filled = orjson.loads(done.stdout)
    return filled


async def _measure(settings: Settings, plan: Plan, large: UUID) -> list[Measured]:
    async with resources(settings) as here:
        await here.pool.execute("vacuum analyze")
        ways = await _ways(here, settings, large)
        settle()
        measured = {name: Measured(name) for name in ways}
        for number in range(plan.rounds):
            # In turns, so that what else the machine does meanwhile meets all of them, and in changing order.
            names = list(ways)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                await _once(measured[name], ways[name])
        return list(measured.values())


async def _once(one: Measured, way: Way) -> None:
    gc.collect()
    reset_peak()
    settled = gc.get_threshold()
    if one.name in (LIMIT, PEER):
        gc.set_threshold(*_PYTHONS)
    cpu, started = time.process_time(), time.perf_counter()
    try:
        events = await way()
    finally:
        gc.set_threshold(*settled)
    one.seconds.append(time.perf_counter() - started)
    one.cpu_seconds.append(time.process_time() - cpu)
    one.peak = max(one.peak, peak_bytes())
    if isinstance(events, tuple):
        events, one.seconds[-1] = events
    one.events = events


async def _ways(here: Resources, settings: Settings, large: UUID) -> dict[str, Way]:
    sizes = await _sizes(here)
    streams = list(sizes)
    projector = here.projector

    async def bare(query: str) -> int:
        seen: dict[UUID, Any] = {}
        async with here.pool.acquire() as connection, connection.transaction():
            async for row in connection.cursor(query, prefetch=_PREFETCH):
                seen[row["event_id"]] = orjson.loads(row["data"])
        return len(seen)

    async def structure() -> int:
        events = 0
        for stream_id in streams:
            thread = ThreadState(stream_id)
            await projector.structure(thread)
            events += thread.version
        return events

    async def texts() -> int:
        return sum([(await projector.index(stream_id)).thread.version for stream_id in streams])

    async def one_thread() -> int:
        head = await projector.rebuild(large)
        return 0 if head is None else head.version

    def processes(count: int) -> Way:
        return lambda: asyncio.to_thread(together, settings, shares(sizes, count))

    def verb(count: int) -> Way:
        async def run() -> tuple[int, float]:
            ran = await asyncio.to_thread(replay_all, settings, count)
            return ran.events, ran.seconds

        return run

    ways: dict[str, Way] = {
        LIMIT: lambda: bare(_BARE),
        BARE_SETTLED: lambda: bare(_BARE),
        "bare cursor, two columns": lambda: bare(_BARE_JSON),
        STRUCTURE: structure,
        FOLD: texts,
        ONE: processes(1),
        TWO: processes(2),
        REPLAY: verb(1),
        REPLAY_TWO: verb(2),
        SINGLE: one_thread,
    }
    if importlib.util.find_spec("eventsourcing"):
        ways[PEER] = await _peer(here, large)
    return ways


async def _peer(here: Resources, stream_id: UUID) -> Way:
    from services.ops.bench.peer import Peer

    events = [event async for page in here.log.pages(stream_id) for event in page]
    keys = await here.keyring.by_id(event.key_id for event in events if event.key_id is not None)
    peer = Peer(events, keys)
    return lambda: asyncio.to_thread(peer.rebuild)


async def _sizes(here: Resources) -> dict[UUID, int]:
    sizes: dict[UUID, int] = {}
    after = NIL
    while names := await here.log.threads(None, after):
        sizes |= {name.stream_id: name.version for name in names}
        after = names[-1].stream_id
    return sizes


def report(
    plan: Plan, filled: Filled, measured: list[Measured], start: int, peaks: list[int]
) -> dict[str, Any]:
    """The figures as one JSON object: rates in events a second, times in seconds, memory in bytes."""
    limit = next(one for one in measured if one.name == LIMIT).rate
    return {
        "bench": "replay",
        "plan": {"events": plan.events, "large": plan.large, "rounds": plan.rounds, "seed": plan.seed},
        "log": {
            "events": filled["events"],
            "threads": filled["threads"],
            "fill_events_per_second": filled["events"] / filled["seconds"],
        },
        "measured": [
            {
                "name": one.name,
                "events": one.events,
                "events_per_second": one.rate,
                "ratio": one.rate / limit,
                "seconds": statistics.median(one.seconds),
                "cpu_seconds": statistics.median(one.cpu_seconds),
                "peak_rss": one.peak,
            }
            for one in measured
        ],
        "peak_rss": max(one.peak for one in measured),
        "peak_rss_before": start,
        "peaks": peaks,
        "goals": list(_goals({one.name: one for one in measured}, peaks)),
    }


def _goals(by_name: dict[str, Measured], peaks: list[int]) -> Iterator[Goal]:
    limit = by_name[LIMIT].rate
    yield _goal("fold, opened and rendered, of the bare cursor", "≥", 0.35, by_name[FOLD].rate / limit)
    yield _goal("fold, structure only, of the bare cursor", "≥", 0.6, by_name[STRUCTURE].rate / limit)
    if PEER in by_name:
        yield _goal("fold, of the eventsourcing package's", "≥", 2, by_name[FOLD].rate / by_name[PEER].rate)
    yield _goal("two processes that fold, of one", "≥", 1.7, by_name[TWO].rate / by_name[ONE].rate)
    rebuilt = max(by_name[REPLAY].rate, by_name[REPLAY_TWO].rate)
    yield _goal("events/s of a replay of everything", "≥", 60_000, rebuilt)
    single = by_name[SINGLE]
    per_ten_thousand = statistics.median(single.seconds) / single.events * 10_000
    yield _goal("seconds to rebuild one thread of 10,000", "<", 0.2, per_ten_thousand)
    if peaks:
        yield _goal("memory of the whole log, of a tenth of it", "≤", 1.2, peaks[1] / peaks[0])


def _goal(name: str, sign: str, goal: float, value: float) -> Goal:
    return Goal(name=name, sign=sign, goal=goal, value=value, held=held(sign, value, goal))
