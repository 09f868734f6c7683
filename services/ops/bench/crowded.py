"""The load beside thousands of idle connections, and beside clients that hardly read their answers."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, Final, Self

from services.errors import Unavailable
from services.ops.bench.crowd import Crowd
from services.ops.bench.lasting import resident
from services.ops.bench.processes import Answering, cpu_seconds
from services.ops.bench.rounds import Case, Measured, figures, measured, ratio, warm_up
from services.ops.bench.servers import SITE, Servers, Subject
from services.ops.bench.visible import Client

SLOW: Final = 100
_PAGE: Final = 100
"""Comments of the page that the slow readers ask for."""
_BODY: Final = "A line of a long comment that is read a byte at a time.\n\n" * 60
_SETTLE_S: Final = 120.0
_LOOK_S: Final = 0.3
_QUIET: Final = 0.1
"""Share of a processor below which the API is at rest."""


def measure(servers: Servers, idle: int, *, connections: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Figures with and without the crowd, in turn, and the memory that an idle connection takes, in bytes."""
    with servers.part() as stack:
        api = servers.api(stack, servers.database())
        case = Case("api", api, connections)
        warm_up(servers, stack, case)
        asyncio.run(_write_page(servers, api))
        found: dict[str, list[Measured]] = {"without": [], "with": []}
        sizes = []
        for _ in range(rounds):
            found["without"].append(measured(servers, case, seconds))
            before = resident(api.process.pid)
            with _crowd(servers, api, idle, 0):
                sizes.append((resident(api.process.pid) - before) / max(idle, 1))
                with _crowd(servers, api, 0, SLOW):
                    _settle(api)
                    found["with"].append(measured(servers, case, seconds))
    with_them, without = figures(found["with"]), figures(found["without"])
    return {
        "connections": connections,
        "idle": idle,
        "slow": SLOW,
        "with": with_them,
        "without": without,
        "ratio": ratio(with_them, without),
        "p99_ratio": with_them["p99"] / max(without["p99"], 1e-9),
        # The first crowd's: later ones find memory that the earlier ones have left.
        "bytes_per_idle_connection": sizes[0],
        "bytes_per_idle_connection_of_rounds": [round(size) for size in sizes],
        "median_bytes_per_idle_connection": statistics.median(sizes),
    }


def _settle(api: Subject) -> None:
    """Wait until the API has written what goes into the kernels' buffers: what follows is only held.

    Raises Unavailable where that takes minutes.
    """
    deadline = time.monotonic() + _SETTLE_S
    spent = cpu_seconds(api.process.pid)
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)  # between two looks at the condition
        now = cpu_seconds(api.process.pid)
        if now - spent < _QUIET * _LOOK_S:
            return
        spent = now
    raise Unavailable("the API does not come to rest beside clients that hardly read")


def _crowd(servers: Servers, api: Subject, idle: int, slow: int) -> _Present:
    path = f"/v1/sites/{SITE}/threads/slow/comments?limit={_PAGE}"
    return _Present(servers, Crowd(port=api.port, idle=idle, slow=slow, path=path))


class _Present(Answering):
    """A crowd that is there within the context."""

    def __init__(self, servers: Servers, crowd: Crowd) -> None:
        super().__init__("services.ops.bench.crowd", log=servers.folder / "crowd.log")
        self._crowd = crowd

    def __enter__(self) -> Self:
        super().__enter__()
        self.tell(self._crowd)
        self.answer()
        return self


async def _write_page(servers: Servers, api: Subject) -> None:
    """A thread whose page is large."""
    client = await Client.connect(api.port)
    try:
        path = f"/v1/sites/{SITE}/threads/slow/comments"
        for number in range(_PAGE):
            body = {"body": f"{number}\n\n{_BODY}"}
            answer = await client.ask("POST", path, servers.tokens[number % servers.authors], body)
            if answer.status != "201":
                raise Unavailable(f"a post was answered with {answer.status}: {answer.body[:200].decode()}")
        await client.ask("GET", f"{path}?limit={_PAGE}")
    finally:
        await client.close()
