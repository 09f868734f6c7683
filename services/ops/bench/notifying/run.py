"""`threadlog bench notify`: what telling people costs, and how soon they hear of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

from services.ops.bench import rounds as posts
from services.ops.bench.goals import Goal, held
from services.ops.bench.notifying import fanout, inbox
from services.ops.bench.processes import Process
from services.ops.bench.report import print_goals
from services.ops.bench.servers import CLI, Servers, Subject
from services.ops.output import fields, say

PARTS: Final = ("fanout", "stream", "steady")
_OF_COPY: Final = 0.4
_HEARD_S: Final = 0.1
_LAG_S: Final = 1.0
_GROWTH: Final = 0.01
"""Share of the replies by which the notifier may fall behind: what is noise, and not growth."""
_MEMORY: Final = 1.1
_AUTHORS: Final = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. `rate`: replies a second of the part `steady`."""

    parts: tuple[str, ...] = PARTS
    followers: int = 100_000
    replies: int = 300
    rate: float = 1_000.0
    threads: int = 100
    connections: int = 32
    rounds: int = 3
    seconds: float = 30.0
    seed: int = 1


def run(plan: Plan) -> dict[str, Any]:
    """Start everything, measure, and give the report: times in seconds, sizes in bytes.

    Raises Unavailable where something does not come about.
    """
    report: dict[str, Any] = {"bench": "notify", "plan": asdict(plan), "processors": os.cpu_count()}
    with Servers(threads=10, authors=_AUTHORS, seed=plan.seed) as servers:
        if "fanout" in plan.parts:
            with servers.part() as stack:
                url = servers.database()
                api = servers.api(stack, url)
                comment_id = asyncio.run(inbox.comment(servers, api.port, "followed"))
                report["fanout"] = asyncio.run(
                    fanout.measure(url, comment_id, followers=plan.followers, rounds=plan.rounds)
                )
        if "stream" in plan.parts:
            with servers.part() as stack:
                api, _ = _start(servers, stack)
                most = _most(servers, stack, api, plan)
                report["stream"] = {
                    "most": most,
                    **inbox.heard(servers, api, rate=most / 2, replies=plan.replies),
                }
        if "steady" in plan.parts:
            with servers.part() as stack:
                api, worker = _start(servers, stack)
                report["steady"] = inbox.steady(
                    servers, api, worker, rate=plan.rate, seconds=plan.seconds, threads=plan.threads
                )
    report["goals"] = [
        Goal(name=name, sign=sign, goal=goal, value=value, held=held(sign, value, goal))
        for name, sign, goal, value in _goals(report)
    ]
    return report


def _start(servers: Servers, stack: ExitStack) -> tuple[Subject, Process]:
    api = servers.api(stack, servers.database())
    worker = Process(CLI, ["worker"], log=servers.folder / "worker.log", env=api.environment)
    return api, stack.enter_context(worker)


def _most(servers: Servers, stack: ExitStack, api: Subject, plan: Plan) -> float:
    """Posts a second that the API takes at most, with the worker beside it."""
    case = posts.Case("most", api, plan.connections)
    posts.warm_up(servers, stack, case)
    return posts.measured(servers, case, 5.0).rate


def _goals(report: dict[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    if "fanout" in report:
        yield "rows of a fan-out, of COPY's", "≥", _OF_COPY, report["fanout"]["ratio"]
    if "stream" in report:
        yield "seconds until the author's stream tells, p99", "<", _HEARD_S, report["stream"]["p99"]
    if "steady" in report:
        found = report["steady"]
        yield "replies taken, of those that were to come", "≥", 0.95, found["taken"] / found["rate"]
        yield "lag of the notifier, seconds of replies", "<", _LAG_S, found["lag"]
        yield "growth of the lag, of the replies", "<", _GROWTH, found["growth"]
        yield "memory of the worker, last third of first", "≤", _MEMORY, found["memory_ratio"]


def print_notify(report: dict[str, Any]) -> None:
    """The report as tables."""
    for part in PARTS:
        if part in report:
            say(part)
            fields([(name, _shown(value)) for name, value in report[part].items()])
            say()
    print_goals(report["goals"])


def _shown(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3f}"
