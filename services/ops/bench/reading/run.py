"""`threadlog bench read`: what pages cost, beside a handler that answers the same bytes, in one run.

The API, Postgres, Redis and the load generators are processes of their own. What is compared is measured in
turn; figures are medians of the rounds. The parts:

- `hot`: a page that everyone reads, while a comment a second arrives, beside a bare handler; and 304s.
- `sizes`: the first page by the size of the thread, page 1,000, and a long list of replies.
- `uncached`: pages of 200 comments, none asked for twice.
- `busy`: a page while its thread takes a thousand posts a second; and how soon a comment is visible.
- `cold`: fifty readers at once, Redis empty and the API new.
- `memory`: bytes in Redis for each comment, and the API's by the number of threads.
- `projector`: one comment more, by the size of the thread.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from services.ops.bench.reading import busy, cold, goals, hot, memory, plot, projector, sizes
from services.ops.bench.reading.scene import WIDE, Scene, prepare
from services.ops.bench.reading.threads import Shape
from services.ops.bench.servers import Servers

PARTS: Final = ("hot", "sizes", "uncached", "busy", "cold", "memory", "projector")
_AUTHORS: Final = 500
_MOST_REPLIES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `seconds` of each round are counted; the largest thread has `largest` comments, the
    one whose pages nobody cached `large`; `rate` posts a second make a thread busy."""

    parts: tuple[str, ...] = PARTS
    connections: int = 32
    seconds: float = 5.0
    rounds: int = 3
    largest: int = 1_000_000
    large: int = 100_000
    threads: int = 2_000
    rate: float = 1_000.0
    comments: int = 200
    seed: int = 1
    plot: str | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The threads that are compared, by their comments."""
        return tuple(sorted({min(100, self.largest), min(10_000, self.largest), self.largest}))

    def has(self, *parts: str) -> bool:
        """Whether any of these parts is asked for."""
        return not set(parts).isdisjoint(self.parts)


def run(plan: Plan) -> dict[str, Any]:
    """Start everything, measure, and give the report. Times in seconds unless their names say otherwise."""
    report: dict[str, Any] = {"bench": "read", "plan": asdict(plan), "processors": os.cpu_count()}
    with Servers(threads=100, authors=_AUTHORS, seed=plan.seed) as servers:
        report["postgres"] = asyncio.run(_facts(servers.postgres.dsn()))
        with servers.part() as stack:
            scene = prepare(servers, stack)
            began = time.perf_counter()
            shapes = list(_shapes(plan))
            scene.fill(shapes)
            report["filled"] = {
                "threads": len(shapes),
                "comments": sum(shape["comments"] for shape in shapes),
                "seconds": time.perf_counter() - began,
            }
            _warm_parts(plan, scene, report)
        # The API of these is started anew by the parts themselves.
        if plan.has("cold"):
            report["cold"] = cold.measure(scene, plan.sizes, rounds=plan.rounds)
        if plan.has("memory"):
            with servers.part() as stack:
                scene.start(stack)
                report["memory"] = memory.measure(scene, plan.large, plan.threads)
        if plan.has("projector"):
            report["projector"] = projector.measure(scene, plan.sizes, comments=plan.comments)
    report["goals"] = goals.of(report)
    if plan.plot:
        plot.write(report, Path(plan.plot))
    return report


def _warm_parts(plan: Plan, scene: Scene, report: dict[str, Any]) -> None:
    """Those that one API does for."""
    timing: dict[str, Any] = {
        "connections": plan.connections,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
    }
    if plan.has("hot"):
        report["hot"] = hot.measure(scene, **timing)
    if plan.has("sizes"):
        report["sizes"] = sizes.measure(scene, plan.sizes, **timing)
    if plan.has("uncached"):
        report["uncached"] = sizes.uncached(scene, plan.large, **timing)
    if plan.has("busy"):
        report["busy"] = busy.measure(scene, rate=plan.rate, **timing)


def _shapes(plan: Plan) -> Iterator[Shape]:
    """The threads that the parts need."""
    if plan.has("hot"):
        yield hot.HOT
    if plan.has("busy"):
        yield busy.BUSY
    if plan.has("sizes", "cold", "projector"):
        yield from map(sizes.shape_of, plan.sizes)
    if plan.has("sizes"):
        yield Shape(key=WIDE, comments=1 + min(_MOST_REPLIES, plan.largest), kind="wide")
    if plan.has("uncached", "memory"):
        yield sizes.fans(plan.large)
    if plan.has("cold"):
        yield from cold.OTHERS
    if plan.has("memory"):
        yield from memory.small(plan.threads)


async def _facts(database_url: str) -> dict[str, str]:
    connection = await asyncpg.connect(database_url)
    try:
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        return {name: str(await connection.fetchval(f"show {name}")) for name in names}
    finally:
        await connection.close()
