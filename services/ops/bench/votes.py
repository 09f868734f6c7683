"""`threadlog bench votes`: everybody votes on one comment, over HTTP, with a worker that keeps the view.

The API, the worker, Postgres and the voters are processes of their own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from services.errors import Unavailable
from services.ops.bench import visible
from services.ops.bench.lasting import resident
from services.ops.bench.processes import Answering, Process, cpu_seconds
from services.ops.bench.servers import CLI, SITE, Servers, Subject
from services.ops.bench.visible import Client
from services.ops.bench.voters import Poll, Turnout
from services.ops.output import fields, say, table

THREAD: Final = "poll"
_PATIENCE_S: Final = 120.0
_BETWEEN_READS_S: Final = 0.01
_BETWEEN_SAMPLES_S: Final = 0.1
_AGAINST: Final = 4
"""One vote of so many is against the comment."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many vote, over how many connections."""

    votes: int = 10_000
    connections: int = 32
    seed: int = 1


def run(plan: Plan) -> dict[str, Any]:
    """Start everything, vote, and give the report: rates a second, times in seconds, sizes in bytes.

    Raises Unavailable where a vote is refused or the view does not come to show all of them.
    """
    # One more author: nobody votes on their own comment.
    with (
        Servers(threads=1, authors=plan.votes + 1, seed=plan.seed) as servers,
        servers.part() as stack,
    ):
        api = servers.api(stack, servers.database())
        worker = stack.enter_context(
            Process(CLI, ["worker"], log=servers.folder / "worker.log", env=api.environment)
        )
        # Until a worker shows a comment, it has not started.
        asyncio.run(visible.measure(api.port, SITE, servers.tokens[0], 1, thread="warm", seed=plan.seed))
        comment = asyncio.run(_post(api, servers.tokens[0]))
        values = [-1 if number % _AGAINST == 0 else 1 for number in range(plan.votes)]
        poll = Poll(
            port=api.port,
            path=f"{comment}/vote",
            tokens=servers.tokens[1:],
            values=values,
            connections=plan.connections,
        )
        pids = {
            "api": api.process.pid,
            "worker": worker.pid,
            "postgres": servers.postgres.pid,
            "redis": servers.redis.pid,
        }
        sizes = {name: [resident(pid)] for name, pid in pids.items()}
        cpu = {name: cpu_seconds(pid) for name, pid in pids.items()}
        voters = Answering("services.ops.bench.voters", log=servers.folder / "voters.log")
        with voters, _answer(voters, poll) as answer:
            while not answer.done():
                for name, pid in pids.items():
                    sizes[name].append(resident(pid))
                time.sleep(_BETWEEN_SAMPLES_S)  # between two samples
            turnout = answer.result()
        if turnout["votes"] != plan.votes:
            raise Unavailable(f"{turnout['votes']:,} of {plan.votes:,} votes taken: {turnout['statuses']}")
        expected = {"up": values.count(1), "down": values.count(-1)}
        shown = asyncio.run(_shown(api.port, comment, expected))
        spent = {name: cpu_seconds(pid) - cpu[name] for name, pid in pids.items()}
        for name, pid in pids.items():
            sizes[name].append(resident(pid))
        return {
            "bench": "votes",
            "plan": asdict(plan),
            "processors": os.cpu_count(),
            "votes": expected,
            "turnout": turnout,
            "votes_per_second": turnout["votes"] / turnout["seconds"],
            "shown_after": shown,
            "rebuilt_in": asyncio.run(_rebuilt(api, comment, plan.votes + 1, expected)),
            "cpu_us_per_vote": {name: 1e6 * seconds / plan.votes for name, seconds in spent.items()},
            "memory": {
                name: {"before": found[0], "peak": max(found), "after": found[-1]}
                for name, found in sizes.items()
            },
        }


@contextmanager
def _answer(voters: Answering, poll: Poll) -> Iterator[Future[Turnout]]:
    """The poll under way, while this thread looks at something else."""
    with ThreadPoolExecutor(1) as pool:
        voters.tell(poll)
        yield pool.submit(voters.answer)


async def _post(api: Subject, token: str) -> str:
    """The path of a new comment, whose view is built."""
    client = await Client.connect(api.port)
    try:
        path = f"/v1/sites/{SITE}/threads/{THREAD}/comments"
        answer = await client.ask("POST", path, token, {"body": "What *do* you think?"})
        if answer.status != "201":
            raise Unavailable(f"the comment was answered with {answer.status}: {answer.body[:200].decode()}")
        comment = f"{path}/{orjson.loads(answer.body)['id']}"
        await client.ask("GET", f"{comment}?min_version={answer.version}")
        return comment
    finally:
        await client.close()


async def _shown(port: int, comment: str, expected: dict[str, int]) -> float:
    """Seconds until a plain read has all votes. Raises Unavailable where that takes minutes."""
    client = await Client.connect(port)
    began = time.perf_counter()
    try:
        while True:
            answer = await client.ask("GET", comment)
            votes = orjson.loads(answer.body)["votes"]
            if votes == expected:
                return time.perf_counter() - began
            if time.perf_counter() - began > _PATIENCE_S:
                raise Unavailable(f"the view shows {votes}, not {expected}, after {_PATIENCE_S:.0f} s")
            await asyncio.sleep(_BETWEEN_READS_S)
    finally:
        await client.close()


async def _rebuilt(api: Subject, comment: str, version: int, expected: dict[str, int]) -> float:
    """Seconds that a read takes once all views are lost."""
    views = Redis.from_url(api.environment["THREADLOG_REDIS_URL"])
    client = await Client.connect(api.port)
    try:
        await views.flushdb()
        began = time.perf_counter()
        answer = await client.ask("GET", f"{comment}?min_version={version}")
        seconds = time.perf_counter() - began
        if (votes := orjson.loads(answer.body).get("votes")) != expected:
            raise Unavailable(f"the view built anew shows {votes}, not {expected}")
        return seconds
    finally:
        await client.close()
        await views.aclose()


def print_votes(report: dict[str, Any]) -> None:
    """The report as a table for people."""
    turnout, plan = report["turnout"], report["plan"]
    say(f"{plan['votes']:,} authors vote on one comment over {plan['connections']} connections")
    say()
    fields(
        [
            ("votes/s", round(report["votes_per_second"])),
            ("p50 ms", round(turnout["p50"] * 1000, 1)),
            ("p99 ms", round(turnout["p99"] * 1000, 1)),
            ("last answer to all shown, ms", round(report["shown_after"] * 1000)),
            ("view built anew, ms", round(report["rebuilt_in"] * 1000)),
        ]
    )
    say()
    table(
        ("", "CPU us a vote", "MiB before", "peak", "after"),
        [
            (
                name,
                round(report["cpu_us_per_vote"][name]),
                *(round(sizes[when] / 2**20) for when in ("before", "peak", "after")),
            )
            for name, sizes in report["memory"].items()
        ],
    )
