"""Rounds against several servers in turn, and the figures that they give: medians over the rounds.

In turn, so that what else the machine does is spread over all of them; the order changes with each round.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from prometheus_client.parser import text_string_to_metric_families

from services.errors import Unavailable
from services.ops.bench.load import Result, Round, quantile_of
from services.ops.bench.processes import cpu_seconds, text_of
from services.ops.bench.servers import Servers, Subject

BUSY: Final = 0.7
"""Share of a processor at which one more load generator is started."""
WARM_S: Final = 0.3
_GENERATORS: Final = 4

Figures = dict[str, Any]


class Generated(TypedDict):
    """What a load generator tells of a round, whatever it asked for."""

    cpu_seconds: float
    wall_seconds: float
    latencies: dict[str, int]


def busiest(results: Sequence[Generated]) -> float:
    """Share of a processor that the busiest generator took."""
    return max(one["cpu_seconds"] / one["wall_seconds"] for one in results)


def latencies(results: Sequence[Generated]) -> Counter[int]:
    """How many answers took how long, by bucket, of all generators."""
    found: Counter[int] = Counter()
    for one in results:
        found.update({int(bucket): count for bucket, count in one["latencies"].items()})
    return found


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured beside others: a server, posted to over so many connections. `threads` 0: all."""

    name: str
    subject: Subject
    connections: int
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """One round: what the generators saw, and the CPU seconds for all that was sent."""

    results: list[Result]
    server: float
    postgres: float
    redis: float
    batches: float
    batched: float

    @property
    def sent(self) -> int:
        return max(1, sum(one["sent"] for one in self.results))

    @property
    def posts(self) -> int:
        return sum(one["posts"] for one in self.results)

    @property
    def rate(self) -> float:
        return sum(one["posts"] / one["seconds"] for one in self.results)

    @property
    def busiest(self) -> float:
        """Share of a processor that the busiest generator took."""
        return busiest(self.results)

    @property
    def latencies(self) -> Counter[int]:
        return latencies(self.results)


def begin(case: Case, seconds: float, *, warm: float = WARM_S) -> int:
    """Have the generators of a case begin; how many of them do."""
    loads = case.subject.loads[: case.connections]
    for number, load in enumerate(loads):
        share = case.connections // len(loads) + (number < case.connections % len(loads))
        threads = case.threads or len(case.subject.target["threads"])
        load.tell(Round(connections=share, warm=warm, seconds=seconds, threads=threads))
    return len(loads)


def measured(servers: Servers, case: Case, seconds: float, *, warm: float = WARM_S) -> Measured:
    """One round. Raises Unavailable where no post was taken."""
    subject = case.subject
    pids = (subject.process.pid, servers.postgres.pid, servers.redis.pid)
    batches, batched = _batches(subject)
    before = [cpu_seconds(pid) for pid in pids]
    generators = begin(case, seconds, warm=warm)
    results: list[Result] = [load.answer() for load in subject.loads[:generators]]
    server, postgres, redis = (cpu_seconds(pid) - old for pid, old in zip(pids, before, strict=True))
    if not any(one["statuses"].get("201") for one in results):
        raise Unavailable(f"{case.name} took no post: answers {[one['statuses'] for one in results]}")
    batches_after, batched_after = _batches(subject)
    return Measured(results, server, postgres, redis, batches_after - batches, batched_after - batched)


def warm_up(servers: Servers, stack: ExitStack, case: Case) -> None:
    """Post until every author has posted once: their keys are made, their tokens known. Then see that the
    load generator is not what limits the rate, and start more of them where it is."""
    sent = 0
    while sent < servers.authors:
        sent += measured(servers, case, 0.5, warm=0.0).sent
    while len(case.subject.loads) < min(_GENERATORS, case.connections):
        if measured(servers, case, 0.5, warm=0.0).busiest <= BUSY:
            return
        servers.add_load(stack, case.subject)


def interleaved(
    servers: Servers, cases: Sequence[Case], *, rounds: int, seconds: float
) -> dict[str, Figures]:
    """The figures of every case, by its name."""
    found: dict[str, list[Measured]] = {case.name: [] for case in cases}
    for number in range(rounds):
        first = number % len(cases)
        for case in (*cases[first:], *cases[:first]):
            found[case.name].append(measured(servers, case, seconds))
    return {case.name: figures(found[case.name]) for case in cases}


def figures(rounds: Sequence[Measured]) -> Figures:
    """Medians over the rounds. Times in seconds."""
    statuses: Counter[str] = Counter()
    for one in rounds:
        for result in one.results:
            statuses.update(result["statuses"])
    p50 = statistics.median(quantile_of(one.latencies, 0.5) for one in rounds)
    p99 = statistics.median(quantile_of(one.latencies, 0.99) for one in rounds)

    def per_thousand(seconds: list[float]) -> float:
        return statistics.median(1000 * spent / one.sent for spent, one in zip(seconds, rounds, strict=True))

    server = per_thousand([one.server for one in rounds])
    found: Figures = {
        "posts_per_second": statistics.median(one.rate for one in rounds),
        "posts_per_second_of_rounds": [round(one.rate, 1) for one in rounds],
        "p50": p50,
        "p99": p99,
        "p99_of_p50": p99 / max(p50, 1e-9),
        "cpu_seconds_per_1000": {
            "server": server,
            "postgres": per_thousand([one.postgres for one in rounds]),
            "redis": per_thousand([one.redis for one in rounds]),
            "client": per_thousand([sum(each["cpu_seconds"] for each in one.results) for one in rounds]),
        },
        "server_cpu_us_per_post": server * 1000,
        "clients": len(rounds[0].results),
        "client_busy": max(one.busiest for one in rounds),
        "statuses": dict(statuses),
        "broken_connections": sum(result["broken"] for one in rounds for result in one.results),
    }
    batches = sum(one.batches for one in rounds)
    if batches:
        found["batch_commands"] = sum(one.batched for one in rounds) / batches
    return found


def ratio(one: Figures, other: Figures) -> float:
    """How many posts a second the one takes for each of the other."""
    return float(one["posts_per_second"] / max(other["posts_per_second"], 1e-9))


def _batches(subject: Subject) -> tuple[float, float]:
    """How many batches an API has appended, and how many commands were in them."""
    if not subject.is_api:
        return 0.0, 0.0
    counts = {"threadlog_append_batch_commands_count": 0.0, "threadlog_append_batch_commands_sum": 0.0}
    for family in text_string_to_metric_families(text_of(subject.port, "/metrics")):
        for sample in family.samples:
            if sample.name in counts:
                counts[sample.name] += sample.value
    batches, batched = counts.values()
    return batches, batched
