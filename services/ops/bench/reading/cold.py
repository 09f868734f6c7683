"""The part `cold`: Redis emptied, the API new, and fifty readers at the same page at the same moment."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Any, Final

from services.ops.bench.load import quantile
from services.ops.bench.processes import Process
from services.ops.bench.reading.rounds import sample
from services.ops.bench.reading.scene import Scene, page
from services.ops.bench.reading.sizes import key_of
from services.ops.bench.reading.threads import Shape
from services.ops.bench.servers import CLI
from services.ops.bench.visible import Client

READERS: Final = 50
OTHERS: Final = tuple(Shape(key=f"other-{number}", comments=100, kind="talk") for number in range(10))
_BESIDE: Final = 4
_PAUSE_S: Final = 0.002
"""Between two reads of the others' readers: they are not to take the processor for themselves."""


def measure(scene: Scene, sizes: tuple[int, ...], *, rounds: int) -> dict[str, Any]:
    """Seconds until the last of the readers is answered, by size; and of other threads' readers meanwhile."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            found[size].append(_once(scene, size))
    return {
        "readers": READERS,
        "sizes": [
            {
                "comments": size,
                **{name: sorted(one[name] for one in found[size])[rounds // 2] for name in found[size][0]},
            }
            for size in sizes
        ],
    }


def _once(scene: Scene, size: int) -> dict[str, float]:
    with scene.redis as redis:
        redis.flushall()
    with ExitStack() as stack:
        scene.start(stack)
        worker = Process(CLI, ["worker"], log=scene.servers.folder / "worker.log", env=scene.environment)
        stack.enter_context(worker)
        for other in OTHERS:
            sample(scene.api.port, page(other["key"]))
        return asyncio.run(_read(scene.api.port, page(key_of(size))))


async def _read(port: int, path: str) -> dict[str, float]:
    """Read the others for a while, then what is cold beside them."""
    readers = [await Client.connect(port) for _ in range(READERS)]
    beside = [await Client.connect(port) for _ in range(_BESIDE)]
    done = asyncio.Event()
    others: list[float] = []

    async def read_others(client: Client, number: int) -> None:
        while not done.is_set():
            others.append(await _seconds(client, page(OTHERS[number % len(OTHERS)]["key"])))
            number += 1
            await asyncio.sleep(_PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        for number, client in enumerate(beside):
            tasks.create_task(read_others(client, number))
        while len(others) < 20 * _BESIDE:  # noqa: ASYNC110 - until their connections and pages are warm
            await asyncio.sleep(_PAUSE_S)
        in_peace = sorted(others[_BESIDE:])
        others.clear()
        times = sorted(await asyncio.gather(*(_seconds(client, path) for client in readers)))
        while len(others) < 2 * _BESIDE:  # noqa: ASYNC110 - what the last of them were kept waiting for
            await asyncio.sleep(_PAUSE_S)
        done.set()
    for client in (*readers, *beside):
        await client.close()
    others.sort()
    return {
        "first": times[0],
        "median": quantile(times, 0.5),
        "last": times[-1],
        "others_in_peace_p99": quantile(in_peace, 0.99),
        "others_p99": quantile(others, 0.99),
        "others_max": others[-1],
        "others_reads": float(len(others)),
    }


async def _seconds(client: Client, path: str) -> float:
    began = time.perf_counter()
    answer = await client.ask("GET", path)
    assert answer.status == "200", answer.body[:200]
    return time.perf_counter() - began
