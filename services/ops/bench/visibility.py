"""From the answer to a post until it is read, with a worker running: first alone, then beside the load.

The worker starts for this part only: on a small machine it would take the CPU whose use the others measure.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis

from services.errors import Unavailable
from services.ops.bench import visible
from services.ops.bench.processes import Process
from services.ops.bench.rounds import Case, begin
from services.ops.bench.servers import CLI, SITE, Servers, Subject
from services.pokes import QUEUES, queue_key

GOAL_S: Final = 0.25
"""Within this time a comment is to be visible when nothing else happens."""

_SETTLE_S: Final = 300.0
_UNTOLD: Final = """
    select count(*) from streams s left join notifier_checkpoints c using (stream_id)
    where s.key is not null and c.version is distinct from s.version
"""


def measure(
    servers: Servers, api: Subject, posts: int, *, connections: int, seconds: float
) -> dict[str, Any]:
    """Times of `posts` comments, and of some beside the load."""
    seconds = max(1.0, seconds)
    with Process(CLI, ["worker"], log=servers.folder / "worker.log", env=api.environment):
        asyncio.run(_measure(servers, api, 1, "warm"))
        asyncio.run(_settle(api))
        idle = asyncio.run(_measure(servers, api, posts, "idle"))
        generators = begin(Case("api", api, connections), seconds)
        loaded = asyncio.run(_measure(servers, api, max(1, min(posts, int(seconds))), "loaded"))
        results = [load.answer() for load in api.loads[:generators]]
    rate = sum(one["posts"] / one["seconds"] for one in results)
    return {
        "idle": idle,
        "goal": GOAL_S,
        "held": idle["max"] < GOAL_S,
        "loaded": {**loaded, "posts_per_second": rate},
    }


async def _settle(api: Subject) -> None:
    """Wait until the workers have dealt with what the rounds left them: only then is nothing else happening.

    Raises Unavailable where that takes minutes.
    """
    deadline = time.monotonic() + _SETTLE_S
    broker = Redis.from_url(api.environment["THREADLOG_BROKER_URL"])
    connection = await asyncpg.connect(api.environment["THREADLOG_DATABASE_URL"])
    try:
        while True:
            waiting = sum([await broker.llen(queue_key(queue)) for queue in QUEUES.values()])
            if waiting == 0 and await connection.fetchval(_UNTOLD) == 0:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"the workers did not catch up within {_SETTLE_S:.0f} s")
            await asyncio.sleep(0.2)  # between two looks at the condition
    finally:
        await connection.close()
        await broker.aclose()


async def _measure(servers: Servers, api: Subject, posts: int, thread: str) -> visible.Visible:
    return await visible.measure(api.port, SITE, servers.tokens[0], posts, thread=thread, seed=servers.seed)
