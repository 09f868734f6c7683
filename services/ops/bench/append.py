"""`threadlog bench append`: how fast comments are taken, beside servers that do less, measured in one run.

The API, Postgres and the load generators are processes of their own. What is compared is measured in turn;
figures are medians of the rounds. The parts:

- `load`: the API beside the bare handler and a plain INSERT for each request.
- `hot`: all connections post to one thread, beside all threads.
- `visible`: from the answer to a post until it is read, with a worker.
- `lanes`, `processes`: databases of 1, 2 and 4 lanes, one and two API processes.
- `large`: a log of millions, with statistics missing and fresh, beside an empty one.
- `memory`: what the API holds under minutes of load.
- `idle`: the load beside thousands of idle connections and clients that hardly read.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from services.ops.bench import crowded, goals, large, lasting, matrix, visibility
from services.ops.bench.profiling import Profile, profile_of, recording
from services.ops.bench.rounds import Case, figures, interleaved, measured, ratio, warm_up
from services.ops.bench.servers import Servers, Subject

PARTS: Final = ("load", "hot", "visible", "lanes", "processes", "large", "memory", "idle")
DEFAULT_PARTS: Final = ("load", "hot", "visible")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `seconds` of each round are counted; `visible` comments are waited for."""

    parts: tuple[str, ...] = DEFAULT_PARTS
    connections: tuple[int, ...] = (32, 128)
    threads: int = 100
    seconds: float = 5.0
    rounds: int = 3
    visible: int = 20
    authors: int = 1000
    large: int = 5_000_000
    memory_seconds: float = 600.0
    idle: int = 5000
    seed: int = 1
    profile: str | None = None


def run(plan: Plan) -> dict[str, Any]:
    """Start everything, measure, and give the report. Rates are posts a second, times seconds."""
    report: dict[str, Any] = {"bench": "append", "plan": asdict(plan), "processors": os.cpu_count()}
    with Servers(threads=plan.threads, authors=plan.authors, seed=plan.seed) as servers:
        report["postgres"] = asyncio.run(_facts(servers.postgres.dsn()))
        if plan.profile or {"load", "hot", "visible"} & set(plan.parts):
            _everyday(plan, servers, report)
        if {"lanes", "processes"} & set(plan.parts):
            report["matrix"] = matrix.measure(
                servers,
                lanes="lanes" in plan.parts,
                processes="processes" in plan.parts,
                connections=plan.connections,
                rounds=plan.rounds,
                seconds=plan.seconds,
            )
        if "large" in plan.parts:
            report["large"] = large.measure(
                servers,
                plan.large,
                connections=plan.connections[0],
                rounds=plan.rounds,
                seconds=plan.seconds,
            )
        if "memory" in plan.parts:
            report["memory"] = lasting.measure(
                servers, connections=plan.connections[0], seconds=plan.memory_seconds
            )
        if "idle" in plan.parts:
            report["idle"] = crowded.measure(
                servers,
                plan.idle,
                connections=plan.connections[0],
                rounds=plan.rounds,
                seconds=plan.seconds,
            )
    report["goals"] = goals.of(report)
    return report


async def _facts(database_url: str) -> dict[str, str]:
    connection = await asyncpg.connect(database_url)
    try:
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        return {name: str(await connection.fetchval(f"show {name}")) for name in names}
    finally:
        await connection.close()


def _everyday(plan: Plan, servers: Servers, report: dict[str, Any]) -> None:
    """The parts that one API on one database of one lane does for."""
    most = max(plan.connections)
    with servers.part() as stack:
        api = servers.api(stack, servers.database())
        warm_up(servers, stack, Case("api", api, most))
        if "load" in plan.parts:
            others = _others(servers, stack, api, most)
            report["loads"] = [_load(plan, servers, api, others, count) for count in plan.connections]
        if "hot" in plan.parts:
            report["hot"] = [_hot(plan, servers, api, connections) for connections in plan.connections]
        if plan.profile:
            report["profile"] = _profile(plan, servers, api, Path(plan.profile))
        if "visible" in plan.parts:
            report["visible"] = visibility.measure(
                servers, api, plan.visible, connections=plan.connections[0], seconds=plan.seconds
            )


def _others(servers: Servers, stack: ExitStack, api: Subject, connections: int) -> list[Subject]:
    bare = servers.comparison(stack, "bare", api)
    plain = servers.comparison(stack, "insert", api, servers.database())
    for one in (bare, plain):
        warm_up(servers, stack, Case(one.name, one, connections))
    return [bare, plain]


def _load(
    plan: Plan, servers: Servers, api: Subject, others: list[Subject], connections: int
) -> dict[str, Any]:
    cases = [Case(one.name, one, connections) for one in (api, *others)]
    found = interleaved(servers, cases, rounds=plan.rounds, seconds=plan.seconds)
    return {
        "connections": connections,
        **found,
        "ratio": ratio(found["api"], found["bare"]),
        "ratio_to_insert": ratio(found["api"], found["insert"]),
    }


def _hot(plan: Plan, servers: Servers, api: Subject, connections: int) -> dict[str, Any]:
    cases = [Case("spread", api, connections), Case("hot", api, connections, threads=1)]
    found = interleaved(servers, cases, rounds=plan.rounds, seconds=plan.seconds)
    return {"connections": connections, **found, "ratio": ratio(found["hot"], found["spread"])}


def _profile(plan: Plan, servers: Servers, api: Subject, file: Path) -> Profile:
    """Rounds under py-spy. What py-spy costs is not shared out: the absolute figure is of rounds without."""
    case = Case("api", api, plan.connections[0])
    before = [measured(servers, case, plan.seconds) for _ in range(plan.rounds)]
    with recording(api.process.pid, file):
        measured(servers, case, plan.seconds * plan.rounds, warm=0.0)
    with file.open() as lines:
        return profile_of(lines, figures(before)["server_cpu_us_per_post"])
