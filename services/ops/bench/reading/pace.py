"""Posts comments at a given rate, whether the answers keep up or not, until it is told to stop.

`python -m services.ops.bench.reading.pace` takes a `Pace` on a line and begins; a second line ends it, and it
writes a `Paced`. All as JSON.
"""

from __future__ import annotations

import asyncio
import sys
import time
from random import Random
from typing import Final, TypedDict

import orjson
import uvloop

from services.ops.bench.reading.words import Words
from services.ops.bench.visible import Client

_CONNECTIONS: Final = 64
_TEXTS: Final = 500
_SLICE_S: Final = 0.002


class Pace(TypedDict):
    """Posts a second to the threads in turn; `seen` is one of them, whose versions are kept. `parents`: what
    is replied to, a comment of each thread, or none."""

    port: int
    site: str
    token: str
    threads: list[str]
    parents: list[str]
    seen: str
    rate: float
    seed: int


class Paced(TypedDict):
    """How it went: `posts` in `seconds`, those refused by status, how many were dropped because no connection
    was free; and of the thread `seen`, when each version was answered, by the monotonic clock."""

    posts: int
    seconds: float
    refused: dict[str, int]
    dropped: int
    answered: dict[str, float]


async def keep(pace: Pace, until: asyncio.Event) -> Paced:
    """Post until the event is set."""
    random = Random(pace["seed"])  # noqa: S311 - texts, not secrets
    words = Words(pace["seed"])
    bodies = [{"body": words.text(random)} for _ in range(_TEXTS)]
    count = min(_CONNECTIONS, max(2, int(pace["rate"])))
    free = [await Client.connect(pace["port"]) for _ in range(count)]
    paced = Paced(posts=0, seconds=0.0, refused={}, dropped=0, answered={})
    number = 0

    async def post(client: Client) -> None:
        at = number % len(pace["threads"])
        thread, body = pace["threads"][at], random.choice(bodies)
        if pace["parents"]:
            body = body | {"parent_id": pace["parents"][at]}
        path = f"/v1/sites/{pace['site']}/threads/{thread}/comments"
        answer = await client.ask("POST", path, pace["token"], body)
        if answer.status != "201":
            paced["refused"][answer.status] = paced["refused"].get(answer.status, 0) + 1
        else:
            paced["posts"] += 1
            if thread == pace["seen"]:
                paced["answered"][str(answer.version)] = time.perf_counter()
        free.append(client)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        while not until.is_set():
            due = int((time.perf_counter() - began) * pace["rate"])
            while number < due:
                if free:
                    tasks.create_task(post(free.pop()))
                    await asyncio.sleep(0)  # it takes its thread by the number as it is now
                else:
                    paced["dropped"] += 1
                number += 1
            await asyncio.sleep(_SLICE_S)
        paced["seconds"] = time.perf_counter() - began
    for client in free:
        await client.close()
    return paced


async def run() -> Paced:
    """Post until the second line of the input."""
    loop = asyncio.get_running_loop()
    pace: Pace = orjson.loads(await loop.run_in_executor(None, sys.stdin.buffer.readline))
    until = asyncio.Event()
    keeping = asyncio.create_task(keep(pace, until))
    await loop.run_in_executor(None, sys.stdin.buffer.readline)
    until.set()
    return await keeping


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(run())) + b"\n")
