"""`threadlog bench append`: how fast comments are taken, beside an empty handler on the same server.

The API, Postgres and the load generator are processes of their own. Rounds against the API and against the
bare handler alternate; figures are medians of the rounds. The workers start after them: on a small machine
they would take the CPU whose use is measured. What a comment takes until it is visible is measured then.
"""

from __future__ import annotations

import asyncio
import base64
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import jwt
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from services.dev.servers import EmbeddedPostgres, EmbeddedRedis
from services.errors import Unavailable
from services.eventlog.keys import MasterKey
from services.eventlog.migrate import migrate
from services.eventlog.sites import Sites
from services.ops.bench import visible
from services.ops.bench.bare import Bare
from services.ops.bench.load import Result, Round, Target
from services.ops.bench.processes import Answering, Process, cpu_seconds, free_port, text_of
from services.pokes import QUEUES, queue_key

SITE: Final = "bench"
CLI: Final = "services.ops.cli"
VISIBLE_GOAL_S: Final = 0.25
"""Within this time a comment is to be visible when nothing else happens."""

_SETTLE_S: Final = 300.0
_UNTOLD: Final = """
    select count(*) from streams s left join notifier_checkpoints c using (stream_id)
    where s.key is not null and c.version is distinct from s.version
"""
_KEPT_HEADERS: Final = (
    "location",
    "threadlog-version",
    "cache-control",
    "x-request-id",
    "vary",
    "x-content-type-options",
    "content-type",
    "access-control-allow-origin",
    "access-control-expose-headers",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `seconds` of each round are counted; `visible` comments are waited for."""

    connections: tuple[int, ...] = (32, 128)
    threads: int = 100
    seconds: float = 5.0
    rounds: int = 3
    visible: int = 20
    authors: int = 1000
    seed: int = 1


@dataclass(frozen=True, slots=True)
class _Measured:
    """One round: what the generator saw, and the CPU time of server and Postgres for all that was sent."""

    result: Result
    server: float
    postgres: float
    batches: float
    batched: float


@dataclass(frozen=True, slots=True)
class _Bench:
    """The processes of one run."""

    plan: Plan
    postgres: EmbeddedPostgres
    api: Process
    api_port: int
    api_load: Answering
    bare: Process
    bare_load: Answering
    tokens: list[str]
    environment: dict[str, str]
    folder: Path


def run(plan: Plan) -> dict[str, Any]:
    """Start everything, measure, and give the report. Rates are posts a second, times seconds."""
    with _started(plan) as bench:
        facts = asyncio.run(_facts(bench.postgres.dsn()))
        for server in ("api", "bare"):
            _warm_up(bench, server)
        loads = [_load(bench, connections) for connections in plan.connections]
        seen = _visible(bench)
    return {"bench": "append", "plan": asdict(plan), "postgres": facts, "loads": loads, "visible": seen}


@contextmanager
def _started(plan: Plan) -> Iterator[_Bench]:
    master = base64.b64encode(os.urandom(32)).decode()
    secret = os.urandom(32).hex()
    api_port, bare_port = free_port(), free_port()
    with (
        tempfile.TemporaryDirectory(prefix="threadlog-bench-") as folder,
        EmbeddedPostgres() as postgres,
        EmbeddedRedis() as redis,
    ):
        logs = Path(folder)
        environment = {
            "THREADLOG_DATABASE_URL": postgres.dsn(),
            "THREADLOG_REDIS_URL": redis.url(0),
            "THREADLOG_BROKER_URL": redis.url(1),
            "THREADLOG_MASTER_KEY": master,
            "THREADLOG_HOST": "127.0.0.1",
            "THREADLOG_PORT": str(api_port),
        }
        asyncio.run(_prepare(postgres.dsn(), master, secret))
        tokens = [_token(secret, number) for number in range(plan.authors)]
        with (
            Process(CLI, ["api"], log=logs / "api.log", env=environment) as api,
            Process("services.ops.bench.bare", log=logs / "bare.log") as bare,
            Answering("services.ops.bench.load", log=logs / "load.log") as api_load,
            Answering("services.ops.bench.load", log=logs / "load.log") as bare_load,
        ):
            api.wait_until_ready(api_port, "/readyz")
            sample = asyncio.run(_sample(api_port, tokens[0]))
            bare.tell(
                Bare(
                    port=bare_port,
                    site=SITE,
                    secret=secret,
                    headers=_headers(sample),
                    body=sample.body.decode(),
                ),
                last=True,
            )
            bare.wait_until_ready(bare_port, "/")
            for load, port in ((api_load, api_port), (bare_load, bare_port)):
                load.tell(Target(port=port, site=SITE, tokens=tokens, threads=plan.threads, seed=plan.seed))
            yield _Bench(
                plan=plan,
                postgres=postgres,
                api=api,
                api_port=api_port,
                api_load=api_load,
                bare=bare,
                bare_load=bare_load,
                tokens=tokens,
                environment=environment,
                folder=logs,
            )


async def _prepare(database_url: str, master: str, secret: str) -> None:
    await migrate(database_url)
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        await Sites(pool, MasterKey(master)).add(SITE, secret.encode())


def _token(secret: str, number: int) -> str:
    claims = {"iss": SITE, "sub": f"u-{number}", "name": f"Author {number}", "exp": int(time.time()) + 86_400}
    return jwt.encode(claims, secret, algorithm="HS256")


async def _sample(port: int, token: str) -> visible.Answer:
    """A real answer, for the bare handler to repeat."""
    client = await visible.Client.connect(port)
    try:
        # As long as an average comment, so that both servers send as much.
        body = {"body": "A comment of an average length, as long as most of those are. " * 4}
        return await client.ask("POST", f"/v1/sites/{SITE}/threads/sample/comments", token, body)
    finally:
        await client.close()


def _headers(answer: visible.Answer) -> dict[str, str]:
    lines = (line.partition(":") for line in answer.head.decode().split("\r\n")[1:])
    given = {name: value.strip() for name, _, value in lines}
    return {name: value for name, value in given.items() if name in _KEPT_HEADERS}


async def _facts(database_url: str) -> dict[str, str]:
    connection = await asyncpg.connect(database_url)
    try:
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        return {name: str(await connection.fetchval(f"show {name}")) for name in names}
    finally:
        await connection.close()


def _round(bench: _Bench, server: str, connections: int, *, warm: float, seconds: float) -> _Measured:
    """One round against `server`, "api" or "bare"."""
    load, pid = (bench.api_load, bench.api.pid) if server == "api" else (bench.bare_load, bench.bare.pid)
    postgres = bench.postgres.pid
    batches, batched = _batches(bench.api_port)
    before, postgres_before = cpu_seconds(pid), cpu_seconds(postgres)
    load.tell(Round(connections=connections, warm=warm, seconds=seconds))
    result: Result = load.answer()
    if not result["statuses"].get("201"):
        raise Unavailable(f"{server} took no post: answers by status {result['statuses']}")
    spent, postgres_spent = cpu_seconds(pid) - before, cpu_seconds(postgres) - postgres_before
    batches_after, batched_after = _batches(bench.api_port)
    return _Measured(result, spent, postgres_spent, batches_after - batches, batched_after - batched)


def _warm_up(bench: _Bench, server: str) -> None:
    """Post until every author has posted once: their keys are made, their tokens known."""
    sent = 0
    while sent < bench.plan.authors:
        sent += _round(bench, server, max(bench.plan.connections), warm=0.0, seconds=0.5).result["sent"]


def _batches(port: int) -> tuple[float, float]:
    """How many batches the API has appended, and how many commands were in them."""
    counts = {"threadlog_append_batch_commands_count": 0.0, "threadlog_append_batch_commands_sum": 0.0}
    for family in text_string_to_metric_families(text_of(port, "/metrics")):
        for sample in family.samples:
            if sample.name in counts:
                counts[sample.name] += sample.value
    batches, batched = counts.values()
    return batches, batched


def _load(bench: _Bench, connections: int) -> dict[str, Any]:
    measured: dict[str, list[_Measured]] = {"api": [], "bare": []}
    for number in range(bench.plan.rounds):
        servers = ("api", "bare") if number % 2 == 0 else ("bare", "api")
        for server in servers:
            measured[server].append(_round(bench, server, connections, warm=0.3, seconds=bench.plan.seconds))
    api, bare = (_figures(rounds) for rounds in measured.values())
    batches = sum(one.batches for one in measured["api"])
    api["batch_commands"] = sum(one.batched for one in measured["api"]) / max(batches, 1.0)
    ratio = api["posts_per_second"] / max(bare["posts_per_second"], 1e-9)
    return {"connections": connections, "api": api, "bare": bare, "ratio": ratio}


def _figures(rounds: list[_Measured]) -> dict[str, Any]:
    """Medians over the rounds."""

    def per_thousand(seconds: list[float]) -> float:
        return statistics.median(
            1000 * spent / max(one.result["sent"], 1) for spent, one in zip(seconds, rounds, strict=True)
        )

    statuses: dict[str, int] = {}
    for one in rounds:
        for status, count in one.result["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    results = [one.result for one in rounds]
    return {
        "posts_per_second": statistics.median(one["posts"] / one["seconds"] for one in results),
        "p50": statistics.median(one["p50"] for one in results),
        "p99": statistics.median(one["p99"] for one in results),
        "cpu_seconds_per_1000": {
            "server": per_thousand([one.server for one in rounds]),
            "postgres": per_thousand([one.postgres for one in rounds]),
            "client": per_thousand([one.result["cpu_seconds"] for one in rounds]),
        },
        "client_busy": statistics.median(one["cpu_seconds"] / one["wall_seconds"] for one in results),
        "statuses": statuses,
        "broken_connections": sum(one["broken"] for one in results),
    }


def _visible(bench: _Bench) -> dict[str, Any]:
    """Post to visible with a worker running: first alone, then beside the load of the first rounds."""
    plan = bench.plan
    with Process(CLI, ["worker"], log=bench.folder / "worker.log", env=bench.environment):
        asyncio.run(_measure(bench, 1, "warm"))
        asyncio.run(_settle(bench))
        idle = asyncio.run(_measure(bench, plan.visible, "idle"))
        seconds = max(1.0, plan.seconds)
        bench.api_load.tell(Round(connections=plan.connections[0], warm=0.3, seconds=seconds))
        loaded = asyncio.run(_measure(bench, max(1, min(plan.visible, int(seconds))), "loaded"))
        result: Result = bench.api_load.answer()
    return {
        "idle": idle,
        "goal": VISIBLE_GOAL_S,
        "held": idle["max"] < VISIBLE_GOAL_S,
        "loaded": {**loaded, "posts_per_second": result["posts"] / result["seconds"]},
    }


async def _settle(bench: _Bench) -> None:
    """Wait until the workers have dealt with what the rounds left them: only then is nothing else happening.

    Raises Unavailable where that takes minutes.
    """
    deadline = time.monotonic() + _SETTLE_S
    broker = Redis.from_url(bench.environment["THREADLOG_BROKER_URL"])
    connection = await asyncpg.connect(bench.postgres.dsn())
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


async def _measure(bench: _Bench, posts: int, thread: str) -> visible.Visible:
    return await visible.measure(
        bench.api_port, SITE, bench.tokens[0], posts, thread=thread, seed=bench.plan.seed
    )
