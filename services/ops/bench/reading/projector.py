"""The part `projector`: what it costs to bring one comment more into a view, by the size of its thread."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import uvloop

from services.core.addresses import thread_stream_id
from services.eventlog.appenders import Appenders
from services.ops.bench.processes import cpu_seconds
from services.ops.bench.reading.scene import Scene, rebuilt
from services.ops.bench.reading.sizes import shape_of
from services.ops.bench.reading.threads import Poster
from services.ops.bench.reading.words import Words
from services.ops.bench.servers import SITE
from services.wiring import resources


def measure(scene: Scene, sizes: tuple[int, ...], *, comments: int) -> dict[str, Any]:
    """Medians over `comments` comments that each thread gets in turn, none of them batched with another."""
    found = uvloop.run(_measure(scene, sizes, comments))
    smallest, largest = found[0], found[-1]
    return {
        "comments": comments,
        "sizes": found,
        "ratio": largest["cpu_us"] / max(smallest["cpu_us"], 1e-9),
        "ratio_of_time": largest["seconds"] / max(smallest["seconds"], 1e-9),
    }


async def _measure(scene: Scene, sizes: tuple[int, ...], comments: int) -> list[dict[str, Any]]:
    settings = scene.settings()
    words = Words(scene.servers.seed)
    redis = scene.servers.redis.pid
    async with resources(settings) as here:
        keys = [await here.keyring.for_author(SITE, f"u-{number}") for number in range(10)]
        appenders = Appenders(settings.database_url, here.lanes)
        await appenders.start()
        posters = {}
        for size in sizes:
            shape = shape_of(size)
            posters[size] = Poster(shape, words, keys, scene.servers.seed)
            await rebuilt(here, thread_stream_id(SITE, shape["key"]))
        times: dict[int, list[float]] = {size: [] for size in sizes}
        own: dict[int, float] = dict.fromkeys(sizes, 0.0)
        asked: dict[int, float] = dict.fromkeys(sizes, 0.0)
        try:
            for number in range(comments + 1):
                for size, poster in posters.items():
                    await appenders.submit(poster.post(None))
                    await asyncio.sleep(0)
                    there, here_, began = cpu_seconds(redis), time.process_time(), time.perf_counter()
                    await here.projector.advance(poster.stream_id)
                    if number:  # the first one loads scripts
                        times[size].append(time.perf_counter() - began)
                        own[size] += time.process_time() - here_
                        asked[size] += cpu_seconds(redis) - there
        finally:
            await appenders.stop()
    return [
        {
            "comments": size,
            "seconds": statistics.median(times[size]),
            # Redis' own clock ticks in hundredths of a second: only the sum says anything.
            "cpu_us": 1e6 * (own[size] + asked[size]) / comments,
            "redis_us": 1e6 * asked[size] / comments,
        }
        for size in sizes
    ]
