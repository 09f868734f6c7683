"""`threadlog bench replay`: how fast the log folds, beside the fastest that Python reads the same rows.

Everything runs in this process, one after the other in turns, on one log that a process before it filled.
"""

from __future__ import annotations

import asyncio
import base64
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import orjson
import uvloop

from services.core.thread import ThreadState
from services.dev.servers import EmbeddedPostgres, EmbeddedRedis
from services.errors import Unavailable
from services.eventlog.log import NIL
from services.eventlog.migrate import migrate
from services.ops.bench.fill import Filled, Filling
from services.ops.bench.memory import peak_bytes, reset_peak
from services.settings import Settings
from services.wiring import Resources, resources

_BARE: Final = """
    select stream_id, version, event_id, type, schema_version, actor_id, correlation_id, causation_id,
        recorded_at, data, sealed, key_id, hash, lane, position
    from events
"""
_BARE_JSON: Final = "select event_id, data from events"
_PREFETCH: Final = 1000
_AT_ONCE: Final = 4
LIMIT: Final = "bare cursor"
"""The name of the measurement that the others are compared with."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: `events` in the log, of which `large` in one thread, everything `rounds` times."""

    events: int = 50_000
    large: int = 10_000
    rounds: int = 3
    seed: int = 1


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


Way = Callable[[], Awaitable[int]]
"""Goes through the log, or a thread, once; the number of events."""


def run(plan: Plan) -> dict[str, Any]:
    """Fill a log of its own on servers of its own, measure, and give the report."""
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
    return report(plan, filled, measured, start)


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
        ways = await _ways(here, large)
        measured = {name: Measured(name) for name in ways}
        for number in range(plan.rounds):
            # In turns, so that what else the machine does meanwhile meets all of them, and in changing order.
            names = list(ways)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                await _once(measured[name], ways[name])
        return list(measured.values())


async def _once(one: Measured, way: Way) -> None:
    reset_peak()
    cpu, started = time.process_time(), time.perf_counter()
    one.events = await way()
    one.seconds.append(time.perf_counter() - started)
    one.cpu_seconds.append(time.process_time() - cpu)
    one.peak = max(one.peak, peak_bytes())


async def _ways(here: Resources, large: UUID) -> dict[str, Way]:
    streams = await _streams(here)
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

    async def views() -> int:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(stream_id: UUID) -> int:
            async with slots:
                head = await projector.rebuild(stream_id)
                return 0 if head is None else head.version

        return sum(await asyncio.gather(*(one(stream_id) for stream_id in streams)))

    async def replay() -> int:
        return sum([(await here.replayer.replay(stream_id)).version for stream_id in streams])

    async def one_thread() -> int:
        head = await projector.rebuild(large)
        return 0 if head is None else head.version

    return {
        LIMIT: lambda: bare(_BARE),
        "bare cursor, two columns": lambda: bare(_BARE_JSON),
        "fold, structure only": structure,
        "fold, opened and rendered": texts,
        f"rebuild of all views, {_AT_ONCE} at once": views,
        "replay, views and decision state": replay,
        "rebuild of the largest thread": one_thread,
    }


async def _streams(here: Resources) -> list[UUID]:
    streams: list[UUID] = []
    after = NIL
    while names := await here.log.threads(None, after):
        streams += [name.stream_id for name in names]
        after = names[-1].stream_id
    return streams


def report(plan: Plan, filled: Filled, measured: list[Measured], start: int) -> dict[str, Any]:
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
    }
