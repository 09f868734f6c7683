"""The part `fanout`: the followers of a thread are told of one comment, beside a COPY of the same rows."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final, TypedDict
from uuid import UUID

import asyncpg
import psutil

from services.eventlog.fanouts import PARTS, Fanouts
from services.eventlog.pool import open_pool
from services.ops.bench.servers import SITE
from services.wiring import READER_SESSION

_WORKERS: Final = 2
"""Chunks that are under way at once: as in one worker process."""
_FOLLOW: Final = """
    insert into subscriptions (stream_id, author_id, site, level)
    select $1, 'follower-' || number, $2, 'all' from generate_series(1, $3::int) as number
"""
_ENTER: Final = """
    insert into fanouts (stream_id, event_id, part, site, comment_id, version, actor_id, created_at)
    select stream_id, comment_id, part, $2, comment_id, version, author_id, created_at
    from comments cross join generate_series(0, $3 - 1) as part where comment_id = $1
"""


class FannedOut(TypedDict):
    """Rows a second; medians of the rounds. Memory in bytes."""

    followers: int
    told_per_second: float
    copied_per_second: float
    ratio: float
    memory_before: int
    memory_after: int


async def measure(url: str, comment_id: UUID, *, followers: int, rounds: int) -> FannedOut:
    """Tell so many followers of the comment, and copy what that wrote, in turn."""
    with tempfile.TemporaryDirectory(prefix="threadlog-bench-") as folder:
        rows = Path(folder) / "rows"
        async with open_pool(url, _WORKERS, session=READER_SESSION) as pool:
            stream_id = await pool.fetchval(
                "select stream_id from comments where comment_id = $1", comment_id
            )
            await pool.execute(_FOLLOW, stream_id, SITE, followers)
            await pool.execute("vacuum analyze subscriptions")
            told, copied = [], []
            before = 0
            for number in range(rounds + 1):
                seconds = await _tell(pool, stream_id, comment_id)
                if number:  # the first one warms
                    told.append(followers / seconds)
                    copied.append(followers / await _copy(pool, rows))
                else:
                    before = psutil.Process().memory_info().rss
                    await pool.copy_from_query("select * from notifications", output=rows, format="binary")
            return FannedOut(
                followers=followers,
                told_per_second=statistics.median(told),
                copied_per_second=statistics.median(copied),
                ratio=statistics.median(one / other for one, other in zip(told, copied, strict=True)),
                memory_before=before,
                memory_after=psutil.Process().memory_info().rss,
            )


async def _tell(pool: asyncpg.Pool[Any], stream_id: UUID, comment_id: UUID) -> float:
    """Seconds that it takes."""
    await _empty(pool)
    await pool.execute(_ENTER, comment_id, SITE, PARTS)
    fanouts = Fanouts(pool)

    async def work() -> None:
        while await fanouts.tell(stream_id) is not None:
            pass

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(_WORKERS)))
    return time.perf_counter() - began


async def _copy(pool: asyncpg.Pool[Any], rows: Path) -> float:
    """Seconds that it takes."""
    await _empty(pool)
    began = time.perf_counter()
    await pool.copy_to_table("notifications", source=rows, format="binary")
    return time.perf_counter() - began


async def _empty(pool: asyncpg.Pool[Any]) -> None:
    await pool.execute("truncate notifications")
    await pool.execute("checkpoint")  # what the round before has left behind is not this one's
