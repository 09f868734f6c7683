"""The goals that `bench append` measures against, and whether a report holds them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, Final, TypedDict

from services.ops.bench.rounds import BUSY

_OF_BARE: Final = 0.30
_OF_BARE_CROWDED: Final = 0.35
_CROWDED: Final = 64
"""Connections from which the second goal counts."""
_OF_INSERT: Final = 3.0
_P99_OF_P50: Final = 4.0
_HOT: Final = 0.9
_LARGE: Final = 0.9
_MEMORY: Final = 1.05
_IDLE: Final = 0.9
_SIGNS: Final = {"≥": operator.ge, "<": operator.lt, "≤": operator.le}


class Goal(TypedDict):
    """One goal: `value` is to stand to `goal` as `sign` says."""

    name: str
    sign: str
    goal: float
    value: float
    held: bool


def of(report: dict[str, Any]) -> list[Goal]:
    """The goals of those parts that the report has."""
    return [
        Goal(name=name, sign=sign, goal=goal, value=value, held=held(sign, value, goal))
        for name, sign, goal, value in _goals(report)
    ]


def held(sign: str, value: float, goal: float) -> bool:
    """Whether a value stands to its goal as the sign says."""
    return bool(_SIGNS[sign](value, goal))


def _goals(report: dict[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    for load in report.get("loads", ()):
        at = f"at {load['connections']} connections"
        goal = _OF_BARE if load["connections"] < _CROWDED else _OF_BARE_CROWDED
        yield f"rate of the bare handler's, {at}", "≥", goal, load["ratio"]
        yield f"rate of the plain INSERT's, {at}", "≥", _OF_INSERT, load["ratio_to_insert"]
        yield f"p99 of p50, {at}", "<", _P99_OF_P50, load["api"]["p99_of_p50"]
        busy = max(load[name]["client_busy"] for name in ("api", "bare", "insert"))
        yield f"the busiest load generator, {at}", "≤", BUSY, busy
    for hot in report.get("hot", ()):
        yield f"one thread of the spread rate, at {hot['connections']} connections", "≥", _HOT, hot["ratio"]
    for name, found in report.get("large", {}).get("statistics", {}).items():
        yield f"a large log of the empty one's rate, statistics {name}", "≥", _LARGE, found["ratio"]
    if "memory" in report:
        yield "memory in the last third of the first one's", "≤", _MEMORY, report["memory"]["ratio"]
    if "idle" in report:
        yield "rate beside the idle and the slow of the rate without", "≥", _IDLE, report["idle"]["ratio"]
    if "visible" in report:
        yield "seconds to visible, idle", "<", report["visible"]["goal"], report["visible"]["idle"]["max"]
