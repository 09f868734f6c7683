"""The goals that `bench read` measures against, and whether a report holds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from services.ops.bench.goals import Goal, held
from services.ops.bench.rounds import BUSY

_HOT: Final = {"plain": 0.85, "distinct": 0.85, "compressed": 0.85, "304": 0.9}
_OLDEST_S: Final = 1.0
_SPREAD: Final = 0.9
_PLACE: Final = 1.1
_UNCACHED: Final = 1500.0
_BUSY: Final = 0.5
_VISIBLE_S: Final = 0.1
_COLD_S: Final = ((1_000, 0.010), (10_000, 0.150), (10_000_000, 1.0))
"""Threads of fewer comments, and within how many seconds the last of the readers is answered."""
_OTHERS_S: Final = 0.05
_BYTES: Final = 600.0
_FLAT: Final = 1.1
_PROJECTOR: Final = 1.5


def of(report: dict[str, Any]) -> list[Goal]:
    """The goals of those parts that the report has."""
    return [
        Goal(name=name, sign=sign, goal=goal, value=value, held=held(sign, value, goal))
        for name, sign, goal, value in _goals(report)
    ]


def _goals(report: dict[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    if hot := report.get("hot"):
        for name, one in hot["variants"].items():
            yield f"hot, {name}: rate of the bare handler's", "≥", _HOT[name], one["ratio"]
            busiest = max(one[server]["client_busy"] for server in ("api", "bare"))
            yield f"hot, {name}: the busiest load generator", "≤", BUSY, busiest
        yield "hot: seconds that the oldest answer was out of date", "<", _OLDEST_S, hot["oldest"]
    if sizes := report.get("sizes"):
        yield "first page: the slowest size of the fastest", "≥", _SPREAD, sizes["spread"]
        yield f"page {sizes['roots']['pages']:,} of page 1, time", "≤", _PLACE, sizes["roots"]["ratio"]
        replies = sizes["replies"]
        yield f"page {replies['pages']:,} of page 1 of replies, time", "≤", _PLACE, replies["ratio"]
        beside = replies["first"] / max(sizes["roots"]["first"], 1e-9)
        yield "a page of many replies of one of roots, time", "≤", _PLACE, beside
    if uncached := report.get("uncached"):
        yield "pages a second that nobody cached", "≥", _UNCACHED, uncached["reads_per_second"]
    if busy := report.get("busy"):
        yield "rate under posts of the rate in peace", "≥", _BUSY, busy["ratio"]
        yield "posts a second taken meanwhile", "≥", 0.9 * busy["rate"], busy["taken"]
        yield "seconds to visible at half the write rate, p99", "<", _VISIBLE_S, busy["visible"]["p99"]
    for cold in report.get("cold", {}).get("sizes", ()):
        of_size = f"cold, {cold['comments']:,} comments: "
        goal = next(seconds for most, seconds in _COLD_S if cold["comments"] <= most)
        yield of_size + "seconds until the last is answered", "<", goal, cold["last"]
        yield of_size + "others' p99 meanwhile, seconds", "<", _OTHERS_S, cold["others_p99"]
    if memory := report.get("memory"):
        most = max(memory["bytes_per_comment_ordered"], memory["used_per_comment"])
        yield "bytes of Redis a comment", "≤", _BYTES, most
        yield "the API's memory, most threads of fewest", "≤", _FLAT, memory["api_ratio"]
    if projector := report.get("projector"):
        yield "a comment more in the largest thread of the smallest", "≤", _PROJECTOR, projector["ratio"]
