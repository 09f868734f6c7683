"""The part `busy`: a thread that takes a thousand posts a second, read meanwhile; and how soon a comment is
visible while the API takes half of what it can."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Any, Final

from services.errors import Unavailable
from services.ops.bench import rounds as posts
from services.ops.bench import visible
from services.ops.bench.load import quantile
from services.ops.bench.processes import Process
from services.ops.bench.reading.pacing import Pacing
from services.ops.bench.reading.rounds import Case, figures, measured, ratio, sample, warm_up
from services.ops.bench.reading.scene import Scene, page
from services.ops.bench.reading.threads import Shape
from services.ops.bench.servers import CLI, SITE
from services.ops.bench.visible import Client

BUSY: Final = Shape(key="busy", comments=1000, kind="talk")
_THREADS: Final = 10
"""Threads over which half of the maximum rate is spread: the one that is watched gets enough of it."""
_VERSIONS: Final = 30
"""Versions of the watched thread that are waited for, at least."""
_PATIENCE_S: Final = 30.0
_BETWEEN_READS_S: Final = 0.002
"""A reader who asks without a pause takes a third of a processor from what is measured."""
_WARM_S: Final = 1.0


def measure(scene: Scene, *, connections: int, rounds: int, seconds: float, rate: float) -> dict[str, Any]:
    """The first page while its thread takes `rate` posts a second, beside the same page in peace."""
    servers = scene.servers
    with ExitStack() as stack:
        stack.enter_context(
            Process(CLI, ["worker"], log=servers.folder / "worker.log", env=scene.environment)
        )
        case = Case("busy", scene.api, connections, (page(BUSY["key"]),))
        sample(scene.api.port, case.paths[0])
        _caught_up(scene)
        warm_up(servers, stack, case)
        idle, loaded, taken = [], [], []
        for _ in range(rounds):
            idle.append(measured(servers, case, seconds))
            with Pacing(servers, scene.api.port, rate, [BUSY["key"]], BUSY["key"]) as paced:
                loaded.append(measured(servers, case, seconds, warm=1.0))
                done = paced.stop()
            taken.append(done["posts"] / max(done["seconds"], 1e-9))
        in_peace, under_load = figures(idle), figures(loaded)
        most = _most(scene, stack, connections, seconds)
        return {
            "connections": connections,
            "idle": in_peace,
            "busy": under_load,
            "ratio": ratio(under_load, in_peace),
            "rate": rate,
            "taken": sorted(taken)[len(taken) // 2],
            "most": most,
            "visible": _visible(scene, most / 2, seconds),
        }


def _most(scene: Scene, stack: ExitStack, connections: int, seconds: float) -> float:
    """Posts a second that the API takes at most, over many threads."""
    case = posts.Case("most", scene.subject, connections)
    posts.warm_up(scene.servers, stack, case)
    return posts.measured(scene.servers, case, seconds).rate


def _caught_up(scene: Scene) -> None:
    """Wait until the worker runs, and is through with what it was told of before: comments are seen. The API,
    which builds the view, may bring it up to the first of them itself."""
    servers = scene.servers
    asyncio.run(
        visible.measure(scene.api.port, SITE, servers.tokens[0], 3, thread="caught-up", seed=servers.seed)
    )


def _visible(scene: Scene, rate: float, seconds: float) -> dict[str, Any]:
    """How long after its answer a comment is first read, with `rate` posts a second over some threads."""
    threads = [f"visible-{number}" for number in range(_THREADS)]
    _caught_up(scene)
    with Pacing(scene.servers, scene.api.port, rate, threads, threads[0]) as paced:
        seen = asyncio.run(_watched(scene, threads[0], seconds))
        done = paced.stop()
    answered = {int(version): when for version, when in done["answered"].items()}
    first = {version: next((when for when, at in seen if at >= version), None) for version in answered}
    began = seen[0][0] if seen else 0.0
    # What was answered before anyone watched tells nothing, nor what came at the very end.
    times = sorted(
        max(0.0, when - answered[version])
        for version, when in first.items()
        if when is not None and answered[version] >= began
    )
    return {
        "rate": rate,
        "taken": done["posts"] / max(done["seconds"], 1e-9),
        "dropped": done["dropped"],
        "posts": len(times),
        "median": quantile(times, 0.5),
        "p99": quantile(times, 0.99),
        "max": times[-1] if times else 0.0,
    }


async def _watched(scene: Scene, key: str, seconds: float) -> list[tuple[float, int]]:
    """When each version of the thread was read first, by one reader who asks again and again."""
    client = await Client.connect(scene.api.port)
    try:
        await asyncio.sleep(_WARM_S)
        found: list[tuple[float, int]] = []
        path = page(key, "?limit=1&sort=newest")
        began = time.perf_counter()
        while len(found) < _VERSIONS or time.perf_counter() - began < seconds:
            version = (await client.ask("GET", path)).version
            if version and (not found or version > found[-1][1]):
                if not found:
                    began = time.perf_counter()
                found.append((time.perf_counter(), version))
            await asyncio.sleep(_BETWEEN_READS_S)
            if time.perf_counter() - began > _PATIENCE_S + seconds:
                raise Unavailable(
                    f"{len(found)} versions were read in {_PATIENCE_S + seconds:.0f} s: no worker?"
                )
        return found
    finally:
        await client.close()
