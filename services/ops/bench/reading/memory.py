"""The part `memory`: what a comment of 300 characters takes in Redis, and what the API holds by the number of
threads that were read."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

import psutil
from redis import Redis

from services.core.addresses import thread_stream_id
from services.ops.bench.reading.rounds import sample
from services.ops.bench.reading.scene import Scene, page
from services.ops.bench.reading.sizes import fans
from services.ops.bench.reading.threads import Shape
from services.ops.bench.servers import SITE
from services.readmodel import keys

SMALL: Final = 10
"""Comments of each of the many threads."""
_SORTS: Final = ("newest", "best", "controversial", "replies")


def small(threads: int) -> list[Shape]:
    """Threads that are read one after the other."""
    return [Shape(key=f"small-{number}", comments=SMALL, kind="talk") for number in range(threads)]


def measure(scene: Scene, comments: int, threads: int) -> dict[str, Any]:
    """Bytes of a view for each comment, as built and with every order; and the API's resident set."""
    key = fans(comments)["key"]
    with scene.redis as redis:
        redis.flushall()
        empty = _used(redis)
        scene.build([key])
        built = _size(redis, key)
        for sort in _SORTS:
            sample(scene.api.port, page(key, f"?sort={sort}"))
        ordered, used = _size(redis, key), _used(redis) - empty
    with ExitStack() as stack:
        scene.start(stack)
        held = []
        shapes = small(threads)
        for number, shape in enumerate(shapes, 1):
            sample(scene.api.port, page(shape["key"]))
            if number in (max(1, threads // 10), max(1, threads // 2), threads):
                held.append({"threads": number, "bytes": _resident(scene.api.pid)})
    first, last = held[0], held[-1]
    grown = max(1, int(last["threads"]) - int(first["threads"]))
    return {
        "comments": comments,
        "bytes_per_comment": built / comments,
        "bytes_per_comment_ordered": ordered / comments,
        # All that the server uses more, which says something of a large thread only.
        "used_per_comment": used / comments,
        "api": held,
        "api_ratio": last["bytes"] / max(1, first["bytes"]),
        "api_bytes_per_thread": (last["bytes"] - first["bytes"]) / grown,
    }


def _used(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


def _size(redis: Redis, key: str) -> int:
    """Bytes of all the keys of a thread, by the server's own account of each."""
    found = redis.scan_iter(match=keys.prefix(thread_stream_id(SITE, key)) + "*", count=1000)
    return sum(int(redis.memory_usage(name, samples=0) or 0) for name in found)


def _resident(pid: int) -> int:
    root = psutil.Process(pid)
    return int(sum(one.memory_info().rss for one in (root, *root.children(recursive=True))))
