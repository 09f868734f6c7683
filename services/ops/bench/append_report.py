"""The report of `bench append` as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from services.ops.bench.report import print_goals
from services.ops.output import fields, say, table

_MIB: Final = 2**20
_HEADINGS: Final = (
    "posts/s",
    "p50 ms",
    "p99 ms",
    "p99/p50",
    "CPU s/1,000: server",
    "Postgres",
    "Redis",
    "client",
    "server us/post",
    "clients",
    "busiest",
    "batch",
    "answers",
)


def print_append(report: dict[str, Any]) -> None:
    """The figures of those parts that were measured, and which goals they hold."""
    facts, plan = report["postgres"], report["plan"]
    say(
        f"PostgreSQL {facts['server_version']}, fsync {facts['fsync']}, "
        f"synchronous_commit {facts['synchronous_commit']}; {report['processors']} processors; "
        f"{plan['threads']} threads, {plan['authors']:,} authors, "
        f"{plan['rounds']} rounds of {plan['seconds']:g} s"
    )
    for part in _PARTS:
        if part in report:
            say()
            _PARTS[part](report[part])
    if report["goals"]:
        say()
        print_goals(report["goals"])


def _cells(figures: dict[str, Any]) -> tuple[object, ...]:
    cpu = figures["cpu_seconds_per_1000"]
    return (
        round(figures["posts_per_second"]),
        f"{figures['p50'] * 1000:.1f}",
        f"{figures['p99'] * 1000:.1f}",
        f"{figures['p99_of_p50']:.1f}",
        *(f"{cpu[name]:.3f}" for name in ("server", "postgres", "redis", "client")),
        round(figures["server_cpu_us_per_post"]),
        figures["clients"],
        f"{figures['client_busy']:.0%}",
        f"{figures['batch_commands']:.1f}" if "batch_commands" in figures else None,
        ", ".join(f"{status}: {count:,}" for status, count in figures["statuses"].items()),
    )


def _loads(loads: list[dict[str, Any]]) -> None:
    def rows() -> Iterator[tuple[object, ...]]:
        for load in loads:
            ratios = {
                "api": (f"{load['ratio']:.2f}", f"{load['ratio_to_insert']:.2f}"),
                "bare": ("1.00", None),
                "insert": (None, "1.00"),
            }
            for server, beside in ratios.items():
                yield (load["connections"], server, *beside, *_cells(load[server]))

    table(("connections", "", "of bare", "of INSERT", *_HEADINGS), rows())


def _hot(hot: list[dict[str, Any]]) -> None:
    rows = []
    for one in hot:
        rows.append((one["connections"], "all threads", "1.00", *_cells(one["spread"])))
        rows.append((one["connections"], "one thread", f"{one['ratio']:.2f}", *_cells(one["hot"])))
    table(("connections", "", "of spread", *_HEADINGS), rows)


def _visible(seen: dict[str, Any]) -> None:
    table(
        ("post to visible", "posts", "median ms", "p95 ms", "max ms", "posts/s beside"),
        [
            (
                name,
                seen[name]["posts"],
                round(seen[name]["median"] * 1000, 1),
                round(seen[name]["p95"] * 1000, 1),
                round(seen[name]["max"] * 1000, 1),
                round(seen[name].get("posts_per_second", 0)),
            )
            for name in ("idle", "loaded")
        ],
    )


def _matrix(cells: list[dict[str, Any]]) -> None:
    table(
        ("connections", "lanes", "processes", "of the first", *_HEADINGS),
        [
            (one["connections"], one["lanes"], one["processes"], f"{one['ratio']:.2f}", *_cells(one))
            for one in cells
        ],
    )


def _large(large: dict[str, Any]) -> None:
    say(
        f"{large['events']:,} events, comments and idempotency keys, {large['authors']:,} authors: "
        f"{large['bytes'] / 2**30:.1f} GiB, filled in {large['fill_seconds']:.0f} s"
    )
    rows = []
    for name, one in large["statistics"].items():
        rows.append((f"statistics {name}", "empty", "1.00", *_cells(one["empty"])))
        rows.append((f"statistics {name}", "large", f"{one['ratio']:.2f}", *_cells(one["large"])))
    table(("", "log", "of empty", *_HEADINGS), rows)


def _memory(memory: dict[str, Any]) -> None:
    fields(
        [
            ("load, seconds", round(memory["seconds"])),
            ("posts", memory["posts"]),
            ("posts/s", round(memory["posts_per_second"])),
            ("memory in the first third, MiB", round(memory["first_third"] / _MIB, 1)),
            ("memory in the last third, MiB", round(memory["last_third"] / _MIB, 1)),
            ("peak, MiB", round(memory["peak"] / _MIB, 1)),
            ("growth, bytes per 1,000 posts", round(memory["growth_per_1000_posts"])),
        ]
    )


def _idle(idle: dict[str, Any]) -> None:
    beside = f"beside {idle['idle']:,} idle, {idle['slow']} slow"
    table(
        ("", "of without", "p99 of without", *_HEADINGS),
        [
            ("without", "1.00", "1.00", *_cells(idle["without"])),
            (beside, f"{idle['ratio']:.2f}", f"{idle['p99_ratio']:.2f}", *_cells(idle["with"])),
        ],
    )
    say(f"memory of an idle connection: {idle['bytes_per_idle_connection'] / 1024:.1f} KiB")


def _profile(profile: dict[str, Any]) -> None:
    table(
        ("part", "share", "CPU us a post"),
        [(one["name"], f"{one['share']:.1%}", f"{one['us_per_post']:.1f}") for one in profile["parts"]],
    )
    say()
    table(
        ("function, without what it calls", "share"),
        [(one["function"], f"{one['share']:.1%}") for one in profile["functions"]],
    )


_PARTS: Final[dict[str, Callable[[Any], None]]] = {
    "loads": _loads,
    "hot": _hot,
    "visible": _visible,
    "matrix": _matrix,
    "large": _large,
    "memory": _memory,
    "idle": _idle,
    "profile": _profile,
}
