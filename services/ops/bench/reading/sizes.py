"""The parts `sizes` and `uncached`: what a page costs by the size of its thread, by its place, and where
nobody has asked for it before.

The threads are fans, so that a page has as many comments whatever the size of its thread.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import ExitStack
from random import Random
from typing import Any, Final

import orjson

from services.ops.bench.reading.rounds import Case, Figures, figures, interleaved, measured, sample, warm_up
from services.ops.bench.reading.scene import WIDE, Scene, page
from services.ops.bench.reading.threads import FAN, Shape
from services.ops.bench.visible import Client

LIMIT: Final = 50
FEW: Final = 10
"""Roots of the pages that are compared by the size of their thread: the smallest has some of them."""
DEEP: Final = 1000
"""The page that is compared with the first."""
_SEQUENCE: Final = 20
"""Pages that are read one after the other at each end."""


def key_of(size: int) -> str:
    """The key of the thread of so many comments."""
    return f"t-{size}"


def shape_of(size: int) -> Shape:
    """The thread of so many comments."""
    return Shape(key=key_of(size), comments=size, kind="fans")


async def _timed(scene: Scene, paths: list[str]) -> list[float]:
    """Seconds of each page, asked for one after the other."""
    client = await Client.connect(scene.api.port)
    try:
        times = []
        for path in paths:
            began = time.perf_counter()
            answer = await client.ask("GET", path)
            times.append(time.perf_counter() - began)
            assert answer.status == "200", answer.body[:200]
        return times
    finally:
        await client.close()


def measure(
    scene: Scene, sizes: tuple[int, ...], *, connections: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """First pages of threads of these sizes, warm; pages far behind, and of a long list of replies, cold."""
    servers = scene.servers
    scene.build([key_of(size) for size in sizes])
    scene.build([WIDE])
    with ExitStack() as stack:
        cases = [
            Case(key_of(size), scene.api, connections, (page(key_of(size), f"?limit={FEW}"),))
            for size in sizes
        ]
        for case in cases:
            sample(scene.api.port, case.paths[0])
        warm_up(servers, stack, cases[0])
        found = {
            name: figures(done)
            for name, done in interleaved(servers, cases, rounds=rounds, seconds=seconds).items()
        }
    first = found[cases[0].name]
    places = asyncio.run(_places(scene, max(sizes)))
    return {
        "sizes": [
            {
                "comments": size,
                **found[key_of(size)],
                "ratio": found[key_of(size)]["reads_per_second"] / max(first["reads_per_second"], 1e-9),
                "uncached": statistics.median(asyncio.run(_timed(scene, _front(scene, key_of(size))))),
            }
            for size in sizes
        ],
        "spread": _spread([found[key_of(size)] for size in sizes]),
        **places,
    }


def _spread(found: list[Figures]) -> float:
    """The slowest of the fastest."""
    rates = [one["reads_per_second"] for one in found]
    return float(min(rates) / max(*rates, 1e-9))


def _front(scene: Scene, key: str) -> list[str]:
    """Pages near the beginning that nobody has asked for: they begin behind each of the first roots."""
    roots = scene.roots(key)[:-FEW][: 2 * _SEQUENCE]
    return [page(key, f"?limit={FEW}&after={one}") for one in scene.cursors(key, after=roots)]


async def _places(scene: Scene, size: int) -> dict[str, Any]:
    """The first pages of the largest thread and those around page 1,000, and of the list of replies."""
    client = await Client.connect(scene.api.port)
    try:
        roots = await _walk(client, page(key_of(size), f"?limit={LIMIT}&replies=0"))
        top = orjson.loads((await client.ask("GET", page(WIDE, "?limit=1&replies=0"))).body)["comments"][0]
        replies = await _walk(client, page(WIDE, f"?limit={LIMIT}&parent={top['id']}"))
        return {"roots": roots, "replies": {**replies, "children": top["children"]}}
    finally:
        await client.close()


async def _walk(client: Client, path: str) -> dict[str, Any]:
    """Page through a list up to page 1,000 or its end; medians of the first pages' times and the last's."""
    times: list[float] = []
    after = ""
    while len(times) < DEEP:
        began = time.perf_counter()
        answer = await client.ask("GET", path + after)
        times.append(time.perf_counter() - began)
        # The cursor of the list is the last thing that a page says.
        cursor = orjson.loads(b"{" + answer.body[answer.body.rindex(b'"after":') :])["after"]
        if cursor is None:
            break
        after = f"&after={cursor}"
    count = max(1, min(_SEQUENCE, len(times) // 3))
    first = statistics.median(times[1 : count + 1] or times)
    last = statistics.median(times[-count - 1 : -1] or times)
    return {"pages": len(times), "first": first, "last": last, "ratio": last / max(first, 1e-9)}


def fans(comments: int) -> Shape:
    """The thread whose pages nobody has asked for."""
    return Shape(key="fans", comments=comments, kind="fans")


def uncached(scene: Scene, comments: int, *, connections: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Pages of 200 comments of a large thread, each asked for once: one begins behind each of its roots."""
    shape = fans(comments)
    scene.build([shape["key"]])
    cursors = scene.cursors(shape["key"], after=scene.roots(shape["key"])[: -LIMIT or None])
    Random(scene.servers.seed).shuffle(cursors)  # noqa: S311 - an order, no secret
    paths = [page(shape["key"], f"?limit={LIMIT}&replies={FAN - 1}&depth=1&after={one}") for one in cursors]
    shown = orjson.loads(sample(scene.api.port, paths.pop()).body)["comments"]
    with ExitStack() as stack:
        found = []
        share = max(1, len(paths) // (rounds + 1))
        slices = [tuple(paths[place : place + share]) for place in range(0, share * (rounds + 1), share)]
        warm_up(scene.servers, stack, Case("warm", scene.api, connections, slices[0], once=True))
        for some in slices[1:]:
            case = Case("uncached", scene.api, connections, some, once=True)
            found.append(measured(scene.servers, case, seconds, warm=0.0))
    return {
        "thread": comments,
        "comments_per_page": sum(1 + len(one["replies"]["items"]) for one in shown),
        "connections": connections,
        **figures(found),
    }
