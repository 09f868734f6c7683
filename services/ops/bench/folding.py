"""Threads folded by several processes at once, to see how far more of them help.

`python -m services.ops.bench.folding` takes a `Share` as JSON on a line of its standard input, says `ready`,
and folds on the next line, texts opened and rendered; then it says how many events there were, and ends.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TypedDict
from uuid import UUID

import orjson
import uvloop

from services.errors import Unavailable
from services.garbage import settle
from services.settings import Settings
from services.wiring import resources


class Share(TypedDict):
    """What one of the processes folds."""

    database_url: str
    redis_url: str
    master_key: str
    streams: list[str]


def shares(sizes: Mapping[UUID, int], count: int) -> list[list[UUID]]:
    """The streams, by their numbers of events, in `count` parts as even as they can be: largest first, each
    to the part that has least."""
    parts: list[list[UUID]] = [[] for _ in range(count)]
    events = [0] * count
    for stream_id in sorted(sizes, key=lambda one: sizes[one], reverse=True):
        least = events.index(min(events))
        parts[least].append(stream_id)
        events[least] += sizes[stream_id]
    return parts


def together(settings: Settings, parts: Sequence[Sequence[UUID]]) -> tuple[int, float]:
    """Fold each part in a process of its own; the events of all, and the seconds until the last was done."""
    processes = [_start(settings, part) for part in parts]
    try:
        for process in processes:
            _line(process)
        started = time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        events = sum(int(_line(process)) for process in processes)
        return events, time.perf_counter() - started
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _start(settings: Settings, streams: Sequence[UUID]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    share = Share(
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        master_key=settings.master_key.get_secret_value(),
        streams=[str(stream_id) for stream_id in streams],
    )
    assert process.stdin is not None
    process.stdin.write(orjson.dumps(share) + b"\n")
    process.stdin.flush()
    return process


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Unavailable(f"a folding process ended with exit code {process.wait()}")
    return line.strip()


async def _fold(share: Share) -> None:
    settings = Settings.load(
        database_url=share["database_url"], redis_url=share["redis_url"], master_key=share["master_key"]
    )
    async with resources(settings) as here:
        streams = [UUID(stream_id) for stream_id in share["streams"]]
        await here.projector.index(streams[0])  # what is done but once is done by now
        settle()
        _say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        _say(str(sum([(await here.projector.index(stream_id)).thread.version for stream_id in streams])))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    uvloop.run(_fold(orjson.loads(sys.stdin.readline())))
