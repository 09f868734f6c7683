"""The part `hot`: the first page of a thread that everyone reads, while a comment a second arrives in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

from services.ops.bench.processes import Process
from services.ops.bench.reading.pace import Paced
from services.ops.bench.reading.pacing import Pacing
from services.ops.bench.reading.rounds import (
    Case,
    Measured,
    figures,
    interleaved,
    ratio,
    repeating,
    sample,
    versions,
    warm_up,
)
from services.ops.bench.reading.scene import Scene, page
from services.ops.bench.reading.threads import Shape
from services.ops.bench.servers import CLI

HOT: Final = Shape(key="hot", comments=1000, kind="talk")
VARIANTS: Final[Mapping[str, tuple[dict[str, str], bool]]] = {
    "plain": ({}, False),
    "distinct": ({}, True),
    "compressed": ({"Accept-Encoding": "gzip"}, False),
}
"""Headers of each request, and whether each has an X-Request-ID of its own."""


def measure(scene: Scene, *, connections: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Each variant beside a bare handler of the same bytes; 304s beside bare ones, while nothing arrives."""
    servers = scene.servers
    with ExitStack() as stack:
        stack.enter_context(
            Process(CLI, ["worker"], log=servers.folder / "worker.log", env=scene.environment)
        )
        path = page(HOT["key"])
        sample(scene.api.port, path)
        cases = []
        for name, (headers, distinct) in VARIANTS.items():
            bare = repeating(servers, stack, f"bare {name}", sample(scene.api.port, path, headers))
            for server, kind in ((scene.api, "api"), (bare, "bare")):
                case = Case(
                    f"{kind} {name}", server, connections, (path,), headers=headers, distinct=distinct
                )
                warm_up(servers, stack, case)
                cases.append(case)
        with Pacing(scene.servers, scene.api.port, 1.0, [HOT["key"]], HOT["key"]) as paced:
            found = interleaved(servers, cases, rounds=rounds, seconds=seconds)
            posted = paced.stop()
        given = sample(scene.api.port, path)
        held = {"If-None-Match": given.headers["etag"]}
        bare = repeating(servers, stack, "bare 304", given)
        cases = [
            Case(f"{kind} 304", server, connections, (path,), headers=held)
            for server, kind in ((scene.api, "api"), (bare, "bare"))
        ]
        warm_up(servers, stack, cases[1])
        found |= interleaved(servers, cases, rounds=rounds, seconds=seconds)
    told = {name: figures(rounds) for name, rounds in found.items()}
    return {
        "connections": connections,
        "variants": {
            name: {
                "api": told[f"api {name}"],
                "bare": told[f"bare {name}"],
                "ratio": ratio(told[f"api {name}"], told[f"bare {name}"]),
            }
            for name in (*VARIANTS, "304")
        },
        "posts": posted["posts"],
        "oldest": oldest([one for name in VARIANTS for one in found[f"api {name}"]], posted),
    }


def oldest(rounds: list[Measured], posted: Paced) -> float:
    """For how many seconds a newer post had been answered when the oldest answer was asked for."""
    answered = {int(version): when for version, when in posted["answered"].items()}
    newer = sorted(answered)
    ages = [0.0]
    for version, last in versions(rounds).items():
        if (later := next((one for one in newer if one > version), None)) is not None:
            ages.append(last - answered[later])
    return max(ages)
