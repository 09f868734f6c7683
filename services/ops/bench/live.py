"""`threadlog bench live`: many listen to one thread; how long one comment takes to reach all of them, and
what an open stream costs.

The API, the worker, the servers and the listeners are processes of their own.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from services.errors import Unavailable
from services.ops.bench import visible
from services.ops.bench.audience import Audience, Heard
from services.ops.bench.lasting import resident
from services.ops.bench.processes import Answering, Process, cpu_seconds
from services.ops.bench.servers import CLI, SITE, Servers
from services.ops.bench.visible import Client
from services.ops.output import fields, say

THREAD: Final = "live"
_SETTLE_S: Final = 1.0
_BODY: Final = "A comment of an average length, as long as most of those are. " * 5


@dataclass(frozen=True, slots=True)
class Plan:
    """How many listen, and how many comments they hear."""

    streams: int = 10_000
    rounds: int = 5
    seed: int = 1


def run(plan: Plan) -> dict[str, Any]:
    """Start everything, post, and give the report: times in seconds, sizes in bytes; medians of the rounds.

    Raises Unavailable where a post is refused, or a comment does not reach everyone.
    """
    with Servers(threads=1, authors=1, seed=plan.seed) as servers, servers.part() as stack:
        api = servers.api(stack, servers.database())
        stack.enter_context(Process(CLI, ["worker"], log=servers.folder / "worker.log", env=api.environment))
        # Until a worker shows a comment, it has not started.
        asyncio.run(visible.measure(api.port, SITE, servers.tokens[0], 2, thread=THREAD, seed=plan.seed))
        path = f"/v1/sites/{SITE}/threads/{THREAD}"
        audience = stack.enter_context(
            Answering("services.ops.bench.audience", log=servers.folder / "audience.log")
        )
        before = resident(api.process.pid)
        began, cpu = time.perf_counter(), cpu_seconds(api.process.pid)
        audience.tell(Audience(port=api.port, path=f"{path}/live", streams=plan.streams))
        audience.answer()
        opened, opening = time.perf_counter() - began, cpu_seconds(api.process.pid) - cpu
        time.sleep(_SETTLE_S)  # what opening them left behind is not the rounds'
        after, cpu = resident(api.process.pid), cpu_seconds(api.process.pid)
        told = [_round(api.port, path, servers.tokens[0], audience) for _ in range(plan.rounds)]
        spent = cpu_seconds(api.process.pid) - cpu
        return {
            "bench": "live",
            "plan": asdict(plan),
            "processors": os.cpu_count(),
            "streams": plan.streams,
            "opened_in": opened,
            "open_cpu_us_per_stream": 1e6 * opening / plan.streams,
            "memory_before": before,
            "memory_open": after,
            "bytes_per_stream": (after - before) / plan.streams,
            "memory_end": resident(api.process.pid),
            "event_bytes": told[-1]["size"],
            **{
                name: statistics.median(one[name] for one in told)
                for name in ("answered", "first", "median", "last")
            },
            "cpu_us_per_event_and_stream": 1e6 * spent / plan.rounds / plan.streams,
        }


def _round(port: int, path: str, token: str, audience: Answering) -> dict[str, float]:
    """Seconds from sending a post to its answer, and to the first, the median and the last who hear of it."""
    audience.tell({})
    sent, answered = asyncio.run(_post(port, path, token))
    heard: Heard = audience.answer()
    if heard["missing"]:
        raise Unavailable(f"{heard['missing']:,} streams were told nothing")
    return {
        "answered": answered - sent,
        "first": heard["first"] - sent,
        "median": heard["median"] - sent,
        "last": heard["last"] - sent,
        "size": heard["size"],
    }


async def _post(port: int, path: str, token: str) -> tuple[float, float]:
    client = await Client.connect(port)
    try:
        sent = time.perf_counter()
        answer = await client.ask("POST", f"{path}/comments", token, {"body": _BODY})
        answered = time.perf_counter()
    finally:
        await client.close()
    if answer.status != "201":
        raise Unavailable(f"a post was answered with {answer.status}: {answer.body[:200].decode()}")
    return sent, answered


def print_live(report: dict[str, Any]) -> None:
    """The report for people."""
    say(f"{report['streams']:,} streams of one thread on one API process; one comment reaches all of them")
    say()
    fields(
        [
            ("post to 201, ms", round(report["answered"] * 1000, 1)),
            ("post to the first reader, ms", round(report["first"] * 1000, 1)),
            ("post to the median reader, ms", round(report["median"] * 1000, 1)),
            ("post to the last reader, ms", round(report["last"] * 1000, 1)),
            ("bytes of an event", report["event_bytes"]),
            ("API CPU us for an event and stream", round(report["cpu_us_per_event_and_stream"], 1)),
            ("API memory for a stream, bytes", round(report["bytes_per_stream"])),
            ("API memory, MiB", round(report["memory_open"] / 2**20)),
            ("streams opened in, s", round(report["opened_in"], 1)),
            ("API CPU us to open a stream", round(report["open_cpu_us_per_stream"])),
        ]
    )
