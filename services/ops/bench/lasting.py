"""What the API holds in memory under minutes of load."""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import Any, Final

import psutil

from services.ops.bench.rounds import Case, begin, warm_up
from services.ops.bench.servers import Servers

_EVERY_S: Final = 1.0


def resident(pid: int) -> int:
    """Bytes that a process and all below it hold in memory; what they share is counted for each."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += int(process.memory_info().rss)
    return total


def measure(servers: Servers, *, connections: int, seconds: float) -> dict[str, Any]:
    """Sizes in bytes: the medians of the first and the last third of the time, and what grew between."""
    with servers.part() as stack:
        api = servers.api(stack, servers.database())
        case = Case("api", api, connections)
        warm_up(servers, stack, case)
        generators = begin(case, seconds)
        samples: list[int] = []
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            samples.append(resident(api.process.pid))
            time.sleep(min(_EVERY_S, rest))  # between two samples
        results = [load.answer() for load in api.loads[:generators]]
    posts = sum(one["posts"] for one in results)
    third = max(1, len(samples) // 3)
    first, last = statistics.median(samples[:third]), statistics.median(samples[-third:])
    # From the middle of the first third to the middle of the last one, two thirds of the posts were taken.
    between = max(posts * 2 / 3, 1.0)
    return {
        "connections": connections,
        "seconds": seconds,
        "posts": posts,
        "posts_per_second": posts / max(results[0]["seconds"], 1e-9),
        "samples": len(samples),
        "first_third": first,
        "last_third": last,
        "peak": max(samples),
        "ratio": last / first,
        "growth_per_1000_posts": 1000 * (last - first) / between,
    }
