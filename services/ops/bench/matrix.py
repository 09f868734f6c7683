"""Databases of several lanes, and several API processes on one port, measured in turn."""

from __future__ import annotations

from typing import Any, Final

from services.ops.bench.rounds import Case, interleaved, ratio, warm_up
from services.ops.bench.servers import Servers, Subject

LANES: Final = (1, 2, 4)
PROCESSES: Final = (1, 2)


def cells(*, lanes: bool, processes: bool) -> list[tuple[int, int]]:
    """What is measured: lanes and processes. The first is what the others are compared with."""
    if lanes and processes:
        return [(some, count) for count in PROCESSES for some in LANES]
    return [(some, 1) for some in LANES] if lanes else [(1, 1), (1, 2), (2, 2)]


def measure(
    servers: Servers,
    *,
    lanes: bool,
    processes: bool,
    connections: tuple[int, ...],
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """The figures of each cell at each number of connections."""
    with servers.part() as stack:
        subjects: dict[tuple[int, int], Subject] = {}
        for some, count in cells(lanes=lanes, processes=processes):
            name = f"{some} lanes, {count} processes"
            subject = servers.api(stack, servers.database(some), name=name, processes=count)
            warm_up(servers, stack, Case(name, subject, max(connections)))
            subjects[some, count] = subject
        found = []
        for number in connections:
            cases = [Case(one.name, one, number) for one in subjects.values()]
            measured = interleaved(servers, cases, rounds=rounds, seconds=seconds)
            first = measured[cases[0].name]
            for (some, count), subject in subjects.items():
                one = measured[subject.name]
                found.append(
                    {
                        "connections": number,
                        "lanes": some,
                        "processes": count,
                        **one,
                        "ratio": ratio(one, first),
                    }
                )
    return found
