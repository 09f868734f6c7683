"""Rounds of reads against several servers in turn, and the figures that they give: medians over the rounds.

In turn, so that what else the machine does is spread over all of them; the order changes with each round.
"""

from __future__ import annotations

import http.client
import statistics
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from services.errors import Unavailable
from services.ops.bench.load import quantile_of
from services.ops.bench.processes import Answering, Process, cpu_seconds, free_port
from services.ops.bench.reading.bare import Bare
from services.ops.bench.reading.load import Ask, Result
from services.ops.bench.rounds import BUSY, WARM_S, busiest, latencies
from services.ops.bench.servers import Servers

_GENERATORS: Final = 4
_NOT_REPEATED: Final = frozenset({"date", "server", "content-length", "connection", "transfer-encoding"})
"""Headers that every server makes by itself."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is measured, and the processes that ask it."""

    name: str
    port: int
    pid: int
    loads: list[Answering] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured beside others: which pages are asked for, over how many connections."""

    name: str
    server: Server
    connections: int
    paths: tuple[str, ...]
    once: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """One round: what the generators saw, and the CPU seconds for all that was sent."""

    results: list[Result]
    server: float
    postgres: float
    redis: float

    @property
    def sent(self) -> int:
        return max(1, sum(one["sent"] for one in self.results))

    @property
    def rate(self) -> float:
        return sum(one["answers"] / max(one["seconds"], 1e-9) for one in self.results)

    @property
    def busiest(self) -> float:
        """Share of a processor that the busiest generator took."""
        return busiest(self.results)

    @property
    def latencies(self) -> Counter[int]:
        return latencies(self.results)


@dataclass(frozen=True, slots=True)
class Sample:
    """A real answer, as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


def sample(port: int, path: str, headers: Mapping[str, str] | None = None) -> Sample:
    """Ask once. Raises Unavailable where the answer is neither 200 nor 304."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 304):
            raise Unavailable(f"GET {path} answered {answer.status}: {body[:200].decode(errors='replace')}")
        return Sample(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)
    finally:
        connection.close()


def asked(servers: Servers, stack: ExitStack, name: str, port: int, pid: int) -> Server:
    """A server that runs, with a generator that asks it."""
    server = Server(name, port, pid)
    add_load(servers, stack, server)
    return server


def add_load(servers: Servers, stack: ExitStack, server: Server) -> None:
    """One load generator more, until the stack ends."""
    load = Answering("services.ops.bench.reading.load", log=servers.folder / "reads.log")
    stack.enter_context(load).tell(server.port)
    server.loads.append(load)
    stack.callback(server.loads.remove, load)


def repeating(servers: Servers, stack: ExitStack, name: str, given: Sample) -> Server:
    """A bare server that answers what the sample is, byte for byte, but for the headers that all make."""
    port = free_port()
    process = stack.enter_context(
        Process("services.ops.bench.reading.bare", log=servers.folder / f"{name}.log")
    )
    headers = {key: value for key, value in given.headers.items() if key not in _NOT_REPEATED}
    process.tell(Bare(port=port, headers=headers, body=b64encode(given.body).decode()), last=True)
    process.wait_until_ready(port, "/")
    return asked(servers, stack, name, port, process.pid)


def measured(servers: Servers, case: Case, seconds: float, *, warm: float = WARM_S) -> Measured:
    """One round. Raises Unavailable where nothing was answered, or something refused."""
    server = case.server
    pids = (server.pid, servers.postgres.pid, servers.redis.pid)
    loads = server.loads[: case.connections]
    before = [cpu_seconds(pid) for pid in pids]
    for number, load in enumerate(loads):
        share = case.connections // len(loads) + (number < case.connections % len(loads))
        load.tell(
            Ask(
                connections=share,
                warm=warm,
                seconds=seconds,
                paths=list(case.paths[number :: len(loads)] if case.once else case.paths),
                once=case.once,
                headers=dict(case.headers),
                distinct=case.distinct,
            )
        )
    results: list[Result] = [load.answer() for load in loads]
    spent = [cpu_seconds(pid) - old for pid, old in zip(pids, before, strict=True)]
    statuses = {status for one in results for status in one["statuses"]}
    if not statuses or not statuses <= {"200", "304"}:
        raise Unavailable(f"{case.name} was answered {[one['statuses'] for one in results]}")
    return Measured(results, *spent)


def warm_up(servers: Servers, stack: ExitStack, case: Case) -> None:
    """See that the load generator is not what limits the rate, and start more of them where it is."""
    while len(case.server.loads) < min(_GENERATORS, case.connections):
        if measured(servers, case, 0.5, warm=0.0).busiest <= BUSY:
            return
        add_load(servers, stack, case.server)


def interleaved(
    servers: Servers, cases: Sequence[Case], *, rounds: int, seconds: float
) -> dict[str, list[Measured]]:
    """The rounds of every case, by its name."""
    found: dict[str, list[Measured]] = {case.name: [] for case in cases}
    for number in range(rounds):
        first = number % len(cases)
        for case in (*cases[first:], *cases[:first]):
            found[case.name].append(measured(servers, case, seconds))
    return found


def figures(rounds: Sequence[Measured]) -> Figures:
    """Medians over the rounds. Times in seconds."""
    statuses: Counter[str] = Counter()
    for one in rounds:
        for result in one.results:
            statuses.update(result["statuses"])

    def each(seconds: list[float]) -> float:
        return statistics.median(1e6 * spent / one.sent for spent, one in zip(seconds, rounds, strict=True))

    received = [sum(each["bytes"] for each in one.results) for one in rounds]
    answered = [sum(each["answers"] for each in one.results) for one in rounds]
    return {
        "reads_per_second": statistics.median(one.rate for one in rounds),
        "reads_per_second_of_rounds": [round(one.rate, 1) for one in rounds],
        "p50": statistics.median(quantile_of(one.latencies, 0.5) for one in rounds),
        "p99": statistics.median(quantile_of(one.latencies, 0.99) for one in rounds),
        "cpu_us_per_read": {
            "server": each([one.server for one in rounds]),
            "postgres": each([one.postgres for one in rounds]),
            "redis": each([one.redis for one in rounds]),
            "client": each([sum(each["cpu_seconds"] for each in one.results) for one in rounds]),
        },
        "bytes_per_answer": round(sum(received) / max(1, sum(answered))),
        "clients": len(rounds[0].results),
        "client_busy": max(one.busiest for one in rounds),
        "statuses": dict(statuses),
        "broken_connections": sum(result["broken"] for one in rounds for result in one.results),
    }


def ratio(one: Figures, other: Figures) -> float:
    """How many reads a second the one answers for each of the other."""
    return float(one["reads_per_second"] / max(other["reads_per_second"], 1e-9))


def versions(rounds: Sequence[Measured]) -> dict[int, float]:
    """When the last request was sent that was answered with each version."""
    found: dict[int, float] = {}
    for one in rounds:
        for result in one.results:
            for version, when in result["versions"].items():
                found[int(version)] = max(found.get(int(version), 0.0), when)
    return found
