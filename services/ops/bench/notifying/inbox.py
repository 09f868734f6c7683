"""The parts `stream` and `steady`: how soon a reply reaches its author's open stream, and whether the
notifier keeps up with replies for as long as they come."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Final, TypedDict
from uuid import UUID

import asyncpg
import orjson

from services.errors import Unavailable
from services.ops.bench.lasting import resident
from services.ops.bench.load import quantile
from services.ops.bench.processes import Process, cpu_seconds
from services.ops.bench.reading.pacing import Pacing
from services.ops.bench.servers import SITE, Servers, Subject
from services.ops.bench.visible import Client

READER: Final = 0
"""Whose inbox is watched, by its place among the authors."""
REPLIER: Final = 1
_PATIENCE_S: Final = 30.0
_LOOK_S: Final = 0.5
_BEHIND: Final = """
    select coalesce(sum(s.version - coalesce(c.version, 0)), 0)
    from streams s left join notifier_checkpoints c using (stream_id) where s.key is not null
"""


class Heard(TypedDict):
    """From the answer to a reply until its author's stream tells of it, in seconds."""

    rate: float
    taken: float
    replies: int
    median: float
    p99: float
    max: float


class Steady(TypedDict):
    """Replies that came at a rate. `behind` is in events that the notifier had not reached yet, `lag` the
    same in seconds of the rate; memory, in bytes, is the worker's."""

    rate: float
    taken: float
    seconds: float
    threads: int
    behind_first_third: float
    behind_last_third: float
    lag: float
    growth: float
    drained_in: float
    told: int
    worker_cpu_us_per_reply: float
    memory_first_third: float
    memory_last_third: float
    memory_ratio: float


async def post(client: Client, servers: Servers, thread: str, author: int, parent: str | None = None) -> str:
    """Post a comment; its id. Raises Unavailable where it is refused."""
    body: dict[str, object] = {"body": "As long as a short reply is."}
    if parent is not None:
        body["parent_id"] = parent
    path = f"/v1/sites/{SITE}/threads/{thread}/comments"
    answer = await client.ask("POST", path, servers.tokens[author], body)
    if answer.status != "201":
        raise Unavailable(f"a post was answered with {answer.status}: {answer.body[:200].decode()}")
    return str(orjson.loads(answer.body)["id"])


def heard(servers: Servers, api: Subject, *, rate: float, replies: int) -> Heard:
    """Replies to the reader, one after the other, while others post `rate` comments a second elsewhere."""
    others = [f"elsewhere-{number}" for number in range(10)]
    asyncio.run(_hear(servers, api.port, 3))  # the worker runs, and has caught up
    with Pacing(servers, api.port, rate, others, others[0], author=REPLIER + 1) as paced:
        times = asyncio.run(_hear(servers, api.port, replies))
        done = paced.stop()
    times.sort()
    return Heard(
        rate=rate,
        taken=done["posts"] / max(done["seconds"], 1e-9),
        replies=len(times),
        median=quantile(times, 0.5),
        p99=quantile(times, 0.99),
        max=times[-1],
    )


async def _hear(servers: Servers, port: int, replies: int) -> list[float]:
    client = await Client.connect(port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"GET /v1/sites/{SITE}/me/notifications/live HTTP/1.1\r\nHost: bench\r\n"
            f"Accept: text/event-stream\r\nAuthorization: Bearer {servers.tokens[READER]}\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE_S)
        if not head.startswith(b"HTTP/1.1 200"):
            raise Unavailable(f"the stream was answered with {head[:40].decode()}")
        root = await post(client, servers, "talk", READER)
        times = []
        for _ in range(replies):
            reply = (await post(client, servers, "talk", REPLIER, root)).encode()
            answered = time.perf_counter()
            async with asyncio.timeout(_PATIENCE_S):  # heartbeats come all the time
                while reply not in await reader.readuntil(b"\n"):
                    pass
            times.append(time.perf_counter() - answered)
        return times
    finally:
        writer.close()
        await client.close()


def steady(
    servers: Servers, api: Subject, worker: Process, *, rate: float, seconds: float, threads: int
) -> Steady:
    """`rate` replies a second over so many threads."""
    keys = [f"steady-{number}" for number in range(threads)]
    roots = asyncio.run(_roots(servers, api.port, keys))
    asyncio.run(_drain(api))
    cpu, told = cpu_seconds(worker.pid), asyncio.run(_ask(api, "select count(*) from notifications"))
    with Pacing(servers, api.port, rate, keys, keys[0], parents=roots, author=REPLIER) as paced:
        behind, memory = asyncio.run(_watch(api, worker, seconds))
        done = paced.stop()
    drained = asyncio.run(_drain(api))
    told = asyncio.run(_ask(api, "select count(*) from notifications")) - told
    if told != done["posts"]:
        raise Unavailable(f"{done['posts']} replies were posted, and {told} told of")
    third = max(1, len(behind) // 3)
    first, last = statistics.median(behind[:third]), statistics.median(behind[-third:])
    held, holds = statistics.median(memory[:third]), statistics.median(memory[-third:])
    taken = done["posts"] / max(done["seconds"], 1e-9)
    return Steady(
        rate=rate,
        taken=taken,
        seconds=done["seconds"],
        threads=threads,
        behind_first_third=first,
        behind_last_third=last,
        lag=last / max(taken, 1e-9),
        growth=(last - first) / max(done["posts"] * 2 / 3, 1.0),
        drained_in=drained,
        told=told,
        worker_cpu_us_per_reply=1e6 * (cpu_seconds(worker.pid) - cpu) / max(done["posts"], 1),
        memory_first_third=held,
        memory_last_third=holds,
        memory_ratio=holds / held,
    )


async def _roots(servers: Servers, port: int, keys: list[str]) -> list[str]:
    client = await Client.connect(port)
    try:
        return [await post(client, servers, key, READER) for key in keys]
    finally:
        await client.close()


async def _watch(api: Subject, worker: Process, seconds: float) -> tuple[list[float], list[int]]:
    behind, memory = [], []
    connection = await asyncpg.connect(api.environment["THREADLOG_DATABASE_URL"])
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            behind.append(float(await connection.fetchval(_BEHIND)))
            memory.append(resident(worker.pid))
            await asyncio.sleep(_LOOK_S)  # between two samples
    finally:
        await connection.close()
    return behind, memory


async def _drain(api: Subject) -> float:
    """Seconds until the notifier has reached the log. Raises Unavailable where that takes too long."""
    began = time.monotonic()
    while await _ask(api, _BEHIND):
        if time.monotonic() - began > 10 * _PATIENCE_S:
            raise Unavailable("the notifier does not catch up")
        await asyncio.sleep(_LOOK_S / 10)  # between two looks
    return time.monotonic() - began


async def _ask(api: Subject, query: str) -> int:
    connection = await asyncpg.connect(api.environment["THREADLOG_DATABASE_URL"])
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


async def comment(servers: Servers, port: int, thread: str) -> UUID:
    """A new comment of that thread; its id."""
    client = await Client.connect(port)
    try:
        return UUID(await post(client, servers, thread, READER))
    finally:
        await client.close()
